r"""Classification: losses of scores for the classes of an example.

`logits` are scores before softmax or sigmoid: losses of logits are more accurate than losses of
probabilities, which are already rounded. The classes are along the last axis, or along `axis`.
Labels come in two forms, which are distinguished by shape and dtype: integers are class ids, one
for each example; floats of the logits' shape are distributions over the classes. A class id that
names no class gives NaN, in value and gradient, for that example; `where=labels != -100` leaves
such examples out. Single classes are left out by `mask`.

Binary losses are elementwise, one score for each decision, so that several labels may be on at
once.
"""

from jaxloss._core.namespace import public_names

# The catalogue lists the losses in this order, the order of teaching.
# isort: off
from jaxloss.classification._cross_entropy import (
    multilabel_soft_margin,
    sigmoid_cross_entropy,
    smooth_labels,
    softmax_cross_entropy,
    z_loss,
)
from jaxloss.classification._probabilities import (
    binary_cross_entropy,
    categorical_cross_entropy,
    negative_log_likelihood,
)
from jaxloss.classification._decision_margin import (
    hinge,
    hinge_embedding,
    logistic,
    perceptron,
    squared_hinge,
)
from jaxloss.classification._multiclass_margin import (
    multi_margin,
    multiclass_hinge,
    multiclass_perceptron,
    multilabel_margin,
)
from jaxloss.classification._focal import asymmetric, poly1, sigmoid_focal, softmax_focal
from jaxloss.classification._noisy_labels import (
    generalized_cross_entropy,
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

__getattr__, __dir__ = public_names(__name__, __all__)
