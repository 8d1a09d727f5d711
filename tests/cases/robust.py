"""The rows of the robust family."""

import math

import numpy as np
from arithmetic import expm1, log, log1p, sqrt

import jaxloss.robust  # noqa: F401  (files its losses)
from cases import Batched, Case


def charbonnier(prediction, target, scale=1.0):
    return sqrt(1 + ((prediction - target) / scale) ** 2) - 1


def cauchy(prediction, target, scale=1.0):
    return log(1 + ((prediction - target) / scale) ** 2 / 2)


def geman_mcclure(prediction, target, scale=1.0):
    square = ((prediction - target) / scale) ** 2
    return 2 * square / (square + 4)


def welsch(prediction, target, scale=1.0):
    return -expm1(-(((prediction - target) / scale) ** 2) / 2)


def tukey(prediction, target, scale=1.0):
    square = ((prediction - target) / scale) ** 2
    return (1 - (1 - square) ** 3) / 6 if square < 1 else 0 * square + 1 / (0 * square + 6)


def general(prediction, target, alpha=1.0, scale=1.0):
    z = (prediction - target) / scale
    if alpha == 2:
        return z**2 / 2
    if alpha == 0:
        return log1p(z**2 / 2)
    if alpha == -math.inf:
        return -expm1(-(z**2) / 2)
    b = abs(alpha - 2)
    return b / alpha * expm1(alpha / 2 * log1p(z**2 / b))


def alphas(generator, batch):
    return generator.uniform(-3, 1.9, batch).astype(np.float32)


def scales(generator, batch):
    return generator.uniform(0.5, 2, batch).astype(np.float32)


def far_and_about_the_scale(generator, count):
    sign = np.where(generator.random(count) < 0.5, -1, 1)
    exponents = np.where(
        generator.random(count) < 0.5,
        generator.uniform(-30, 30, count),
        generator.uniform(-1, 1, count),
    )
    return sign * 10.0**exponents


def targets(generator, count):
    """Every other one 0, the rest of any size about the scale."""
    generator = np.random.default_rng(9)  # for predictions, too
    size = generator.normal(size=count) * 10.0 ** generator.uniform(-2, 2, count)
    return np.where(np.arange(count) % 2, size, 0)


def predictions(generator, count):
    return targets(generator, count) + far_and_about_the_scale(generator, count)


# Where the slope falls by decades, the last place of a rounded error is as many places of it. Of a
# target of 0 the error is exact, and so must be what comes of it.
ERRORS = {"prediction": predictions, "target": targets}


def with_a_target(example):
    return example["target"] != 0


SCALES = ({}, {"scale": 2.0}, {"scale": Batched(scales)})

CASES = {
    "charbonnier": Case(charbonnier, SCALES),
    "cauchy": Case(cauchy, SCALES),
    "geman_mcclure": Case(geman_mcclure, SCALES),
    "welsch": Case(welsch, SCALES[:2], extremes=ERRORS, conditioned=with_a_target),
    "tukey": Case(tukey, SCALES[:2], extremes=ERRORS, conditioned=with_a_target),
    "barron": Case(
        general,
        (
            {},
            {"alpha": 2},
            {"alpha": 0.0},
            {"alpha": -2.0},
            {"alpha": -math.inf},
            {"alpha": 1.5, "scale": 2.0},
            {"alpha": Batched(alphas)},
        ),
        extremes=ERRORS,
        conditioned=with_a_target,
    ),
}
