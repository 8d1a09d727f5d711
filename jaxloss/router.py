r"""Router: auxiliary losses of mixtures of experts and of sparse attention.

They keep a router from sending all tokens to a few experts. `classification.z_loss` keeps its
logits small. The load-balance loss is a product of two means over tokens, so it is not a sum over
examples: counts and probabilities have to be summed over devices *before* the product. `axis_name`
does that inside `shard_map`; without it each sequence is balanced by itself, which is a sum over
sequences and exact under micro-batches and `Mean`.
"""

from typing import Literal, Unpack

import jax.numpy as jnp
from jax import Array, lax
from jax.scipy.special import ndtr
from jaxtyping import Bool, Float, Int, Real

from jaxloss import numerics
from jaxloss._core.decorator import loss
from jaxloss._core.dtypes import half_dtype
from jaxloss._core.namespace import public_names
from jaxloss._core.spec import ArrayLike, Reduction
from jaxloss._core.typing import AxisName
from jaxloss.domains import class_ids, distribution, extended, finite, nonnegative_number
from jaxloss.numerics._derivatives import separate_derivative
from jaxloss.numerics._double_double import at_dd, two_sum
from jaxloss.numerics._elementwise import linear_argument
from jaxloss.numerics._labels import is_label
from jaxloss.numerics._ordered import largest
from jaxloss.numerics._reductions import unmerged
from jaxloss.traits import nonnegative

__all__ = ["importance_cv", "indexer_kl", "load_balance", "load_cv"]


def _over_devices(x: Array, axis_name: AxisName | None) -> Array:
    return x if axis_name is None else lax.psum(x, axis_name)


# An id that names no expert is missing from the counts, those of all devices: the NaN is on all.
@loss(
    nonnegative,
    probabilities=distribution,
    expert_ids=class_ids("experts")._replace(handles_invalid=True),
)
def load_balance(
    probabilities: Real[ArrayLike, "*batch tokens experts"],
    expert_ids: Int[ArrayLike, "*batch tokens k"],
    *,
    mask: Bool[ArrayLike, "*batch tokens"] | None = None,
    scale: Literal["one", "k"] = "one",
    axis_name: AxisName | None = None,
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Load-balance loss of a mixture of experts: share of tokens times mean probability.

    When to use: beside the main loss, times about 0.01, so that a top-k router uses all experts.

    $$\ell = E \sum_{e=1}^E f_e P_e, \qquad
      f_e = \frac{1}{kT} \sum_{t, j} [i_{tj} = e], \qquad P_e = \frac1T \sum_t p_{te}$$

    With the tokens evenly spread it is 1 (`scale="one"`: Switch) or k (`scale="k"`: Mixtral in
    transformers, and maxtext). The counts have no gradient. Megatron's sequence
    loss is the first, of sigmoid scores divided by their sum.

    Args:
        probabilities: The router's probabilities of all experts.
        expert_ids: The experts that each token was sent to.
        mask: False leaves a token out, padding say.
        scale: What an even spread gives: "one", or "k", the number of experts a token.
        axis_name: Mesh axes over which tokens are divided, inside `shard_map`: counts and
            probabilities are summed over them before the product.

    Returns:
        The loss of each sequence (or of all, with `axis_name`: the same on all devices, by its
        type too); 0 for one without tokens.

    Example:
        >>> load_balance([[0.5, 0.5], [0.5, 0.5]], [[0], [1]])
        Array(1., dtype=float32)

    References:
        Fedus et al., *Switch Transformers*, 2022.
    """
    experts, k = probabilities.shape[-1], expert_ids.shape[-1]
    keep = jnp.ones(expert_ids.shape[:-1], bool) if mask is None else mask
    ids = jnp.where(keep[..., None], expert_ids, -1)
    is_expert = is_label(probabilities[..., None, :], ids)
    counts = jnp.sum(is_expert, axis=(-3, -2), dtype=jnp.int32)
    mass = linear_argument(jnp.sum(jnp.where(keep[..., None], probabilities, 0), axis=-2))
    tokens = jnp.sum(keep, axis=-1, dtype=jnp.int32)
    counts, mass, tokens = (_over_devices(x, axis_name) for x in (counts, mass, tokens))
    sent = jnp.sum(counts, axis=-1, dtype=jnp.int32)
    valid = jnp.where(sent == k * tokens, 1, jnp.nan).astype(mass.dtype)
    tokens = jnp.maximum(tokens, 1).astype(mass.dtype)
    shares = counts.astype(mass.dtype) / (tokens[..., None] * (1 if scale == "k" else k))
    return valid * (experts * jnp.sum(shares * mass, axis=-1) / tokens)


def _squared_variation(amounts: Float[Array, "*batch experts"]) -> Float[Array, "*batch"]:
    """The variance over the squared mean; 0 of nothing."""
    amounts = unmerged(amounts)
    mean = jnp.mean(amounts, axis=-1, keepdims=True)
    relative = numerics.quotient(amounts - mean, jnp.where(mean == 0, 1, mean))
    return jnp.mean(jnp.square(relative), axis=-1)


@loss(nonnegative, gates=nonnegative_number)
def importance_cv(
    gates: Real[ArrayLike, "*batch tokens experts"],
    *,
    mask: Bool[ArrayLike, "*batch tokens"] | None = None,
    axis_name: AxisName | None = None,
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Importance loss: squared coefficient of variation of the total gate of each expert.

    When to use: routers whose gates are differentiable everywhere (noisy top-k, vision MoE).

    $$\ell = \frac{\mathrm{Var}_e\, I_e}{(\mathrm{mean}_e\, I_e)^2}, \qquad I_e = \sum_t g_{te}$$

    Args:
        gates: The gate of each token and expert.
        mask: False leaves a token out.
        axis_name: Mesh axes over which tokens are divided, inside `shard_map`.

    Returns:
        The loss of each sequence; 0 where all experts have the same importance.

    Example:
        >>> importance_cv([[1.0, 0.0], [1.0, 0.0]])
        Array(1., dtype=float32)

    References:
        Shazeer et al., *Outrageously Large Neural Networks*, 2017.
    """
    return _squared_variation(_over_devices(jnp.sum(gates, axis=-2), axis_name))


@separate_derivative
def _probability_of_top(
    logits: Array, noisy: Array, last: Array, following: Array, scale: Array
) -> Array:
    """That a score with noise is among the k largest: `last` is the k-th of them."""
    # One of the k largest has to beat the next one, any other the last of them.
    threshold = jnp.where(noisy >= last, following, last)
    return at_dd(ndtr, two_sum(logits, -threshold) / scale)


@loss(nonnegative, logits=finite, noisy_logits=finite)
def load_cv(
    logits: Real[ArrayLike, "*batch tokens experts"],
    noisy_logits: Real[ArrayLike, "*batch tokens experts"],
    *,
    k: int = 1,
    noise_scale: Real[ArrayLike, ""] = 1.0,
    mask: Bool[ArrayLike, "*batch tokens"] | None = None,
    axis_name: AxisName | None = None,
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Load loss: squared coefficient of variation of a smooth number of tokens per expert.

    When to use: beside `importance_cv`, with a noisy top-k router.

    $$\ell = \frac{\mathrm{Var}_e\, L_e}{(\mathrm{mean}_e\, L_e)^2}, \qquad
      L_e = \sum_t \Phi\left(\frac{x_{te} - \theta_{te}}{s}\right)$$

    $\theta$ is the score that expert $e$ has to exceed to be among the $k$ largest noisy scores of
    the token: a constant of the gradient.

    Args:
        logits: Scores of the router before noise.
        noisy_logits: Scores after noise, by which experts are chosen; not differentiated.
        k: How many experts a token is sent to, fewer than there are.
        noise_scale: The standard deviation of the noise.
        mask: False leaves a token out.
        axis_name: Mesh axes over which tokens are divided, inside `shard_map`.

    Returns:
        The loss of each sequence; 0 where all experts have the same load.

    Raises:
        ValueError: If k is not from 1 to the number of experts less 1.

    Example:
        >>> load_cv([[0.0, 0.0], [0.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]])
        Array(0., dtype=float32)

    References:
        Shazeer et al., *Outrageously Large Neural Networks*, 2017.
    """
    experts = logits.shape[-1]
    if not isinstance(k, int) or not 0 < k < experts:
        message = f"jaxloss.router.load_cv: `k` is {k!r}, expected 1 to {experts - 1}."
        raise ValueError(message)
    noisy = lax.stop_gradient(noisy_logits)
    top = largest(noisy, k + 1, half_dtype("noisy_logits"))
    scale = jnp.asarray(noise_scale, logits.dtype)
    probability = _probability_of_top(logits, noisy, top[..., k - 1 : k], top[..., k:], scale)
    kept = probability if mask is None else jnp.where(mask[..., None], probability, 0)
    return _squared_variation(_over_devices(jnp.sum(kept, axis=-2), axis_name))


@loss(nonnegative, attention=distribution, logits=extended)
def indexer_kl(
    attention: Real[ArrayLike, "*batch keys"],
    logits: Real[ArrayLike, "*batch keys"],
    *,
    mask: Bool[ArrayLike, "*batch keys"] | None = None,
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""KL divergence that trains the indexer of sparse attention to predict dense attention.

    When to use: sparse attention with a light indexer that selects keys (DeepSeek sparse
    attention).

    $$\ell = \sum_j a_j \log \frac{a_j}{p_j}, \qquad p = \mathrm{softmax}(x)$$

    The attention is a constant of the gradient: weights summed over heads and divided by their
    sum. A key that is masked, of the future say, has probability 0 in both.

    Args:
        attention: The attention weights of a query over its keys, which sum to 1.
        logits: Scores of the indexer.
        mask: False takes a key out, whatever it holds.

    Returns:
        The divergence of each query in nats; 0 for a query without keys.

    Example:
        >>> indexer_kl([0.5, 0.5, 0.0], [1.0, 1.0, 3.0], mask=[True, True, False])
        Array(0., dtype=float32)

    References:
        DeepSeek-AI, *DeepSeek-V3.2*, 2025.
    """
    attention = lax.stop_gradient(attention)
    log_p = numerics.log_softmax(logits)
    terms = numerics.xlogy(attention, attention) - numerics.multiply_no_nan(attention, log_p)
    return numerics.relu(jnp.sum(terms, axis=-1))


__getattr__, __dir__ = public_names(__name__, __all__)
