"""The logistic loss of a difference of rewards, with labels that may be wrong."""

from jax import Array
from jaxtyping import Float

from jaxloss import numerics


def smoothed_nll(
    z: Float[Array, "*batch"], label_smoothing: Array, *, robust: bool = False
) -> Float[Array, "*batch"]:
    """-log sigmoid(z), where a share `label_smoothing` of the pairs is in the wrong order.

    With `robust` it is the unbiased estimate of the loss with the right labels.
    """
    right = (1 - label_smoothing) * numerics.softplus(-z)
    wrong = numerics.multiply_no_nan(label_smoothing, numerics.softplus(z))
    return (right - wrong) / (1 - 2 * label_smoothing) if robust else right + wrong
