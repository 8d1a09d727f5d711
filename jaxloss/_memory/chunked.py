r"""Any loss that is a sum over rows, a chunk of rows at a time.

The largest array of a training step is often the loss's own: the logits of all tokens, the
classes of all anchors. `chunked` turns a function of rows into a loss that never holds more than
one chunk of it, with the gradients of the plain one.
"""

import dataclasses
import functools
import re
import weakref
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer, eval_jaxpr
from jax.typing import DTypeLike
from jaxtyping import PyTree

from jaxloss._core.arguments import as_array, check_choice
from jaxloss._core.reduction import TypeOfReduction, reduce
from jaxloss._memory.chunk_map import is_floating, map_chunks
from jaxloss._memory.chunk_sum import ChunkedSum, sum_chunks
from jaxloss._memory.layout import (
    Split,
    accumulator_dtype,
    check_chunk_size,
    plan_split,
    split_strided,
    take_chunk,
)
from jaxloss._memory.measure import FEW_ROWS, bytes_a_row, inner_jaxprs
from jaxloss._memory.mesh import shards, unify_vma, vma, vma_of
from jaxloss._memory.row_factors import holds_float16, row_factors

Policy = Literal["fastest", "least_memory"]

_NAME = "jaxloss.chunked"
_BUDGET = 64 * 2**20  # bytes


@dataclasses.dataclass(frozen=True)
class Plan:
    """How the rows of a call are split, and why: print it.

    Attributes:
        rows: The number of rows.
        chunk_size: The number of rows that are computed at once.
        chunks: The number of chunks.
        padding: The number of rows that are added, and masked, so that all chunks have one size.
        bytes_a_row: The largest array that the function makes, per row.
        budget: The bytes that this array may take on a device; None if the size was given.
        shards: The number of devices that are known to share the rows.
    """

    rows: int
    chunk_size: int
    chunks: int
    padding: int
    bytes_a_row: int
    budget: int | None
    shards: int = 1

    def __str__(self) -> str:
        """One line."""
        padded = f" (the last padded by {self.padding})" if self.padding else ""
        limit = "" if self.budget is None else f" of at most {self.budget / 2**20:.3g}"
        where = f" on each of {self.shards} devices" if self.shards > 1 else ""
        taken = self.chunk_size // self.shards * self.bytes_a_row / 2**20
        return (
            f"{self.rows} rows as {self.chunks} x {self.chunk_size}{padded}; the largest array of "
            f"a chunk takes {taken:.3g}{limit} MiB{where}"
        )

    __repr__ = __str__


def chunked(
    fn: Callable[..., Any],
    chunk_size: int | None = None,
    *,
    reduction: TypeOfReduction = "mean",
    policy: Policy = "fastest",
) -> "Chunked":
    r"""Loss of many rows, computed one chunk of rows at a time.

    When to use: a loss whose arrays of all rows do not fit in memory, such as the logits of all
    tokens.

    $$\frac{\sum_i w_i\, \ell(\theta, x_i)}{\sum_i w_i}, \qquad \theta \text{ shared}, \quad
      x_i \text{ a row}$$

    Value and gradients are those of the plain loss, to rounding. "fastest" computes the gradients
    of a chunk together with its loss: for a linear layer that takes 3 matrix products, and 2 if
    the layer is frozen, where recomputation takes 4. Between the forward and the backward pass it
    holds the gradients, those of `shared` in float32. "least_memory" holds nothing and computes
    every chunk again. With either policy `grad`, `jvp`, `linearize`, Hessians and `vmap` work. For
    second derivatives use `jvp` of `grad`, which stays in chunks; `grad` of `grad` does not.

    A chunk consists of the rows j, j + k, j + 2k ... of k chunks, so that rows which are sharded
    over devices stay where they are.

    **The size of a chunk.** By default it is the largest for which no array that `fn` makes, as
    its jaxpr tells, takes more than 64 MiB, or than the shared arrays in float32 if those are
    larger (their gradients are rewritten with every chunk); above 128 it is a multiple of 128. On
    an Explicit mesh the rows of one device are counted. Given or not, the size is then lowered, at
    most by half, to one that divides the rows. If there is none, the last chunk is padded with
    copies of a row, which are masked.

    `fn` is compiled once for each shape, also if it is called eagerly.

    Args:
        fn: From `shared` and a chunk of each of the rows to one loss a row: any loss of this
            library, with anything in front of it. What couples rows to each other, as batch
            normalization does, would couple those of a chunk only. Arrays that `fn` closes over
            have gradients too.
        chunk_size: The largest number of rows to compute at once.
        reduction: "mean", "sum", "parts", or "none", which always computes chunks again.
        policy: "fastest" or "least_memory".

    Returns:
        A function `(shared, *rows, where=None, weights=None)` of pytrees; rows lie along the
        first axis of each leaf. `where` and `weights` have one entry a row: a False row is
        replaced by zeros before `fn` is called, except for PRNG keys. Its method
        `plan(shared, *rows)` gives the size.

    Raises:
        ValueError: If the size is not positive, or the reduction or the policy is unknown; when
            called, if rows differ in number or `fn` does not give one value a row.
        TypeError: If the size is not an integer; when called, if `fn` gives no real numbers.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxloss.classification import softmax_cross_entropy
        >>> head = chunked(lambda w, x, y: softmax_cross_entropy(x @ w, y), chunk_size=2)
        >>> head(jnp.zeros((3, 4)), jnp.ones((5, 3)), jnp.arange(5) % 4)
        Array(1.3862944, dtype=float32)

    References:
        Hsu et al., *Liger Kernel: Efficient Triton Kernels for LLM Training*, 2024.
        Chen et al., *Training Deep Nets with Sublinear Memory Cost*, 2016.
    """
    if chunk_size is not None:
        chunk_size = check_chunk_size(_NAME, chunk_size)
    check_choice(_NAME, "reduction", reduction, ("none", "mean", "sum", "parts"))
    check_choice(_NAME, "policy", policy, ("fastest", "least_memory"))
    return Chunked(fn, chunk_size, reduction, policy)


class _Data(NamedTuple):
    """The arrays of a call.

    Attributes:
        consts: The arrays that the function closes over.
        shared: The leaves of `shared`.
        rows: The leaves of the rows.
        where: Which rows count, or None.
        weights: The weights of the rows, or None.
    """

    consts: list[Array]
    shared: list[Array]
    rows: list[Array]
    where: Array | None
    weights: Array | None


class _OfRows(NamedTuple):
    """The rows of `_Data`, and what their losses are multiplied by."""

    rows: list[Array]
    where: Array | None
    factors: Array | None


@dataclasses.dataclass(frozen=True)
class Chunked:
    """The loss that `chunked` returns, and its plan."""

    fn: Callable[..., Any]
    chunk_size: int | None
    reduction: TypeOfReduction
    policy: Policy

    def __call__(self, shared: Any, *rows: Any, where: Any = None, weights: Any = None) -> Any:
        """The loss of all rows, reduced; see `chunked`."""
        shared, rows, where, weights = unify_vma(
            _as_arrays("shared", shared),
            _as_arrays("rows", rows),
            _per_row("where", where, rows),
            _per_row("weights", weights, rows),
        )
        how, _ = self._split(shared, rows)
        program, consts = _trace(self.fn, shared, rows, how)
        data = _Data(consts, jax.tree.leaves(shared), jax.tree.leaves(rows), where, weights)
        return program.evaluate(how, self.reduction, self.policy, unify_vma(data)[0])

    def plan(self, shared: Any, *rows: Any) -> Plan:
        """How these rows would be split; arrays may be `jax.ShapeDtypeStruct`s.

        Example:
            >>> import jax
            >>> struct = lambda *shape: jax.ShapeDtypeStruct(shape, "float32")
            >>> loss = chunked(lambda w, x: (x @ w).sum(-1))
            >>> print(loss.plan(struct(512, 32768), struct(8192, 512)))
            8192 rows as 16 x 512; the largest array of a chunk takes 64 of at most 64 MiB
        """
        how, budget = self._split(shared, rows)
        taken = bytes_a_row(self.fn, shared, rows, how.size if self.chunk_size else how.rows)
        return Plan(how.rows, how.size, how.chunks, how.padding, taken or 1, budget, how.shards)

    def _split(self, shared: Any, rows: Any) -> tuple[Split, int | None]:
        count, leaf = _count(rows)
        devices = shards(leaf, 0) if isinstance(leaf, jax.Array) else 1
        if self.chunk_size is not None:
            return plan_split(count, self.chunk_size, devices), None
        of_shared = sum(4 * x.size for x in jax.tree.leaves(shared) if is_floating(x))
        budget = max(_BUDGET, of_shared if isinstance(of_shared, int) else 0)
        taken = bytes_a_row(self.fn, shared, rows, count)
        most = FEW_ROWS if taken is None else max(1, budget // taken)
        most = most if most < 128 else most // 128 * 128
        return plan_split(count, most * devices, devices), budget


class _Program:
    """A function of rows as a jaxpr, and the loss that it makes, compiled once for each shape."""

    def __init__(self, jaxpr: Any, dtype: DTypeLike):
        self.jaxpr, self.dtype = jaxpr, dtype
        self.evaluate = jax.jit(self._evaluate, static_argnums=(0, 1, 2))

    def values(self, shared: tuple[list[Array], list[Array]], rows: _OfRows) -> Array:
        """The losses of some rows, times their factors; 0 where they do not count."""
        leaves = rows.rows
        if rows.where is not None:
            leaves = [_fill(x, rows.where) for x in leaves]
        consts, arguments = shared
        (found,) = eval_jaxpr(self.jaxpr, consts, *arguments, *leaves)
        return reduce(found.astype(self.dtype), rows.where, rows.factors, "none")

    def _evaluate(self, how: Split, reduction: TypeOfReduction, policy: Policy, data: _Data) -> Any:
        shared, where, weights = (data.consts, data.shared), data.where, data.weights
        if where is not None and weights is not None:
            weights = jnp.where(where, weights, 0)
        if reduction == "none":
            return map_chunks(self.values, how, shared, _OfRows(data.rows, where, weights))
        factors, reduced = row_factors(
            how.rows, where, weights, reduction, self.dtype, float16=holds_float16(data)
        )

        def value(shared: Any, rows: _OfRows, real: Array | None) -> tuple[Array, tuple[()]]:
            values = self.values(shared, rows)
            return jnp.sum(values if real is None else jnp.where(real, values, 0)), ()

        total = functools.partial(sum_chunks, ChunkedSum(how, value))
        total = jax.checkpoint(total) if policy == "least_memory" else total
        return reduced(total(*unify_vma(shared, _OfRows(data.rows, where, factors)))[0])


# The programs of each function: tracing it again gives a new jaxpr, which would be compiled again.
_programs: weakref.WeakKeyDictionary[Any, dict[Any, _Program]] = weakref.WeakKeyDictionary()


def _compiled_once(fn: Callable[..., Any], program: _Program) -> _Program:
    """The program of the same text that `fn` had before, or this one.

    Their inner constants are the same arrays, which the first program keeps alive.
    """
    text = re.sub(r"0x[0-9a-f]+", "", str(program.jaxpr))
    constants = [
        id(x) for inner in inner_jaxprs(program.jaxpr) for x in getattr(inner, "consts", ())
    ]
    try:
        return _programs.setdefault(fn, {}).setdefault((text, *constants), program)
    except TypeError:  # no weak reference, or no hash
        return program


def _fill(x: Array, where: Array) -> Array:
    """Zeros where a row does not count; a PRNG key holds nothing that could do harm."""
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        return x
    where = where.reshape(where.shape + (1,) * (x.ndim - 1))
    return jnp.where(where, x, jnp.zeros((), x.dtype))


def _as_arrays(name: str, tree: PyTree) -> Any:
    def convert(path: Any, leaf: Any) -> Any:
        where = f"{name}{jax.tree_util.keystr(path)}"
        try:
            return jnp.asarray(as_array(_NAME, where, leaf))
        except TypeError:
            message = (
                f"{_NAME}: `{where}` is a {type(leaf).__name__}, expected an array. What is not an "
                f"array belongs into the closure of the function."
            )
            raise TypeError(message) from None

    return jax.tree_util.tree_map_with_path(convert, tree)


def _count(rows: Any) -> tuple[Any, Any]:
    """The number of rows, which may be symbolic, and a leaf that has them."""
    leaves = jax.tree_util.tree_leaves_with_path(rows)
    if not leaves:
        raise ValueError(f"{_NAME}: no rows were given, expected arrays with one entry a row.")
    first, leader = leaves[0]
    for path, leaf in leaves:
        shape = np.shape(leaf)
        if not shape or shape[0] != np.shape(leader)[0]:
            expected = f"({np.shape(leader)[0]}, ...)" if np.shape(leader) else "(rows, ...)"
            message = (
                f"{_NAME}: `rows{jax.tree_util.keystr(path)}` has shape {shape}, expected "
                f"{expected} as `rows{jax.tree_util.keystr(first)}`: rows lie along the first axis "
                f"of each array. What has no rows goes into `shared`."
            )
            raise ValueError(message)
    return np.shape(leader)[0], leader


def _per_row(name: str, given: Any, rows: Any) -> Any:
    if given is None:
        return None
    array, (count, _) = jnp.asarray(given), _count(rows)
    if name == "where" and array.dtype != jnp.bool_:
        message = f"{_NAME}: `where` must be boolean, got {array.dtype}: write `where > 0`."
        raise TypeError(message)
    if not array.shape:  # one for all rows
        array = jnp.broadcast_to(array, (count,))
    if array.shape != (count,):
        message = f"{_NAME}: `{name}` has shape {array.shape}, expected ({count},), one a row."
        raise ValueError(message)
    return array if name == "where" else array.astype(accumulator_dtype(array.dtype))


def _trace(fn: Any, shared: Any, rows: Any, how: Split) -> tuple[_Program, list[Array]]:
    """The function of the rows of a chunk as a program, and the arrays that it closes over.

    A `custom_jvp` has derivatives for its arguments alone, so the arrays of the closure must
    become arguments.
    """
    shared_leaves, shared_tree = jax.tree.flatten(shared)
    row_leaves, rows_tree = jax.tree.flatten(rows)

    def flat(shared_leaves: list[Array], row_leaves: list[Array]) -> Any:
        return fn(shared_tree.unflatten(shared_leaves), *rows_tree.unflatten(row_leaves))

    example = jax.eval_shape(
        lambda leaves: take_chunk([split_strided(x, how) for x in leaves], 0), row_leaves
    )
    closed, shape = jax.make_jaxpr(flat, return_shape=True)(shared_leaves, example)
    if not isinstance(shape, jax.ShapeDtypeStruct) or shape.shape != (how.size,):
        came = shape.shape if isinstance(shape, jax.ShapeDtypeStruct) else jax.tree.structure(shape)
        message = (
            f"{_NAME}: the function gives {came} for a chunk of {how.size} rows, expected shape "
            f"({how.size},), one loss a row. Did it reduce? Leave `reduction` to `chunked`."
        )
        raise ValueError(message)
    if not is_floating(shape):
        raise TypeError(
            f"{_NAME}: the function gives {shape.dtype}, expected floating-point losses."
        )
    axes = vma_of(shared_leaves, row_leaves, closed.consts)
    for x in closed.consts:
        if isinstance(x, Tracer) and vma(x) != axes:
            message = (
                f"{_NAME}: the function closes over an array of shape {x.shape} that is the same "
                f"on all devices of the mesh axes {sorted(axes - vma(x))}: pass it as `shared`."
            )
            raise ValueError(message)
    program = _Program(closed.jaxpr, accumulator_dtype(shape.dtype))
    # A traced Python number has no dtype yet.
    return _compiled_once(fn, program), [jnp.asarray(x) for x in closed.consts]
