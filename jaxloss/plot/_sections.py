"""A line through the inputs of each loss whose arguments are vectors, lists or images.

A line is a function of one number that returns the data of one example: the logit of the right
class grows while the others stay at 0; an embedding is rotated away from its partner. Losses with
the same data share a line, so a new loss rarely needs one of its own.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxloss._core.registry import LossInfo
from jaxloss.plot._lines import Line, Subject, elementwise


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


def _pair(x: Any) -> Array:
    return jnp.stack([x, 1 - x])


def _pixels(x: Any) -> Array:
    inside = jnp.where(_MASK == 1, x, 1 - x)
    return jnp.stack([1 - inside, inside], axis=-1)


# By the data of the loss and their axes.
_PATHS = {
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
        lambda x: {"prediction": jnp.array([-1.0, 0.0, 1.0]).at[1].set(x), "target": 0.5},
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
}
# Options and targets that a loss requires, or without which it equals another loss.
_OPTIONS = {
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
    "contrastive.arcface": {"prototypes": np.eye(2)},
    "contrastive.cosface": {"prototypes": np.eye(2)},
    "contrastive.proxy_nca": {"prototypes": np.eye(2)},
    "contrastive.proxy_anchor": {"prototypes": np.eye(4)[[0, 2]]},
}


def of(info: LossInfo) -> Subject | None:
    """The loss along its line: elementwise ones in their first argument; None if it has none."""
    spec, options = info.spec, _OPTIONS.get(info.name, {})
    forms = {name: spec.array_specs[name][0] for name in info.data}
    path = _PATHS.get(", ".join(_signature(name, form.event) for name, form in forms.items()))
    if path is None:
        whole = any(form.event for form in forms.values()) or spec.result.event
        return None if whole else elementwise("plot.section", info.function, options)
    row = (0,) * len(spec.result.event)  # of a loss over a set, that of the first example

    def along(x: Any) -> Any:
        return info.function(**path.data(x), **options)[row]

    return Subject(along, info.function.__name__, path.variable, path.over)


@functools.cache
def line(info: LossInfo) -> Line | None:
    """The loss sampled along its line, for small pictures; cached, so that it is compiled once."""
    subject = of(info)
    return subject.sample(points=121) if subject else None


def _signature(name: str, event: tuple[str, ...]) -> str:
    return f"{name}[{' '.join(event)}]" if event else name
