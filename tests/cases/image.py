"""Rows of the image losses: windows in loops, on one small image."""

import mpmath
import numpy as np
from arithmetic import exp, is_exact, log, sqrt

from cases import Batched, Case

SIDE, SIZE, SIGMA = 4, 3, 0.75


def number(x):
    return mpmath.mpf if is_exact(x) else float


def window(sigma):
    one = [exp(-(((k - 1) / sigma) ** 2) / 2) for k in range(SIZE)]
    return [a * b / sum(one) ** 2 for a in one for b in one]


def terms(x, y, kept, data_range, sigma, k1=0.01, k2=0.03):
    """The luminance term and that of contrast and structure, and how much the middle pixel counts.

    One of each for every window of one channel.
    """
    exact, found = number(x), []
    weights = window(exact(sigma))
    for i in range(x.shape[0] - SIZE + 1):
        for j in range(x.shape[1] - SIZE + 1):
            a, b = (np.ravel(z[i : i + SIZE, j : j + SIZE]) for z in (x, y))
            inside = np.ravel(kept[i : i + SIZE, j : j + SIZE])
            total = sum(w * k for w, k in zip(weights, inside, strict=True))
            middle = kept[i + SIZE // 2, j + SIZE // 2]
            if middle == 0:
                continue
            mean = lambda values, inside=inside, total=total: sum(
                w * k * v / total for w, k, v in zip(weights, inside, values, strict=True)
            )
            p, q = mean(a), mean(b)
            both = mean((a - p) * (b - q))
            one, two = ((exact(k) * data_range) ** 2 for k in (k1, k2))
            found.append(
                (
                    (2 * p * q + one) / (p**2 + q**2 + one),
                    (2 * both + two) / (mean((a - p) ** 2) + mean((b - q) ** 2) + two),
                    middle,
                )
            )
    return found


def channels(prediction, target):
    return [(prediction[..., c], target[..., c]) for c in range(np.shape(prediction)[-1])]


def counted(prediction, mask):
    """How much each pixel counts, in numbers that are exact."""
    return np.ones(prediction.shape[:2], int) if mask is None else mask.astype(int)


def ssim(
    prediction,
    target,
    data_range=1.0,
    size=SIZE,
    sigma=SIGMA,
    padding="valid",
    k1=0.01,
    k2=0.03,
    mask=None,
):
    kept = counted(prediction, mask)
    if padding == "same":
        edges = [(SIZE // 2,) * 2] * 2 + [(0, 0)]
        prediction, target = (np.pad(x, edges, mode="reflect") for x in (prediction, target))
        kept = np.pad(kept, edges[:2], mode="reflect")
    found = [
        t
        for pair in channels(prediction, target)
        for t in terms(*pair, kept, data_range, sigma, k1, k2)
    ]
    return sum(1 - a * b for a, b, _ in found) / max(len(found), 1)


def four(x):
    return [x[i::2, j::2] for i in (0, 1) for j in (0, 1)]


def ms_ssim(
    prediction,
    target,
    data_range=1.0,
    level_weights=None,
    size=SIZE,
    sigma=SIGMA,
    k1=0.01,
    k2=0.03,
    mask=None,
):
    total = 0
    for x, y in channels(prediction, target):
        product, kept = 1, counted(prediction, mask)
        for level, power in enumerate(level_weights):
            found = terms(x, y, kept, data_range, sigma, k1, k2)
            last, number = level == len(level_weights) - 1, sum(k for *_, k in found)
            mean = sum(k * (a if last else 1) * b for a, b, k in found) / number if found else 1
            product = product * (exp(power * log(mean)) if mean > 0 else 0 * mean)
            number = sum(four(kept))
            x, y = (
                sum(k * z for k, z in zip(four(kept), four(image), strict=True))
                / np.maximum(number, 1)
                for image in (x, y)
            )
            kept = number
        total = total + 1 - product
    return total / np.shape(prediction)[-1]


def psnr(prediction, target, data_range=1.0, mask=None):
    if mask is not None:
        prediction, target = prediction[mask], target[mask]
    square = sum(np.ravel((prediction - target) ** 2)) / np.size(prediction)
    return 10 * log(square / number(prediction)(data_range) ** 2) / log(number(prediction)(10))


def total_variation(prediction, isotropic=False, mask=None):
    total, (height, width) = 0, np.shape(prediction)[:2]
    for i, j, c in np.ndindex(*np.shape(prediction)):
        here = prediction[i, j, c]
        inside = lambda p, q: p < height and q < width and (mask is None or mask[p, q])
        met = lambda p, q, i=i, j=j, inside=inside: inside(i, j) and inside(p, q)
        down = prediction[i + 1, j, c] - here if met(i + 1, j) else 0 * here
        right = prediction[i, j + 1, c] - here if met(i, j + 1) else 0 * here
        square = down**2 + right**2
        length = sqrt(square) if square > 0 else square
        total = total + (length if isotropic else abs(down) + abs(right))
    return total


def pictures(side):
    def draw(g, batch):
        return g.uniform(0, 1, (*batch, side, side, 1)).astype(np.float32)

    return draw


def close_pictures(side):
    """Bright images whose contrast, and whose difference, is of any size."""

    def draw(g, count):
        same = np.random.default_rng(5)
        contrast, apart = (10.0 ** same.uniform(-3, 0, (count, 1, 1, 1)) for _ in range(2))
        shape = (count, side, side, 1)
        base = 0.5 + 0.5 * contrast * same.uniform(-1, 1, shape)
        return base + 0.1 * apart * g.uniform(-1, 1, shape)

    return draw


def pixels(height, width):
    return Batched(lambda g, batch: g.random((*batch, height, width)) < 0.8)


SMALL = {"size": SIZE, "sigma": SIGMA}


def both(draw):
    return {"prediction": draw, "target": draw}


CASES = {
    "ssim": Case(
        ssim,
        options=(
            SMALL,
            SMALL | {"padding": "same", "data_range": 2.0},
            SMALL | {"padding": "same", "mask": pixels(SIDE, SIDE)},
        ),
        draws=both(pictures(SIDE)),
        extremes=both(close_pictures(SIDE)),
        by_component=False,
        ulp=(8, 8),
    ),
    "ms_ssim": Case(
        ms_ssim,
        # With a mask it is compared in tests/test_image.py: two levels are slow to compile.
        options=(SMALL | {"level_weights": np.float32([0.4, 0.6])},),
        draws=both(pictures(2 * SIZE)),
        extremes=both(close_pictures(2 * SIZE)),
        by_component=False,
        ulp=(8, 8),
    ),
    "psnr": Case(
        psnr,
        options=(
            {},
            {"data_range": 255.0, "mask": pixels(2, 3)},
        ),
        by_component=False,
        ulp=(8, 8),
    ),
    "total_variation": Case(
        total_variation, options=({}, {"isotropic": True, "mask": pixels(2, 3)}), by_component=False
    ),
}
