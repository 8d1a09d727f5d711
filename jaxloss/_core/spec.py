"""What a loss declares: the forms of its arguments, read once from its annotations.

`"*batch classes"` in an annotation is any leading batch and one event axis named `classes`; the
kind of number is in front of it (`Real`, `Int`, `Bool`). An argument may have two forms, class ids
or a distribution: they are distinguished by rank and dtype, never by value.
"""

import inspect
import typing
from collections.abc import Callable, Mapping
from types import UnionType
from typing import Any, Literal, NamedTuple, TypedDict

import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Bool, Real

from jaxloss._core.typing import ArrayLike, Shape, Size
from jaxloss.domains import Domain, finite

__all__ = ["ArraySpec", "AxisReduction", "LossSpec", "Reduction", "SetReduction"]


class Reduction(TypedDict, total=False):
    """The keyword arguments that every loss takes.

    Attributes:
        where: Booleans of the result's shape. A False entry contributes nothing: value 0 and
            gradient 0, whatever its inputs hold.
        weights: Numbers of the result's shape. The mean is `sum(w * l) / sum(w)`; Keras, and
            torch in some losses, divide by the number of values instead.
        reduction: "none", one value an example; "mean"; "sum"; or "parts", the mean as an
            undivided `Mean(total, weight)`.
    """

    where: Bool[ArrayLike, "*batch"] | None
    weights: Real[ArrayLike, "*batch"] | None
    reduction: Literal["none", "mean", "sum", "parts"]


class AxisReduction(Reduction, total=False):
    """The keyword arguments of a loss with one class or feature axis.

    Attributes:
        axis: Where that axis is, in every argument that has it. A tuple of axes is read as one
            axis: they are flattened in the order given, and class ids count along the flat axis.
    """

    axis: int | tuple[int, ...]


class SetReduction(TypedDict, total=False):
    """The keyword arguments of a loss over a whole batch, which takes `where` itself.

    Such a loss has `where` among its own arguments, because an example that is left out must
    also leave the set that the others are compared with.

    Attributes:
        weights: As in `Reduction`.
        reduction: As in `Reduction`.
    """

    weights: Real[ArrayLike, "*batch"] | None
    reduction: Literal["none", "mean", "sum", "parts"]


_DEFAULTS = {"axis": -1, "where": None, "weights": None, "reduction": "none"}
_DESCRIPTIONS = {
    "axis": "The event axis in every argument that has it; a tuple of axes is read as one axis.",
    "where": "Booleans of the result's shape; False leaves an entry out, whatever it holds.",
    "weights": "Weights of the result's shape; the mean is `sum(w * l) / sum(w)`.",
    "reduction": '"none", "mean", "sum", or "parts", an undivided `Mean(total, weight)`.',
}

_RAISES = """\
    TypeError: If an argument cannot be converted to an array of real numbers, or has the wrong
        dtype.
    ValueError: If shapes do not match (only scalars are broadcast), a number is outside the
        documented range of its option, or a string is not one of its options.
"""


class ArraySpec(NamedTuple):
    """One form that an array may take: its kind of number, its axes, and the values it may hold."""

    kind: str
    dims: tuple[str, ...]
    domain: Domain

    @property
    def batched(self) -> bool:
        """Whether any leading axes are allowed."""
        return bool(self.dims) and self.dims[0].startswith("*")

    @property
    def event(self) -> tuple[str, ...]:
        """The names of the axes behind the batch."""
        return self.dims[1:] if self.batched else self.dims

    def admits(self, dtype: DTypeLike) -> bool:
        """Whether arrays of this dtype are of this kind; booleans count as real numbers."""
        parents = {"Int": (jnp.integer,), "Bool": (jnp.bool_,), "Float": (jnp.floating,)}
        real = (jnp.floating, jnp.integer, jnp.bool_)
        return any(jnp.issubdtype(dtype, parent) for parent in parents.get(self.kind, real))

    def shape(self, batch: Shape, sizes: Mapping[str, Size]) -> Shape:
        """The shape expected: a size where it is known, else the name of the axis."""
        event = (int(d) if d.isdigit() else sizes.get(d, d) for d in self.event)
        return (*(batch if self.batched else ()), *event)

    def __str__(self) -> str:
        return f'{self.kind}[ArrayLike, "{" ".join(self.dims)}"]'


class _Text(str):
    """An annotation that `help` shows as it was written."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def _array_types(hint: Any) -> list[tuple[str, tuple[str, ...]]]:
    """Kind and axes of each array type in an annotation, alternatives in order."""
    types = [t for t in typing.get_args(hint) or (hint,) if hasattr(t, "dim_str")]
    return list(dict.fromkeys((t.dtype.__name__, tuple(t.dim_str.split())) for t in types))


def _array_specs(
    parameter: inspect.Parameter, hint: object, domains: Mapping[str, Any]
) -> tuple[ArraySpec, ...]:
    """The forms of one argument; none if it is not an array."""
    types = _array_types(hint)
    if hint is None:  # without annotations, data are elementwise and options are scalars
        data = parameter.kind is not parameter.KEYWORD_ONLY
        types = [("Real", ("*batch",) if data else ())]
    domain = domains.get(parameter.name, finite)
    each = domain if isinstance(domain, list) else [domain] * len(types)
    return tuple(ArraySpec(*array, d) for array, d in zip(types, each, strict=True))


def _shown(hint: object) -> Any:
    """The annotation as its author wrote it: printed, the types of jaxtyping are long unions."""
    types = _array_types(hint)
    if not types:
        return hint
    texts = [f'{kind}[ArrayLike, "{" ".join(dims)}"]' for kind, dims in types]
    return _Text(" | ".join(texts + ["None"] * (type(None) in typing.get_args(hint))))


def _members(hint: object) -> tuple[Any, ...]:
    """The types of a union, or the only one; those of the items of a container are not meant."""
    is_union = typing.get_origin(hint) in (typing.Union, UnionType)
    return typing.get_args(hint) if is_union else (hint,)


def _is_static(hint: object) -> bool:
    """Whether an annotation admits flags, strings and integers only."""
    if typing.get_origin(hint) is Literal:
        return True
    members = [m for m in _members(hint) if m is not type(None)]
    return bool(members) and all(m in (bool, int, str) for m in members)


class LossSpec:
    """A loss as declared: arguments, result, and keyword arguments.

    Attributes:
        body: The function that was decorated.
        name: Its name in errors.
        arguments: The names of its own arguments.
        data: Those that are positional.
        array_specs: The forms of each argument that is an array, in the order of the signature.
        result: The form of its result.
        common_kwargs: The defaults of the keyword arguments that the contract adds.
        choices: The strings that an argument may be.
        defaults: The defaults of all arguments.
        numeric_options: The options that are arrays of fixed shape, compared with their domains.
        scalar_options: Those of them that may be one number, which stays a number of Python.
        static_options: The options that change the program: flags, strings, integers.
        static_types: The types of those that are not choices between given values.
        guarded: Whether the contract gives NaN to values outside the domain of an argument.
        elementwise: Whether the body may be evaluated in another shape of the batch.
        signature: What `inspect.signature` gives for the loss.
    """

    def __init__(
        self,
        body: Callable[..., Any],
        domains: Mapping[str, Any],
        reduction: str,
        elementwise: bool | None = None,
    ):
        """Reads the annotations of `body`."""
        self.body = body
        package, family, *_ = [*(body.__module__ or "").split("."), "", ""]
        public = f"jaxloss.{family}." if package == "jaxloss" else ""
        self.name = public + body.__qualname__.rpartition("<locals>.")[2]
        hints = typing.get_type_hints(body)
        parameters = inspect.signature(body).parameters.values()
        if unknown := sorted(set(domains) - {p.name for p in parameters}):
            raise TypeError(f"{self.name}: @loss has a domain for {unknown}, but no such argument.")
        own = [p for p in parameters if p.kind is not p.VAR_KEYWORD]
        self.arguments = tuple(p.name for p in own)
        self.data = tuple(p.name for p in own if p.kind is not p.KEYWORD_ONLY)
        self.result = self._result(hints.get("return"))

        keywords = [p for p in parameters if p.kind is p.VAR_KEYWORD]
        unpacked = typing.get_args(hints.get(keywords[0].name)) if keywords else ()
        known: dict[str, Any] = typing.get_type_hints(unpacked[0] if unpacked else Reduction)
        self.common_kwargs = {w: default for w, default in _DEFAULTS.items() if w in known}
        self.common_kwargs["reduction"] = reduction

        # `where` and `weights` are matched like any argument: they have the result's shape.
        specs = {p.name: _array_specs(p, hints.get(p.name), domains) for p in own}
        specs |= {
            word: (ArraySpec(kind, self.result.dims, finite),)
            for word, kind in (("where", "Bool"), ("weights", "Real"))
            if word in self.common_kwargs
        }
        self.array_specs = {name: forms for name, forms in specs.items() if forms}
        self.choices = {
            name: typing.get_args(hint)
            for name, hint in (hints | known).items()
            if typing.get_origin(hint) is Literal and name in (*self.arguments, *self.common_kwargs)
        }
        options = [n for n in self.arguments if n not in self.data]
        self.numeric_options = tuple(n for n in options if n in self.array_specs)
        self.scalar_options = frozenset(
            name
            for name in self.numeric_options
            if any(form.kind != "Bool" and not form.event for form in self.array_specs[name])
        )
        self.static_options = tuple(n for n in options if _is_static(hints.get(n)))
        self.static_types = {
            name: _members(hints[name]) for name in self.static_options if name not in self.choices
        }
        every_domain = [form.domain for forms in self.array_specs.values() for form in forms]
        self.guarded = any(d.guard and not d.handles_invalid for d in every_domain)
        self.elementwise = self._elementwise(elementwise, hints)
        self.signature = self._signature(own, hints, known)
        self.defaults = {
            p.name: p.default
            for p in self.signature.parameters.values()
            if p.default is not p.empty
        }

    def _result(self, hint: object) -> ArraySpec:
        kind, dims = (_array_types(hint) or [("Float", ("*batch",))])[0]
        result = ArraySpec(kind, dims, finite)
        if not result.batched:
            message = f'{self.name}: its result must be annotated "*batch", not "{" ".join(dims)}".'
            raise TypeError(message)
        return result

    def _elementwise(self, declared: bool | None, hints: Mapping[str, Any]) -> bool:
        """Whether the body is a function of each element, of arrays of any shape.

        Annotations of "*batch" alone state it: such a body is right for any batch. A body without
        annotations may close over an array that fits one shape only.
        """
        forms = [form for name in self.data for form in self.array_specs.get(name, ())]
        events = sorted({axis for form in (*forms, self.result) for axis in form.event})
        if declared and events:
            message = (
                f"{self.name}: `elementwise=True`, but its annotations have the axes {events}."
            )
            raise TypeError(message)
        annotated = all(_array_types(hints.get(name)) for name in self.data)
        return not events and (annotated if declared is None else declared)

    def _signature(
        self,
        own: list[inspect.Parameter],
        hints: Mapping[str, Any],
        known: Mapping[str, Any],
    ) -> inspect.Signature:
        shown = [p.replace(annotation=_shown(hints.get(p.name, p.annotation))) for p in own]
        for word, default in self.common_kwargs.items():
            text = f"{self.array_specs[word][0]} | None" if word in self.array_specs else None
            annotation = _Text(text) if text else known[word]
            keyword = inspect.Parameter.KEYWORD_ONLY
            shown.append(inspect.Parameter(word, keyword, default=default, annotation=annotation))
        returned = _Text(f'Float[Array, "{" ".join(self.result.dims)}"]')
        return inspect.Signature(shown, return_annotation=returned)

    def documentation(self) -> str:
        """The docstring, completed with what is true of every loss.

        The keyword arguments that every loss takes are described after its own arguments; the
        errors that every loss raises after its own errors.
        """
        text = inspect.getdoc(self.body) or ""
        if "\nArgs:" not in text:
            return text
        lines = "".join(f"    {word}: {_DESCRIPTIONS[word]}\n" for word in self.common_kwargs)
        head, returns, tail = text.partition("\nReturns:")
        text = f"{head.rstrip()}\n{lines}{returns}{tail}"
        before, example, after = text.partition("\nExample:")
        own = "" if "\nRaises:\n" in before else "\nRaises:\n"
        return f"{before.rstrip()}\n{own}{_RAISES}{example}{after}"
