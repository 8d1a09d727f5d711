"""What XLA on CPU computes first, and what it computes twice: hints that change no number.

It computes whatever is ready. The gradient of what is summed is ready before the sum, so that two
arrays of the size of the data are held and written where one place would serve both in turn. A
new array costs as much as the arithmetic: without these hints Huber's loss takes 1.4 times as
long, the Kullback-Leibler divergence twice. On GPUs, where one kernel does both, they do nothing.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax


def one_after(x: Array) -> Array:
    """1, which is not known before x is."""
    if jax.default_backend() != "cpu":
        return jnp.ones_like(x)
    never = jnp.isnan(x) & jnp.isinf(x)  # which XLA does not see
    return jnp.where(never, 0, 1).astype(x.dtype)


def anew(x: Any) -> Any:
    """x, an array or a tree, so that what came of it is computed again, and need not be held."""
    return lax.optimization_barrier(x) if jax.default_backend() == "cpu" else x
