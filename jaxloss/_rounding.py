"""Error-free transformations: what rounding takes from a sum or a product, as a float of its own.

Where a result is exponentiated, or nearly vanishes, its last place is many last places of what
comes out of it; the lost part is then put back to first order. Gradients see the rounded result
alone. A sum or product that overflows lost nothing.
"""

import jax.numpy as jnp
from jax import Array, lax


def two_sum(a: Array, b: Array) -> tuple[Array, Array]:
    """The rounded a + b, and what rounding took (Knuth)."""
    total = a + b
    back = total - a
    return total, _finite((a - (total - back)) + (b - back))


def two_product(a: Array, b: Array) -> tuple[Array, Array]:
    """The rounded a * b, and what rounding took (Dekker): from halves whose products are exact."""
    # Behind a barrier, or a fused multiply-add uses a product that was not rounded.
    product = lax.optimization_barrier(a * b)
    info = jnp.finfo(product.dtype)
    (a1, a2), (b1, b2) = (
        (head, x - head)
        for x in (a, b)
        for head in [lax.reduce_precision(x, info.nexp, info.nmant // 2)]
    )
    return product, _finite(((a1 * b1 - product) + a1 * b2 + a2 * b1) + a2 * b2)


def two_quotient(a: Array, b: Array) -> tuple[Array, Array]:
    """The rounded a / b, and what rounding took, itself rounded."""
    ratio = lax.optimization_barrier(a / b)
    product, lost = two_product(ratio, b)
    return ratio, _finite(((a - product) - lost) / b)


def _finite(lost: Array) -> Array:
    return lax.stop_gradient(jnp.where(jnp.abs(lost) < jnp.inf, lost, 0))
