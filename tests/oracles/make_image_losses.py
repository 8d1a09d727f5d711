# /// script
# requires-python = ">=3.11"
# dependencies = [
#   "dm-pix==0.4.5",
#   "fvcore==0.1.5.post20221221",
#   "jax==0.10.2",
#   "keras==3.15.1",
#   "kornia==0.9.0",
#   "kornia-rs==0.2.0",
#   "monai==1.6.1",
#   "numpy==2.4.6",
#   "piq==0.8.0",
#   "pytorch-msssim==1.0.0",
#   "scikit-image==0.26.0",
#   "tensorflow-cpu==2.21.0",
#   "torch==2.14.1",
#   "torchmetrics==1.9.0",
#   "torchvision==0.29.1",
#   "ultralytics==8.4.190",
# ]
# ///
"""Freezes losses of images and of boxes, and their gradients, into `image_losses.json`.

Run it as `make_set_losses.py` beside it. Keras runs on JAX here.
"""

import os

os.environ |= {"KERAS_BACKEND": "jax", "TF_CPP_MIN_LOG_LEVEL": "3"}

import dm_pix
import fvcore.nn
import keras
import kornia
import monai.losses
import numpy as np
import piq
import pytorch_msssim
import skimage.metrics
import tensorflow as tf
import torch
import torchvision
from freezing import freeze, of_jax, of_numpy, of_torch
from torchmetrics.functional import image as torchmetrics
from ultralytics.utils.loss import DFLoss
from ultralytics.utils.metrics import bbox_iou

PACKAGES = (
    "dm-pix", "fvcore", "jax", "keras", "kornia", "monai", "numpy", "piq", "pytorch-msssim",
    "scikit-image", "tensorflow-cpu", "torch", "torchmetrics", "torchvision", "ultralytics",
)  # fmt: skip


def inputs():
    """Arrays of few digits, so that the file stays small; channels come last, as here."""
    rng = np.random.default_rng(0)
    image, view = (np.round(rng.uniform(size=(2, 9, 8, 2)), 2) for _ in range(2))
    wide = np.round(rng.uniform(size=(1, 36, 36, 1)), 2)
    corner, size, moved, grown = (np.round(rng.uniform(0.2, 2, (5, 2)), 2) for _ in range(4))
    boxes = np.concatenate([corner, corner + size], axis=1)
    true = np.concatenate([corner + 0.4 * moved - 0.3, corner + 0.5 * size + grown], axis=1)
    true[0, [0, 2]] += 5  # a pair of boxes that are apart
    return {
        "image": image, "view": view, "wide": wide,
        "wide view": np.round(0.9 * wide + 0.1 * wide[:, ::-1], 3),
        "boxes": boxes, "true boxes": np.round(true, 3),
        "bins": np.round(rng.normal(size=(8, 6)), 2), "places": np.round(4.9 * rng.uniform(size=(2, 4)), 2),
    }  # fmt: skip


def first(x):
    """Channels come before pixels in these libraries."""
    return torch.moveaxis(x, -1, 1)


def of_images(function, *options, **named):
    return lambda x, y: function(first(x), first(y), *options, **named).mean()


def of_image(function, **named):
    return lambda x: function(first(x), **named).mean()


def of_boxes(function, *options, **named):
    return lambda p, t: function(p, t, *options, **named).mean()


def iou(p, t):
    return torchvision.ops.box_iou(p, t).diagonal().mean()


def distribution_focal(x, places):
    return DFLoss(6)(x, places).mean()


def of_tensorflow(function):
    """Value and gradient."""

    def of(*arrays):
        tensors = [tf.constant(x) for x in arrays]
        with tf.GradientTape() as tape:
            tape.watch(tensors[0])
            value = tf.reduce_mean(tf.cast(function(*tensors), tf.float64))
        return float(value), tape.gradient(value, tensors[0]).numpy()

    return of


def similarity(x, y):
    options = {"gaussian_weights": True, "use_sample_covariance": False, "data_range": 1.0}
    of = skimage.metrics.structural_similarity
    each = (of(*pair, sigma=0.5, channel_axis=-1, **options) for pair in zip(x, y, strict=True))
    return np.mean(list(each))


IMAGES, WIDE, BOXES = ("image", "view"), ("wide", "wide view"), ("boxes", "true boxes")
MADE = {
    of_torch: {
        "kornia ssim_loss": (of_images(kornia.losses.ssim_loss, 5), *IMAGES),
        "kornia psnr_loss": (of_images(kornia.losses.psnr_loss, 1.0), *IMAGES),
        "kornia total_variation": (of_image(kornia.losses.total_variation), "image"),
        "pytorch-msssim ssim": (
            of_images(pytorch_msssim.ssim, data_range=1, win_size=5), *IMAGES,
        ),
        "pytorch-msssim ms_ssim": (
            of_images(pytorch_msssim.ms_ssim, data_range=1, win_size=3, weights=[0.2, 0.3, 0.5]), *WIDE,
        ),
        "torchmetrics ssim": (
            of_images(
                torchmetrics.structural_similarity_index_measure, sigma=0.5, data_range=1.0
            ),
            *IMAGES,
        ),
        "torchmetrics ms_ssim": (
            of_images(
                torchmetrics.multiscale_structural_similarity_index_measure,
                sigma=0.5, data_range=1.0, betas=(0.4, 0.6),
            ),
            *WIDE,
        ),
        "torchmetrics psnr": (
            of_images(torchmetrics.peak_signal_noise_ratio, data_range=1.0, dim=(1, 2, 3)), *IMAGES,
        ),
        "torchmetrics total_variation": (of_image(torchmetrics.total_variation), "image"),
        "piq ssim": (of_images(piq.ssim, kernel_size=5), *IMAGES),
        "piq multi_scale_ssim": (
            of_images(
                piq.multi_scale_ssim, kernel_size=3, scale_weights=torch.tensor([0.2, 0.3, 0.5])
            ),
            *WIDE,
        ),
        "piq psnr": (of_images(piq.psnr), *IMAGES),
        "piq total_variation": (of_image(piq.total_variation, norm_type="l1"), "image"),
        "torchvision box_iou": (iou, *BOXES),
        "torchvision generalized_box_iou_loss": (
            of_boxes(torchvision.ops.generalized_box_iou_loss, eps=0.0), *BOXES,
        ),
        "torchvision distance_box_iou_loss": (
            of_boxes(torchvision.ops.distance_box_iou_loss, eps=0.0), *BOXES,
        ),
        "torchvision complete_box_iou_loss": (
            of_boxes(torchvision.ops.complete_box_iou_loss, eps=0.0), *BOXES,
        ),
        "fvcore giou_loss": (of_boxes(fvcore.nn.giou_loss, eps=0.0), *BOXES),
        "monai BoxGIoULoss": (of_boxes(monai.losses.BoxGIoULoss()), *BOXES),
        "ultralytics bbox_iou": (of_boxes(bbox_iou, xywh=False, eps=0.0), *BOXES),
        "ultralytics bbox_iou, GIoU": (
            of_boxes(bbox_iou, xywh=False, GIoU=True, eps=0.0), *BOXES,
        ),
        "ultralytics bbox_iou, DIoU": (
            of_boxes(bbox_iou, xywh=False, DIoU=True, eps=0.0), *BOXES,
        ),
        "ultralytics bbox_iou, CIoU": (
            of_boxes(bbox_iou, xywh=False, CIoU=True, eps=0.0), *BOXES,
        ),
        "ultralytics bbox_iou, CIoU of centres": (of_boxes(bbox_iou, CIoU=True, eps=0.0), *BOXES),
        "ultralytics DFLoss": (distribution_focal, "bins", "places"),
    },
    of_jax: {
        "dm_pix ssim": (
            lambda x, y: dm_pix.ssim(x, y, filter_size=5, filter_sigma=1.5).mean(), *IMAGES,
        ),
        "dm_pix psnr": (lambda x, y: dm_pix.psnr(x, y).mean(), *IMAGES),
        "keras psnr": (lambda x, y: keras.ops.psnr(x, y, 1.0), *IMAGES),
    },
    of_numpy: {
        "tensorflow ssim": (
            of_tensorflow(lambda x, y: tf.image.ssim(x, y, 1.0, filter_size=5)), *IMAGES,
        ),
        "tensorflow ssim_multiscale": (
            of_tensorflow(
                lambda x, y: tf.image.ssim_multiscale(x, y, 1.0, [0.2, 0.3, 0.5], filter_size=3)
            ),
            *WIDE,
        ),
        "tensorflow psnr": (of_tensorflow(lambda x, y: tf.image.psnr(x, y, 1.0)), *IMAGES),
        "tensorflow total_variation": (of_tensorflow(tf.image.total_variation), "image"),
        "skimage structural_similarity": (similarity, *IMAGES),
    },
}  # fmt: skip


if __name__ == "__main__":
    freeze("image_losses", PACKAGES, inputs(), MADE)
