"""What a loss declares: the forms of its arguments, read once from its annotations.

`"*batch classes"` in an annotation is any leading batch and one event axis named `classes`; the
kind of number stands before it (`Real`, `Int`, `Bool`). An argument may have two forms, class ids
or a distribution, say: they are told apart by rank and dtype, never by value.
"""

import difflib
import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, TypedDict

import jax.numpy as jnp
from jaxtyping import Bool, Real

from jaxloss._core.typing import ArrayLike
from jaxloss.domains import Domain, finite


class Reduction(TypedDict, total=False):
    """The three words that every loss takes.

    Attributes:
        where: Booleans of the result's shape. A False entry contributes nothing: value 0 and
            gradient 0, whatever its inputs hold.
        weights: Numbers of the result's shape. The mean is `sum(w * l) / sum(w)`; keras, and
            torch in some losses, divide by the number of values instead.
        reduction: "none", one value an example; "mean"; "sum"; or "parts", the mean as an
            undivided `Mean(total, weight)`.
    """

    where: Bool[ArrayLike, "*batch"] | None
    weights: Real[ArrayLike, "*batch"] | None
    reduction: Literal["none", "mean", "sum", "parts"]


class AxisReduction(Reduction, total=False):
    """The words of a loss with one class or feature axis.

    Attributes:
        axis: Where that axis is, in every argument that has it.
    """

    axis: int


class SetReduction(TypedDict, total=False):
    """The words of a loss over a whole batch, which takes `where` itself.

    Such a loss names `where` among its own arguments: an example left out must leave the set,
    and only the mathematics knows what that means.

    Attributes:
        weights: As in `Reduction`.
        reduction: As in `Reduction`.
    """

    weights: Real[ArrayLike, "*batch"] | None
    reduction: Literal["none", "mean", "sum", "parts"]


_DEFAULTS = {"axis": -1, "where": None, "weights": None, "reduction": "none"}
_DESCRIPTIONS = {
    "axis": "The axis of the arguments that the event lies along.",
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

    def admits(self, dtype: Any) -> bool:
        """Whether arrays of this dtype are of this kind; booleans count as real numbers."""
        parents = {"Int": (jnp.integer,), "Bool": (jnp.bool_,), "Float": (jnp.floating,)}
        real = (jnp.floating, jnp.integer, jnp.bool_)
        return any(jnp.issubdtype(dtype, parent) for parent in parents.get(self.kind, real))

    def shape(self, batch: tuple[Any, ...], sizes: Mapping[str, int]) -> tuple[Any, ...]:
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


def _arrays(hint: Any) -> list[tuple[str, tuple[str, ...]]]:
    """Kind and axes of each array type in an annotation, alternatives in order."""
    types = [t for t in typing.get_args(hint) or (hint,) if hasattr(t, "dim_str")]
    return list(dict.fromkeys((t.dtype.__name__, tuple(t.dim_str.split())) for t in types))


class LossSpec:
    """A loss as declared: arguments, result and words. Read once, when `@loss` is applied."""

    def __init__(self, body: Callable[..., Any], domains: Mapping[str, Any], reduction: str):
        """Reads the annotations of `body`."""
        self.body = body
        package, family, *_ = [*(body.__module__ or "").split("."), "", ""]
        self.is_builtin = package == "jaxloss"
        self.name = (
            f"jaxloss.{family}.{body.__qualname__}" if self.is_builtin else body.__qualname__
        )
        hints = typing.get_type_hints(body)
        parameters = inspect.signature(body).parameters.values()
        unknown = sorted(set(domains) - {p.name for p in parameters})
        if unknown:
            message = (
                f"{self.name}: @loss was given a domain for {unknown}, which it does not take."
            )
            raise TypeError(message)
        own = [p for p in parameters if p.kind is not p.VAR_KEYWORD]
        self.arguments = tuple(p.name for p in own)
        self.data = tuple(p.name for p in own if p.kind is not p.KEYWORD_ONLY)

        kind, dims = (_arrays(hints.get("return")) or [("Float", ("*batch",))])[0]
        self.result = ArraySpec(kind, dims, finite)
        if not self.result.batched:
            message = f'{self.name}: its result must be annotated "*batch", not "{" ".join(dims)}".'
            raise TypeError(message)

        keywords = [p for p in parameters if p.kind is p.VAR_KEYWORD]
        unpacked = typing.get_args(hints.get(keywords[0].name)) if keywords else ()
        known: dict[str, Any] = typing.get_type_hints(unpacked[0] if unpacked else Reduction)
        self.common_kwargs = {w: default for w, default in _DEFAULTS.items() if w in known}
        self.common_kwargs["reduction"] = reduction

        # `where` and `weights` are matched like any argument: they have the result's shape.
        self.array_specs = {p.name: self._forms(p, hints.get(p.name), domains) for p in own}
        self.array_specs |= {
            word: (ArraySpec(kind, dims, finite),)
            for word, kind in (("where", "Bool"), ("weights", "Real"))
            if word in self.common_kwargs
        }
        self.array_specs = {name: forms for name, forms in self.array_specs.items() if forms}
        domains_of_all = [form.domain for forms in self.array_specs.values() for form in forms]
        self.guarded = any(d.guard and not d.handles_invalid for d in domains_of_all)
        self.choices = {
            name: typing.get_args(hint)
            for name, hint in (hints | known).items()
            if typing.get_origin(hint) is Literal and name in (*self.arguments, *self.common_kwargs)
        }

        own = [p.replace(annotation=self._shown(hints.get(p.name, p.annotation))) for p in own]
        for word, default in self.common_kwargs.items():
            shown = f"{self.array_specs[word][0]} | None" if word in self.array_specs else None
            own.append(
                inspect.Parameter(
                    word,
                    inspect.Parameter.KEYWORD_ONLY,
                    default=default,
                    annotation=_Text(shown) if shown else known[word],
                )
            )
        returned = _Text(f'Float[Array, "{" ".join(dims)}"]')
        self.signature = inspect.Signature(own, return_annotation=returned)
        self.defaults = {p.name: p.default for p in own if p.default is not p.empty}

    @staticmethod
    def _forms(
        parameter: inspect.Parameter, hint: Any, domains: Mapping[str, Any]
    ) -> tuple[ArraySpec, ...]:
        is_data = parameter.kind is not parameter.KEYWORD_ONLY
        arrays = _arrays(hint)
        if hint is None:  # a user's own loss without annotations is elementwise
            arrays = [("Real", ("*batch",) if is_data else ())]
        domain = domains.get(parameter.name, finite)
        each = domain if isinstance(domain, list) else [domain] * len(arrays)
        return tuple(ArraySpec(*array, d) for array, d in zip(arrays, each, strict=True))

    @staticmethod
    def _shown(hint: Any) -> Any:
        """Jaxtyping's types are long when printed; this is the text the author wrote."""
        arrays = _arrays(hint)
        if not arrays:
            return hint
        texts = [f'{kind}[ArrayLike, "{" ".join(dims)}"]' for kind, dims in arrays]
        return _Text(" | ".join(texts + ["None"] * (type(None) in typing.get_args(hint))))

    def bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """All arguments by name; a wrong name is answered with the nearest right one."""
        given = self.defaults | dict(zip(self.data, args, strict=False)) | kwargs
        twice = any(name in kwargs for name in self.data[: len(args)])
        if len(args) > len(self.data) or given.keys() != self.signature.parameters.keys() or twice:
            raise TypeError(self._misuse(args, kwargs))
        return given

    def _misuse(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
        names = list(self.signature.parameters)
        hint, problem = "", ""
        try:
            self.signature.bind(*args, **kwargs)
        except TypeError as error:
            problem = str(error)
        if len(args) > len(self.data):
            hint = " Options are given by name."
        wrong = [name for name in kwargs if name not in names]
        if near := difflib.get_close_matches("".join(wrong[:1]), names, n=1, cutoff=0.4):
            hint = f" Did you mean `{near[0]}`?"
        return f"{self.name}: {problem}.{hint} It takes ({', '.join(names)})."

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
