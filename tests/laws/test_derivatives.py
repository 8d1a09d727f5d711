"""Derivatives: in every mode, in a scan, and where predictions are perfect."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
from harness.calls import directions, total
from harness.programs import program

import jaxloss as jl
from laws import law, leaves_where


@law(only=leaves_where)
def test_forward_mode_is_reverse_mode(setting):
    p = program(setting)
    got = p.answers
    products = [np.sum(got.slopes[n] * np.float64(p.tangents[n])) for n in sorted(p.at)]
    size = sum(np.sum(np.abs(got.slopes[n] * p.tangents[n])) for n in sorted(p.at))
    np.testing.assert_allclose(got.forward, sum(products), rtol=2e-5, atol=1e-5 + 1e-6 * size)


@law()
def test_second_derivatives_agree_in_every_mode(setting):
    function, floating = total(setting)
    tangents = directions(floating)
    argnums = tuple(range(len(floating)))
    gradient = jax.grad(function, argnums)
    floating, tangents = tuple(floating), tuple(tangents)

    def along(*floating):
        return sum(jnp.sum(g * t) for g, t in zip(gradient(*floating), tangents, strict=True))

    @jax.jit
    def every(floating, tangents):
        forward_over_reverse = jax.jvp(gradient, floating, tangents)
        reverse_over_reverse = jax.grad(along, argnums)(*floating)
        forward = lambda *x: jax.jvp(function, x, tangents)[1]
        return forward_over_reverse, reverse_over_reverse, jax.grad(forward, argnums)(*floating)

    (slopes, expected), *others = every(floating, tangents)
    # What cancels in a second derivative has the size of the squared first one.
    atol = max(1e-5, 1e-7 * max(np.max(np.abs(g)) for g in slopes) ** 2)
    chex.assert_tree_all_finite(expected)
    for got in others:
        chex.assert_trees_all_close(got, expected, rtol=1e-4, atol=atol)


@law()
def test_a_scan_has_the_derivatives_outside(setting):
    """Differentiated, a scan forgets the rule of a function: its formula must be right too."""
    function, floating = total(setting)
    tangents = directions(floating)

    def scanned(*floating):
        step = lambda sum, x: (sum + function(*x), None)
        twice = [jnp.stack([x, x]) for x in floating]  # what is the same in each turn moves out
        return jax.lax.scan(step, 0 * function(*floating), twice)[0] / 2

    @jax.jit
    def product(floating, tangents):
        gradients = [jax.grad(f, tuple(range(len(floating)))) for f in (function, scanned)]
        return [jax.jvp(gradient, floating, tangents) for gradient in gradients]

    fills = [setting.array_specs[i].domain.fill for i in setting.floating()]
    perfect = [jnp.full_like(x, fill) for x, fill in zip(floating, fills, strict=True)]
    for at in floating, perfect:
        expected, got = product(at, tangents)
        steepest = max(np.max(np.abs(g), initial=0, where=np.isfinite(g)) for g in expected[0])
        for e, g in zip(jax.tree.leaves(expected), jax.tree.leaves(got), strict=True):
            finite = np.isfinite(e)
            atol = max(1e-6, 1e-6 * steepest**2)
            np.testing.assert_allclose(g[finite], e[finite], rtol=1e-4, atol=atol)


@law(only=leaves_where)
def test_derivatives_are_finite_at_a_perfect_prediction(setting):
    """Ties, zeros and equal arguments: where norms, roots and logarithms go wrong."""
    p = program(setting)
    perfect = {
        name: np.full_like(p.inputs[name], form.domain.fill)
        for name, form in zip(p.names, setting.array_specs, strict=True)
        if name in p.floating
    }
    got = p.every(**perfect) if p.whole else p.first(**perfect)
    if np.all(np.isfinite(got.values)):
        chex.assert_tree_all_finite([x for x in got if x is not None])


@law()
def test_subnormal_numbers_are_no_worse_than_zeros(setting):
    """Compiled, one of them is 0 in one place and not in another: 0 / 0 and 0 * inf lie near."""
    above_zero = (jl.domains.positive, jl.domains.nonzero)
    p, tiny, zero, minus_zero = program(setting), {}, {}, {}
    for name, form in zip(p.names, setting.array_specs, strict=True):
        x = p.inputs[name]
        fixed = name in setting.case.draws or form.domain in above_zero or form.domain.guard
        if x.dtype == np.float32 and not fixed:
            every_other = np.arange(x.size).reshape(x.shape) % 2 == 0
            below = form.domain == jl.domains.log_probability
            tiny[name] = np.where(every_other, np.float32(-1e-41 if below else 1e-41), x)
            zero[name] = np.where(every_other, np.float32(0), x)
            minus_zero[name] = np.where(every_other, np.float32(-0.0), x)
    got, of_zeros, of_minus = p.first(**tiny), p.first(**zero), p.first(**minus_zero)
    leaves = (jax.tree.leaves(answers) for answers in (got, of_zeros, of_minus))
    for ours, theirs, others in zip(*leaves, strict=True):
        assert not np.isnan(ours)[~np.isnan(theirs)].any()
        np.testing.assert_array_equal(np.isnan(others), np.isnan(theirs))


EDGES = np.float32([0, -0.0, 1e-30, -1e-30, 0.3, -0.3, 1, -1, 10, -10, 30, -30])


@law()
def test_edges_of_a_domain_meet_without_nan(setting):
    """Zeros of both signs, ones, and numbers that are tiny or large, in every argument at once."""
    p, generator = program(setting), np.random.default_rng(8)
    context = {**setting.info.spec.defaults, **p.options}
    of_domain = {}
    for name, form in zip(p.names, setting.array_specs, strict=True):
        domain, x = form.domain, p.inputs[name]
        is_own = name in setting.case.draws and not setting.info.spec.elementwise
        if x.dtype == np.float32 and not (is_own or domain.guard or domain.normalized):
            holds = np.asarray(domain.test(EDGES, context)[0])
            of_domain[name] = EDGES[holds & ((EDGES <= 0) | (domain.masked is None))]
    for _ in range(6):
        drawn = {n: generator.choice(x, p.inputs[n].shape) for n, x in of_domain.items()}
        got = p.first(**drawn)
        assert not np.any(np.isnan(got.values)), "a value is NaN"
        if np.all(np.isfinite(got.values)):
            for name, slope in got.slopes.items():
                assert not np.any(np.isnan(slope)), f"a derivative in {name} is NaN"


@law(only=leaves_where)
def test_a_nan_that_counts_is_seen(setting):
    """In the value, and in its gradient or that of the prediction: training does not go on."""
    p = program(setting)
    slopes = p.first().slopes
    predicted = next(name for name in p.floating if np.any(slopes[name]))
    for name in p.floating:
        x = p.inputs[name].copy()
        x[1, 2] = np.nan
        got = p.first(**{name: x})
        assert np.all(np.isnan(got.values[1, 2])), f"a NaN in {name} leaves no NaN in the value"
        slopes = [got.slopes[n][1, 2] for n in (name, predicted)]
        has_nan = any(np.any(np.isnan(x)) for x in slopes)
        assert has_nan, f"a NaN in {name} leaves none in its gradient or that of {predicted}"
        if not setting.set_axes:
            others = np.delete(got.values.reshape(-1), 1 * 6 + 2)
            assert np.all(np.isfinite(others)), f"a NaN in {name} reaches other examples"
