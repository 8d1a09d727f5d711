"""Arguments of public functions that are not losses: arrays of one shape, masks, fractions."""

import jax.numpy as jnp
from jax import Array

from jaxloss._core.spec import ArrayLike


def floats(fun_name: str, **given: ArrayLike) -> list[Array]:
    """Converts arrays to one floating dtype, float32 or wider, and checks that shapes agree."""
    arrays = {name: jnp.asarray(x) for name, x in given.items()}
    leader, first = next(iter(arrays.items()))
    for name, x in arrays.items():
        if jnp.issubdtype(x.dtype, jnp.complexfloating):
            raise TypeError(f"{fun_name}: `{name}` is {x.dtype}, expected real numbers.")
        if x.shape != first.shape:
            message = (
                f"{fun_name}: `{name}` has shape {x.shape}, expected {first.shape} to fit "
                f"`{leader}`: nothing is broadcast here."
            )
            raise ValueError(message)
    dtype = jnp.result_type(jnp.float32, *(x for x in arrays.values()))
    return [x.astype(dtype) for x in arrays.values()]


def flags(fun_name: str, shape: tuple[int, ...], **given: ArrayLike) -> list[Array]:
    """Converts masks, None to all False, and checks their dtype and shape."""
    found = []
    for name, x in given.items():
        array = jnp.zeros(shape, bool) if x is None else jnp.asarray(x)
        if array.dtype != jnp.bool_:
            message = (
                f"{fun_name}: `{name}` is {array.dtype}, expected booleans: write `{name} > 0`."
            )
            raise TypeError(message)
        if array.shape != shape:
            message = f"{fun_name}: `{name}` has shape {array.shape}, expected {shape}."
            raise ValueError(message)
        found.append(array)
    return found


def fraction(fun_name: str, name: str, value: ArrayLike) -> Array:
    """A scalar, or an array; a number that is not between 0 and 1 is refused."""
    if isinstance(value, int | float) and not 0 <= value <= 1:
        raise ValueError(f"{fun_name}: `{name}` must be between 0 and 1, got {value!r}.")
    return jnp.asarray(value)
