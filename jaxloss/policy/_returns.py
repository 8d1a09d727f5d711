r"""Returns and advantages along trajectories, by one backward recursion.

$$y_t = b_t + a_t\, y_{t+1}$$

Generalized advantages, lambda-returns and V-trace are this recursion with different $a$ and $b$.
A terminal step has no future: its bootstrap is 0. A truncated step (a time limit, the end of a
buffer) has one, of which the trajectory holds nothing more: its bootstrap is `next_values`, and
the recursion starts anew. The two are different arguments, since confusing them is the most
common fault of implementations.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from jaxloss._core.helpers import flags, floats, fraction
from jaxloss._core.spec import ArrayLike
from jaxloss.numerics._recursion import backward


class Returns(NamedTuple):
    """Advantages and targets, both of the shape of the rewards.

    Attributes:
        advantage: How much better each action was than the value predicted.
        target: What the value should have been.
    """

    advantage: Array
    target: Array


def _time_last(fun_name: str, axis: int, *arrays: ArrayLike) -> list[Any]:
    """The arrays with their axis of time last; None stays None."""
    if axis == -1:
        return list(arrays)
    ndim = jnp.ndim(arrays[0])
    if not isinstance(axis, int) or not -ndim <= axis < ndim:
        expected = f"an int from {-ndim} to {ndim - 1}"
        raise ValueError(f"{fun_name}: `axis` is {axis!r}, expected {expected}: that of time.")
    return [None if x is None else jnp.moveaxis(jnp.asarray(x), axis, -1) for x in arrays]


class _Trajectories(NamedTuple):
    """Where the future ends: booleans of the shape of the rewards."""

    terminal: Array  # the value of the next observation does not count
    stops: Array  # also where nothing of the next step is held, but for the end of the row
    mask: Array


def _trajectories(
    fun_name: str,
    rewards: Array,
    terminal: ArrayLike,
    truncated: ArrayLike,
    mask: ArrayLike,
    segments: ArrayLike,
) -> _Trajectories:
    shape = rewards.shape
    is_terminal, is_truncated = flags(fun_name, shape, terminal=terminal, truncated=truncated)
    (counts,) = flags(fun_name, shape, mask=jnp.ones(shape, bool) if mask is None else mask)
    stops, end = is_terminal | is_truncated, jnp.ones_like(counts[..., :1])
    if mask is not None:
        stops |= jnp.concatenate([~counts[..., 1:], end], axis=-1)
    if segments is not None:
        ids = jnp.asarray(segments)
        if not jnp.issubdtype(ids.dtype, jnp.integer) or ids.shape != shape:
            message = (
                f"{fun_name}: `segments` is {ids.dtype} of shape {ids.shape}, expected integers "
                f"of shape {shape}."
            )
            raise ValueError(message)
        stops |= jnp.concatenate([ids[..., 1:] != ids[..., :-1], end], axis=-1)
    return _Trajectories(is_terminal, stops, counts)


def _errors(
    rewards: Array, values: Array, next_values: Array, terminal: Array, discount: Array
) -> tuple[Array, None]:
    return rewards + discount * jnp.where(terminal, 0, next_values) - values, None


def _returns_of_one_step(
    rewards: Array,
    next_values: Array,
    terminal: Array,
    stops: Array,
    discount: Array,
    decay: Array,
) -> tuple[Array, None]:
    # What the next return does not replace of the next value.
    rest = jnp.where(terminal, 0, discount) - jnp.where(stops, 0, decay)
    return rewards + rest * next_values, None


def _clipped_errors(clipped: Array, errors: Array, factor: Array) -> tuple[Array, Array]:
    return clipped * errors, factor


def gae(
    rewards: ArrayLike,
    values: ArrayLike,
    next_values: ArrayLike,
    *,
    discount: ArrayLike = 0.99,
    trace: ArrayLike = 0.95,
    terminal: ArrayLike | None = None,
    truncated: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    segments: ArrayLike | None = None,
    axis: int = -1,
    parallel: bool | None = None,
) -> Returns:
    r"""Generalized advantage estimates, and the targets of the values.

    $$A_t = \delta_t + \gamma \lambda A_{t+1}, \qquad
      \delta_t = r_t + \gamma v'_t - v_t, \qquad \text{target}_t = v_t + A_t$$

    $v'_t$ is the value of the observation that follows step $t$, and 0 if the step is terminal;
    behind a terminal or truncated step, and between segments, the recursion starts anew. Where an
    environment resets itself, the observation after a truncated step is the last of the old
    episode, not the first of the new. Without resets, `next_values` is
    `jnp.concatenate([values[..., 1:], last_value[..., None]], -1)`.

    Args:
        rewards: `(*batch, time)`.
        values: `(*batch, time)`, the predicted value of the observation of each step.
        next_values: `(*batch, time)`, the predicted value of the observation after each step.
        discount: Discount factor, from 0 to 1.
        trace: The trace parameter lambda, from 0 to 1: 0 for one-step errors, 1 for Monte Carlo.
        terminal: Booleans, True where the episode ended in a state without a future.
        truncated: Booleans, True where it was cut off although it had one.
        mask: Booleans, False for padding: its advantage is 0, whatever it holds.
        segments: Integers, the episode of each step where a row holds several, one after the other.
        axis: The axis of time; with 0, for arrays `(time, *batch)`, nothing is transposed.
        parallel: Whether to use an associative scan, of logarithmic depth, or a loop over steps;
            None for a loop on CPU and a scan elsewhere, where each step would be several kernels.

    Returns:
        `Returns(advantage, target)` of the rewards' shape. Gradients flow through both; wrap
        them in `jax.lax.stop_gradient` as targets.

    Raises:
        TypeError: If a flag is not boolean.
        ValueError: If shapes differ, or the discount or the trace is not between 0 and 1.

    Example:
        >>> gae([1.0, 1.0], [0.0, 0.0], [0.0, 4.0], discount=0.5, trace=1.0).advantage
        Array([2.5, 3. ], dtype=float32)
        >>> gae([1.0, 1.0], [0.0, 0.0], [0.0, 4.0], discount=0.5, terminal=[False, True]).target[-1]
        Array(1., dtype=float32)

    References:
        Schulman et al., *High-Dimensional Continuous Control Using Generalized Advantage
        Estimation*, 2016.
    """
    name = "jaxloss.policy.gae"
    rewards, values, next_values, *flagged = _time_last(
        name, axis, rewards, values, next_values, terminal, truncated, mask, segments
    )
    rewards, values, next_values = floats(
        name, rewards=rewards, values=values, next_values=next_values
    )
    discount, trace = fraction(name, "discount", discount), fraction(name, "trace", trace)
    ends = _trajectories(name, rewards, *flagged)
    rewards, values, next_values = (
        jnp.where(ends.mask, x, 0) for x in (rewards, values, next_values)
    )

    data = rewards, values, next_values, ends.terminal
    options = {"numbers": (discount,), "axis": axis, "parallel": parallel}
    advantage, _ = backward(_errors, data, ends.stops, discount * trace, **options)
    advantage = jnp.where(ends.mask, advantage, 0)
    return Returns(*(jnp.moveaxis(x, -1, axis) for x in (advantage, values + advantage)))


def lambda_returns(
    rewards: ArrayLike,
    next_values: ArrayLike,
    *,
    discount: ArrayLike = 0.99,
    trace: ArrayLike = 0.95,
    terminal: ArrayLike | None = None,
    truncated: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    segments: ArrayLike | None = None,
    axis: int = -1,
    parallel: bool | None = None,
) -> Array:
    r"""Lambda-returns: mixtures of the n-step returns of a trajectory.

    $$G_t = r_t + \gamma \left((1 - \lambda)\, v'_t + \lambda\, G_{t+1}\right)$$

    $v'_t$ is the value of the observation that follows step $t$, and 0 if the step is terminal.
    Where the trajectory goes on no further, $G_{t+1}$ is $v'_t$.

    Args:
        rewards: `(*batch, time)`.
        next_values: `(*batch, time)`, the predicted value of the observation after each step.
        discount: Discount factor, from 0 to 1.
        trace: The trace parameter lambda, from 0 to 1.
        terminal: Booleans, True where the episode ended in a state without a future.
        truncated: Booleans, True where it was cut off although it had one.
        mask: Booleans, False for padding: its return is 0, whatever it holds.
        segments: Integers, the episode of each step where a row holds several, one after the other.
        axis: The axis of time; with 0, for arrays `(time, *batch)`, nothing is transposed.
        parallel: Whether to use an associative scan, of logarithmic depth, or a loop over steps;
            None for a loop on CPU and a scan elsewhere, where each step would be several kernels.

    Returns:
        The return of each step, of the rewards' shape.

    Raises:
        TypeError: If a flag is not boolean.
        ValueError: If shapes differ, or the discount or the trace is not between 0 and 1.

    Example:
        >>> lambda_returns([1.0, 1.0], [0.0, 4.0], discount=0.5, trace=1.0)
        Array([2.5, 3. ], dtype=float32)

    References:
        Sutton and Barto, *Reinforcement Learning*, 2018.
    """
    name = "jaxloss.policy.lambda_returns"
    rewards, next_values, *flagged = _time_last(
        name, axis, rewards, next_values, terminal, truncated, mask, segments
    )
    rewards, next_values = floats(name, rewards=rewards, next_values=next_values)
    discount, trace = fraction(name, "discount", discount), fraction(name, "trace", trace)
    ends = _trajectories(name, rewards, *flagged)
    rewards, next_values = (jnp.where(ends.mask, x, 0) for x in (rewards, next_values))

    decay = discount * trace
    number = rewards.shape[-1]
    stops = ends.stops | (jnp.arange(number) == number - 1)  # the recursion has 0 behind the end
    data = rewards, next_values, ends.terminal, stops
    options = {"numbers": (discount, decay), "axis": axis, "parallel": parallel}
    found, _ = backward(_returns_of_one_step, data, stops, decay, **options)
    return jnp.moveaxis(jnp.where(ends.mask, found, 0), -1, axis)


def vtrace(
    log_prob: ArrayLike,
    old_log_prob: ArrayLike,
    rewards: ArrayLike,
    values: ArrayLike,
    next_values: ArrayLike,
    *,
    discount: ArrayLike = 0.99,
    trace: ArrayLike = 1.0,
    clip_ratio: ArrayLike = 1.0,
    clip_policy_ratio: ArrayLike = 1.0,
    terminal: ArrayLike | None = None,
    truncated: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    segments: ArrayLike | None = None,
    axis: int = -1,
    parallel: bool | None = None,
) -> Returns:
    r"""V-trace: targets and advantages of a policy from trajectories of another one.

    $$e_t = \min(\bar\rho, \rho_t)\, \delta_t + \gamma c_t\, e_{t+1}, \qquad
      c_t = \lambda \min(1, \rho_t), \qquad \text{target}_t = v_t + e_t$$

    $$A_t = \min(\bar\rho_\text{pg}, \rho_t) \left(r_t + \gamma q_t - v_t\right), \qquad
      q_t = v'_t + \lambda e_{t+1}$$

    $\rho_t = \pi / \mu$ is the ratio of the probabilities under the policy that is evaluated and
    the one that acted, and $\delta_t = r_t + \gamma v'_t - v_t$. On its own trajectories, with
    `trace=1`, the targets are the n-step returns. Ratios are capped in log space, so that none
    overflows.

    Args:
        log_prob: `(*batch, time)`, log-probabilities under the policy that is evaluated.
        old_log_prob: `(*batch, time)`, log-probabilities under the policy that acted.
        rewards: `(*batch, time)`.
        values: `(*batch, time)`, the predicted value of the observation of each step.
        next_values: `(*batch, time)`, the predicted value of the observation after each step.
        discount: Discount factor, from 0 to 1.
        trace: The trace parameter lambda, from 0 to 1.
        clip_ratio: The largest ratio in the targets, $\bar\rho$.
        clip_policy_ratio: The largest ratio in the advantages, $\bar\rho_\text{pg}$.
        terminal: Booleans, True where the episode ended in a state without a future.
        truncated: Booleans, True where it was cut off although it had one.
        mask: Booleans, False for padding: its advantage is 0, whatever it holds.
        segments: Integers, the episode of each step where a row holds several, one after the other.
        axis: The axis of time; with 0, for arrays `(time, *batch)`, nothing is transposed.
        parallel: Whether to use an associative scan, of logarithmic depth, or a loop over steps;
            None for a loop on CPU and a scan elsewhere, where each step would be several kernels.

    Returns:
        `Returns(advantage, target)` of the rewards' shape.

    Raises:
        TypeError: If a flag is not boolean.
        ValueError: If shapes differ, or the discount or the trace is not between 0 and 1.

    Example:
        >>> vtrace([0.0, 0.0], [0.0, 0.0], [1.0, 1.0], [0.0, 0.0], [0.0, 4.0], discount=0.5).target
        Array([2.5, 3. ], dtype=float32)

    References:
        Espeholt et al., *IMPALA: Scalable Distributed Deep-RL*, 2018.
    """
    name = "jaxloss.policy.vtrace"
    log_prob, old_log_prob, rewards, values, next_values, *flagged = _time_last(
        name,
        axis,
        *(log_prob, old_log_prob, rewards, values, next_values),
        *(terminal, truncated, mask, segments),
    )
    log_prob, old_log_prob, rewards, values, next_values = floats(
        name,
        log_prob=log_prob,
        old_log_prob=old_log_prob,
        rewards=rewards,
        values=values,
        next_values=next_values,
    )
    discount, trace = fraction(name, "discount", discount), fraction(name, "trace", trace)
    ends = _trajectories(name, rewards, *flagged)
    log_ratio, rewards, values, next_values = (
        jnp.where(ends.mask, x, 0)
        for x in (jnp.where(ends.mask, log_prob - old_log_prob, 0), rewards, values, next_values)
    )

    caps = jnp.asarray(clip_ratio), jnp.asarray(clip_policy_ratio), jnp.ones(())
    largest = jnp.log(jnp.maximum(jnp.maximum(*caps[:2]), 1)).astype(log_ratio.dtype)
    ratio = jnp.exp(jnp.minimum(log_ratio, largest))  # one exponential, which does not overflow
    in_target, in_advantage, in_trace = (
        jnp.where(log_ratio < jnp.log(cap), ratio, cap.astype(ratio.dtype)) for cap in caps
    )

    one_step, _ = _errors(rewards, values, next_values, ends.terminal, discount)
    data = in_target, one_step, in_trace
    options = {"axis": axis, "parallel": parallel}
    excess, future = backward(_clipped_errors, data, ends.stops, discount * trace, **options)
    advantage = in_advantage * (one_step + future)
    advantage, excess = (jnp.where(ends.mask, x, 0) for x in (advantage, excess))
    return Returns(*(jnp.moveaxis(x, -1, axis) for x in (advantage, values + excess)))
