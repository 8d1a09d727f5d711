"""Rows of the value family: oracles in plain Python on one example."""

import numpy as np
from arithmetic import exp, expm1

from cases import Batched, Case

LEVELS = np.array([0.05, 0.25, 0.5, 0.75, 0.95], np.float32)


def clipped_value(value, old_value, target, clip=0.2):
    bounded = min(max(value, old_value - clip), old_value + clip)
    return max((value - target) ** 2, (bounded - target) ** 2) / 2


def _huber(error, delta):
    size = abs(error)
    return size**2 / 2 if size <= delta else delta * (size - delta / 2)


def quantile_huber(
    quantiles, targets, levels=None, delta=1.0, average="targets", divide_by_delta=False, mask=None
):
    targets = targets if mask is None else targets[mask]
    count = len(quantiles)
    levels = [(i + 0.5) / count for i in range(count)] if levels is None else levels
    total = sum(
        abs(level - (y < q)) * _huber(y - q, delta) / len(targets)
        for q, level in zip(quantiles, levels, strict=True)
        for y in targets
    )
    total = total / count if average == "both" else total
    return total / delta if divide_by_delta else total


def gumbel(prediction, target, scale=1.0, clip=None):
    z = (target - prediction) / scale
    if clip is not None and z > clip:
        return expm1(clip) - clip + expm1(clip) * (z - clip)
    return expm1(z) - z


# What is a constant of the gradient is taken from undisturbed arguments.


def temperature(log_temperature, log_prob, target_entropy=None, linear=False, *, fixed=None):
    at = {"log_prob": log_prob, "target_entropy": target_entropy} | (fixed or {})
    factor = log_temperature if linear else exp(log_temperature)
    return -factor * (at["log_prob"] + at["target_entropy"])


def exponential_advantage(log_prob, advantage, temperature=1.0, max_weight=None, *, fixed=None):
    at = {"advantage": advantage, "temperature": temperature, "max_weight": max_weight}
    at |= fixed or {}
    weight = exp(at["advantage"] / at["temperature"])
    return -(weight if at["max_weight"] is None else min(weight, at["max_weight"])) * log_prob


def sampled_levels(generator, batch):
    return generator.uniform(0.05, 0.95, (*batch, 5)).astype(np.float32)


def moderate(generator, count):
    """Differences from 1e-6 to 40, of both signs."""
    sign = np.where(generator.random(count) < 0.5, -1, 1)
    return (sign * 10.0 ** generator.uniform(-6, 1.3, count)).astype(np.float32)


CASES = {
    "clipped_value": Case(clipped_value, options=({}, {"clip": 0.5})),
    "quantile_huber": Case(
        quantile_huber,
        options=(
            {},
            {"levels": LEVELS, "delta": 0.4, "divide_by_delta": True, "mask": np.arange(5) < 4},
            {"levels": Batched(sampled_levels), "average": "both"},
        ),
        ulp=(6, 6),
        by_component=False,
    ),
    "temperature": Case(
        temperature,
        options=({"target_entropy": -2.0}, {"target_entropy": -2.0, "linear": True}),
        extremes={"log_temperature": moderate, "log_prob": moderate},
        conditioned=True,
    ),
    "exponential_advantage": Case(
        exponential_advantage,
        options=({}, {"temperature": 0.5, "max_weight": 2.0}, {"max_weight": 100.0}),
        extremes={"log_prob": moderate, "advantage": moderate},
        conditioned=True,
    ),
    "gumbel": Case(
        gumbel,
        options=({}, {"scale": 2.0, "clip": 1.0}),
        extremes={"prediction": moderate, "target": moderate},
        conditioned=True,
    ),
}
