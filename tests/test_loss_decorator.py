"""`@loss` on a user's own function: the same rights, and errors that teach the way."""

import inspect
from typing import Unpack

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array
from jaxtyping import Float, Int, Real

import jaxloss as jl
from jaxloss._core import registry
from jaxloss._core import shapes
from jaxloss.traits import convex


@pytest.fixture
def tidy_catalogue(monkeypatch):
    """A loss defined in a test leaves the catalogue with it."""
    jl.catalogue.losses()  # loads the shelves, which register once
    monkeypatch.setattr(registry, "_registry", dict(registry._registry))


@pytest.fixture
def charge(tidy_catalogue):
    @jl.loss(convex)
    def charge(prediction, target, *, factor=3.0):
        """Under-prediction costs `factor` times as much."""
        error = target - prediction
        return jnp.maximum(factor * error, -error)

    return charge


def test_a_plain_function_gets_every_word(charge):
    assert str(inspect.signature(charge)).startswith("(prediction, target, *, factor=3.0, where:")
    got = charge([1.0, 2.0, jnp.nan], [2.0, 1.0, 0.0], where=[True, True, False], reduction="mean")
    assert got == 2.0
    with pytest.raises(ValueError, match="charge: `target`"):
        charge(jnp.zeros(3), jnp.zeros((3, 1)))
    assert jax.grad(lambda f: charge(1.0, 2.0, factor=f))(3.0) == 1.0


def test_bare_and_called_decorators_are_the_same(tidy_catalogue):
    @jl.loss
    def bare(prediction, target):
        return prediction - target

    @jl.loss()
    def called(prediction, target):
        return prediction - target

    assert bare(3, 1) == called(3, 1) == 2


def test_it_is_filed_with_its_traits(charge):
    info = jl.catalogue.find("convex", text="charge")[0]
    assert info.function is charge
    assert info.family == ""
    assert info.options == ("factor",)


def test_a_result_of_the_wrong_shape_is_named(tidy_catalogue):
    @jl.loss
    def summed(prediction, target):
        return jnp.sum(prediction - target)

    with pytest.raises(ValueError, match=r"summed: its result has shape \(\), expected \(3,\)"):
        summed(jnp.zeros(3), jnp.zeros(3))


def test_declarations_that_make_no_sense_are_refused(tidy_catalogue):
    with pytest.raises(TypeError, match=r"domain for \['nonsense'\]"):
        jl.loss(nonsense=jl.domains.positive)(lambda prediction, target: prediction)

    def scalar(prediction: Real[Array, "*batch"]) -> Float[Array, ""]:
        return prediction

    with pytest.raises(TypeError, match='its result must be annotated "\\*batch"'):
        jl.loss(scalar)


def test_jax_annotations_are_read_too(tidy_catalogue):
    @jl.loss(labels=jl.domains.class_ids("classes"))
    def zero_one(
        scores: Float[jax.typing.ArrayLike, "*batch classes"],
        labels: Int[jax.typing.ArrayLike, "*batch"],
        **reduction: Unpack[jl.AxisReduction],
    ) -> Float[Array, "*batch"]:
        return (jnp.argmax(scores, -1) != labels).astype(jnp.float32)

    np.testing.assert_array_equal(zero_one([[1.0, 2.0], [2.0, 1.0]], [1, 1]), [0, 1])
    np.testing.assert_array_equal(zero_one([[1.0, 2.0], [2.0, 1.0]], [1, 2]), [0, np.nan])
    with pytest.raises(TypeError, match=r"`labels` is float32 .* Write `labels.astype\(int\)`"):
        zero_one(jnp.zeros((2, 3)), jnp.zeros(2))
    with pytest.raises(TypeError, match="`scores` is int32"):
        zero_one(jnp.zeros((2, 3), int), jnp.zeros(2, int))


def test_scalars_stretch_and_nothing_else(charge):
    assert charge(0.0, jnp.zeros((2, 3))).shape == (2, 3)
    assert charge(jnp.zeros((2, 3)), 0).shape == (2, 3)
    assert charge(jnp.zeros(3), jnp.zeros(3), where=True, weights=2.0).shape == (3,)
    with pytest.raises(ValueError, match=r"squeeze\(prediction, -1\)|prediction|target"):
        charge(jnp.zeros((3, 1)), jnp.zeros(3))
    with pytest.raises(ValueError, match="Nothing is broadcast here"):
        charge(jnp.zeros((1, 3)), jnp.zeros((2, 3)))


def test_classes_along_another_axis_are_recognized():
    images = jnp.zeros((2, 10, 3))
    with pytest.raises(ValueError, match=r"expected integers of shape \(2, 10\), .* lie along axis 1, write `axis=1`"):
        jl.classification.softmax_cross_entropy(images, jnp.zeros((2, 3), int))
    assert jl.classification.softmax_cross_entropy(
        images, jnp.zeros((2, 3), int), axis=1
    ).shape == (2, 3)


def test_an_eager_loop_plans_once(charge):

    charge(jnp.zeros(3), jnp.zeros(3))
    before = shapes.plan.cache_info()
    charge(jnp.ones(3), jnp.ones(3))
    after = shapes.plan.cache_info()
    assert (after.hits, after.misses) == (before.hits + 1, before.misses)


def test_no_tracer_leaks(charge):
    with jax.checking_leaks():
        jax.jit(jax.grad(lambda x: charge(x, 1.0, where=True, reduction="mean")))(jnp.float32(0))


def test_strict_promotion_is_no_trouble(charge):
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        got = jl.regression.huber(jnp.zeros((2, 3), jnp.bfloat16), np.ones((2, 3)), where=True)
        chex.assert_shape(got, (2, 3))


def test_find_and_tables(charge):
    with pytest.raises(ValueError, match="no trait 'bounded_gradiant'; there are .*convex"):
        jl.catalogue.find("bounded_gradiant")
    with pytest.raises(ValueError, match="no shelf 'regresion'; there are .*regression"):
        jl.catalogue.find(family="regresion")
    table = jl.catalogue.find(family="regression")
    assert "<table>" in table._repr_html_()
    assert "regression.huber" in repr(table)
    assert {c.family for c in table} == {"regression"}
    assert all(
        c.traits >= {jl.traits.convex, jl.traits.smooth}
        for c in jl.catalogue.find("convex", "smooth")
    )
