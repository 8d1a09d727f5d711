"""Errors about arrays that do not fit a loss: what came, what was expected, what to write."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxloss._core.spec import ArraySpec, LossSpec
from jaxloss._core.typing import ArrayType, Layout, Shape, Size

__all__ = ["error", "plain_error", "shape_text"]

_NUMBERS = {"Int": "integers", "Bool": "booleans", "Float": "floats", "Real": "real numbers"}


class Mismatch(NamedTuple):
    """An array that does not fit, and the shape that each of its forms would have."""

    fun_name: str
    x: ArrayType
    forms: Sequence[ArraySpec]
    got: Shape
    expected: Sequence[Shape]
    origin: str

    def error(self, advice: str, swapped: str = "") -> Exception:
        """A TypeError if forms of this rank exist and none admits the dtype; else a ValueError."""
        pairs = list(zip(self.forms, self.expected, strict=True))
        of_rank = [form for form, shape in pairs if len(shape) == len(self.got)]
        admitting = [form for form in self.forms if form.admits(self.x.dtype)]
        fits = any(form in admitting for form in of_rank)
        shown = admitting if fits or (admitting and len(self.forms) == 1) else self.forms
        message = f"{self._what(shown)}{self.origin}."
        if swapped:
            return ValueError(f"{message} {swapped}")
        if not fits and (of_rank or not admitting):
            return TypeError(f"{message} {_dtype_remedy(self.x, of_rank or self.forms)}")
        return ValueError(f"{message} {advice}")

    def _what(self, shown: Sequence[ArraySpec]) -> str:
        """What came and was expected; the dtype where it is wrong, or tells forms apart."""
        pairs = zip(self.forms, self.expected, strict=True)
        shapes = [shape_text(shape) for form, shape in pairs if form in shown]
        name = f"{self.fun_name}: `{self.x.name}`"
        if len(shown) == 1 and shown[0].admits(self.x.dtype):
            return f"{name} has shape {self.got}, expected {shapes[0]}"
        texts = ", or ".join(
            f"{_NUMBERS[form.kind]} of shape {shape}"
            for form, shape in zip(shown, shapes, strict=True)
        )
        return f"{name} is {self.x.dtype} of shape {self.got}, expected {texts}"


def error(
    spec: LossSpec,
    types: Sequence[ArrayType],
    x: ArrayType,
    batch: Shape,
    sizes: Mapping[str, Size],
    leader: str,
    layout: Layout | None,
    swapped: bool,
) -> Exception:
    """The error for the first array of a call that does not fit."""
    forms = spec.array_specs[x.name]
    got = layout.shapes[x.name] if layout else x.shape
    expected = [_as_given(form, form.shape(batch, sizes), layout, types[0]) for form in forms]
    found = Mismatch(spec.name, x, forms, got, expected, _origin(spec, x, leader, layout))
    examples = spec.result.shape(batch, sizes)
    advice = (
        ("Whole examples are left out by `where`." if x.name == "mask" and got == examples else "")
        or _keyword_remedy(spec, x, got, expected[0], sizes)
        or _axis_remedy(spec, types[0], x.name, forms, got, layout)
        or _shape_remedy(found)
    )
    takes = ", ".join(spec.data[:2])
    exchange = f"Exchanged, the first two arguments would fit: it takes ({takes}), in this order."
    return found.error(advice, exchange if swapped else "")


def plain_error(
    fun_name: str, x: ArrayType, form: ArraySpec, shape: Shape, origin: str
) -> Exception:
    """The error for `where` or `weights` of a function that is not a loss."""
    found = Mismatch(fun_name, x, [form], x.shape, [shape], origin)
    return found.error(_broadcast_remedy(x.name, x.shape, shape) or _shape_remedy(found))


def shape_text(shape: Shape) -> str:
    """A shape in which unknown sizes are names: `(batch, classes)`."""
    return "(" + ", ".join(map(str, shape)) + ("," if len(shape) == 1 else "") + ")"


def _as_given(form: ArraySpec, shape: Shape, layout: Layout | None, first: ArrayType) -> Shape:
    """A shape whose event axis is last, in the layout of the caller."""
    if layout is None or not (form.batched and form.event):
        return shape
    batch, event = list(shape[:-1]), shape[-1:]
    if len(layout.axes) > 1:
        original = layout.shapes[first.name]
        event = tuple(original[a] for a in layout.axes)
    for axis, size in sorted(zip(layout.axes, event, strict=True)):
        batch.insert(axis, size)
    return tuple(batch)


def _origin(spec: LossSpec, x: ArrayType, leader: str, layout: Layout | None) -> str:
    """Which argument sets the expected shape, and along which axis its event lies."""
    if leader in ("", x.name):
        return ""
    event = spec.array_specs[leader][0].event
    if layout is None or not event:
        return f" to fit `{leader}`"
    where = f"axis {layout.axes[0]}" if len(layout.axes) == 1 else f"the axes {layout.axes}"
    return f" to fit `{leader}`, whose {event[0]} lie along {where}"


def _dtype_remedy(x: ArrayType, forms: Sequence[ArraySpec]) -> str:
    """What to write for a dtype that no form of this rank admits."""
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        return f"Write `jnp.abs({x.name})`, or give its real and imaginary parts."
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        return "A PRNG key is not a number."
    dtype = {"Int": "int", "Bool": "bool"}.get(forms[0].kind, "jnp.float32")
    cast = f"{x.name}.astype({dtype})" if x.typed else f"jnp.asarray({x.name}, {dtype})"
    return f"Write `{cast}` if that is what its numbers mean."


def _keyword_remedy(
    spec: LossSpec, x: ArrayType, got: Shape, expected: Shape, sizes: Mapping[str, Size]
) -> str:
    """What to write for `where` and `weights` that have fewer axes than the result."""
    if x.name not in ("where", "weights"):
        return ""
    event = next((f.event for f in spec.array_specs[spec.data[0]] if f.event), ())
    if x.name == "weights" and len(event) == 1 and got == (sizes.get(event[0]),):
        if "class_weights" in spec.arguments:
            return "Class weights are another argument: write `class_weights=`."
        labels = next((n for n in spec.data if spec.array_specs[n][0].kind == "Int"), None)
        if labels:
            return f"For one weight a class write `weights=weights[{labels}]`."
    return _broadcast_remedy(x.name, got, expected)


def _broadcast_remedy(name: str, got: Shape, expected: Shape) -> str:
    """What to write for an array that lacks trailing axes, or has size 1 there."""
    if 0 < len(got) < len(expected) and got == expected[: len(got)]:
        axes = ", ".join([":"] * len(got) + ["None"] * (len(expected) - len(got)))
        return f"Write `jnp.broadcast_to({name}[{axes}], {expected})`."
    ones = len(got) == len(expected) and all(
        m == n or m == 1 for m, n in zip(got, expected, strict=True)
    )
    return f"Write `jnp.broadcast_to({name}, {expected})`." if ones else ""


def _axis_remedy(
    spec: LossSpec,
    first: ArrayType,
    name: str,
    forms: Sequence[ArraySpec],
    got: Shape,
    layout: Layout | None,
) -> str:
    """What to write if the shapes fit as soon as the classes lie along another axis."""
    plain = [form for form in forms if form.batched and not form.event]
    fitted = name in ("where", "weights") and len(spec.data) > 1  # the data fit each other
    if "axis" not in spec.common_kwargs or not plain or fitted:
        return ""
    shape = layout.shapes[first.name] if layout else first.shape
    current = layout.axes if layout else (len(shape) - 1,)
    for axis in range(len(shape)):
        if (axis,) != current and shape[:axis] + shape[axis + 1 :] == got:
            (event,) = spec.array_specs[first.name][0].event
            last = axis == len(shape) - 1
            place = "the last axis" if last else f"axis {axis}"
            write = "leave `axis` out" if last else f"write `axis={axis}`"
            return f"If the {event} of `{first.name}` lie along {place}, {write}."
    return ""


def _shape_remedy(found: Mismatch) -> str:
    """What to write for a shape that differs by an axis of size 1, or is transposed."""
    name, got, expected = found.x.name, found.got, found.expected
    event = found.forms[0].event
    if event[-1:] == ("channels",) and len(got) == len(event) - 1:
        return f"Of an image of one channel write `{name}[..., None]`."
    if any(got == (*shape, 1) for shape in expected):
        return f"Nothing is broadcast here: write `jnp.squeeze({name}, -1)`."
    if any((*got, 1) == shape for shape in expected):
        return f"Nothing is broadcast here: write `{name}[..., None]`, or squeeze the other."
    if len(got) > 1 and got == expected[0][::-1]:
        return f"Write `{name}.T`."
    if not any(expected):
        return "It is one number for all examples: for one an example, use `jax.vmap`."
    if not got:
        return f"It is not broadcast: write `jnp.full({shape_text(expected[0])}, {name})`."
    return "Nothing is broadcast here: only a scalar is."
