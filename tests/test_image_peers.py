"""Losses of images and of boxes have the frozen values and gradients of peers.

`tests/oracles/make_image_losses.py` froze them, in float64; no peer is needed here. Where a peer
defines a loss otherwise, our expression says how.
"""

import numpy as np
import pytest
from harness.frozen import Frozen

from jaxloss import box, image

pytestmark = pytest.mark.few

FROZEN = Frozen("image_losses")
LEVELS = np.array([0.2, 0.3, 0.5])


def of(loss, factor=1.0, **options):
    return lambda x, *y: factor * loss(x, *y, reduction="mean", **options)


def similarity(loss, **options):
    """What a peer calls the index: 1 less the loss."""
    return lambda x, y: 1 - loss(x, y, reduction="mean", **options)


def decibels(x, y):
    """The ratio, of which a loss is the negative."""
    return -image.psnr(x, y, reduction="mean")


def half(x):
    return (x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]) / 4


def with_windows_at_the_edge(x, y):
    """Its last level has windows that reach beyond the image, its others have not."""
    first = 1 - image.ms_ssim(x, y, level_weights=[0.4, 0.0], size=5, sigma=0.5)
    last = 1 - image.ssim(half(x), half(y), size=5, sigma=0.5, padding="same")
    return (first * last**0.6)[0]


def mean_square_of_all(x, y):
    """It has one mean square of all images."""
    return -image.psnr(x.reshape(1, -1, 1, 1), y.reshape(1, -1, 1, 1))[0]


def distribution_focal(x, places):
    return box.distribution_focal(x, places.ravel(), reduction="mean")


NARROW = {"size": 5, "sigma": 0.5}
IMAGES, WIDE, BOXES = ("image", "view"), ("wide", "wide view"), ("boxes", "true boxes")
SSIM = similarity(image.ssim, size=5)
MS_SSIM = similarity(image.ms_ssim, size=3, level_weights=LEVELS)
VARIATION = of(image.total_variation)
OURS = {
    "kornia ssim_loss": (of(image.ssim, 0.5, size=5, padding="same"), *IMAGES),
    "kornia psnr_loss": (lambda x, y: -mean_square_of_all(x, y), *IMAGES),
    # Its mean is over images and channels.
    "kornia total_variation": (of(image.total_variation, 0.5), "image"),
    "pytorch-msssim ssim": (SSIM, *IMAGES),
    "pytorch-msssim ms_ssim": (MS_SSIM, *WIDE),
    # The size of its window is that of the deviation.
    "torchmetrics ssim": (similarity(image.ssim, padding="same", **NARROW), *IMAGES),
    "torchmetrics ms_ssim": (with_windows_at_the_edge, *WIDE),
    "torchmetrics psnr": (decibels, *IMAGES),
    # It sums over images, too.
    "torchmetrics total_variation": (of(image.total_variation, 2.0), "image"),
    "piq ssim": (SSIM, *IMAGES),
    "piq multi_scale_ssim": (MS_SSIM, *WIDE),
    "piq psnr": (decibels, *IMAGES),
    "piq total_variation": (VARIATION, "image"),
    "torchvision box_iou": (similarity(box.iou), *BOXES),
    "torchvision generalized_box_iou_loss": (of(box.giou), *BOXES),
    "torchvision distance_box_iou_loss": (of(box.diou), *BOXES),
    "torchvision complete_box_iou_loss": (of(box.ciou), *BOXES),
    "fvcore giou_loss": (of(box.giou), *BOXES),
    "monai BoxGIoULoss": (of(box.giou), *BOXES),
    "ultralytics bbox_iou": (similarity(box.iou), *BOXES),
    "ultralytics bbox_iou, GIoU": (similarity(box.giou), *BOXES),
    "ultralytics bbox_iou, DIoU": (similarity(box.diou), *BOXES),
    "ultralytics bbox_iou, CIoU": (similarity(box.ciou), *BOXES),
    "ultralytics bbox_iou, CIoU of centres": (similarity(box.ciou, format="cxcywh"), *BOXES),
    "ultralytics DFLoss": (distribution_focal, "bins", "places"),
    "dm_pix ssim": (SSIM, *IMAGES),
    "dm_pix psnr": (decibels, *IMAGES),
    "keras psnr": (mean_square_of_all, *IMAGES),
    "tensorflow ssim": (SSIM, *IMAGES),
    "tensorflow ssim_multiscale": (MS_SSIM, *WIDE),
    "tensorflow psnr": (decibels, *IMAGES),
    "tensorflow total_variation": (VARIATION, "image"),
    "skimage structural_similarity": (similarity(image.ssim, **NARROW), *IMAGES),
}
# The window, or all, is computed in single precision; or the peer adds a small number all the same.
LOOSE = {
    "pytorch-msssim ssim": 1e-5,
    "pytorch-msssim ms_ssim": 1e-5,
    "piq psnr": 1e-6,
    "torchvision complete_box_iou_loss": 1e-6,
    "monai BoxGIoULoss": 1e-6,
    "tensorflow ssim": 1e-5,
    "tensorflow ssim_multiscale": 1e-4,
    "tensorflow psnr": 1e-6,
}


def test_every_frozen_loss_has_ours():
    assert set(OURS) == set(FROZEN.losses)


@pytest.mark.parametrize("name", OURS)
def test_value_and_gradient_are_those_of_the_peer(name):
    FROZEN.check(name, *OURS[name], rtol=LOOSE.get(name, 1e-8))
