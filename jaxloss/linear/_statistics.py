r"""Statistics of the softmax of a linear layer, whose logits never exist as a whole."""

import functools
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxloss._core.spec import ArrayLike
from jaxloss._core.typing import AxisName
from jaxloss.linear._arguments import Arguments, ChunkSize, Policy, check_ids_are_exact
from jaxloss.linear._blocks import Rows, Tiles, unify_layer_vma, where_rows
from jaxloss.linear._classes_outside import row_sums
from jaxloss.linear._layer import Head, Layer, labels_of
from jaxloss.linear._moments import Moments, Wanted
from jaxloss.numerics._online_logsumexp import finite_top

Output = Literal[
    "log_probability",
    "log_normalizer",
    "entropy",
    "sum_of_squares",
    "mean_logit",
    "predicted",
    "correct",
]
OUTPUTS: tuple[str, ...] = get_args(Output)
_OF_LABELS = ("log_probability", "correct")


class Statistics(NamedTuple):
    r"""Statistics of the softmax of each token; None for what was not asked for.

    Attributes:
        log_probability: `(...)`, log p of the label, in nats.
        log_normalizer: `(...)`, the log of the sum of the exponentials of the logits.
        entropy: `(...)`, $-\sum_k p_k \log p_k$, in nats.
        sum_of_squares: `(...)`, $\sum_k p_k^2$, the probability that two draws agree.
        mean_logit: `(...)`, the mean of the logits that are not -inf.
        predicted: `(...)`, the class of the largest logit, the first one of several.
        correct: `(...)`, whether the label's logit is the largest.
        top_log_probabilities: `(..., k)`, log p of the k likeliest classes, the largest first.
        top_ids: `(..., k)`, these classes.
    """

    log_probability: Array | None = None
    log_normalizer: Array | None = None
    entropy: Array | None = None
    sum_of_squares: Array | None = None
    mean_logit: Array | None = None
    predicted: Array | None = None
    correct: Array | None = None
    top_log_probabilities: Array | None = None
    top_ids: Array | None = None


def statistics(
    hidden: Any,
    weight: Any,
    labels: ArrayLike | None = None,
    *,
    outputs: Sequence[Output] = ("log_probability", "entropy"),
    top_k: int | None = None,
    bias: ArrayLike = None,
    transposed: bool = False,
    softcap: ArrayLike | None = None,
    temperature: ArrayLike = 1.0,
    where: ArrayLike | None = None,
    chunk_size: ChunkSize = None,
    policy: Policy = "fastest",
    axis_name: AxisName | None = None,
) -> Statistics:
    r"""Log-probability, entropy and other statistics of the softmax of a linear layer, in one pass.

    When to use: losses of several numbers a token, such as a policy gradient with an entropy bonus,
    the log-probabilities of a teacher's likeliest classes, or what is logged beside a loss.

    $$\log p_y, \quad \log \sum_k e^{z_k}, \quad -\sum_k p_k \log p_k, \quad \sum_k p_k^2, \quad
      \frac{1}{V} \sum_k z_k, \quad \operatorname*{argmax}_k z_k, \qquad
      p = \mathrm{softmax}(z), \quad z = W^\top h + b$$

    The logits of some tokens are computed once, whatever is asked for, and once more for the
    gradients: 4 matrix products, as `log_probabilities`. Ids and `correct` have no gradient, all
    other numbers have: reverse and forward mode, and second derivatives. All are exact where the
    model is confident and where it is uniform. Which of them are computed is static.

    Args:
        hidden: `(..., dim)`.
        weight: `(dim, vocabulary)`.
        labels: Class ids, integers of shape `(...)`; one that names no class gives a
            log-probability of NaN. Needed for "log_probability" and "correct" alone.
        outputs: Names of `Statistics`: "log_probability", "log_normalizer", "entropy",
            "sum_of_squares", "mean_logit", "predicted", "correct".
        top_k: How many of the likeliest classes are wanted, with their log-probabilities. Among
            classes of probability 0 the ids are arbitrary.
        bias: `(vocabulary,)`; -inf makes a class impossible.
        transposed: Whether the weight is `(vocabulary, dim)`.
        softcap: What logits stay within.
        temperature: What logits are divided by, after the cap.
        where: Booleans of shape `(...)`; a False token has 0 everywhere, with gradient 0.
        chunk_size: As in `softmax_cross_entropy`.
        policy: As in `softmax_cross_entropy`.
        axis_name: As in `softmax_cross_entropy`.

    Returns:
        `Statistics`; float32 for half-precision inputs too, ids int32.

    Raises:
        ValueError: If shapes do not fit, a name is unknown, labels are missing, or `top_k` exceeds
            the number of classes.
        TypeError: If labels are not integers or `top_k` is not an integer.

    Example:
        >>> import jax.numpy as jnp
        >>> found = statistics(jnp.eye(2), jnp.array([[80.0, 0.0], [0.0, 0.0]]), [0, 1], top_k=1)
        >>> found.log_probability
        Array([-1.804851e-35, -6.931472e-01], dtype=float32)
        >>> found.top_ids[:, 0]
        Array([0, 0], dtype=int32)

    References:
        Shannon, *A Mathematical Theory of Communication*, 1948.
        Wijmans et al., *Cut Your Losses in Large-Vocabulary Language Models*, 2024.
    """
    call = Arguments("jaxloss.linear.statistics", hidden, weight, transposed)
    names = _checked_outputs(call, outputs, labels, top_k)
    head = Head(
        call.weight,
        bias=call.per_class("bias", bias),
        softcap=call.number("softcap", softcap, off=None, above=0),
        temperature=call.number("temperature", temperature, off=1, above=0),
    )
    layer = Layer(transposed, axis_name)
    ids = jnp.zeros(call.rows, jnp.int32) if labels is None else call.labels("labels", labels)
    rows = Rows(call.hidden, ids, call.mask("where", where))
    call.check_axis(axis_name)
    if labels is not None:
        call.check_labels(ids, rows.mask, axis_name)
    k = call.top_k("top_k", top_k, axis_name)
    check_ids_are_exact(call, axis_name)
    tiles = call.tiles(layer, chunk_size, policy)
    if policy == "fastest":
        tiles = tiles._replace(block=None)
    elif tiles.block is not None:
        tiles = tiles._replace(block=max(tiles.block, k))
    wanted = Wanted("entropy" in names, "sum_of_squares" in names, "mean_logit" in names, k)
    found = _evaluate(tiles._replace(sums_of=wanted), names, head, rows)
    return jax.tree.map(lambda x: x.reshape(call.batch + x.shape[1:]), found)


def _checked_outputs(
    call: Arguments, outputs: Any, labels: Any, top_k: int | None
) -> tuple[str, ...]:
    """The names of the outputs, in order."""
    if isinstance(outputs, str):
        message = f"{call.fun_name}: `outputs` is {outputs!r}, expected a sequence of names."
        raise TypeError(f"{message} Write `outputs=({outputs!r},)`.")
    for name in outputs:
        if name not in OUTPUTS:
            expected = ", ".join(map(repr, OUTPUTS))
            hint = " Write `top_k=`." if str(name).startswith("top_") else ""
            message = f"{call.fun_name}: `outputs` has {name!r}, expected some of {expected}."
            raise ValueError(message + hint)
        if labels is None and name in _OF_LABELS:
            message = f"{call.fun_name}: `labels` is None, but {name!r} is wanted."
            raise ValueError(f"{message} Give the labels, or leave {name!r} out of `outputs`.")
    if not outputs and top_k is None:
        raise ValueError(f"{call.fun_name}: `outputs` is empty and `top_k` is None: say what for.")
    return tuple(name for name in OUTPUTS if name in outputs)


# Jitted, so that an eager call compiles its loops once.
@functools.partial(jax.jit, static_argnums=(0, 1))
def _evaluate(tiles: Tiles, names: tuple[str, ...], head: Head, rows: Rows) -> Statistics:
    if rows.mask is not None:
        rows = rows._replace(ids=jnp.where(rows.mask, rows.ids, 0))
    head, rows, _ = unify_layer_vma(tiles.layer, head, rows, None)
    found = statistics_of(names, tiles.layer, head, rows.ids, row_sums(tiles, head, rows))
    return jax.tree.map(lambda x: where_rows(rows.mask, x), found)


def statistics_of(
    names: tuple[str, ...], layer: Layer, head: Head, ids: Array, sums: Moments
) -> Statistics:
    """The statistics of rows, from their sums."""
    labels = labels_of(layer, head, ids)
    anchor = finite_top(sums.anchors.top)
    rise = sums.rise()
    log_total = jnp.log1p(sums.excess + jnp.expm1(rise))
    nll_of_best = jnp.log1p(sums.excess * jnp.exp(-rise))
    found: dict[str, Array] = {}
    if "log_probability" in names:
        gap = jnp.where(sums.label == jnp.inf, 0, anchor - sums.label)
        is_best = ids == sums.anchors.best.astype(ids.dtype)
        nll = jnp.where(is_best, nll_of_best, gap + log_total)
        # 0 - nll, not -0 for what is certain.
        found["log_probability"] = (0 - nll) * jnp.where(labels.valid, 1, jnp.nan).astype(nll.dtype)
    if "log_normalizer" in names:
        found["log_normalizer"] = sums.anchors.top + log_total
    total = sums.excess + jnp.exp(rise)
    if sums.gaps is not None:
        found["entropy"] = _entropy(sums.excess, total, sums.gaps, sums.gaps_and_total)
    if sums.squares is not None:
        found["sum_of_squares"] = _squares(total, sums.squares, sums.spread, sums.half_spread)
    if sums.logits is not None and sums.possible is not None:
        found["mean_logit"] = sums.logits / jnp.maximum(sums.possible, 1)
    best = sums.anchors.best
    best = jnp.where(jnp.isfinite(best), best, -1).astype(jnp.int32)
    if "predicted" in names:
        found["predicted"] = best
    if "correct" in names:
        found["correct"] = labels.valid & (sums.label == sums.anchors.top)
    if sums.top_logits is not None and sums.anchors.top_ids is not None:
        top_ids = sums.anchors.top_ids.astype(jnp.int32)
        at_best = top_ids == best[:, None]
        gap = anchor[:, None] - sums.top_logits
        nll = jnp.where(at_best, nll_of_best[:, None], gap + log_total[:, None])
        found |= {"top_log_probabilities": 0 - nll, "top_ids": top_ids}
    return Statistics(**found)


def _value_with_tangent_of(number: Array, variable: Array) -> Array:
    """A number that is a variable less what has no derivative."""
    return lax.stop_gradient(number) + (variable - lax.stop_gradient(variable))


@jax.custom_jvp
def _entropy(excess: Array, total: Array, gaps: Array, gaps_and_total: Array) -> Array:
    """log(total) + gaps / total, where total is 1 + excess."""
    gaps = _value_with_tangent_of(gaps, gaps_and_total - total)
    log_total = _value_with_tangent_of(jnp.log1p(excess), jnp.log(total))
    return log_total + gaps / total


# Not elementwise: the derivatives of the two terms with respect to the total cancel but for one.
@_entropy.defjvp
def _entropy_jvp(primals: tuple[Array, ...], tangents: tuple[Array, ...]) -> tuple[Array, Array]:
    _, total, gaps, gaps_and_total = primals
    _, total_dot, _, gaps_and_total_dot = tangents
    mean = _value_with_tangent_of(gaps, gaps_and_total - total) / total
    return _entropy(*primals), (gaps_and_total_dot - mean * total_dot) / total


@jax.custom_jvp
def _squares(total: Array, squares: Array, spread: Array, half_spread: Array) -> Array:  # noqa: ARG001  # see its rule
    """squares / total^2; squares is 2 (total - half_spread), and spread is total - squares."""
    squares = _value_with_tangent_of(squares, 2 * (total - half_spread))
    return squares / jnp.square(total)


# Not elementwise: 1 - squares / total, which multiplies the derivative of the total, would be
# rounded where the model is confident; it is spread / total.
@_squares.defjvp
def _squares_jvp(primals: tuple[Array, ...], tangents: tuple[Array, ...]) -> tuple[Array, Array]:
    total, _, spread, half_spread = primals
    total_dot, _, _, half_spread_dot = tangents
    spread = _value_with_tangent_of(spread, 2 * half_spread - total)
    change = spread / total * total_dot - half_spread_dot
    return _squares(*primals), 2 * change / jnp.square(total)
