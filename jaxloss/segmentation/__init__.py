r"""Segmentation: losses of the overlap between the predicted and the true regions of an image.

They are ratios of sums over all pixels of an image, so that a region of a hundred pixels counts as
much as one of a million; a cross-entropy averaged over pixels is dominated by the large region. The
two are often added: the cross-entropy has useful gradients at the start, the overlap is what is
evaluated.

The event is an image, `(height, width, classes)`: the class axis is the last one, axes in front of
the image are batch, and each image has a loss of its own. `spatial_axes` is the number of axes of
pixels: 3 for volumes `(depth, height, width, classes)`, 1 for points `(points, classes)`. With 3,
images `(batch, height, width, classes)` have one loss, whose sums are over the whole batch: classes
of which most images have no pixel are counted together (batch dice). A single class still has an
axis: write `probabilities[..., None]`. The predictions are probabilities, not logits (optax takes
logits): `jax.nn.softmax(logits)` for classes that exclude each other, `jax.nn.sigmoid(logits)` for
classes that do not, or for a single one. Labels come in two forms: integers are the class of each
pixel, numbers of the predictions' shape are the share of each class.

`mask` leaves out pixels, whatever they hold: `mask=labels != 255`. The loss of an image is the
weighted mean over its classes; the loss of each class alone is
`jax.vmap(lambda w: dice(p, y, class_weights=w), out_axes=-1)(jnp.eye(classes))`.
"""

from jaxloss._core.namespace import public_names

# The catalogue lists the losses in this order.
# isort: off
from jaxloss.segmentation._overlap import (
    dice,
    jaccard,
    tversky,
    focal_tversky,
    generalized_dice,
)
from jaxloss.segmentation._lovasz import lovasz_hinge, lovasz_softmax
from jaxloss.segmentation._distances import boundary, hausdorff

__all__ = [
    "boundary",
    "dice",
    "focal_tversky",
    "generalized_dice",
    "hausdorff",
    "jaccard",
    "lovasz_hinge",
    "lovasz_softmax",
    "tversky",
]

__getattr__, __dir__ = public_names(__name__, __all__)
