"""The losses that Optax has too, with the same arguments, for the comparisons in this folder."""

import jax
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
