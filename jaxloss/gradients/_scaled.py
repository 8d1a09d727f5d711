"""Gradients for half precision: the cotangent is scaled, the loss is not."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from jaxloss._memory.mesh import check_summed_gradients, cotangent
from jaxloss.gradients._common import check_scalar, scalar, split

_NAME = "jaxloss.gradients.scaled_value_and_grad"


def scaled_value_and_grad(
    loss: Callable[..., Any], scale: Any, *, has_aux: bool = False
) -> Callable[..., tuple[Any, Any]]:
    r"""Keeps small float16 gradients from vanishing: they come scaled, the value as it is.

    $$L(p), \quad \nabla_p (s L)(p)$$

    The backward pass starts from the scale instead of 1. Multiplying the loss, as others do,
    makes a float16 loss of 5 infinite at a scale of 65,536, and reports NaN for it.
    `transforms.dynamic_loss_scale` divides the gradients again, and says what the scale is.

    Args:
        loss: `loss(params, *args, **kwargs)` gives one number; with `has_aux`, a pair of that and
            anything else.
        scale: A number or a traced scalar: `transforms.loss_scale(state)`.
        has_aux: Whether the loss gives a pair.

    Returns:
        A function of the same arguments that gives `(value, grads)`, or `((value, aux), grads)`:
        the value unscaled, the gradients scaled, in the dtypes of the parameters.

    Raises:
        TypeError: If the loss gives no number, or a pair without `has_aux`, or none with it.
        ValueError: If the scale is not a scalar.

    Example:
        >>> scaled_value_and_grad(lambda p: p * 3.0, 1024.0)(jnp.float16(2.0))
        (Array(6., dtype=float32), Array(3072., dtype=float16))

    References:
        Micikevicius et al., *Mixed Precision Training*, 2018.
    """
    check_scalar(_NAME, "scale", scale)

    def value_and_grad(params: PyTree, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        def evaluate(params: PyTree) -> tuple[Any, Any]:
            value, aux = split(_NAME, loss(params, *args, **kwargs), has_aux)
            return scalar(_NAME, "the loss", value), aux

        value, vjp_fn, aux = jax.vjp(evaluate, params, has_aux=True)
        check_summed_gradients(_NAME, "the loss", value, params)
        (gradients,) = vjp_fn(cotangent(jnp.asarray(scale).astype(value.dtype), value))
        return (value, aux) if has_aux else value, gradients

    return value_and_grad
