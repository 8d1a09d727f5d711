"""What comes in: arrays that fit, options by name, the size of a chunk."""

import dataclasses
import math
from typing import Any, Literal

import jax.numpy as jnp
from jax import Array

from jaxloss._memory.layout import Split, accumulator_dtype, plan_split
from jaxloss._memory.mesh import is_unsharded, require_split, shards
from jaxloss.linear._online_softmax import Layer

Policy = Literal["fastest", "least_memory"]

Chunk = int | tuple[int, int] | None

_MIB = 2**20


@dataclasses.dataclass(frozen=True)
class Plan:
    """How much of the logits exists at once: print it.

    Attributes:
        rows: How many rows came.
        vocabulary: How many classes there are, on this device.
        size: How many rows are computed at once.
        chunks: How often.
        block: How many classes are computed at once; 0 for all of them.
        keep: Whether the logits of a chunk exist as a whole.
        itemsize: The bytes of a logit.
    """

    rows: int
    vocabulary: int
    size: int
    chunks: int
    block: int
    keep: bool
    itemsize: int

    @property
    def logits(self) -> int:
        """The bytes of the logits that exist at once."""
        return self.size * (self.vocabulary if self.keep else self.block) * self.itemsize

    def __str__(self) -> str:
        """One line."""
        width = self.vocabulary if self.keep else self.block
        whole = self.rows * self.vocabulary * self.itemsize
        return (
            f"logits of {self.rows} x {self.vocabulary}, {self.size} x {width} at a time: "
            f"{self.logits / _MIB:.3g} MiB instead of {whole / _MIB:.3g}"
        )


def planned(
    rows: int, weight: Any, layer: Layer, chunk_size: Chunk, policy: Policy, pieces: int = 1
) -> tuple[Split, Layer]:
    """The rule of the sizes; see `plan`."""
    vocabulary, dim = weight.shape if layer.transposed else weight.shape[::-1]
    itemsize = accumulator_dtype(weight.dtype).itemsize
    size, block = chunk_size if isinstance(chunk_size, tuple) else (chunk_size, None)
    if policy == "least_memory":
        how = plan_split(rows, size or 2048, pieces)
        block = block or max(128, 8 * _MIB // (itemsize * how.size) // 128 * 128)
        return how, layer._replace(keep=False, block=min(block, vocabulary))
    budget = max(64 * _MIB, 2 * weight.dtype.itemsize * dim * vocabulary)
    size = size or min(4096, max(128, budget // (itemsize * vocabulary) // 128 * 128))
    block = block or (4096 if is_unsharded() else vocabulary)
    block = None if block >= vocabulary else block
    return plan_split(rows, size, pieces), layer._replace(keep=True, block=block)


class Arguments:
    """The arguments of a call, checked: flat rows and named arrays."""

    def __init__(self, fun_name: str, hidden: Any, weight: Any, transposed: bool, prefix: str = ""):
        """Checks that hidden states fit the weight."""
        self.name, self.transposed = fun_name, transposed
        names = f"{prefix}hidden", f"{prefix}weight"
        hidden, weight = self.floats(names[0], hidden), self.floats(names[1], weight)
        if weight.ndim != 2:
            self.refuse(names[1], weight.shape, "(dim, vocabulary)")
        dim = weight.shape[1 if transposed else 0]
        if hidden.ndim < 1 or hidden.shape[-1] != dim:
            hint = ""
            if hidden.ndim and hidden.shape[-1] == weight.shape[0 if transposed else 1]:
                hint = f" Write `transposed={not transposed}`."
            self.refuse(names[0], hidden.shape, f"(..., {dim}) to fit `{names[1]}`", hint)
        if hidden.dtype != weight.dtype:
            dtype = jnp.promote_types(hidden.dtype, weight.dtype)
            hidden, weight = hidden.astype(dtype), weight.astype(dtype)
        self.batch = hidden.shape[:-1]
        self.rows = math.prod(self.batch)
        self.hidden = hidden.reshape(self.rows, dim)
        self.weight = weight
        self.vocabulary = weight.shape[0 if transposed else 1]
        self.dtype = accumulator_dtype(weight.dtype)

    def floats(self, name: str, given: Any) -> Array:
        """An array of floats."""
        x = jnp.asarray(given)
        if jnp.issubdtype(x.dtype, jnp.complexfloating):
            raise TypeError(f"{self.name}: `{name}` is {x.dtype}, expected real numbers.")
        if not jnp.issubdtype(x.dtype, jnp.floating):
            x = x.astype(jnp.result_type(float))
        return x

    def refuse(self, name: str, came: Any, expected: str, hint: str = "") -> None:
        """Says what is wrong with a shape."""
        raise ValueError(f"{self.name}: `{name}` has shape {came}, expected {expected}.{hint}")

    def a_row(self, name: str, given: Any, kind: str) -> Array | None:
        """One entry a row, flattened."""
        if given is None:
            return None
        x = jnp.asarray(given)
        parents = {"integers": jnp.integer, "booleans": jnp.bool_}
        if kind in parents and not jnp.issubdtype(x.dtype, parents[kind]):
            write = {"integers": "astype(int)", "booleans": "astype(bool)"}[kind]
            message = f"{self.name}: `{name}` is {x.dtype}, expected {kind}."
            raise TypeError(f"{message} Write `{name}.{write}` if that is what its numbers mean.")
        if x.shape != self.batch:
            self.refuse(name, x.shape, f"{self.batch} to fit `hidden`")
        x = x.reshape(self.rows)
        if kind == "integers":
            return x.astype(jnp.int32)
        return x if kind == "booleans" else x.astype(self.dtype)

    def a_class(self, name: str, given: Any) -> Array | None:
        """One entry a class."""
        if given is None:
            return None
        x = self.floats(name, given).astype(self.dtype)
        if x.shape != (self.vocabulary,):
            self.refuse(name, x.shape, f"({self.vocabulary},), one a class")
        return x

    def number(self, name: str, given: Any, off: float | None, least: float | None = None) -> Any:
        """A scalar, or None where it is a plain number that changes nothing."""
        if given is None or (isinstance(given, int | float) and given == off):
            return None
        if least is not None and isinstance(given, int | float) and not given > least:
            raise ValueError(f"{self.name}: `{name}` must be above {least:g}, got {given!r}.")
        x = self.floats(name, given).astype(self.dtype)
        if x.ndim:
            self.refuse(name, x.shape, "a scalar")
        return x

    def choose(self, name: str, given: Any, known: tuple[str, ...]) -> None:
        """One of several words."""
        if given not in known:
            expected = ", ".join(map(repr, known))
            raise ValueError(f"{self.name}: `{name}` is {given!r}, expected one of {expected}.")

    def split(self, layer: Layer, chunk_size: Chunk, policy: Any) -> tuple[Split, Layer]:
        """How many rows and classes are computed at once."""
        self.choose("policy", policy, ("fastest", "least_memory"))
        numbers = (
            chunk_size
            if isinstance(chunk_size, tuple)
            else ()
            if chunk_size is None
            else (chunk_size, 1)
        )
        if chunk_size is not None and (
            len(numbers) != 2 or any(type(n) is not int for n in numbers)
        ):
            message = f"{self.name}: `chunk_size` is {chunk_size!r}, expected tokens or (tokens, classes)."
            raise TypeError(message)
        if any(n < 1 for n in numbers):
            raise ValueError(
                f"{self.name}: `chunk_size` is {chunk_size!r}, expected at least 1 at a time."
            )
        return planned(self.rows, self.weight, layer, chunk_size, policy, self.pieces)

    def on_axis(self, axis_name: Any) -> None:
        """Refuses a mesh axis over which the weight does not differ."""
        if axis_name is not None:
            require_split(self.name, "weight", self.weight, axis_name)

    @property
    def pieces(self) -> int:
        """Over how many devices the rows are known to be split."""
        return shards(self.hidden, 0)


def plan(
    hidden: Any,
    weight: Any,
    *,
    transposed: bool = False,
    chunk_size: Chunk = None,
    policy: Policy = "fastest",
) -> Plan:
    """Tells how much of the logits `softmax_cross_entropy` holds at once, and prints as a line.

    "fastest" takes as many tokens as keep the logits within 64 MiB, or within twice the size of
    the weight if that is more, whose gradient is read and written with every chunk; at most 4096.
    More tokens a chunk cost memory, fewer cost time. "least_memory" takes 2048 tokens, and as
    many classes as keep their logits within 8 MiB.

    Args:
        hidden: `(..., dim)`; an array or a `jax.ShapeDtypeStruct`.
        weight: `(dim, vocabulary)`; likewise.
        transposed: Whether the weight is `(vocabulary, dim)`.
        chunk_size: How many tokens to compute at once, or a pair of tokens and classes.
        policy: "fastest" or "least_memory".

    Returns:
        The plan.

    Example:
        >>> import jax
        >>> hidden, weight = (jax.ShapeDtypeStruct(s, "float32") for s in ((2048, 8), (8, 32768)))
        >>> print(plan(hidden, weight))
        logits of 2048 x 32768, 512 x 32768 at a time: 64 MiB instead of 256
    """
    rows = math.prod(hidden.shape[:-1])
    how, layer = planned(rows, weight, Layer(transposed), chunk_size, policy)
    vocabulary, itemsize = (
        weight.shape[0 if transposed else 1],
        accumulator_dtype(weight.dtype).itemsize,
    )
    return Plan(rows, vocabulary, how.size, how.chunks, layer.block or 0, layer.keep, itemsize)
