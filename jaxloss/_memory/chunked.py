r"""Any loss that is a sum over rows, a chunk of rows at a time.

The largest array of a training step is often the loss's own: the logits of all tokens, the
classes of all anchors. `chunked` turns a function of rows into a loss that never holds more than
one chunk of it, with the gradients of the plain one.
"""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer, eval_jaxpr

from jaxloss._core.reduction import Mean, TypeOfReduction, reduce, total_weight
from jaxloss._memory.chunk_map import map_chunks
from jaxloss._memory.chunk_sum import ChunkedSum, sum_chunks
from jaxloss._memory.layout import Split, accumulator_dtype, plan_split, split_strided, take_chunk
from jaxloss._memory.mesh import shards, unify_vma, vma

Policy = Literal["fastest", "least_memory"]

_NAME = "jaxloss.chunked"
_BUDGET = 64 * 2**20


@dataclasses.dataclass(frozen=True)
class Plan:
    """How the rows of a call are split, and why: print it.

    Attributes:
        rows: How many rows came.
        size: How many of them are computed at once.
        chunks: How often.
        padding: How many rows are made up, and masked, so that all chunks have one size.
        bytes_a_row: The largest array that the function makes, per row.
        budget: What that array may take, in bytes; None if the size was given.
    """

    rows: int
    size: int
    chunks: int
    padding: int
    bytes_a_row: int
    budget: int | None

    def __str__(self) -> str:
        """One line."""
        padded = f" (the last padded by {self.padding})" if self.padding else ""
        limit = "" if self.budget is None else f" of at most {self.budget / 2**20:.3g}"
        return (
            f"{self.rows} rows as {self.chunks} x {self.size}{padded}; the largest array of a "
            f"chunk takes {self.size * self.bytes_a_row / 2**20:.3g}{limit} MiB"
        )


def chunked(
    fn: Callable[..., Any],
    size: int | None = None,
    *,
    reduction: TypeOfReduction = "mean",
    policy: Policy = "fastest",
) -> "Chunked":
    r"""Take it when a loss makes more a row than memory holds: it computes a chunk of rows at once.

    $$\frac{\sum_i w_i\, \ell(\theta, x_i)}{\sum_i w_i}, \qquad \theta \text{ shared}, \quad
      x_i \text{ a row}$$

    Value and gradients are those of the plain loss, to rounding. "fastest" computes the gradients
    of a chunk together with its loss, which for a linear layer are 3 matrix products instead of
    the 4 of recomputing, and 2 if the layer is frozen; from the forward to the backward pass it
    holds what it returns, the gradients, in float32. "least_memory" holds nothing and computes
    every chunk again. Either way `grad`, `jvp`, `linearize`, Hessians and `vmap` work. For second
    derivatives take `jvp` of `grad`, which stays in chunks; `grad` of `grad` does not.

    A chunk takes rows far apart, j, j + k, j + 2k ... of k chunks, so that rows which are sharded
    over devices stay where they are: no device sees the rows of another.

    **The size.** Not given, it is the largest for which no array that `fn` makes, as read off its
    jaxpr, takes more than 64 MiB, or than the shared arrays in float32 if they are larger (their
    gradients are rewritten with every chunk); and a multiple of 128 from there on. Given or not,
    it is then lowered, at most by half, to a size that divides the rows. If there is none, the
    rows are copied and padded, and the padding is masked.

    Args:
        fn: From `shared` and a chunk of each of the rows to one loss a row. It may be any
            loss of this library, with anything in front of it; what couples rows to each other,
            as batch normalization does, would couple those of a chunk alone. Arrays that it
            closes over have gradients too.
        size: The largest number of rows to compute at once.
        reduction: "mean", "sum", "parts", or "none", which always computes chunks again.
        policy: "fastest" or "least_memory".

    Returns:
        A function `(shared, *rows, where=None, weights=None)` of pytrees; rows lie along the
        first axis of each leaf. `where` and `weights` have one entry a row: a False row is
        replaced by zeros before `fn` sees it. Its method `plan(shared, *rows)` tells the size.

    Raises:
        ValueError: If the size is not positive, or there is no such reduction or policy; when
            called, if rows differ in number or `fn` does not give one value a row.
        TypeError: If the size is not an integer; when called, if `fn` gives no real numbers.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxloss.classification import softmax_cross_entropy
        >>> head = chunked(lambda w, x, y: softmax_cross_entropy(x @ w, y), size=2)
        >>> head(jnp.zeros((3, 4)), jnp.ones((5, 3)), jnp.arange(5) % 4)
        Array(1.3862944, dtype=float32)

    References:
        Hsu et al., *Liger Kernel: Efficient Triton Kernels for LLM Training*, 2024.
        Chen et al., *Training Deep Nets with Sublinear Memory Cost*, 2016.
    """
    if size is not None and (isinstance(size, bool) or not isinstance(size, int | np.integer)):
        raise TypeError(f"{_NAME}: `size` is {size!r}, expected a positive integer or None.")
    if size is not None and size < 1:
        raise ValueError(f"{_NAME}: `size` is {size}, expected at least 1 row at a time.")
    for name, given, known in (
        ("reduction", reduction, ("none", "mean", "sum", "parts")),
        ("policy", policy, ("fastest", "least_memory")),
    ):
        if given not in known:
            expected = ", ".join(map(repr, known))
            raise ValueError(f"{_NAME}: `{name}` is {given!r}, expected one of {expected}.")
    return Chunked(fn, None if size is None else int(size), reduction, policy)


@dataclasses.dataclass(frozen=True)
class Chunked:
    """What `chunked` returns: the loss, and its plan."""

    fn: Callable[..., Any]
    size: int | None
    reduction: TypeOfReduction
    policy: Policy

    def __call__(self, shared: Any, *rows: Any, where: Any = None, weights: Any = None) -> Any:
        """The loss of all rows, reduced; see `chunked`."""
        shared, rows, where, weights = unify_vma(
            _as_arrays("shared", shared),
            _as_arrays("rows", rows),
            _a_row("where", where, rows),
            _a_row("weights", weights, rows),
        )
        how, _ = self._split(shared, rows)
        if where is None and how.padding:
            where = jnp.ones(how.rows, bool)
        function, hoisted, dtype = _closed(self.fn, shared, rows, how)
        if where is not None and weights is not None:
            weights = jnp.where(where, weights, 0)
        counts = where is not None, weights is not None
        leaves = [*jax.tree.leaves(rows), *(x for x in (where, weights) if x is not None)]

        def values(everything: Any, leaves: Any) -> Any:
            mask = leaves[-1 - counts[1]] if counts[0] else None
            factors = leaves[-1] if counts[1] else None
            data = leaves[: len(leaves) - sum(counts)]
            if mask is not None:
                data = [jnp.where(_along(mask, x), x, jnp.zeros((), x.dtype)) for x in data]
            found = function(everything, data)
            return reduce(found.astype(accumulator_dtype(found.dtype)), mask, factors, "none")

        everything = [*jax.tree.leaves(shared), *hoisted]
        if self.reduction == "none":
            return map_chunks(values, how, everything, leaves)
        weight = total_weight((how.rows,), where, weights, dtype)
        # A mean is divided inside the loop, so that the gradients leave it as they are returned.
        scale = 1 / jnp.where((weight == 0) | (self.reduction != "mean"), 1, weight)
        if self.policy == "fastest":

            def term(everything: Any, leaves: Any) -> Any:
                *everything, scale = everything
                return scale * jnp.sum(values(everything, leaves)), ()

            result, _ = sum_chunks(ChunkedSum(term, how), *unify_vma([*everything, scale], leaves))
        else:
            result = scale * jnp.sum(map_chunks(values, how, everything, leaves))
        return Mean(result, weight) if self.reduction == "parts" else result

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
        taken = _bytes_a_row(self.fn, shared, rows)
        return Plan(how.rows, how.size, how.chunks, how.padding, taken, budget)

    def _split(self, shared: Any, rows: Any) -> tuple[Split, int | None]:
        count, leaf = _count(rows)
        pieces = shards(leaf, 0) if isinstance(leaf, jax.Array) else 1
        if self.size is not None:
            return plan_split(count, self.size, pieces), None
        of_shared = sum(4 * x.size for x in jax.tree.leaves(shared) if _floating(x))
        budget = max(_BUDGET, of_shared)
        most = max(1, budget // max(1, _bytes_a_row(self.fn, shared, rows)))
        return plan_split(count, most if most < 128 else most // 128 * 128, pieces), budget


def _floating(x: Any) -> bool:
    return jnp.issubdtype(x.dtype, jnp.floating)


def _along(mask: Array, x: Array) -> Array:
    """The mask of rows, for an array of more axes."""
    return mask.reshape(mask.shape + (1,) * (x.ndim - 1))


def _as_arrays(name: str, tree: Any) -> Any:
    def convert(path: Any, leaf: Any) -> Any:
        try:
            return jnp.asarray(leaf)
        except TypeError:
            where = f"{name}{jax.tree_util.keystr(path)}"
            message = (
                f"{_NAME}: `{where}` is a {type(leaf).__name__}, expected an array. What is no "
                f"array belongs into the closure of the function."
            )
            raise TypeError(message) from None

    return jax.tree_util.tree_map_with_path(convert, tree)


def _count(rows: Any) -> tuple[int, Any]:
    """The number of rows, and a leaf that has them."""
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


def _a_row(name: str, given: Any, rows: Any) -> Any:
    if given is None:
        return None
    array, (count, _) = jnp.asarray(given), _count(rows)
    if name == "where" and array.dtype != jnp.bool_:
        message = f"{_NAME}: `where` must be boolean, got {array.dtype}: write `where > 0`."
        raise TypeError(message)
    if array.shape != (count,):
        message = f"{_NAME}: `{name}` has shape {array.shape}, expected ({count},), one a row."
        raise ValueError(message)
    return array if name == "where" else array.astype(accumulator_dtype(array.dtype))


def _closed(fn: Any, shared: Any, rows: Any, how: Split) -> tuple[Any, list[Any], Any]:
    """The function of flat lists, the traced arrays that it closes over, the dtype of its sum.

    A `custom_jvp` sees no derivative but through its arguments, so the function is traced once,
    and what its jaxpr has picked up on the way becomes one.
    """
    leaves, form = jax.tree.flatten(shared)
    row_leaves, row_form = jax.tree.flatten(rows)

    def flat(leaves: Any, row_leaves: Any) -> Any:
        return fn(jax.tree.unflatten(form, leaves), *jax.tree.unflatten(row_form, row_leaves))

    example = jax.eval_shape(
        lambda x: take_chunk([split_strided(leaf, how) for leaf in x], 0), row_leaves
    )
    closed, shape = jax.make_jaxpr(flat, return_shape=True)(leaves, example)
    if not isinstance(shape, jax.ShapeDtypeStruct) or shape.shape != (how.size,):
        came = shape.shape if isinstance(shape, jax.ShapeDtypeStruct) else jax.tree.structure(shape)
        message = (
            f"{_NAME}: the function gives {came} for a chunk of {how.size} rows, expected shape "
            f"({how.size},), one loss a row. Did it reduce? Leave `reduction` to `chunked`."
        )
        raise ValueError(message)
    if not jnp.issubdtype(shape.dtype, jnp.floating):
        raise TypeError(
            f"{_NAME}: the function gives {shape.dtype}, expected floating-point losses."
        )
    traced = [isinstance(c, Tracer) for c in closed.consts]
    # A traced Python number has no dtype yet.
    hoisted = [jnp.asarray(c) for c, t in zip(closed.consts, traced, strict=True) if t]
    axes = frozenset().union(*(vma(x) for x in (*leaves, *row_leaves, *hoisted)))
    for x in hoisted:
        if vma(x) != axes:
            message = (
                f"{_NAME}: the function closes over an array of shape {x.shape} that is the same on "
                f"all devices of the mesh axes {sorted(axes - vma(x))}: pass it as `shared`."
            )
            raise ValueError(message)

    def function(everything: list[Any], row_leaves: list[Any]) -> Any:
        given = iter(everything[len(leaves) :])
        consts = [next(given) if t else c for c, t in zip(closed.consts, traced, strict=True)]
        arguments = (*everything[: len(leaves)], *row_leaves)
        return eval_jaxpr(closed.jaxpr, consts, *arguments)[0]

    return function, hoisted, accumulator_dtype(shape.dtype)


def _bytes_a_row(fn: Any, shared: Any, rows: Any) -> int:
    """How much the largest array that the function makes grows with each row."""

    def sizes(count: int) -> list[int]:
        few = jax.tree.map(lambda x: jax.ShapeDtypeStruct((count, *x.shape[1:]), x.dtype), rows)
        return list(_sizes(jax.make_jaxpr(fn)(shared, *few).jaxpr))

    # Not 1 and 2: an axis of size 1 is treated in ways of its own.
    growth = [more - less for less, more in zip(sizes(2), sizes(3), strict=False)]
    return max([1, *growth])


def _sizes(jaxpr: Any) -> Iterable[int]:
    """The bytes of every array that a program makes, those of inner programs included."""
    for equation in jaxpr.eqns:
        for x in equation.outvars:
            yield getattr(x.aval, "size", 0) * getattr(
                getattr(x.aval, "dtype", None), "itemsize", 0
            )
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from _sizes(inner)
