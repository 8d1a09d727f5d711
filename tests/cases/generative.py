"""Rows of the generative family: oracles in plain Python on one example."""

import numpy as np
from arithmetic import exp, log, log1p

from cases import Batched, Case


def softplus(x):
    return x + log1p(exp(-x)) if x > 0 else log1p(exp(x))


def _mean_square(x, y):
    return sum((x - y) ** 2) / len(x)


def denoising(prediction, target, weight=1.0, mask=None):
    keep = slice(None) if mask is None else mask
    return weight * _mean_square(prediction[keep], target[keep])


def masked_diffusion(logits, labels, masked, weight=1.0, average=False, mask=None):
    kept = [i for i in range(len(labels)) if mask is None or mask[i]]
    total = 0 * logits[0][0]
    for i in kept:
        if masked[i]:
            of_token = weight[i] if np.ndim(weight) else weight
            total += of_token * log(sum(exp(x - logits[i][labels[i]]) for x in logits[i]))
    return total / len(kept) if average else total


def gaussian_vae_kl(mean, log_variance, free_nats=0.0, free_per="total", mask=None):
    if mask is not None:
        mean, log_variance = mean[mask], log_variance[mask]
    each = [(m**2 + exp(x) - 1 - x) / 2 for m, x in zip(mean, log_variance, strict=True)]
    if free_per == "dimension":
        return sum(max(x, free_nats) for x in each)
    return max(sum(each), free_nats)


def vector_quantization(inputs, codes, commitment=0.25, mask=None, *, fixed=None):
    still = {"inputs": inputs, "codes": codes} | (fixed or {})
    if mask is not None:
        inputs, codes = inputs[mask], codes[mask]
        still = {name: still[name][mask] for name in ("inputs", "codes")}
    of_codes = _mean_square(still["inputs"], codes)
    return of_codes + commitment * _mean_square(inputs, still["codes"])


def lecam(real, fake, real_mean=None, fake_mean=None, rectified=True, *, fixed=None):
    still = {"real_mean": real_mean, "fake_mean": fake_mean} | (fixed or {})
    gaps = real - still["fake_mean"], still["real_mean"] - fake
    return sum((max(0, gap) if rectified else gap) ** 2 for gap in gaps)


def scaled(generator, count):
    """Vectors of five entries, of which an example is of one scale, from 1e-12 to 1e12."""
    return 10.0 ** generator.uniform(-12, 12, (count, 1)) * generator.normal(size=(count, 5))


def log_variances(generator, count):
    """From nearly 0, where the divergence is the square, to far from it."""
    return 10.0 ** generator.uniform(-8, 1, (count, 1)) * generator.normal(size=(count, 5))


def scores(generator, count):
    sign = np.where(generator.random(count) < 0.5, -1, 1)
    return sign * 10.0 ** generator.uniform(-8, 4, count)


PAIR = {"real": scores, "fake": scores}
MEANS = {"real_mean": 0.4, "fake_mean": -0.3}
PER_TOKEN = Batched(lambda g, batch: g.uniform(0.5, 2, (*batch, 3)).astype(np.float32))
WEIGHT = Batched(lambda g, batch: g.uniform(0.5, 2, batch).astype(np.float32))
MASK = Batched(lambda g, batch: np.broadcast_to([True, False, True], (*batch, 3)).copy())

OUT = np.array([True, True, False, True, True])

CASES = {
    "denoising": Case(
        denoising,
        options=({}, {"weight": WEIGHT}, {"mask": OUT}),
        extremes={"prediction": scaled, "target": scaled},
    ),
    "masked_diffusion": Case(
        masked_diffusion,
        options=({}, {"weight": WEIGHT, "average": True}, {"weight": PER_TOKEN, "mask": MASK}),
        by_component=False,
    ),
    "gaussian_vae_kl": Case(
        gaussian_vae_kl,
        options=(
            {},
            {"free_nats": 2.0},
            {"free_nats": 0.3, "free_per": "dimension", "mask": OUT},
        ),
        extremes={"mean": scaled, "log_variance": log_variances},
        ulp=(4, 6),
    ),
    "vector_quantization": Case(
        vector_quantization,
        options=({}, {"commitment": 1.0, "mask": OUT}),
        extremes={"inputs": scaled, "codes": scaled},
    ),
    "non_saturating_generator": Case(lambda fake: softplus(-fake), extremes=PAIR),
    "non_saturating_discriminator": Case(
        lambda real, fake: softplus(-real) + softplus(fake), extremes=PAIR
    ),
    "hinge_generator": Case(lambda fake: -fake),
    "hinge_discriminator": Case(
        lambda real, fake: max(0, 1 - real) + max(0, 1 + fake), extremes=PAIR
    ),
    "least_squares_generator": Case(lambda fake: (fake - 1) ** 2 / 2, extremes=PAIR),
    "least_squares_discriminator": Case(
        lambda real, fake: (real - 1) ** 2 / 2 + fake**2 / 2, extremes=PAIR
    ),
    "wasserstein_generator": Case(lambda fake: -fake),
    "wasserstein_discriminator": Case(
        lambda real, fake: fake - real, extremes=PAIR, conditioned=True
    ),
    "lecam": Case(
        lecam,
        options=(MEANS, MEANS | {"rectified": False}),
        extremes=PAIR,
        conditioned=True,
    ),
}
