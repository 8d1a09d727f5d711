"""What the types of arrays say about a mesh: over which axes they vary, how they are split."""

import math
from collections.abc import Callable
from typing import Any

import jax
from jax import Array, lax
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec
from jaxtyping import PyTree


def vma(x: Any) -> frozenset[str]:
    """The manual mesh axes over which an array, or its type, differs between devices."""
    kind = x if isinstance(x, jax.ShapeDtypeStruct) else jax.typeof(x)
    manual = kind.manual_axis_type
    return frozenset() if manual is None else manual.varying


def vma_of(*trees: PyTree) -> frozenset[str]:
    """The manual mesh axes over which any leaf differs between devices."""
    return frozenset().union(*(vma(x) for x in jax.tree.leaves(trees)))


def is_manual() -> bool:
    """Whether this is the inside of a `shard_map`."""
    return AxisType.Manual in jax.sharding.get_abstract_mesh().axis_types


def pcast_varying(tree: PyTree, axes: frozenset[str]) -> Any:
    """The same arrays, marked as different on the devices of these axes.

    The transpose of the mark is a sum over the devices. Before a loop, that is one sum; inside,
    it is one in every iteration.
    """

    def mark(x: Any) -> Any:
        missing = tuple(sorted(axes - vma(x)))
        return jax.lax.pcast(x, missing, to="varying") if missing else x

    return jax.tree.map(mark, tree)


def unify_vma(*trees: PyTree) -> Any:
    """The same trees, each array marked as different on every axis over which one of them is."""
    return pcast_varying(trees, vma_of(trees)) if is_manual() else trees


def cotangent(seed: Any, values: Any) -> Any:
    """A cotangent of values, marked as different on the devices on which they are."""
    return pcast_varying(seed, vma_of(values))


_SUMMED = (
    "For the gradient of all devices the loss gives one number for all: write "
    '`jax.lax.pmean(value, {axes})`, or `.psum({axes}).value` on `reduction="parts"`. For that of '
    "each device, write `jax.lax.pcast(params, {axes}, to='varying')`."
)


def check_summed_gradients(
    fun_name: str, what: str, values: Any, params: PyTree, remedy: str = _SUMMED
) -> None:
    """Raises if values differ between devices where one of the parameters is the same on all.

    JAX adds up the gradients over these devices, which gives neither the gradient of the values of
    one device, nor that of their mean.
    """
    axes = sorted(frozenset().union(*(vma_of(values) - vma(x) for x in jax.tree.leaves(params))))
    if axes:
        names = repr(axes[0] if len(axes) == 1 else tuple(axes))
        message = (
            f"{fun_name}: inside `shard_map` {what} differs between devices along {names}, and "
            f"parameters do not. "
        )
        raise ValueError(message + remedy.format(axes=names))


def _mesh_of(x: Any) -> AbstractMesh:
    return jax.typeof(x).sharding.mesh


def shards(x: Any, axis: int) -> int:
    """Into how many pieces the type of an array splits an axis: 1 unless it is Explicit."""
    sharding = jax.typeof(x).sharding
    names = sharding.spec[axis] if axis < len(sharding.spec) else None
    names = (names,) if isinstance(names, str) else names or ()
    kinds = dict(zip(sharding.mesh.axis_names, sharding.mesh.axis_types, strict=True))
    return math.prod(sharding.mesh.shape[n] for n in names if kinds[n] == AxisType.Explicit)


def unsplit(x: Array, axis: int) -> Array:
    """The same array, with an axis that is whole on every device; unchanged where its type is."""
    axis = axis % x.ndim
    if shards(x, axis) == 1:
        return x
    sharding = jax.typeof(x).sharding
    spec = PartitionSpec(*sharding.spec[:axis], None, *sharding.spec[axis + 1 :])
    return jax.sharding.reshard(x, NamedSharding(sharding.mesh, spec))


def split_as(x: Array, other: Array) -> Array:
    """The same array, its first axis split as that of another array, and all others whole.

    Only where types tell how an array is split, on a mesh with Explicit axes.
    """
    if shards(other, 0) == 1 and all(shards(x, axis) == 1 for axis in range(x.ndim)):
        return x
    sharding = jax.typeof(other).sharding
    spec = PartitionSpec(sharding.spec[0], *(None for _ in x.shape[1:]))
    return jax.sharding.reshard(x, NamedSharding(sharding.mesh, spec))


def possible_shards(x: Any, axis: int) -> int:
    """Into how many equal pieces an axis must be cut so that no piece crosses two devices.

    An Auto axis of the mesh does not say what it splits: it may split this axis.
    """
    mesh = _mesh_of(x)
    known = shards(x, axis)
    auto = [mesh.shape[n] for n, kind in _axes(mesh) if kind == AxisType.Auto]
    pieces = known * math.prod(auto)
    return pieces if x.shape[axis] % pieces == 0 else known


def _axes(mesh: AbstractMesh) -> list[tuple[str, AxisType]]:
    return list(zip(mesh.axis_names, mesh.axis_types, strict=True))


def is_unsharded(*arrays: Array) -> bool:
    """Whether no mesh can split the arrays: neither that of their types nor that of the context.

    Only then may neighbours be taken together. Elsewhere they may lie on one device, and the
    compiler would gather them.
    """
    meshes = [jax.sharding.get_abstract_mesh(), *map(_mesh_of, arrays)]
    return all(
        kind == AxisType.Manual or mesh.shape[name] == 1
        for mesh in meshes
        for name, kind in _axes(mesh)
    )


def has_typed_axes(*trees: PyTree) -> bool:
    """Whether types tell how arrays are split: on a mesh with Explicit or Manual axes."""
    meshes = [jax.sharding.get_abstract_mesh(), *map(_mesh_of, jax.tree.leaves(trees))]
    return any(kind != AxisType.Auto for mesh in meshes for kind in mesh.axis_types)


def require_split(fun_name: str, name: str, x: Array, axis_name: str | tuple[str, ...]) -> None:
    """Raises if a mesh axis does not exist here, or an array does not differ over it."""
    mesh = jax.sharding.get_abstract_mesh()
    for axis in (axis_name,) if isinstance(axis_name, str) else tuple(axis_name):
        if axis not in mesh.axis_names:
            message = (
                f"{fun_name}: there is no mesh axis {axis!r} here, only {mesh.axis_names}. "
                f"`axis_name` is for the inside of `jax.shard_map`; under plain `jit` the "
                f"shardings of the arrays are enough."
            )
            raise ValueError(message)
        if axis not in vma(x):
            message = (
                f"{fun_name}: `{name}` is the same on all devices of the mesh axis {axis!r}. "
                f"Split it with `in_specs`, and leave `check_vma` of `jax.shard_map` on: without "
                f"it gradients would silently be multiplied by the number of devices."
            )
            raise ValueError(message)


def ring_scan(
    tile: Callable[..., Any],
    start: PyTree,
    carry: PyTree,
    constants: PyTree,
    axis_name: str | tuple[str, ...],
) -> tuple[Any, Any]:
    """Ring loop: each device visits every shard; carried values return to their owner.

    `tile(state, carry, owner, constants)` gives the new state and what is passed on.
    """
    devices, me = lax.axis_size(axis_name), lax.axis_index(axis_name)
    onward = [(i, (i + 1) % devices) for i in range(devices)]
    start, carry, constants = unify_vma(start, carry, constants)
    # Its transpose would keep the square of this device and all others, a tile an iteration.
    tile = jax.checkpoint(tile, prevent_cse=False)

    def step(both: Any, turn: Any) -> Any:
        state, carry = tile(*both, (me - turn) % devices, constants)
        return (state, lax.ppermute(carry, axis_name, onward)), None

    return lax.scan(step, (start, carry), jax.numpy.arange(devices))[0]


def places_from(owner: Array, size: int, axis_name: str | tuple[str, ...]) -> Array:
    """The places of this device's rows, counted from the first row of another device."""
    return jax.numpy.arange(size) + (lax.axis_index(axis_name) - owner) * size
