"""`where`, `weights` and `reduction`: written once, in the contract, and true of every loss."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from harness.calls import call
from harness.programs import BATCH, program

from laws import law, leaves_where


def every_other(shape):
    return np.arange(np.prod(shape)).reshape(shape) % 2 == 0


def masked_entries_are_zero(answers, setting, where):
    """In gradients; in values too where a loss takes `where` itself, since it is one over a set.

    Of the others `reductions_are_what_they_say` asks the values: the contract writes that 0.
    """
    if setting.set_axes:
        assert np.all(answers.kept[~where] == 0)
    for name, slope in answers.mean_slopes.items():
        assert np.all(np.isfinite(slope)), f"the gradient of {name} is not finite"
        if slope.shape[: where.ndim] == where.shape and name in setting.batched:
            assert np.all(slope[~where] == 0), f"masked entries of {name} have a gradient"


@law(only=leaves_where)
def test_where_hides_whatever_the_inputs_hold(setting):
    p, dims = program(setting), setting.info.spec.result.dims
    where = every_other(p.shape)
    clean = p.every(where)
    forms = dict(zip(p.names, setting.array_specs, strict=True))
    for bad in (np.nan, np.inf, -np.inf):
        dirty = {n: x.copy() for n, x in p.inputs.items()}
        for name, x in dirty.items():
            if forms[name].dims[: len(dims)] == dims:
                x[~where] = bad if x.dtype == np.float32 else -100
        got = p.every(where, **dirty)
        if setting.set_axes:
            np.testing.assert_array_equal(got.kept, clean.kept)
        np.testing.assert_array_equal(got.total, clean.total)
        chex.assert_trees_all_equal(got.mean_slopes, clean.mean_slopes)
        masked_entries_are_zero(got, setting, where)


@law(only=lambda setting: setting.set_axes and leaves_where(setting))
def test_where_takes_an_example_out_of_its_set(setting):
    """The loss of the examples that are kept is that of a set which never held the others."""
    p = program(setting)
    assert "where" in setting.info.spec.arguments
    where = np.broadcast_to(np.isin(np.arange(p.shape[len(BATCH)]), [0, 2, 3]), p.shape)
    kept = p.every(where).kept
    for index in ((0, 1), (2, 3)):
        expected = setting.case.oracle(**p.example(index) | {"where": where[index]})
        np.testing.assert_allclose(kept[index], np.where(where[index], expected, 0), 1e-5, 1e-6)


@law(only=leaves_where)
def test_nothing_that_counts_gives_zero(setting):
    p = program(setting)
    nothing = np.zeros(p.shape, bool)
    got = p.every(nothing)
    assert got.total == got.weight == 0
    masked_entries_are_zero(got, setting, nothing)
    assert all(np.all(slope == 0) for slope in got.mean_slopes.values())


@law(only=leaves_where)
def test_a_mean_is_a_weighted_total_over_its_weight(setting):
    p = program(setting)
    where = np.arange(np.prod(p.shape)).reshape(p.shape) % 3 != 1
    got = p.every(where)
    counted = np.where(where, p.weights, 0)
    near = {"rtol": 1e-5, "atol": 1e-6}
    kept = got.kept if setting.set_axes else p.answers.values
    np.testing.assert_allclose(got.total, np.sum(counted * np.float64(kept)), **near)
    np.testing.assert_allclose(got.weight, np.sum(np.float64(counted)), **near)
    if not setting.set_axes:  # an example has its own gradient, whatever is beside it
        for name in sorted(set(p.floating) & setting.batched):
            share = (counted / got.weight).reshape(BATCH + (1,) * (p.answers.slopes[name].ndim - 2))
            expected = share * p.answers.slopes[name]
            np.testing.assert_allclose(got.mean_slopes[name], expected, rtol=2e-5, atol=1e-6)


@law()
def test_reductions_are_what_they_say(setting):
    shape = setting.result_shape()
    weights = np.random.default_rng(3).uniform(0.5, 2, shape).astype(np.float32)
    where = np.arange(np.prod(shape)).reshape(shape) % 3 != 1

    @jax.jit
    def of(where, weights, *data):
        both = {"where": where, "weights": weights}
        reduced = {r: call(setting, **both, reduction=r)(*data) for r in ("parts", "sum", "mean")}
        return (
            call(setting)(*data),
            call(setting, where=where)(*data),
            call(setting, weights=weights)(*data),
            call(setting, weights=jnp.zeros(shape), reduction="mean")(*data),
            call(setting, reduction="mean")(*data),
            call(setting, reduction="sum")(*data),
            reduced,
        )

    plain, kept, weighted, weightless, mean, sum_, reduced = of(where, weights, *setting.data())
    counted = np.where(where, weights, 0)
    total, weight = np.sum(counted * np.float64(kept)), np.sum(np.float64(counted))
    near = {"rtol": 1e-5, "atol": 1e-6}
    np.testing.assert_allclose(
        (reduced["parts"].total, reduced["parts"].weight), (total, weight), **near
    )
    np.testing.assert_allclose((reduced["sum"], reduced["mean"]), (total, total / weight), **near)
    np.testing.assert_allclose(weighted, weights * plain, rtol=2e-6, atol=1e-7)
    assert np.all(kept[~where] == 0)
    if not setting.set_axes:
        np.testing.assert_allclose(kept[where], plain[where], rtol=2e-6, atol=1e-7)
    np.testing.assert_allclose((mean, sum_), (np.mean(plain), np.sum(plain)), **near)
    assert weightless == 0


@law()
def test_keyword_arguments_are_checked(setting):
    data, shape = setting.data(), setting.result_shape()
    with pytest.raises(
        ValueError, match=r"`reduction` is 'averag'.*'none', 'mean', 'sum', 'parts'"
    ):
        call(setting, reduction="averag")(*data)
    with pytest.raises(TypeError, match="`where` is float32.*booleans"):
        call(setting, where=np.ones(shape, np.float32))(*data)
    with pytest.raises(ValueError, match="`weights`.*expected"):
        call(setting, weights=np.ones((*shape, 1), np.float32))(*data)
    with pytest.raises(TypeError, match="Did you mean `weights`"):
        call(setting, weigths=None)(*data)
    with pytest.raises(TypeError, match=f"{setting.info.name}: (missing|give)"):
        call(setting)(*data[:-1])
