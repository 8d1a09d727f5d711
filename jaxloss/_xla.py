"""Hints for XLA that change no number; the only file that knows a platform.

On CPU, XLA computes an array as soon as it can. The gradient of a sum can be computed before the
sum, so two arrays of the size of the data are held and written where one would do, and writing an
array takes as long as the arithmetic: without the hints, Huber loss takes 1.4 times as long and
the Kullback-Leibler divergence twice (`benchmarks/speed.py`). Arrays that fit in the cache of a
core gain nothing. On GPU and TPU one fused kernel computes both, and the hints are the identity.

The platform is the one that a program is compiled for (`lax.platform_dependent`), never the one of
the host that traces it. The shape of an array may be symbolic (`jax.export`); then its size is not
known and hints that depend on it are left out.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental.xla_metadata import set_xla_metadata

__all__ = [
    "barrier",
    "chosen_once",
    "each_on_gpu",
    "fits_in_cache",
    "fits_in_gpu_cache",
    "in_bytes",
    "in_one_loop",
    "inlined",
    "not_folded",
    "on_chip_on_tpu",
    "on_cpu",
    "on_each",
    "on_gpu",
    "one_depending_on",
    "outlined_on_cpu",
    "recompute",
    "recompute_off_cpu",
    "recompute_on_gpu",
    "rounded",
    "take_slice",
    "unshared",
    "unshared_on_gpu",
    "with_vectorizable_shape",
    "written_on_cpu",
    "written_on_tpu",
]

T = TypeVar("T")

_CACHE_ENTRIES = 1 << 13  # `benchmarks/speed.py`: below it a hint costs more than it saves
# Arrays that stay in the cache of a GPU: there sharing costs no traffic (`benchmarks/policy.py`).
_GPU_CACHE_ENTRIES = 1 << 18
_ON_CHIP = 1 << 25  # bytes: two such arrays stay in the memory on the chip of a TPU v5e
_SHORT_AXIS = 64  # iterations of an inner loop that XLA on CPU does not always vectorize
_ROW_LENGTHS = (*range(256, 4096, 8), *range(257, 4096, 2))


def _is_static(shape: tuple[Any, ...]) -> bool:
    """Whether all sizes are numbers; under `jax.export` they may be symbols."""
    return all(isinstance(n, int) for n in shape)


def _is_local(arrays: Any) -> bool:
    """Whether the types of arrays tell that the compiler will not divide them over devices."""
    meshes = [jax.typeof(x).sharding.mesh for x in jax.tree.leaves(arrays)]
    meshes.append(jax.sharding.get_abstract_mesh())
    return all(set(mesh.manual_axes) == set(mesh.axis_names) for mesh in meshes)


def _have_at_most(entries: int, tree: Any) -> bool:
    return all(_is_static(x.shape) and x.size <= entries for x in jax.tree.leaves(tree))


def fits_in_cache(tree: Any) -> bool:
    """Whether each array of a tree fits in the cache of a core."""
    return _have_at_most(_CACHE_ENTRIES, tree)


def fits_in_gpu_cache(tree: Any) -> bool:
    """Whether each array of a tree is far smaller than the cache of a GPU."""
    return _have_at_most(_GPU_CACHE_ENTRIES, tree)


def _depending_on_cpu(x: Array) -> Array:
    # The condition is false for every x, which XLA does not find out.
    never = lax.ne(x, x) & lax.eq(lax.abs(x), lax.full_like(x, jnp.inf))
    return lax.select(never, lax.full_like(x, 0), lax.full_like(x, 1))


def one_depending_on(x: Array) -> Array:
    """Returns 1 with a data dependency on x, which on CPU delays whatever uses it."""
    return lax.platform_dependent(x, cpu=_depending_on_cpu, default=jnp.ones_like)


def _identity(tree: T) -> T:
    return tree


def barrier(x: T) -> T:
    """Returns x behind a barrier on CPU, where XLA may compute it twice with different rounding."""
    return lax.platform_dependent(x, cpu=lax.optimization_barrier, default=_identity)


def on_cpu(for_cpu: Callable[..., T], for_others: Callable[..., T], *arguments: Any) -> T:
    """Evaluates one of two functions with the same results, the first in programs for CPU.

    Both are traced; the compiler sees one. Give the same objects in each call, so that eager
    calls compile once.
    """
    return lax.platform_dependent(*arguments, cpu=for_cpu, default=for_others)


def _behind_select(x: Array) -> Array:
    return lax.select(lax.eq(x, x), x, lax.neg(x))  # a constant NaN would trip `jax_debug_nans`


@jax.custom_jvp
def in_one_loop(x: Array) -> Array:
    """Returns x behind a select on CPU, so that a sum of x reads one array.

    XLA on CPU computes the last additions and multiplications in the loop of the sum, and what goes
    into them in loops before, each of which writes an array: a constant, too, if it is added to one
    of them. It does not do so with a select (`benchmarks/families.py`: the CRPS of a Laplace
    distribution takes 1.47 of the time of scoringrules without, 1.08 with it).
    """
    if fits_in_cache(x) or not jnp.issubdtype(x.dtype, jnp.floating):
        return x
    return on_cpu(_behind_select, _identity, x)


# Without a rule, an eager gradient would compile the choice of a platform in every call.
in_one_loop.defjvps(lambda x_dot, _, _x: x_dot)


def inlined(x: Array) -> Array:
    """Returns x, the result of a division, root, power, exponential or logarithm used twice.

    XLA on CPU writes such a result, and much of what it is computed from, to arrays, since it
    repeats no expensive operation: nor one in a single loop. This ends with a cheap one, a rounding
    to the precision that x has. (The divergence of 4 million pairs of probabilities was 10 loops,
    97 MiB and 60 ms; so it is one loop, no array and 5 ms.)
    """
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        return x
    return lax.reduce_precision(x, jnp.finfo(x.dtype).nexp, jnp.finfo(x.dtype).nmant)


def _over_one(x: Array) -> Array:
    return x / _depending_on_cpu(x)


def written_on_cpu(x: Array) -> Array:
    """Returns x as an array of its own on CPU, for a reduction of several terms that it is in.

    XLA on CPU would compute an exponential in the loop of the reduction, where it does not
    vectorize: of [512, 1024] the value of a cross-entropy with a distribution takes four times as
    long. Its last operation is a division by a 1 that XLA does not know, as in `chosen_once`.
    """
    return x if fits_in_cache(x) else on_cpu(_over_one, _identity, x)


def _choice_twice(where: Array, x: Array, y: Array) -> tuple[Array, Array]:
    chosen = _over_one(lax.select(where, x, y))
    return chosen, chosen


def _both(_where: Array, x: Array, y: Array) -> tuple[Array, Array]:
    return x, y


def chosen_once(where: Array, x: Array, y: Array) -> tuple[Array, Array]:
    """x and y, between which several results choose; on CPU the choice is an array of its own.

    XLA on CPU computes in the loop of each result what they share, unless its last operation is an
    expensive one, such as a division: here by a 1 that it does not know. A barrier does not keep
    loops apart, and a call runs on one core.
    """
    return (x, y) if fits_in_cache(x) else on_cpu(_choice_twice, _both, where, x, y)


@jax.custom_jvp
def rounded(x: Array) -> Array:
    """Returns x, a product or quotient, as rounded to its dtype in everything computed from it.

    A fused multiply-add would use the product before it is rounded, in one of the places and not in
    another. On CPU a barrier keeps them apart; on GPU and TPU, where a barrier writes the array to
    memory, a select does: no compiler contracts a multiplication with an addition across it.
    """
    return lax.platform_dependent(x, cpu=lax.optimization_barrier, default=_behind_select)


rounded.defjvps(lambda x_dot, _, _x: x_dot)


def _times_one(copy: int, x: Array) -> Array:
    one = lax.full((), 1, x.dtype)
    for _ in range(copy):
        one = lax.optimization_barrier(one)  # of the last one: equal barriers would be merged
    return x & one if x.dtype == jnp.bool_ else x * one


def unshared(tree: T, copy: int = 1) -> T:
    """Returns x, an array or a tree, times a 1 that XLA does not know.

    XLA on GPU may compute what several results share, such as a mask, in a kernel of its own, and
    write it; so does XLA on TPU where it takes many operations an entry. What is computed from an
    array and from its copies is computed again in one kernel. Copies of the same number, from 1,
    share what is computed from them.
    """
    return jax.tree.map(functools.partial(_times_one, copy), tree)


@functools.cache
def _unshared_form(copy: int) -> Callable[[Any], Any]:
    return functools.partial(unshared, copy=copy)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _unshared(copy: int, on_tpu: bool, leaves: tuple[Array, ...]) -> tuple[Array, ...]:
    form = _unshared_form(copy)
    return on_cpu(_identity, form, leaves) if on_tpu else on_gpu(form, _identity, leaves)


@_unshared.defjvp
def _unshared_jvp(copy: int, on_tpu: bool, primals: Any, tangents: Any) -> Any:
    return _unshared(copy, on_tpu, *primals), tangents[0]


def unshared_on_gpu(tree: T, copy: int = 1, on_tpu: bool = False) -> T:
    """`unshared` on GPU, and on TPU if so it says; elsewhere x."""
    leaves, structure = jax.tree.flatten(tree)
    return jax.tree.unflatten(structure, _unshared(copy, on_tpu, tuple(leaves)))


def recompute(x: T, result: Any = None) -> T:
    """Returns x, an array or a tree, behind a barrier on CPU, unshared on GPU.

    What is computed from it is computed again rather than shared with what is computed from the
    original, so its result need not be held in memory. `result` is an array as large as that
    result, if x is not; small results are shared.
    """
    if fits_in_cache(x if result is None else result):
        return x
    return on_each(lax.optimization_barrier, _unshared_form(1), _identity, x)


def on_gpu(for_gpu: Callable[..., T], for_others: Callable[..., T], *arguments: Any) -> T:
    """`on_cpu`, with the first function in programs for GPU."""
    return lax.platform_dependent(*arguments, cuda=for_gpu, rocm=for_gpu, default=for_others)


def on_each(
    for_cpu: Callable[..., T], for_gpu: Callable[..., T], for_tpu: Callable[..., T], *arguments: Any
) -> T:
    """`on_cpu`, of three functions."""
    return lax.platform_dependent(
        *arguments, cpu=for_cpu, cuda=for_gpu, rocm=for_gpu, default=for_tpu
    )


def recompute_on_gpu(x: Array) -> Array:
    """Returns x, one number a row, behind a barrier on GPU.

    What is computed from it and the entries of the row is computed again in each kernel that reads
    the row. Without the barrier XLA on GPU writes it, in float32 where the row is bfloat16.
    """
    return on_gpu(lax.optimization_barrier, _identity, x)


def written_on_tpu(x: Array) -> Array:
    """Returns x behind a barrier on TPU, so that it is an array of its own there."""
    return on_each(_identity, _identity, lax.optimization_barrier, x)


@jax.custom_jvp
def on_chip_on_tpu(x: Array) -> Array:
    """`written_on_tpu` of what several passes read, if it stays in the memory on the chip.

    XLA on TPU would fetch its arguments there while the first of the passes reads them in HBM.
    """
    if fits_in_cache(x) or not _have_at_most(_ON_CHIP // x.dtype.itemsize, x):
        return x
    return written_on_tpu(x)


on_chip_on_tpu.defjvps(lambda x_dot, _, _x: x_dot)


def in_bytes(x: Array) -> Array:
    """Returns x, a constant of which each entry is 0, 1 or NaN, as an array of one byte an entry.

    XLA on TPU would compute it again in each kernel that uses it, from arrays that it reads again:
    of [65536, 1000] scores 250 MiB, where 62 MiB stay on the chip (`benchmarks/accelerators.py`).
    """
    code = lax.optimization_barrier(jnp.where(x == x, x, 2).astype(jnp.int8))
    return jnp.where(code == 2, jnp.full_like(x, jnp.nan), code.astype(x.dtype))


def recompute_off_cpu(x: T) -> T:
    """`recompute_on_gpu` of an array or a tree, also on TPU, which writes what is expensive."""
    return on_cpu(_identity, lax.optimization_barrier, x)


def _copies(count: int, x: Any) -> tuple[Any, ...]:
    copies = []
    for _ in range(count):
        x = lax.optimization_barrier(x)  # of the last one: equal barriers would be merged
        copies.append(x)
    return tuple(copies)


def _repeated(count: int, x: Any) -> tuple[Any, ...]:
    return (x,) * count


@functools.cache
def _each_forms(count: int) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    return functools.partial(_copies, count), functools.partial(_repeated, count)


def each_on_gpu(x: T, count: int) -> tuple[T, ...]:
    """x, one number a row or several, for each of several sums over the rows.

    On GPU they are behind a barrier each, so that the sums share no comparison with x: XLA would
    write what they share, and read it again. What reads the same rows is one kernel in any case.
    """
    return on_gpu(*_each_forms(count), x)


def _is_half(x: Array) -> bool:
    return jnp.issubdtype(x.dtype, jnp.floating) and x.dtype.itemsize == 2


def _bits(x: Array) -> Array:
    return lax.bitcast_convert_type(x, jnp.uint16)


def take_slice(x: Array, start: Array | int, size: int, axis: int) -> Array:
    """`size` entries of x along an axis, from a start that a loop computes.

    Of numbers in half precision XLA on CPU would convert the whole array to float32 first, and hold
    that: there the slice is of their bits.
    """
    if not _is_half(x):
        return lax.dynamic_slice_in_dim(x, start, size, axis)
    return _half_slice(size, axis, x, start)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _half_slice(size: int, axis: int, x: Array, start: Array | int) -> Array:
    def plain(x: Array, start: Array) -> Array:
        return lax.dynamic_slice_in_dim(x, start, size, axis)

    def of_bits(x: Array, start: Array) -> Array:
        x, start = lax.optimization_barrier((x, start))  # else the loop would hold all the bits
        return lax.bitcast_convert_type(plain(_bits(x), start), x.dtype)

    return on_cpu(of_bits, plain, x, start)


# Bits have no derivative. The transpose of the plain slice is a sum of arrays, which XLA fuses.
@_half_slice.defjvp
def _half_slice_jvp(size: int, axis: int, primals: Any, tangents: Any) -> tuple[Array, Array]:
    (x, start), (x_dot, _) = primals, tangents
    out = _half_slice(size, axis, x, start)
    return out, lax.dynamic_slice_in_dim(x_dot, start, size, axis)


def not_folded(x: T) -> T:
    """Returns x, an array or a tree, behind a barrier on every platform.

    If x is a constant, XLA does not compute what depends on it while it compiles: a sort of 64,000
    constants takes it two seconds.
    """
    return lax.optimization_barrier(x)


@functools.cache
def _vectorizable_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Returns a shape of as many entries over which XLA on CPU vectorizes elementwise loops.

    It vectorizes along the last axis, often not if that is short (log-cosh of [6400, 10] takes
    7 times as long as of [64000]), nor if it is the only axis and cannot be divided evenly among
    the cores ([63999] takes 7 times as long).
    """
    size = math.prod(shape)
    runs_on_one_core = len(shape) == 1 and size <= _CACHE_ENTRIES
    if size < _ROW_LENGTHS[0] or runs_on_one_core or (len(shape) > 1 and shape[-1] >= _SHORT_AXIS):
        return shape
    length = next((n for n in _ROW_LENGTHS if size % n == 0), None)
    return (size // length, length) if length else (size,)


@functools.lru_cache(maxsize=1024)
def _in_shape(
    function: Callable[..., Array], shape: tuple[int, ...], better: tuple[int, ...]
) -> Callable[..., Array]:
    """The function of arrays in another shape: one object, so that eager calls compile once."""

    def of_shape(*arrays: Array) -> Array:
        found = function(*(x.reshape(better) if x.ndim else x for x in arrays))
        # What is no array of that shape is an error, which the caller explains.
        return found.reshape(shape) if getattr(found, "shape", None) == better else found

    return of_shape


def with_vectorizable_shape(function: Callable[..., Array], *arrays: Array) -> Array:
    """Evaluates an elementwise function, on CPU in loops that vectorize.

    The arrays have the shape of the first, or are scalars. Arrays that may be divided over devices
    keep their shape. An eager call compiles once for each function, so give the same object again.
    """
    shape = arrays[0].shape
    if not _is_static(shape) or not _is_local(arrays):
        return function(*arrays)
    better = _vectorizable_shape(shape)
    if better == shape:
        return function(*arrays)
    reshaped = _in_shape(function, shape, better)
    return lax.platform_dependent(*arrays, cpu=reshaped, default=function)


@functools.lru_cache(maxsize=1024)
def _outlined(function: Callable[..., T]) -> Callable[..., T]:
    jitted = jax.jit(function)

    def call(*arguments: Any) -> T:
        with set_xla_metadata(inlineable="false"):
            return jitted(*arguments)

    return call


def outlined_on_cpu(function: Callable[..., T], *arguments: Any) -> T:
    """Evaluates a function that reads its arguments in shifted slices, on CPU by a call.

    XLA on CPU would fuse what computes the arguments into each of the slices, and compute it as
    often as there are slices: a barrier does not stop that, a call that is not inlined does (the
    value of `image.ssim` takes a quarter of the time). Give the same object again, so that eager
    calls compile once.
    """
    if fits_in_cache(arguments) or not _is_local(jax.tree.leaves(arguments)):
        return function(*arguments)
    return lax.platform_dependent(*arguments, cpu=_outlined(function), default=function)


def _contract_all(x: Array) -> Array:
    axes = tuple(range(1, x.ndim))
    return lax.dot_general(x, x, ((axes, axes), ((), ())), precision=lax.Precision.HIGHEST)


def _contract_reshaped(x: Array) -> Array:
    return _contract_all(x.reshape(x.shape[0], -1))


def gram_matrix(x: Array) -> Array:
    """The inner products of the slices `x[k]`, over all their axes.

    On CPU a contraction over several axes transposes a copy of `x`, which takes 5 times as long as
    over one axis. On accelerators the reshape would gather a leaf whose last axis is sharded.
    """
    return lax.platform_dependent(x, cpu=_contract_reshaped, default=_contract_all)
