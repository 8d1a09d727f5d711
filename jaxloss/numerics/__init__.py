"""Numerical functions that are accurate, and differentiable, where those of `jax.numpy` are not.

- elementwise: `absolute`, `relu`, `sqrt`, `expm1`, `sigmoid`, `softplus`, `log_sigmoid`,
  `log1mexp`, `log_cosh`, `hypot1m1`;
- products and quotients: `multiply_no_nan`, `xlogy`, `xlog1py`, `quotient`, `fraction`;
- special functions, for formulas that cancel: `exprel`, `expm1_minus_x`, `x_minus_log1p`,
  `log1p_over_x`;
- along an axis: `logsumexp`, `softmax`, `log_softmax`, `fused_sums`;
- vectors: `norm`, `normalize`, `cosine_similarity`, `cosine_distance`, `squared_distance`,
  `distance`, `pairwise_difference`.

All of them have derivatives of every order, in forward and reverse mode. They return the dtype of
their arguments; half precision is computed in float32 and rounded once, at the end. They share
three conventions:

- **A gradient that does not exist is 0**, not NaN: at the kink of an absolute value, at a zero
  vector, at a term of weight 0.
- **A False entry of `where` is ignored**: its gradient is exactly 0, whatever it holds.
- **Infinite entries give the limit; NaN entries give NaN**, in value and gradient.

Modules with a leading underscore hold what only the losses of this package use: double-double
arithmetic, the softmax negative log-likelihood, log-gamma functions, Tweedie deviances.
"""

from jaxloss._core.namespace import public_names
from jaxloss.numerics._double_double import expm1
from jaxloss.numerics._elementwise import (
    absolute,
    fraction,
    hypot1m1,
    log1mexp,
    log_cosh,
    log_sigmoid,
    multiply_no_nan,
    quotient,
    relu,
    sigmoid,
    softplus,
    sqrt,
    xlog1py,
    xlogy,
)
from jaxloss.numerics._reductions import fused_sums
from jaxloss.numerics._softmax import log_softmax, logsumexp, softmax
from jaxloss.numerics._special import expm1_minus_x, exprel, log1p_over_x, x_minus_log1p
from jaxloss.numerics._vectors import (
    cosine_distance,
    cosine_similarity,
    distance,
    norm,
    normalize,
    pairwise_difference,
    squared_distance,
)

__all__ = [
    "absolute",
    "cosine_distance",
    "cosine_similarity",
    "distance",
    "expm1",
    "expm1_minus_x",
    "exprel",
    "fraction",
    "fused_sums",
    "hypot1m1",
    "log1mexp",
    "log1p_over_x",
    "log_cosh",
    "log_sigmoid",
    "log_softmax",
    "logsumexp",
    "multiply_no_nan",
    "norm",
    "normalize",
    "pairwise_difference",
    "quotient",
    "relu",
    "sigmoid",
    "softmax",
    "softplus",
    "sqrt",
    "squared_distance",
    "x_minus_log1p",
    "xlog1py",
    "xlogy",
]

__getattr__, __dir__ = public_names(__name__, __all__)
