"""Lines through the inputs of losses whose arguments are vectors, lists, sets or images.

A line is a function of one number that returns the data of one example: the logit of the right
class grows while the others stay at 0; an embedding is rotated away from its partner. Losses with
the same data share a line, so a new loss rarely needs one of its own.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array


class Path(NamedTuple):
    """A line: what varies, over which range, and the data at each point, by argument."""

    variable: str
    over: tuple[float, float]
    data: Callable[[Any], dict[str, Any]]


def _one_of(count: int, x: Any) -> Array:
    """x for the first entry, 0 for the others."""
    return jnp.zeros(count).at[0].set(x)


def _shared(x: Any) -> Array:
    """Probability x for the first of three, the rest shared by the others."""
    return jnp.stack([x, (1 - x) / 2, (1 - x) / 2])


def _turned(angle: Any) -> Array:
    """A unit vector at an angle to the first axis."""
    return jnp.stack([jnp.cos(angle), jnp.sin(angle)])


def _partners(angle: Any) -> Array:
    """Three vectors: the first at an angle to the first axis, the others orthogonal to it."""
    return jnp.eye(3)[np.array([0, 2, 1])].at[0, :2].set(_turned(angle))


_EAST = np.array([1.0, 0.0])
_LOGIT, _SHARE = "logit of the right class, others 0", "probability of the right class"
_SCORE, _RIGHT = "score of the relevant item, others 0", "score of the right class, others 0"
_ANGLE = "angle between the vectors, in radians"
_PREDICTED = "probability predicted for what has probability 0.3"
_UNIT, _WIDE, _HALF_TURN = (0.01, 0.99), (-6.0, 6.0), (-3.1, 3.1)
_TRUTH = np.array([0.3, 0.7])
# A picture of 4 x 4 pixels, its left half of class 1, and x the probability of that class there.
_MASK = np.tile([1, 1, 0, 0], (4, 1))
# The signed distance of each pixel from the boundary of each class.
_DISTANCES = np.stack([np.tile(sign * np.array([2.0, 1, -1, -2]), (4, 1)) for sign in (1, -1)], -1)
# An ensemble of four points, and a chequered image that six windows of 11 pixels fit into.
_CLOUD = np.array([[-1.0, 0], [1, 0], [0, -1], [0, 1]])
_IMAGE = (np.indices((192, 192)).sum(0) // 24 % 2).astype(np.float32)[..., None]


def _pair(x: Any) -> Array:
    return jnp.stack([x, 1 - x])


def _middle_of_three(x: Any) -> Array:
    """Three quantiles, the one in the middle at x."""
    return jnp.array([-1.0, 0.0, 1.0]).at[1].set(x)


def _pixels(x: Any) -> Array:
    inside = jnp.where(_MASK == 1, x, 1 - x)
    return jnp.stack([1 - inside, inside], axis=-1)


# By the data of the loss and their axes.
PATHS = {
    "logits[classes], labels": Path(
        _LOGIT, _WIDE, lambda x: {"logits": _one_of(3, x), "labels": 0}
    ),
    "logits[classes], labels[classes]": Path(
        _LOGIT, _WIDE, lambda x: {"logits": _one_of(3, x), "labels": _one_of(3, 1.0)}
    ),
    "scores[classes], labels[classes]": Path(
        _RIGHT,
        _WIDE,
        lambda x: {"scores": _one_of(3, x), "labels": _one_of(3, 1.0)},
    ),
    "logits[classes]": Path("one logit, others 0", _WIDE, lambda x: {"logits": _one_of(3, x)}),
    "scores[classes], labels": Path(
        _RIGHT, _WIDE, lambda x: {"scores": _one_of(3, x), "labels": 0}
    ),
    "scores[classes], targets[classes]": Path(
        _RIGHT,
        _WIDE,
        lambda x: {"scores": _one_of(3, x), "targets": _one_of(3, 1.0)},
    ),
    "probabilities[classes], labels": Path(
        _SHARE, _UNIT, lambda x: {"probabilities": _shared(x), "labels": 0}
    ),
    "log_probabilities[classes], labels": Path(
        _SHARE, _UNIT, lambda x: {"log_probabilities": jnp.log(_shared(x)), "labels": 0}
    ),
    "log_prediction[classes], target[classes]": Path(
        _PREDICTED, _UNIT, lambda x: {"log_prediction": jnp.log(_pair(x)), "target": _TRUTH}
    ),
    "log_prediction[classes], log_target[classes]": Path(
        _PREDICTED,
        _UNIT,
        lambda x: {"log_prediction": jnp.log(_pair(x)), "log_target": np.log(_TRUTH)},
    ),
    "prediction[classes], target[classes]": Path(
        _PREDICTED, _UNIT, lambda x: {"prediction": _pair(x), "target": _TRUTH}
    ),
    "logits[classes], target_logits[classes]": Path(
        "first logit, where the target has 1",
        (-5.0, 7.0),
        lambda x: {"logits": _one_of(3, x), "target_logits": _one_of(3, 1.0)},
    ),
    "prediction[features], target[features]": Path(
        _ANGLE, _HALF_TURN, lambda x: {"prediction": _turned(x), "target": _EAST}
    ),
    "prediction[levels], target": Path(
        "quantile predicted at level 1/2, others -1 and 1",
        (-4.0, 4.0),
        lambda x: {"prediction": _middle_of_three(x), "target": 0.5},
    ),
    "mean[dimensions], log_variance[dimensions]": Path(
        "mean, at variance 1",
        (-4.0, 4.0),
        lambda x: {"mean": _one_of(1, x), "log_variance": jnp.zeros(1)},
    ),
    "means[components], target, variances[components], logits[components]": Path(
        "mean of one of two components, the other at 2",
        _WIDE,
        lambda x: {
            "means": jnp.array([0.0, 2.0]).at[0].set(x),
            "target": 0.0,
            "variances": jnp.ones(2),
            "logits": jnp.zeros(2),
        },
    ),
    "logits[components], losses[components]": Path(
        "logit of the component that fits",
        _WIDE,
        lambda x: {"logits": _one_of(2, x), "losses": np.array([0.5, 3.0])},
    ),
    "scores[items], relevance[items]": Path(
        _SCORE, _WIDE, lambda x: {"scores": _one_of(4, x), "relevance": _one_of(4, 1.0)}
    ),
    "anchor[dim], positive[dim], negative[dim]": Path(
        "distance of the positive, the negative at 2",
        (0.05, 4.0),
        lambda x: {"anchor": 0 * _EAST, "positive": x * _EAST, "negative": -2 * _EAST},
    ),
    "left[dim], right[dim], labels": Path(
        _ANGLE, _HALF_TURN, lambda x: {"left": _EAST, "right": _turned(x), "labels": 1}
    ),
    "query[set dim], key[set dim]": Path(
        "angle of the first pair, in radians; the others at a right angle",
        _HALF_TURN,
        lambda x: {"query": jnp.eye(3), "key": _partners(x)},
    ),
    "left[set dim], right[set dim]": Path(
        "angle of the first pair, in radians; the others at a right angle",
        _HALF_TURN,
        lambda x: {"left": jnp.eye(3), "right": _partners(x)},
    ),
    "embeddings[dim], labels": Path(
        "angle from the prototype of the class, in radians",
        _HALF_TURN,
        lambda x: {"embeddings": _turned(x), "labels": 0},
    ),
    "embeddings[set dim], labels[set]": Path(
        "angle of two of one class, in radians; the others at a right angle",
        _HALF_TURN,
        lambda x: {
            "embeddings": jnp.eye(4).at[1, :2].set(_turned(x)),
            "labels": np.array([0, 0, 1, 1]),
        },
    ),
    "probabilities[height width classes], labels[height width]": Path(
        "probability of the right class, in every pixel",
        _UNIT,
        lambda x: {"probabilities": _pixels(x), "labels": _MASK},
    ),
    "logits[frames classes], labels[tokens]": Path(
        "logit of the right token in its frame",
        _WIDE,
        lambda x: {"logits": jnp.zeros((5, 3)).at[2, 1].set(x), "labels": np.array([1])},
    ),
    "log_prob, old_log_prob, advantage": Path(
        "log-ratio of the probabilities, at an advantage of 1",
        (-1.0, 1.0),
        lambda x: {"log_prob": x, "old_log_prob": 0.0, "advantage": 1.0},
    ),
    "log_prob, advantage": Path(
        "log-probability, at an advantage of 1",
        (-4.0, 0.0),
        lambda x: {"log_prob": x, "advantage": 1.0},
    ),
    "log_probs[length], old_log_probs[length], advantage": Path(
        "log-ratio of the first of two tokens, at an advantage of 1",
        (-2e-3, 2e-3),
        lambda x: {"log_probs": _one_of(2, x), "old_log_probs": jnp.zeros(2), "advantage": 1.0},
    ),
    "quantiles[n], targets[m]": Path(
        "quantile predicted at level 1/2, others -1 and 1",
        (-4.0, 4.0),
        lambda x: {"quantiles": _middle_of_three(x), "targets": np.array([-0.5, 0.5])},
    ),
    "chosen, rejected": Path(
        "log-probability of the chosen answer, the rejected at -1",
        (-4.0, -0.05),
        lambda x: {"chosen": x, "rejected": -1.0},
    ),
    "chosen_ratio, rejected_ratio": Path(
        "log-ratio of the chosen answer, the rejected at -10",
        (-40.0, 40.0),
        lambda x: {"chosen_ratio": x, "rejected_ratio": -10.0},
    ),
    "scores[items], ranks[items]": Path(
        "score of the best item, others 0",
        _WIDE,
        lambda x: {"scores": _one_of(3, x), "ranks": np.array([0, 1, 2])},
    ),
    "logits[classes], teacher_logits[classes]": Path(
        "first logit, where the teacher has 1",
        (-5.0, 7.0),
        lambda x: {"logits": _one_of(3, x), "teacher_logits": _one_of(3, 1.0)},
    ),
    "logits[classes], teacher_log_probs[k], teacher_ids[k]": Path(
        "logit of the class to which the teacher gives 0.9",
        _WIDE,
        lambda x: {
            "logits": _one_of(4, x),
            "teacher_log_probs": np.log([0.9, 0.05]),
            "teacher_ids": np.array([0, 1]),
        },
    ),
    "probabilities[tokens experts], expert_ids[tokens k]": Path(
        "probability of the expert that takes three of four tokens",
        _UNIT,
        lambda x: {
            "probabilities": jnp.tile(_pair(x), (4, 1)),
            "expert_ids": np.array([[0], [0], [0], [1]]),
        },
    ),
    "gates[tokens experts]": Path(
        "gate of the first of two experts, the other takes the rest",
        _UNIT,
        lambda x: {"gates": jnp.tile(_pair(x), (4, 1))},
    ),
    "logits[tokens experts], noisy_logits[tokens experts]": Path(
        "logit of the first of two experts",
        _WIDE,
        lambda x: {
            "logits": jnp.tile(_one_of(2, x), (4, 1)),
            "noisy_logits": jnp.tile(_one_of(2, x), (4, 1)),
        },
    ),
    "attention[keys], logits[keys]": Path(
        "logit of the key to which attention gives 0.7",
        _WIDE,
        lambda x: {"attention": np.array([0.7, 0.2, 0.1]), "logits": _one_of(3, x)},
    ),
    "logits[tokens classes], labels[tokens], masked[tokens]": Path(
        "logit of the right token, others 0",
        _WIDE,
        lambda x: {
            "logits": _one_of(3, x)[None],
            "labels": np.array([0]),
            "masked": np.array([True]),
        },
    ),
    "mean[latent], log_variance[latent]": Path(
        "mean, at variance 1",
        (-4.0, 4.0),
        lambda x: {"mean": _one_of(1, x), "log_variance": jnp.zeros(1)},
    ),
    "inputs[dim], codes[dim]": Path(
        "distance of the vector from its code",
        (-4.0, 4.0),
        lambda x: {"inputs": _one_of(1, x), "codes": jnp.zeros(1)},
    ),
    "prediction[dim], target[dim]": Path(
        _ANGLE, _HALF_TURN, lambda x: {"prediction": _turned(x), "target": _EAST}
    ),
    "left[dim], right[dim]": Path(
        _ANGLE, _HALF_TURN, lambda x: {"left": _EAST, "right": _turned(x)}
    ),
    "student[views classes], teacher[teacher_views classes]": Path(
        "first logit of the student, where the teacher has 0.1",
        (-1.0, 1.0),
        lambda x: {
            "student": jnp.stack([jnp.zeros(3), _one_of(3, x)]),
            "teacher": jnp.stack([_one_of(3, 0.1), _one_of(3, 0.1)]),
        },
    ),
    "logits[views prototypes], codes[coded_views prototypes]": Path(
        "first logit, where the code has 0.8",
        (-1.0, 1.0),
        lambda x: {
            "logits": jnp.stack([jnp.zeros(3), _one_of(3, x)]),
            "codes": np.array([[0.8, 0.1, 0.1], [0.8, 0.1, 0.1]]),
        },
    ),
    "embeddings[set dim]": Path(
        "angle of the first two, in radians; the others at a right angle",
        _HALF_TURN,
        lambda x: {"embeddings": jnp.eye(4).at[1, :2].set(_turned(x))},
    ),
    "members[members], target": Path(
        "mean of an ensemble of five, from -1 to 1 around it; the target is 0",
        (-4.0, 4.0),
        lambda x: {"members": x + np.linspace(-1, 1, 5), "target": 0.0},
    ),
    "members[members dim], target[dim]": Path(
        "first coordinate of the mean of an ensemble; that of the target is 0",
        (-4.0, 4.0),
        lambda x: {"members": _CLOUD + _one_of(2, x), "target": np.array([0.0, 0.3])},
    ),
    "median, lower[levels], upper[levels], target": Path(
        "centre of intervals of half-width 1 and 2; the target is 0",
        (-5.0, 5.0),
        lambda x: {
            "median": x,
            "lower": x - np.array([1.0, 2.0]),
            "upper": x + np.array([1.0, 2.0]),
            "target": 0.0,
        },
    ),
    "cosines[pairs], similarity[pairs]": Path(
        "cosine of the more similar pair, the other at 0",
        (-1.0, 1.0),
        lambda x: {"cosines": _one_of(2, x), "similarity": np.array([1.0, 0.0])},
    ),
    "logits[height width], labels[height width]": Path(
        "logit of the right side, in every pixel",
        _WIDE,
        lambda x: {"logits": x * (2.0 * _MASK - 1), "labels": _MASK},
    ),
    "probabilities[height width classes], distances[height width classes]": Path(
        "probability of the right class, in every pixel",
        _UNIT,
        lambda x: {"probabilities": _pixels(x), "distances": _DISTANCES},
    ),
    "probabilities[height width classes], labels[height width], "
    "predicted_distances[height width classes], true_distances[height width classes]": Path(
        "probability of the right class, in every pixel",
        _UNIT,
        lambda x: {
            "probabilities": _pixels(x),
            "labels": _MASK,
            "predicted_distances": np.abs(_DISTANCES),
            "true_distances": np.abs(_DISTANCES),
        },
    ),
    "prediction[4], target[4]": Path(
        "shift of a box of the right size, in widths",
        (-2.0, 2.0),
        lambda x: {
            "prediction": jnp.stack([x, 0 * x, 1 + x, 1 + 0 * x]),
            "target": np.array([0.0, 0.0, 1.0, 1.0]),
        },
    ),
    "logits[bins], target": Path(
        "logit of bin 1, others 0; the target is 1.3",
        _WIDE,
        lambda x: {"logits": jnp.zeros(4).at[1].set(x), "target": 1.3},
    ),
    "prediction[height width channels], target[height width channels]": Path(
        "contrast of the prediction, that of the target is 1",
        (0.05, 2.0),
        lambda x: {"prediction": 0.5 + x * (_IMAGE - 0.5), "target": _IMAGE},
    ),
    "prediction[height width channels]": Path(
        "contrast of an image", (-1.0, 1.0), lambda x: {"prediction": 0.5 + x * (_IMAGE - 0.5)}
    ),
}
# Options and targets that a loss requires, or without which it equals another loss.
OPTIONS = {
    "regression.pinball": {"level": 0.75},
    "regression.expectile": {"level": 0.75},
    "regression.symmetric_absolute_percentage_error": {"target": 1.0},
    "divergence.bernoulli_kl": {"target": 0.3},
    "classification.logit_adjusted": {"class_counts": np.array([10, 100, 100])},
    "classification.ldam": {"class_counts": np.array([10, 100, 100])},
    "classification.fenchel_young": {"max_fn": jax.nn.logsumexp},
    "nll.beta_gaussian": {"variance": 1.0},
    "value.temperature": {"target_entropy": -1.0},
    "preference.kto": {"kl": 0.0, "desirable": True},
    "generative.lecam": {"real_mean": 0.5, "fake_mean": -0.5},
    "self_supervised.sigreg": {"directions": np.eye(4)},
    "self_supervised.visreg": {"directions": np.eye(4)},
    "contrastive.arcface": {"prototypes": np.eye(2)},
    "contrastive.cosface": {"prototypes": np.eye(2)},
    "contrastive.proxy_nca": {"prototypes": np.eye(2)},
    "contrastive.proxy_anchor": {"prototypes": np.eye(4)[[0, 2]]},
}
