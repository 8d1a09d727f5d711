"""Every trait that a loss claims, tested on inputs drawn by hypothesis from its domains."""

import functools

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import jaxloss as jl

COUNT = 64
CLAIMED = [
    pytest.param(setting, trait, id=f"{trait}-{setting}")
    for setting in cases.settings()
    for trait in sorted(setting.info.traits, key=lambda trait: trait.name)
]


def tolerance(values):
    return 1e-5 * (1 + np.abs(values))


@functools.cache
def compiled(setting):
    """Value and gradient in the first argument: compiled once a loss, whatever is drawn."""
    fixed = {n: v for n, v in setting.given.items() if isinstance(v, bool | str | int)}

    def value(first, others, options):
        return setting.loss(first, *others, reduction="none", **options, **fixed)

    def gradient(first, others, options):
        return jax.grad(lambda x: jnp.sum(value(x, others, options)))(first)

    def gradients(path, others, options):
        return jax.lax.map(lambda first: gradient(first, others, options), path)

    return jax.jit(value), jax.jit(gradient), jax.jit(gradients)


class Drawn:
    """A loss with inputs of one draw, many examples at once."""

    def __init__(self, setting, seed):
        self.setting, self.seed = setting, seed
        self.data = [jnp.asarray(x) for x in setting.data((COUNT,), seed)]
        drawn = setting.options((COUNT,), seed + 1)
        self.options = {
            n: jnp.asarray(v) for n, v in drawn.items() if not isinstance(v, bool | str | int)
        }
        self.value, self.slope, self.slopes = compiled(setting)

    def __call__(self, first, *others):
        return np.asarray(self.value(first, others, self.options), np.float64)

    def with_first(self, first):
        return self(first, *self.data[1:])

    def gradient(self, first):
        return np.asarray(self.slope(first, tuple(self.data[1:]), self.options))

    def gradients(self, path):
        return np.asarray(self.slopes(path, tuple(self.data[1:]), self.options))


def convex(drawn, generator):
    a = drawn.data[0]
    b = jnp.asarray(drawn.setting.data((COUNT,), drawn.seed + 7)[0])
    for share in (0.25, 0.5):
        mixed = drawn.with_first(share * a + (1 - share) * b)
        chord = share * drawn.with_first(a) + (1 - share) * drawn.with_first(b)
        assert np.all(mixed <= chord + tolerance(chord))


def nonnegative(drawn, generator):
    assert np.all(drawn(*drawn.data) >= 0)


def bounded(drawn, generator):
    near, far = drawn.with_first(drawn.data[0]), drawn.with_first(1e6 * drawn.data[0])
    farther = drawn.with_first(1e12 * drawn.data[0])
    assert np.all(np.isfinite(farther))
    assert np.all(np.abs(farther - far) <= 1e-3 * (1 + np.abs(near)))


def symmetric(drawn, generator):
    a, b, *rest = drawn.data
    expected = drawn(a, b, *rest)
    np.testing.assert_allclose(drawn(b, a, *rest), expected, rtol=1e-5, atol=1e-6)


def zero_at_match(drawn, generator):
    target = drawn.data[1]
    np.testing.assert_allclose(drawn(target, target, *drawn.data[2:]), 0, atol=1e-6)


def translation_invariant(drawn, generator):
    a, b, *rest = (jnp.round(8 * x) / 8 for x in drawn.data)
    np.testing.assert_allclose(drawn(a + 4, b + 4, *rest), drawn(a, b, *rest), rtol=1e-6)


def shift_invariant(drawn, generator):
    logits = jnp.round(64 * drawn.data[0]) / 64
    shifted = drawn.with_first(logits + 1024)
    np.testing.assert_allclose(shifted, drawn.with_first(logits), rtol=1e-5, atol=1e-6)


def scale_invariant(drawn, generator):
    for scale in (0.25, 1024.0):
        scaled = drawn.with_first(scale * drawn.data[0])
        np.testing.assert_allclose(scaled, drawn.with_first(drawn.data[0]), rtol=1e-5, atol=1e-6)


def bounded_gradient(drawn, generator):
    """A thousandfold error does not pull harder than a hundredfold one, to one part in ten."""
    sizes = [np.max(np.abs(drawn.gradient(scale * drawn.data[0]))) for scale in (1e2, 1e3, 1e4)]
    assert max(sizes[1:]) <= 1.1 * max(sizes[0], np.max(np.abs(drawn.gradient(drawn.data[0]))))


def smooth(drawn, generator):
    """Where the gradient changes, it changes in proportion to the step: no jumps on a line."""
    a = drawn.data[0]
    b = jnp.asarray(drawn.setting.data((COUNT,), drawn.seed + 7)[0])
    share = jnp.linspace(0, 1, 1025).reshape(-1, *(1,) * a.ndim)
    amounts = drawn.setting.array_specs[0].domain == jl.domains.positive
    path = a * (b / a) ** share if amounts else a + share * (b - a)
    fine = drawn.gradients(path)
    steps = {n: np.max(np.abs(np.diff(fine[:: 1024 // n], axis=0))) for n in (64, 1024)}
    assert steps[1024] <= 0.25 * steps[64] + 1e-4


def proper(drawn, generator):
    """On average over labels drawn from q, no prediction does better than q itself."""
    setting = drawn.setting
    classes = cases.SIZES["classes"]
    if setting.given:
        return  # smoothing and weights move the optimum, as their documentation says
    if setting.array_specs[0].event:
        q = jnp.asarray(generator.dirichlet(np.ones(classes)), jnp.float32)
        outcomes = [jnp.full(COUNT, k) for k in range(classes)]
        if setting.array_specs[1].event:
            outcomes = [
                jnp.broadcast_to(jnp.eye(classes)[k], (COUNT, classes)) for k in range(classes)
            ]
        best = jnp.log(q) if setting.array_specs[0].domain == jl.domains.extended else q
        best = jnp.broadcast_to(best, (COUNT, classes))
    else:
        q = jnp.asarray([generator.uniform(0.05, 0.95)], jnp.float32)
        q = jnp.concatenate([1 - q, q])
        outcomes = [jnp.zeros(COUNT), jnp.ones(COUNT)]
        logit = jnp.log(q[1] / q[0])
        best = logit if setting.array_specs[0].domain == jl.domains.extended else q[1]
        best = jnp.broadcast_to(best, (COUNT,))

    def expected(prediction):
        return np.asarray(sum(p * drawn(prediction, y) for p, y in zip(q, outcomes, strict=True)))

    assert np.all(expected(best) <= expected(drawn.data[0]) + 1e-5)


TESTS = {name: globals()[name] for name in jl.traits.all_traits()}


@pytest.mark.slow
@pytest.mark.parametrize(("setting", "trait"), CLAIMED)
def test_claimed_trait_holds(setting, trait):
    # Inside: hypothesis keeps settings for a test, and stacks them up over a thousand parameters.
    @given(seed=st.integers(0, 2**20))
    def holds(seed):
        TESTS[trait.name](Drawn(setting, seed), np.random.default_rng(seed))

    holds()


def test_every_trait_has_a_test():
    assert set(TESTS) == set(jl.traits.all_traits())


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
    with pytest.raises(AssertionError):
        TESTS[trait](Drawn(setting, 0), np.random.default_rng(0))
