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
    # Of a constant a, XLA would make b of (a + b) - a, unless a choice stands between.
    seen = jnp.where(b == b, total, b)
    back = seen - a
    return total, finite((a - (seen - back)) + (b - back))


def two_product(a: Array, b: Array) -> tuple[Array, Array]:
    """The rounded a * b, and what rounding took (Dekker): from halves whose products are exact."""
    # Behind a barrier, or a fused multiply-add uses a product that was not rounded.
    product = lax.optimization_barrier(a * b)
    info = jnp.finfo(product.dtype)
    # Two constants, XLA would sum in another order, unless a choice by the product is made first.
    (a1, a2), (b1, b2) = (
        (head, x - head)
        for x in (jnp.where(product == product, x, product) for x in (a, b))
        for head in [lax.reduce_precision(x, info.nexp, info.nmant // 2)]
    )
    return product, finite(((a1 * b1 - product) + a1 * b2 + a2 * b1) + a2 * b2)


def two_quotient(a: Array, b: Array) -> tuple[Array, Array]:
    """The rounded a / b, and what rounding took, itself rounded."""
    ratio = lax.optimization_barrier(a / b)
    product, lost = two_product(ratio, b)
    return ratio, finite(((a - product) - lost) / b)


def finite(lost: Array) -> Array:
    """What rounding took: nothing where it is no number, and never with a slope."""
    return lax.stop_gradient(jnp.where(jnp.abs(lost) < jnp.inf, lost, 0))
