"""Curvature of a loss through a model, as products with vectors."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from jaxloss._memory.mesh import check_summed_gradients, cotangent
from jaxloss.gradients._common import scalar

_NAME = "jaxloss.gradients.gauss_newton_vp"


def gauss_newton_vp(
    loss: Callable[..., Any], model: Callable[..., Any], params: PyTree, batch: tuple[Any, ...]
) -> Callable[[Any], Any]:
    r"""Multiplies vectors by the Gauss-Newton matrix: the curvature that second-order steps use.

    $$v \mapsto J^\top H J v, \qquad J = \frac{\partial \text{model}}{\partial p}, \quad
      H = \nabla^2 \ell(\text{outputs})$$

    The Hessian without the curvature of the model: for a loss that is convex in the outputs it has
    no negative eigenvalue, and for a linear model it is the Hessian. For the likelihood of an
    exponential family in its natural parameters (softmax cross-entropy, squared error) it is the
    Fisher information. The model is linearized once; each product costs about a forward and a
    backward pass, so hand the result to `jax.scipy.sparse.linalg.cg`.

    Args:
        loss: `loss(outputs, *targets)` gives one number: any loss of the catalogue, of which the
            mean is taken, or `functools.partial` of one with its options.
        model: `model(params, inputs)` gives the outputs.
        params: A pytree of floating-point arrays.
        batch: `(inputs, *targets)`.

    Returns:
        A function from a tree like the parameters to another: the product, in their dtypes.

    Raises:
        TypeError: If the loss gives no number.
        ValueError: If the vector does not have the structure of the parameters.

    Example:
        >>> from jaxloss import regression
        >>> product = gauss_newton_vp(regression.squared_error, lambda p, x: x @ p,
        ...                           jnp.zeros(2), (jnp.eye(2), jnp.zeros(2)))
        >>> product(jnp.array([1.0, 2.0]))
        Array([1., 2.], dtype=float32)

    References:
        Schraudolph, *Fast Curvature Matrix-Vector Products*, 2002.
        Martens, *New Insights and Perspectives on the Natural Gradient Method*, 2020.
    """
    inputs, *targets = batch
    outputs, jvp_fn = jax.linearize(lambda p: model(p, inputs), params)
    vjp_fn = jax.linear_transpose(jvp_fn, params)

    def of_outputs(outputs: Any) -> Any:
        value = scalar(_NAME, "the loss", loss(outputs, *targets))
        check_summed_gradients(_NAME, "the loss", value, (params, outputs))
        return value

    _, curve = jax.linearize(jax.grad(of_outputs), outputs)

    def product(vector: Any) -> Any:
        if jax.tree.structure(vector) != jax.tree.structure(params):
            message = (
                f"{_NAME}: the vector is {jax.tree.structure(vector)}, but the parameters are "
                f"{jax.tree.structure(params)}: expected one structure."
            )
            raise ValueError(message)
        vector = jax.tree.map(
            lambda v, p: jnp.asarray(v).astype(jnp.result_type(p)), vector, params
        )
        vector = jax.tree.map(cotangent, vector, params)
        (result,) = vjp_fn(curve(jvp_fn(vector)))
        return result

    return product
