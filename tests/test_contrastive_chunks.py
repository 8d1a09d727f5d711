"""Losses over a set without the square of its similarities."""

import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxloss import contrastive

pytestmark = pytest.mark.few

LABELS = jnp.arange(60) % 7
LOSSES = {
    "info_nce": lambda x, y, t, **o: contrastive.info_nce(x, y, temperature=t, **o),
    "clip": lambda x, y, t, **o: contrastive.clip(x, y, temperature=t, **o),
    "siglip": lambda x, y, t, **o: contrastive.siglip(x, y, temperature=t, bias=-3.0, **o),
    "nt_xent": lambda x, y, t, **o: contrastive.nt_xent(x + y, LABELS, temperature=t, **o),
}
each = pytest.mark.parametrize("name", LOSSES)


def draw(size=60, dim=5, seed=0):
    generator = np.random.default_rng(seed)
    return tuple(jnp.asarray(generator.normal(size=(size, dim)), jnp.float32) for _ in range(2))


@each
@pytest.mark.parametrize("chunk", [16, pytest.param(60, marks=pytest.mark.slow), 1000])
def test_chunks_change_nothing(name, chunk):
    """Values, gradients for arbitrary cotangents, both second derivatives; 16 does not divide."""
    x, y = draw()
    where = jnp.arange(60) % 5 > 0
    cotangent = jnp.asarray(np.random.default_rng(1).normal(size=60), jnp.float32)

    def derivatives(**options):
        f = lambda x, y, t: jnp.vdot(LOSSES[name](x, y, t, **options), cotangent)
        grad, tangents = jax.grad(f, (0, 1, 2)), (y, x, jnp.float32(0.3))
        along = lambda *primals: jax.jvp(f, primals, tangents)[1]
        primals = x, y, jnp.float32(0.2)
        return (
            LOSSES[name](*primals, **options),
            grad(*primals),
            along(*primals),
            jax.jvp(grad, primals, tangents)[1],
            jax.grad(along, (0, 1, 2))(*primals),
        )

    got, expected = jax.jit(
        lambda: [derivatives(chunk_size=chunk, where=where), derivatives(where=where)]
    )()
    chex.assert_trees_all_close(got, expected, rtol=2e-4, atol=2e-4)


@each
@pytest.mark.parametrize(
    "reduction", ["mean", *(pytest.param(r, marks=pytest.mark.slow) for r in ("sum", "parts"))]
)
def test_a_reduced_loss_changes_nothing(name, reduction):
    """It takes another way, since its cotangents are known: derivatives also in the weights."""
    x, y = draw()
    where = jnp.arange(60) % 5 > 0
    weights = jnp.asarray(np.random.default_rng(1).uniform(size=60), jnp.float32)

    def derivatives(**options):
        def f(x, y, t, weights):
            how = {"weights": weights, "where": where, "reduction": reduction} | options
            found = LOSSES[name](x, y, t, **how)
            return found.total / found.weight**2 if reduction == "parts" else found

        primals = x, y, jnp.float32(0.2), weights
        tangents = y, x, jnp.float32(0.3), weights[::-1]
        along = lambda *primals: jax.jvp(f, primals, tangents)[1]
        grad = jax.value_and_grad(f, (0, 1, 2, 3))
        return grad(*primals), jax.jvp(grad, primals, tangents)[1], jax.grad(along, 1)(*primals)

    got, expected = jax.jit(lambda: [derivatives(chunk_size=16), derivatives()])()
    chex.assert_trees_all_close(got, expected, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize(
    ("name", "reduction", "products"),
    [("siglip", "mean", 3), ("info_nce", "sum", 3), ("siglip", "none", 4), ("clip", "mean", 4)],
)
def test_products_of_matrices(name, reduction, products):
    """A loop for the value and all gradients, where no cotangent is to come and no column top."""
    x, y = draw(64)
    of = lambda x, y: jnp.sum(LOSSES[name](x, y, 0.2, chunk_size=16, reduction=reduction))
    text = jax.jit(jax.value_and_grad(of, (0, 1))).lower(x, y).compile().as_text()
    assert text.count(" dot(") == products


@each
def test_sets_in_a_batch(name):
    x, y = (jnp.stack([a, -a[::-1], 2 * a + 1]) for a in draw())
    if name == "nt_xent":
        of = lambda x, y, **o: contrastive.nt_xent(x + y, jnp.stack(3 * [LABELS]), **o)
    else:
        of = lambda x, y, **o: LOSSES[name](x, y, 0.2, **o)
    values = of(x, y)
    got = jax.jit(lambda: [of(x, y, chunk_size=20), of(x, y, chunk_size=20, reduction="mean")])()
    chex.assert_trees_all_close(got, [values, jnp.mean(values)], rtol=1e-5, atol=1e-5)


def test_confident_matches_keep_their_digits():
    x = jnp.eye(4)
    for loss in (contrastive.clip, contrastive.info_nce):
        got = loss(x, x, temperature=0.0125, chunk_size=2)
        np.testing.assert_allclose(got, 3 * np.exp(-80.0), rtol=1e-5)


@each
def test_no_square_exists(name):
    """For the values, the gradients, and the temporary memory of both."""
    struct = jax.ShapeDtypeStruct((1024, 16), "float32")
    labels = jnp.arange(1024) % 300

    def loss(x, y, t):
        if name == "nt_xent":
            return jnp.mean(contrastive.nt_xent(x, labels, temperature=t, chunk_size=32))
        return jnp.mean(LOSSES[name](x, y, t, chunk_size=32))

    function = jax.jit(jax.value_and_grad(loss, (0, 1, 2)))
    program = function.lower(struct, struct, jax.ShapeDtypeStruct((), "float32")).compile()
    shapes = re.findall(r"\w+\[([\d,]+)\]", program.as_text())
    assert max(np.prod([int(n) for n in s.split(",")]) for s in shapes) < 1024 * 1024 / 8
    assert program.memory_analysis().temp_size_in_bytes < 1024 * 1024 * 4 / 2


@pytest.mark.parametrize(("name", "most"), [("siglip", 2.5), ("info_nce", 2.5), ("clip", 3.5)])
def test_memory_is_that_of_few_arrays_as_large_as_a_set(name, most):
    """Vectors of length 1 of the right and a chunk's part of their gradient; none of the left."""
    struct = jax.ShapeDtypeStruct((1024, 512), "float32")
    of = lambda x, y: LOSSES[name](x, y, 0.2, chunk_size=16, reduction="mean")
    program = jax.jit(jax.value_and_grad(of, (0, 1))).lower(struct, struct).compile()
    assert program.memory_analysis().temp_size_in_bytes < most * 4 * 1024 * 512


@pytest.mark.parametrize("chunk", [0, 2.5, "all"])
def test_what_is_no_chunk_is_refused(chunk):
    x, y = draw()
    for loss in (contrastive.clip, contrastive.siglip, contrastive.info_nce):
        with pytest.raises(
            (ValueError, TypeError), match=f"{loss.__name__}: `chunk_size` is {chunk!r}"
        ):
            loss(x, y, chunk_size=chunk)


@each
def test_chunks_lose_nothing_in_float16(name):
    """Gradients of a mean, scaled or not: they are stored in float32 until they are divided."""
    x, y = (a.astype(jnp.float16) for a in draw())
    for scale in (1.0, 2.0**12):

        def slopes(scale=scale, **options):
            f = lambda x, y: jnp.mean(LOSSES[name](x, y, 0.3, **options))
            return jax.vjp(f, x, y)[1](jnp.float32(scale))

        got, expected = jax.jit(lambda s=slopes: (s(chunk_size=16), s()))()
        for ours, theirs in zip(got, expected, strict=True):
            assert ours.dtype == jnp.float16
            np.testing.assert_allclose(ours, theirs, rtol=2e-3, atol=2.0**-24)
