"""Losses over a set without the square of its similarities."""

import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxloss import contrastive

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
        lambda: [derivatives(chunk=chunk, where=where), derivatives(where=where)]
    )()
    chex.assert_trees_all_close(got, expected, rtol=2e-4, atol=2e-4)


@each
def test_sets_in_a_batch(name):
    x, y = (jnp.stack([a, -a[::-1], 2 * a + 1]) for a in draw())
    if name == "nt_xent":
        of = lambda x, y, **o: contrastive.nt_xent(x + y, jnp.stack(3 * [LABELS]), **o)
    else:
        of = lambda x, y, **o: LOSSES[name](x, y, 0.2, **o)
    chex.assert_trees_all_close(
        jax.jit(lambda: of(x, y, chunk=20))(), of(x, y), rtol=1e-5, atol=1e-5
    )


def test_confident_matches_keep_their_digits():
    x = jnp.eye(4)
    for loss in (contrastive.clip, contrastive.info_nce):
        got = loss(x, x, temperature=0.0125, chunk=2)
        np.testing.assert_allclose(got, 3 * np.exp(-80.0), rtol=1e-5)


@each
def test_no_square_exists(name):
    """For the values, the gradients, and the temporary memory of both."""
    struct = jax.ShapeDtypeStruct((1024, 16), "float32")
    labels = jnp.arange(1024) % 300

    def loss(x, y, t):
        if name == "nt_xent":
            return jnp.mean(contrastive.nt_xent(x, labels, temperature=t, chunk=32))
        return jnp.mean(LOSSES[name](x, y, t, chunk=32))

    function = jax.jit(jax.value_and_grad(loss, (0, 1, 2)))
    program = function.lower(struct, struct, jax.ShapeDtypeStruct((), "float32")).compile()
    shapes = re.findall(r"\w+\[([\d,]+)\]", program.as_text())
    assert max(np.prod([int(n) for n in s.split(",")]) for s in shapes) < 1024 * 1024 / 8
    assert program.memory_analysis().temp_size_in_bytes < 1024 * 1024 * 4 / 2


@pytest.mark.parametrize("chunk", [0, 2.5, "all"])
def test_what_is_no_chunk_is_refused(chunk):
    x, y = draw()
    for loss in (contrastive.clip, contrastive.siglip, contrastive.info_nce):
        with pytest.raises((ValueError, TypeError), match=f"{loss.__name__}: `chunk` is {chunk!r}"):
            loss(x, y, chunk=chunk)
