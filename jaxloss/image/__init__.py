r"""Images: losses of the difference between two images as it is seen or measured.

The event is an image, `(height, width, channels)`; axes in front are batch. A single channel still
has an axis: write `image[..., None]`. All are losses, smaller is better: `ssim` is 1 less the
similarity, `psnr` minus the ratio in decibels.

SSIM compares means and variances in windows. A variance as $E[x^2] - \mu^2$ has no correct digit
where the image is bright and smooth. Here a window is a product of two short ones, and the law of
total variance adds the variance within rows and that between rows: sums of squares, nothing is
subtracted but the means. 1 - SSIM is made of the differences of the two images alone, so that
nearly equal images keep the digits of their loss.
"""

from jaxloss._core.namespace import public_names

# The catalogue lists the losses in this order.
# isort: off
from jaxloss.image._structure import ssim, ms_ssim
from jaxloss.image._pixels import psnr, total_variation

__all__ = ["ms_ssim", "psnr", "ssim", "total_variation"]

__getattr__, __dir__ = public_names(__name__, __all__)
