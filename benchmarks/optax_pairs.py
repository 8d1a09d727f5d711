"""The losses that Optax has too, with the same arguments, for the comparisons in this folder."""

import jax
import numpy as np
from optax import losses


def _one_hot(labels, scores):
    return jax.nn.one_hot(labels, scores.shape[-1], dtype=scores.dtype)


# Ours by name -> Optax's, as a function of the same data.
PAIRS = {
    "regression.squared_error": losses.squared_error,
    "regression.huber": losses.huber_loss,
    "regression.log_cosh": losses.log_cosh,
    "regression.cosine_distance": losses.cosine_distance,
    "classification.softmax_cross_entropy": lambda x, y: (
        losses.softmax_cross_entropy_with_integer_labels(x, y)
        if y.ndim < x.ndim
        else losses.softmax_cross_entropy(x, y)
    ),
    "classification.sigmoid_cross_entropy": losses.sigmoid_binary_cross_entropy,
    "classification.hinge": losses.hinge_loss,
    "classification.perceptron": losses.perceptron_loss,
    "classification.multiclass_hinge": losses.multiclass_hinge_loss,
    "classification.multiclass_perceptron": losses.multiclass_perceptron_loss,
    "classification.sigmoid_focal": losses.sigmoid_focal_loss,
    "classification.poly1": lambda x, y: losses.poly_loss_cross_entropy(
        x, y if y.ndim == x.ndim else _one_hot(y, x), epsilon=1.0
    ),
    "divergence.kl": losses.kl_divergence,
    "divergence.kl_log": losses.kl_divergence_with_log_targets,
    "divergence.generalized_kl": losses.generalized_kl_divergence,
    "contrastive.triplet": losses.triplet_margin_loss,
    "ranking.softmax": lambda s, y: losses.ranking_softmax_loss(s, y, reduce_fn=None),
}

# What each is measured on: a row of the table -> the kinds of its arrays.
INPUTS = {
    "regression.squared_error": ("numbers", "numbers"),
    "regression.huber": ("numbers", "numbers"),
    "regression.log_cosh": ("numbers", "numbers"),
    "regression.cosine_distance": ("numbers", "numbers"),
    "classification.softmax_cross_entropy-int": ("numbers", "ids"),
    "classification.softmax_cross_entropy-real": ("numbers", "distributions"),
    "classification.sigmoid_cross_entropy": ("numbers", "shares"),
    "classification.hinge": ("numbers", "signs"),
    "classification.perceptron": ("numbers", "signs"),
    "classification.multiclass_perceptron": ("numbers", "ids"),
    "classification.multiclass_hinge": ("numbers", "ids"),
    "classification.sigmoid_focal": ("numbers", "shares"),
    "classification.poly1-int": ("numbers", "ids"),
    "classification.poly1-real": ("numbers", "distributions"),
    "divergence.kl": ("log_distributions", "distributions"),
    "divergence.kl_log": ("log_distributions", "log_distributions"),
    "divergence.generalized_kl": ("numbers", "amounts"),
    "ranking.softmax": ("numbers", "amounts"),
    "contrastive.triplet": ("numbers", "numbers", "numbers"),
}


def draw(kind, generator, rows, columns):
    """An array [rows, columns], float32, or class ids [rows], int32."""
    shape = (rows, columns)
    if kind == "ids":
        return generator.integers(0, columns, rows).astype(np.int32)
    draws = {
        "numbers": lambda: 1.5 * generator.normal(size=shape),
        "amounts": lambda: np.abs(generator.normal(size=shape)),
        "shares": lambda: generator.uniform(0.05, 0.95, shape),
        "signs": lambda: np.where(generator.normal(size=shape) > 0, 1.0, -1.0),
        "distributions": lambda: generator.dirichlet(np.ones(columns), rows),
        "log_distributions": lambda: np.log(generator.dirichlet(np.ones(columns), rows)),
    }
    return draws[kind]().astype(np.float32)
