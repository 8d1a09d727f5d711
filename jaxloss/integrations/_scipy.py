"""An objective for `scipy.optimize.minimize`: value and gradient in float64, of any tree."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from jaxloss._core.reduction import Mean

__all__ = ["Objective", "scipy"]


class Objective:
    """A function of a flat float64 vector, with its gradient; made by `scipy`.

    Attributes:
        start: The starting point as a vector, for `x0`.
    """

    def __init__(self, function: Callable[..., Any], start: Any):
        with jax.enable_x64(True):
            wide = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), start)
            flat, self._unravel = ravel_pytree(wide)
            self.start = np.asarray(flat)

            def value(x, *args):
                value = function(self._unravel(x), *args)
                value = value.value if isinstance(value, Mean) else value
                if jnp.shape(value) != ():
                    raise ValueError(
                        "jaxloss.integrations.scipy: the function has the shape "
                        f'{jnp.shape(value)}, expected one number: give reduction="mean".'
                    )
                return value

            gradient = jax.grad(value)
            self._value_and_grad = jax.jit(jax.value_and_grad(value))
            self._product = jax.jit(
                lambda x, v, *args: jax.jvp(lambda x: gradient(x, *args), (x,), (v,))[1]
            )

    def __call__(self, x: np.ndarray, *args: Any) -> tuple[float, np.ndarray]:
        """Value and gradient, for `minimize(objective, objective.start, jac=True)`."""
        with jax.enable_x64(True):
            value, gradient = self._value_and_grad(np.asarray(x, np.float64), *args)
            return float(value), np.asarray(gradient)

    def hessp(self, x: np.ndarray, p: np.ndarray, *args: Any) -> np.ndarray:
        """The product of the Hessian at `x` with `p`, for `minimize(hessp=objective.hessp)`."""
        with jax.enable_x64(True):
            x, p = (np.asarray(v, np.float64) for v in (x, p))
            return np.asarray(self._product(x, p, *args))

    def tree(self, x: np.ndarray) -> Any:
        """The parameters of a vector, such as `result.x`, as NumPy arrays."""
        with jax.enable_x64(True):
            return jax.tree.map(np.asarray, self._unravel(jnp.asarray(x, jnp.float64)))


def scipy(function: Callable[..., Any], start: Any) -> Objective:
    """Objective for `scipy.optimize.minimize`: a loss of parameters and its gradient, in float64.

    The function is compiled once, and runs in float64 whether or not JAX is set to it: close to a
    minimum a line search compares values that float32 cannot distinguish.

    When to use: A model of few parameters, to be fitted to the end: L-BFGS or Newton-CG takes
    tens of steps where stochastic gradients take thousands.

    Args:
        function: Maps parameters, and the `args` of `minimize`, to one number or a `Mean`.
        start: The parameters to start from: a tree of arrays or numbers.

    Returns:
        A function of a vector that returns value and gradient (`jac=True`). Its `start` is `x0`,
        its `hessp` the product with the Hessian, its `tree` turns `result.x` into parameters.

    Raises:
        ValueError: If the function returns more than one number.

    Example:
        >>> import numpy as np
        >>> from scipy.optimize import minimize
        >>> import jaxloss as jl
        >>> x = np.arange(6.0)
        >>> def loss(line):
        ...     fit = line["slope"] * x + line["at_0"]
        ...     return jl.regression.huber(fit, 2 * x + 1, reduction="mean")
        >>> objective = jl.integrations.scipy(loss, {"slope": 0.0, "at_0": 0.0})
        >>> result = minimize(objective, objective.start, jac=True, method="BFGS")
        >>> {name: round(float(v), 4) for name, v in objective.tree(result.x).items()}
        {'at_0': 1.0, 'slope': 2.0}
    """
    return Objective(function, start)
