"""Advantages of samples that share a prompt, from their rewards alone."""

import jax.numpy as jnp
from jax import Array

from jaxloss import numerics
from jaxloss._core.helpers import flags, floats
from jaxloss._core.spec import ArrayLike


def _centred(rewards: Array, mask: Array) -> tuple[Array, Array]:
    """Rewards less their mean over the group, and how many count; equal rewards give exactly 0."""
    # Less the first one that counts before the mean is taken: a mean of equal numbers is rounded.
    first = jnp.argmax(mask, axis=-1, keepdims=True)
    shifted = rewards - jnp.take_along_axis(rewards, first, axis=-1)
    shifted = jnp.where(mask, shifted, 0)
    count = jnp.sum(mask, axis=-1, keepdims=True, dtype=rewards.dtype)
    mean = jnp.sum(shifted, axis=-1, keepdims=True) / jnp.maximum(count, 1)
    return jnp.where(mask, shifted - mean, 0), count


def group_advantages(
    rewards: ArrayLike,
    *,
    scale: bool = True,
    ddof: int = 1,
    epsilon: ArrayLike = 1e-4,
    mask: ArrayLike | None = None,
) -> Array:
    r"""Advantages relative to a group: rewards less their mean, over their standard deviation.

    $$A_i = \frac{r_i - \bar r}{s + \epsilon}, \qquad
      s^2 = \frac{1}{n - \mathrm{ddof}} \sum_j (r_j - \bar r)^2$$

    As in GRPO; `scale=False` leaves the division out (Dr. GRPO). A group of equal rewards gives
    exactly 0, also with `epsilon=0`, and so does a group of one.

    Args:
        rewards: `(*batch, group)`, the rewards of the samples of one prompt.
        scale: Whether to divide by the standard deviation.
        ddof: 1 for the sample standard deviation (TRL, tunix), 0 for the other.
        epsilon: Added to the standard deviation.
        mask: Booleans of the rewards' shape; False leaves a sample out and gives it 0.

    Returns:
        Advantages of the rewards' shape; float32 for half precision and integers.

    Raises:
        TypeError: If rewards are complex or the mask is not boolean.
        ValueError: If the mask does not have the rewards' shape.

    Example:
        >>> group_advantages([[1.0, 0.0, 0.0, 1.0], [3.0, 3.0, 3.0, 3.0]], ddof=0, epsilon=0.0)
        Array([[ 1., -1., -1.,  1.],
               [ 0.,  0.,  0.,  0.]], dtype=float32)
    """
    name = "jaxloss.policy.group_advantages"
    (rewards,) = floats(name, rewards=rewards)
    (mask,) = flags(
        name, rewards.shape, mask=jnp.ones(rewards.shape, bool) if mask is None else mask
    )
    rewards = jnp.where(mask, rewards, 0)
    centred, count = _centred(rewards, mask)
    if not scale:
        return centred
    variance = jnp.sum(jnp.square(centred), axis=-1, keepdims=True) / jnp.maximum(count - ddof, 1)
    deviation = numerics.sqrt(variance)
    return centred / jnp.where(deviation == 0, 1, deviation + epsilon)


def leave_one_out_advantages(rewards: ArrayLike, *, mask: ArrayLike | None = None) -> Array:
    r"""Advantages relative to the others of a group: rewards less the mean of the other rewards.

    $$A_i = r_i - \frac{1}{n - 1} \sum_{j \ne i} r_j = \frac{n}{n - 1} (r_i - \bar r)$$

    The baseline of RLOO: unbiased, since it does not depend on the sample itself.

    Args:
        rewards: `(*batch, group)`, the rewards of the samples of one prompt.
        mask: Booleans of the rewards' shape; False leaves a sample out and gives it 0.

    Returns:
        Advantages of the rewards' shape; 0 for a group of one.

    Raises:
        TypeError: If rewards are complex or the mask is not boolean.
        ValueError: If the mask does not have the rewards' shape.

    Example:
        >>> leave_one_out_advantages([[3.0, 1.0, 2.0]])
        Array([[ 1.5, -1.5,  0. ]], dtype=float32)
    """
    name = "jaxloss.policy.leave_one_out_advantages"
    (rewards,) = floats(name, rewards=rewards)
    (mask,) = flags(
        name, rewards.shape, mask=jnp.ones(rewards.shape, bool) if mask is None else mask
    )
    centred, count = _centred(jnp.where(mask, rewards, 0), mask)
    return centred * count / jnp.maximum(count - 1, 1)
