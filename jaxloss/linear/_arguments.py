"""The arguments of a loss of a linear layer: checked arrays, options, and the size of a chunk."""

import dataclasses
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jax.typing import DTypeLike

from jaxloss._core.arguments import as_array, check_choice
from jaxloss._core.checks import are_on, check
from jaxloss._core.labels import to_index
from jaxloss._core.spec import ArrayLike
from jaxloss._core.typing import AxisName
from jaxloss._memory.layout import accumulator_dtype, check_chunk_size, plan_split
from jaxloss._memory.mesh import require_split, shards
from jaxloss.domains import class_ids
from jaxloss.linear._blocks import Tiles
from jaxloss.linear._layer import Layer

Policy = Literal["fastest", "least_memory"]

ChunkSize = int | tuple[int, int] | None

_MIB = 2**20
_BUDGET = 64 * _MIB  # bytes of logits: `benchmarks/fused.py`
_ROWS = 4096
# With the least memory a chunk has 4 times as many rows as there are features, within these limits,
# and a block has 1024 classes: `benchmarks/accelerators.head.md`.
_ROWS_OF_BLOCK = (2048, 16384)
_BLOCK = 1024
_INDICES = 2**31 - 1  # entries of an array that int32 indices reach


@dataclasses.dataclass(frozen=True)
class Plan:
    """How many logits exist at once: print it.

    Attributes:
        rows: The number of rows.
        vocabulary: The number of classes, on this device.
        chunk_size: The number of rows that are computed at once.
        chunks: The number of chunks.
        block: The number of classes that are computed at once.
        itemsize: The bytes of a logit.
        devices: The number of devices that are known to share the rows.
        reason: What the size of a chunk was chosen by.
    """

    rows: int
    vocabulary: int
    chunk_size: int
    chunks: int
    block: int
    itemsize: int
    devices: int = 1
    reason: str = ""

    @property
    def logits(self) -> int:
        """The bytes of the logits that exist at once."""
        return self.chunk_size * self.block * self.itemsize

    def __str__(self) -> str:
        """One line."""
        whole = self.rows * self.vocabulary * self.itemsize
        local = self.chunk_size // self.devices
        where = f", {local} on each of {self.devices} devices" if self.devices > 1 else ""
        return (
            f"logits of {self.rows} x {self.vocabulary}, {self.chunk_size} x {self.block} at a "
            f"time: {self.logits / _MIB:.3g} MiB instead of {whole / _MIB:.3g} "
            f"({self.reason}{where})"
        )

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """The same line for a notebook."""
        return f"<code>{self}</code>"


def plan_tiles(
    rows: int, weight: Any, layer: Layer, chunk_size: ChunkSize, policy: Policy, devices: int = 1
) -> tuple[Tiles, str]:
    """The rule of the sizes, and its reason; see `plan`. The rows of one device are counted."""
    vocabulary, dim = layer.num_classes(weight), weight.shape[1 - layer.class_axis]
    size, block = chunk_size if isinstance(chunk_size, tuple) else (chunk_size, None)
    if not isinstance(vocabulary, int):  # symbolic: blocks need a number of classes
        split = plan_split(rows, size or 128 * devices, devices)
        return Tiles(layer, split, None), "128 tokens, the number of classes is not known"
    itemsize = accumulator_dtype(weight.dtype).itemsize
    least = policy == "least_memory"
    most = _within(4 * dim, _ROWS_OF_BLOCK) if least else _ROWS
    reason = f"{most} tokens at most"
    if size is not None:
        most, reason = max(1, size // devices), "as given, or less to divide the tokens"
    elif not least:
        budget, cause = _BUDGET, f"within {_BUDGET // _MIB} MiB"
        if (of_weight := 2 * weight.dtype.itemsize * dim * vocabulary) > budget:
            budget, cause = of_weight, "within twice the weight"
        if (fit := max(128, budget // (itemsize * vocabulary) // 128 * 128)) < most:
            most, reason = fit, cause
    local = rows // devices if devices > 1 else rows
    if isinstance(rows, int) and local <= most:
        reason = "all tokens at once"
    block_size = None
    if least:
        split = plan_split(rows, most * devices, devices)
        share = split.size // devices
        numbers = _BLOCK * 4 // itemsize * _within(share, _ROWS_OF_BLOCK)
        block_size = min(block or max(128, numbers // share // 128 * 128), vocabulary)
    width = block_size or vocabulary
    if isinstance(rows, int) and min(most, local) * width > _INDICES:
        most, reason = max(1, _INDICES // width), "below 2^31 logits, which int32 indices reach"
    split = plan_split(rows, most * devices, devices)
    return Tiles(layer, split, block_size or block or 4096), reason


def _within(x: int, limits: tuple[int, int]) -> int:
    return min(max(x, limits[0]), limits[1])


class Arguments:
    """The arguments of a call, checked: flat rows, and arrays in their dtypes."""

    def __init__(self, fun_name: str, hidden: Any, weight: Any, transposed: bool, prefix: str = ""):
        """Checks that hidden states fit the weight."""
        self.fun_name, self.transposed = fun_name, transposed
        names = f"{prefix}hidden", f"{prefix}weight"
        hidden, weight = self.floats(names[0], hidden), self.floats(names[1], weight)
        if weight.ndim != 2:
            self.refuse(names[1], weight.shape, "(dim, vocabulary)")
        dim, self.vocabulary = weight.shape[::-1] if transposed else weight.shape
        if hidden.ndim < 1 or hidden.shape[-1] != dim:
            hint = ""
            if hidden.ndim and hidden.shape[-1] == self.vocabulary:
                hint = f" Write `transposed={not transposed}`."
            self.refuse(names[0], hidden.shape, f"(..., {dim}) to fit `{names[1]}`", hint)
        if self.vocabulary == 0:
            self.refuse(names[1], weight.shape, "at least one class")
        dtype = jnp.promote_types(hidden.dtype, weight.dtype)
        self.batch = hidden.shape[:-1]
        self.rows = math.prod(self.batch)
        self.hidden = hidden.astype(dtype).reshape(self.rows, dim)
        self.weight = weight.astype(dtype)
        self.dtype = accumulator_dtype(dtype)

    def floats(self, name: str, given: ArrayLike) -> Array:
        """An array of floats; float8 becomes bfloat16, which holds all its numbers."""
        x = jnp.asarray(as_array(self.fun_name, name, given))
        if jnp.issubdtype(x.dtype, jnp.complexfloating):
            raise TypeError(f"{self.fun_name}: `{name}` is {x.dtype}, expected real numbers.")
        if not jnp.issubdtype(x.dtype, jnp.floating):
            return x.astype(jnp.result_type(float))
        return x.astype(jnp.bfloat16) if jnp.finfo(x.dtype).bits < 16 else x

    def refuse(self, name: str, came: Any, expected: str, hint: str = "") -> None:
        """Raises the error for a shape."""
        raise ValueError(f"{self.fun_name}: `{name}` has shape {came}, expected {expected}.{hint}")

    def _per_row(self, name: str, given: ArrayLike) -> Any:
        x = as_array(self.fun_name, name, given)
        if name in ("where", "weights") and not x.shape:  # one for all rows
            x = jnp.broadcast_to(x, self.batch)
        if x.shape != self.batch:
            self.refuse(name, x.shape, f"{self.batch} to fit `hidden`")
        return x.reshape(self.rows)

    def _mistyped(self, name: str, came: Any, expected: str, write: str) -> TypeError:
        message = f"{self.fun_name}: `{name}` is {came}, expected {expected}."
        return TypeError(f"{message} Write `{name}.{write}` if that is what its numbers mean.")

    def labels(self, name: str, given: ArrayLike) -> Array:
        """Class ids, in a dtype that holds them or shows that they are out of range."""
        x = as_array(self.fun_name, name, given)
        if not jnp.issubdtype(x.dtype, jnp.integer):
            raise self._mistyped(name, x.dtype, "integers", "astype(int)")
        return to_index(self.fun_name, name, self._per_row(name, x), bounded=True)

    def check_labels(self, ids: Array, mask: Array | None, axis_name: AxisName | None) -> None:
        """With `checks()` on, an id that names no class raises, unless it is masked."""
        if are_on():
            devices = 1 if axis_name is None else jax.lax.axis_size(axis_name)
            kept = ids if mask is None else jnp.where(mask, ids, 0)
            classes = {"classes": self.vocabulary * devices}
            check(self.fun_name, "labels", class_ids("classes"), kept.reshape(self.batch), classes)

    def mask(self, name: str, given: ArrayLike) -> Array | None:
        """Booleans, one a row."""
        if given is None:
            return None
        x = as_array(self.fun_name, name, given)
        if x.dtype != jnp.bool_:
            raise self._mistyped(name, x.dtype, "booleans", "astype(bool)")
        return jnp.asarray(self._per_row(name, x))

    def per_row(self, name: str, given: ArrayLike) -> Array | None:
        """Numbers, one a row."""
        if given is None:
            return None
        return jnp.asarray(self._per_row(name, given)).astype(self.dtype)

    def per_class(self, name: str, given: ArrayLike) -> Array | None:
        """Numbers, one a class."""
        if given is None:
            return None
        x = self.floats(name, given).astype(self.dtype)
        if x.shape != (self.vocabulary,):
            self.refuse(name, x.shape, f"({self.vocabulary},), one a class")
        return x

    def number(
        self,
        name: str,
        given: ArrayLike,
        off: float | None,
        above: float | None = None,
        within: tuple[float, float] | None = None,
    ) -> Array | None:
        """A scalar, or None if it is a plain number that changes nothing."""
        if given is None or (isinstance(given, int | float) and given == off):
            return None
        if within is not None and isinstance(given, int | float):
            low, high = within
            if not low <= given <= high:
                message = f"{self.fun_name}: `{name}` must be from {low:g} to {high:g}"
                raise ValueError(f"{message}, got {given!r}.")
        if above is not None and isinstance(given, int | float) and not given > above:
            raise ValueError(f"{self.fun_name}: `{name}` must be above {above:g}, got {given!r}.")
        x = self.floats(name, given).astype(self.dtype)
        if x.ndim:
            self.refuse(name, x.shape, "a scalar")
        return x

    def accumulator(self, name: str, given: DTypeLike | None) -> np.dtype | None:
        """The dtype in which the gradient of the weight is added up; None for the default."""
        if given is None or np.dtype(given) == self.dtype:
            return None
        bfloat16 = np.dtype(jnp.bfloat16)
        if not np.dtype(given) == self.weight.dtype == bfloat16:
            wide = f"{self.dtype} or bfloat16" if self.weight.dtype == bfloat16 else self.dtype
            message = (
                f"{self.fun_name}: `{name}` is {np.dtype(given)}, expected {wide} for a weight"
            )
            raise ValueError(f"{message} of {self.weight.dtype}.")
        return bfloat16

    def tiles(self, layer: Layer, chunk_size: ChunkSize, policy: Policy) -> Tiles:
        """How many rows and classes are computed at once."""
        check_choice(self.fun_name, "policy", policy, ("fastest", "least_memory"))
        checked = check_tiles(self.fun_name, chunk_size)
        devices = shards(self.hidden, 0)
        return plan_tiles(self.rows, self.weight, layer, checked, policy, devices)[0]

    def top_k(self, name: str, given: Any, axis_name: AxisName | None) -> int:
        """A number of classes; 0 for None."""
        if given is None:
            return 0
        if isinstance(given, bool) or not isinstance(given, int | np.integer):
            came = "a traced array" if isinstance(given, Tracer) else repr(given)
            message = f"{self.fun_name}: `{name}` is {came}, expected an int: it decides on shapes."
            raise TypeError(message)
        if not 1 <= given <= self.vocabulary:
            where = "" if axis_name is None else " on each device"
            message = (
                f"{self.fun_name}: `{name}` is {given}, expected 1 to {self.vocabulary}, the "
                f"number of classes{where}."
            )
            raise ValueError(message)
        return int(given)

    def check_axis(self, axis_name: AxisName | None) -> None:
        """Raises if the weight does not differ over a mesh axis."""
        if axis_name is not None:
            require_split(self.fun_name, "weight", self.weight, axis_name)


def check_ids_are_exact(call: Arguments, axis_name: AxisName | None) -> None:
    """Raises if class ids are not exact in the dtype of the sums, in which they are held."""
    devices = 1 if axis_name is None else jax.lax.axis_size(axis_name)
    most = 2 ** (jnp.finfo(call.dtype).nmant + 1)
    if isinstance(call.vocabulary, int) and call.vocabulary * devices > most:
        message = (
            f"{call.fun_name}: `weight` has {call.vocabulary * devices} classes, expected at most "
            f"{most}, whose ids {call.dtype} holds exactly."
        )
        raise ValueError(message)


def check_tiles(fun_name: str, chunk_size: Any) -> ChunkSize:
    """A number of tokens, or a pair of tokens and classes."""
    if chunk_size is None:
        return None
    if isinstance(chunk_size, tuple) and len(chunk_size) == 2:
        tokens, classes = (check_chunk_size(fun_name, n) for n in chunk_size)
        return tokens, classes
    if isinstance(chunk_size, tuple):
        message = (
            f"{fun_name}: `chunk_size` is {chunk_size!r}, expected tokens or (tokens, classes)."
        )
        raise TypeError(message)
    return check_chunk_size(fun_name, chunk_size)


def plan(
    hidden: Any,
    weight: Any,
    *,
    transposed: bool = False,
    chunk_size: ChunkSize = None,
    policy: Policy = "fastest",
) -> Plan:
    """Plan of how many logits `softmax_cross_entropy` holds at once; it prints as a line.

    When to use: to see the memory of the last layer before a program is compiled.

    "fastest" computes as many tokens at once as keep the logits within 64 MiB, or within twice the
    size of the weight if that is more, because the gradient of the weight is read and written with
    every chunk; at most 4096. More tokens a chunk take more memory and less time. "least_memory"
    computes 1024 classes at once, of 2048 tokens, or of 4 times `dim` if that is more, up to 16384;
    more classes if there are fewer tokens. A given size is lowered, at most by half, to one that
    divides the tokens. No array of logits has 2^31 entries or more, whatever is given: indices are
    int32.

    These are the tokens of one device: inside `shard_map` arrays are local, and the type of an
    array on an Explicit mesh tells how it is split. On an Auto mesh the type does not tell: there
    `chunk_size` counts the tokens of all devices, and should be given.

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
        logits of 2048 x 32768, 512 x 32768 at a time: 64 MiB instead of 256 (within 64 MiB)
    """
    fun_name, layer = "jaxloss.linear.plan", Layer(transposed)
    check_choice(fun_name, "policy", policy, ("fastest", "least_memory"))
    vocabulary = layer.num_classes(weight)
    if vocabulary == 0:
        raise ValueError(f"{fun_name}: `weight` has shape {weight.shape}, of no classes at all.")
    rows = math.prod(hidden.shape[:-1])
    devices = shards(hidden, 0) if isinstance(hidden, jax.Array) else 1
    checked = check_tiles(fun_name, chunk_size)
    tiles, reason = plan_tiles(rows, weight, layer, checked, policy, devices)
    whole = policy == "fastest" or tiles.block is None
    block = vocabulary if whole else tiles.block
    itemsize = accumulator_dtype(weight.dtype).itemsize
    split, block = tiles.rows, block or vocabulary
    return Plan(rows, vocabulary, split.size, split.chunks, block, itemsize, devices, reason)
