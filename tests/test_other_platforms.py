"""The forms of a loss for GPU and TPU keep its digits, as that for CPU does; all run on CPU here.

No device is needed, see `harness.platforms`.
"""

import functools

import cases
import jax
import numpy as np
import pytest
from harness import accuracy
from harness.platforms import forms_of
from harness.programs import BATCH

import jaxloss as jl

# One loss of each form that differs; the others are of `make suite`.
QUICK = (
    "regression.cosine_distance",
    "classification.softmax_cross_entropy-int",
    "classification.sigmoid_focal",
    "divergence.kl_logits",
    "divergence.hellinger",
    "ranking.pairwise_logistic",
)


def first_settings():
    """Each loss once, with each form of its arguments."""
    found = {}
    for setting in cases.settings():
        found.setdefault((setting.info.name, tuple(setting.array_specs)), setting)
    return [
        pytest.param(s, id=str(s), marks=[] if str(s) in QUICK else pytest.mark.slow)
        for s in found.values()
    ]


@pytest.fixture(scope="module", params=["cuda", "tpu"])
def platform(request):
    with forms_of(request.param):
        yield request.param


@pytest.mark.parametrize("setting", first_settings())
def test_the_forms_of_gpu_and_tpu_keep_the_digits(platform, setting, is_light):
    rows = 1 if setting.set_axes else 8
    bounds = tuple((2 if is_light else 1) * bound for bound in setting.case.ulp)
    loss = functools.partial(setting.loss, **setting.options(BATCH), reduction="none")
    worst = accuracy.worst_errors(
        setting,
        accuracy.evaluation_of(loss, setting),
        rows=range(0, accuracy.DRAWN, accuracy.DRAWN // rows),
        bounds=bounds,
    )
    for (kind, (error, where)), bound in zip(worst.items(), bounds, strict=True):
        assert error <= bound, f"for {platform} the {kind} is {error:.1f} ULP off at {where}"


def test_the_derivative_of_another_platform_is_computed_apart(platform):
    x = np.ones((4, 6), np.float32)
    step = jax.grad(lambda x, y: jl.classification.sigmoid_focal(x, y, reduction="sum"))
    holds_barrier = "optimization_barrier" in str(jax.make_jaxpr(step)(x, x))
    assert holds_barrier == (platform == "cuda")
