"""What the types of arrays say about a mesh: which axes they vary over, how they are split."""

from typing import Any

import jax


def vma(x: Any) -> frozenset[str]:
    """The manual mesh axes over which an array, or its type, differs between devices."""
    kind = x if isinstance(x, jax.ShapeDtypeStruct) else jax.typeof(x)
    manual = kind.manual_axis_type
    return frozenset() if manual is None else manual.varying


def pcast_varying(tree: Any, axes: frozenset[str]) -> Any:
    """The same arrays, marked as different on the devices of these axes.

    The transpose of the mark is a sum over the devices: placed before a loop, it makes that one
    sum and not one a turn.
    """

    def mark(x: Any) -> Any:
        missing = tuple(sorted(axes - vma(x)))
        return jax.lax.pcast(x, missing, to="varying") if missing else x

    return jax.tree.map(mark, tree)


def unify_vma(*trees: Any) -> Any:
    """The same trees, each array marked as different on every axis over which one of them is."""
    axes = frozenset().union(*(vma(x) for x in jax.tree.leaves(trees)))
    return pcast_varying(trees, axes)


def shards(x: Any, axis: int) -> int:
    """Into how many pieces an axis is split, as far as its type says: 1 unless it is Explicit."""
    sharding = jax.typeof(x).sharding
    names = sharding.spec[axis] if axis < len(sharding.spec) else None
    names = (names,) if isinstance(names, str) else names or ()
    explicit = jax.sharding.AxisType.Explicit
    sizes = [sharding.mesh.shape[n] for n in names if _type_of(sharding.mesh, n) == explicit]
    count = 1
    for size in sizes:
        count *= size
    return count


def _type_of(mesh: Any, name: str) -> Any:
    return dict(zip(mesh.axis_names, mesh.axis_types, strict=True))[name]


def is_unsharded() -> bool:
    """Whether arrays are surely whole on a device: then neighbours may be taken together.

    Elsewhere the compiler may have split them, and would gather what is taken from one shard.
    """
    mesh = jax.sharding.get_abstract_mesh()
    manual = bool(mesh.axis_names) and set(mesh.manual_axes) == set(mesh.axis_names)
    return jax.device_count() == 1 or manual


def require_split(fun_name: str, name: str, x: Any, axis_name: Any) -> None:
    """Refuses a mesh axis that is not there, or over which an array does not differ."""
    mesh = jax.sharding.get_abstract_mesh()
    for axis in (axis_name,) if isinstance(axis_name, str) else tuple(axis_name):
        if axis not in mesh.axis_names:
            message = (
                f"{fun_name}: there is no mesh axis {axis!r} here, only {mesh.axis_names}. `axis_name` "
                f"is for the inside of `jax.shard_map`; under plain `jit` the shardings of the "
                f"arrays say it all."
            )
            raise ValueError(message)
        if axis not in vma(x):
            message = (
                f"{fun_name}: `{name}` is the same on all devices of the mesh axis {axis!r}. Split it "
                f"with `in_specs`, and leave `check_vma` of `jax.shard_map` on: without it "
                f"gradients would silently be multiplied by the number of devices."
            )
            raise ValueError(message)
