"""Every loss against its oracle, and against what it claims of itself."""

import cases
import jax
import numpy as np
import pytest
from harness import accuracy, traits
from harness.programs import BATCH, COUNT, program

from laws import law, leaves_where

FEW_EXAMPLES = [(0, 0), (0, 5), (1, 2), (2, 4), (3, 1), (3, 5)]


@law()
def test_value_is_that_of_the_oracle(setting):
    p = program(setting)
    values = p.first().values
    assert values.shape == p.shape
    for index in FEW_EXAMPLES:
        expected = setting.case.oracle(**p.example(index))
        np.testing.assert_allclose(values[index], expected, rtol=3e-6, atol=1e-6)


@law()
def test_gradient_is_that_of_the_oracle(setting):
    """Central differences of the oracle in float64; of a shared option, summed over examples."""
    p = program(setting)
    slopes = p.first().slopes
    for name in sorted(p.at):
        batched = name in setting.batched
        for index in [(0, 1), (2, 0), (3, 4)] if batched else [()]:
            examples = [p.example(i) for i in ([index] if batched else np.ndindex(BATCH))]
            start = np.array(examples[0][name], np.float64)
            got = slopes[name][index]
            for place in np.ndindex(start.shape):
                difference, size = difference_of_oracle(setting, examples, name, start, place)
                np.testing.assert_allclose(
                    got[place],
                    difference,
                    rtol=2e-4,
                    atol=2e-5 + 2e-6 * size,
                    err_msg=f"the derivative with respect to {name}{list(place)} at {index}",
                )


def difference_of_oracle(setting, examples, name, start, place):
    """The central difference in one entry of an argument, and the sum of its absolute terms."""
    step = np.zeros(start.shape)
    step[place] = 1e-6
    each = [
        np.sum(oracle(**one | {name: start + step}) - oracle(**one | {name: start - step})) / 2e-6
        for one in examples
        for oracle in [setting.case.around(one)]
    ]
    return np.sum(each), np.sum(np.abs(each))


@law(only=leaves_where)
def test_second_derivative_is_that_of_the_oracle(setting):
    """Along the tangents t, t' H t of one example: a second difference of the oracle in float64."""
    p, step = program(setting), 1e-4
    names = sorted(p.at & setting.batched)
    for index in FEW_EXAMPLES[:3]:
        one = p.example(index)
        t = {n: np.float64(p.tangents[n][index]) for n in names}
        at = lambda share, one=one, t=t: np.sum(
            setting.case.around(one)(**one | {n: one[n] + share * t[n] for n in names})
        )
        expected = (at(step) - 2 * at(0) + at(-step)) / step**2
        alone = p.tangents | {n: 0 * x for n, x in p.tangents.items() if n not in names}
        curvature = p.every(tangents=alone).curvature
        got = sum(np.sum(t[n] * curvature[n][index]) for n in names)
        np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-4 * (1 + abs(at(0))))


@law()
def test_accurate_to_a_few_units_in_the_last_place(setting, tier, is_light):
    p = program(setting)
    rows = accuracy.DRAWN // (4 if setting.set_axes else 1)
    if tier != "suite":
        # As many as the exact gradients allow: a difference for each entry, of a set of 5 or of one.
        entries = sum(np.prod(p.inputs[n].shape[len(BATCH) :], dtype=int) for n in p.floating)
        affordable = (120 if tier == "test" else 480) // (entries + 1)
        most = COUNT if tier == "test" else rows // 4
        rows = int(np.clip(affordable // (25 if setting.set_axes else 1), 1, most))
    # A light compiler rounds a * b + c twice; the bounds are those of the compiler of users.
    bounds = tuple((2 if is_light else 1) * bound for bound in setting.case.ulp)
    worst = accuracy.worst_errors(
        setting,
        lambda data: p.first(**data)[:2],
        rows=range(0, accuracy.DRAWN, accuracy.DRAWN // rows),
        bounds=bounds,
    )
    for (kind, (error, where)), bound in zip(worst.items(), bounds, strict=True):
        assert error <= bound, f"the {kind} is {error:.1f} ULP off (bound {bound}) at {where}"


@law(only=lambda setting: setting.info.traits)
def test_claimed_trait_holds(setting, tier):
    for trait in sorted(setting.info.traits, key=lambda trait: trait.name):
        if traits.applies(trait.name, setting):
            for seed in range(6 if tier == "suite" else 1):
                traits.check(trait.name, traits.Drawn(program(setting), seed))


@law(only=lambda setting: any(isinstance(v, float) for v in setting.given.values()))
def test_a_number_is_worth_the_same_written_or_traced(setting):
    p = program(setting)
    data = [p.inputs[n] for n in p.names]
    written = jax.jit(lambda *data: setting.loss(*data, **p.options, reduction="none"))(*data)
    np.testing.assert_allclose(written, p.first().values, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("loss", "trait"),
    [
        ("regression.squared_error", "bounded_gradient"),
        ("regression.absolute_error", "smooth"),
        ("regression.squared_error", "bounded"),
        ("regression.huber", "scale_invariant"),
        ("classification.hinge", "smooth"),
        ("classification.hinge", "symmetric"),
        ("classification.sigmoid_cross_entropy", "shift_invariant"),
    ],
)
def test_a_claim_that_is_false_is_found_out(loss, trait):
    setting = next(s for s in cases.settings() if s.info.name == loss)
    with pytest.raises(AssertionError, match=f"{loss}.* is not {trait}"):
        traits.check(trait, traits.Drawn(program(setting), 0))
