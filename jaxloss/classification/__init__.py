r"""Classification: losses of scores for the classes of an example.

`logits` are scores before softmax or sigmoid: prefer them to probabilities, which have already
lost what they lost. The classes lie along the last axis, or along `axis`. Labels come in two
forms, told apart by shape and dtype: integers name the class of each example, floats of the
logits' shape are distributions over the classes. A class id that names no class gives NaN, in
value and gradient, for that example; `where=labels != -100` leaves such examples out.

Binary losses are elementwise, one score a decision, so that several labels may be on at once.
"""

# The catalogue lists the losses in this order, in which they are taught.
# isort: off
from jaxloss.classification._cross_entropy import (
    binary_cross_entropy,
    categorical_cross_entropy,
    multilabel_soft_margin,
    negative_log_likelihood,
    sigmoid_cross_entropy,
    smooth_labels,
    softmax_cross_entropy,
    z_loss,
)
from jaxloss.classification._margin import (
    hinge,
    hinge_embedding,
    logistic,
    multi_margin,
    multiclass_hinge,
    multiclass_perceptron,
    multilabel_margin,
    perceptron,
    squared_hinge,
)
from jaxloss.classification._surprise import (
    asymmetric,
    generalized_cross_entropy,
    poly1,
    sigmoid_focal,
    softmax_focal,
    symmetric_cross_entropy,
)
from jaxloss.classification._imbalance import class_balanced_weights, ldam, logit_adjusted
from jaxloss.classification._tempered import bi_tempered
from jaxloss.classification._sparse import fenchel_young, sigmoid_sparsemax, sparsemax

HELPERS = ["smooth_labels", "class_balanced_weights"]  # public, and no losses

__all__ = [
    "asymmetric",
    "bi_tempered",
    "binary_cross_entropy",
    "categorical_cross_entropy",
    "class_balanced_weights",
    "fenchel_young",
    "generalized_cross_entropy",
    "hinge",
    "hinge_embedding",
    "ldam",
    "logistic",
    "logit_adjusted",
    "multi_margin",
    "multiclass_hinge",
    "multiclass_perceptron",
    "multilabel_margin",
    "multilabel_soft_margin",
    "negative_log_likelihood",
    "perceptron",
    "poly1",
    "sigmoid_cross_entropy",
    "sigmoid_focal",
    "sigmoid_sparsemax",
    "smooth_labels",
    "softmax_cross_entropy",
    "softmax_focal",
    "sparsemax",
    "squared_hinge",
    "symmetric_cross_entropy",
    "z_loss",
]
