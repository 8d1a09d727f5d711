"""DPO and GRPO from hidden states: the plain form in value and gradient, in the memory of a block."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxloss import linear, policy, preference

pytestmark = pytest.mark.few

SEQUENCES, LENGTH, DIM, CLASSES = 4, 8, 6, 37


def draw():
    generator = np.random.default_rng(0)
    hidden = generator.normal(size=(SEQUENCES, LENGTH, DIM)).astype(np.float32)
    weight = generator.normal(size=(DIM, CLASSES)).astype(np.float32)
    tokens = generator.integers(0, CLASSES, (SEQUENCES, LENGTH)).astype(np.int32)
    mask = np.arange(LENGTH)[None] < np.array([8, 3, 5, 1])[:, None]
    tokens[~mask] = -100
    return hidden, weight, tokens, mask


def plain(hidden, weight, tokens):
    """Log-probabilities and entropies of all tokens, from all logits."""
    log_p = jax.nn.log_softmax(hidden @ weight)
    of_token = jnp.take_along_axis(log_p, jnp.maximum(tokens, 0)[..., None], axis=-1)[..., 0]
    return of_token, -jnp.sum(jnp.exp(log_p) * log_p, axis=-1)


def dpo(log_prob, mask):
    chosen, rejected = jnp.split(preference.sequence_log_probability(log_prob, mask=mask), 2)
    reference = jnp.array([-9.0, -30.0])
    return preference.dpo(chosen, rejected, reference, reference[::-1], reduction="mean")


def grpo(log_prob, entropy, mask):
    """The ratios of the first two sequences are clipped for some tokens."""
    advantage = jnp.broadcast_to(jnp.array([1.0, -0.5, 2.0, 0.3])[:, None], mask.shape)
    old = jax.lax.stop_gradient(log_prob) + jnp.linspace(-0.5, 0.5, mask.size).reshape(mask.shape)
    loss = policy.clipped(log_prob, old, advantage, high=0.28)
    return policy.token_mean(loss - 0.01 * entropy, mask, per="sequence").value


@pytest.mark.parametrize("way", ["fastest", "least_memory"])
def test_dpo_is_that_of_all_logits(way):
    hidden, weight, tokens, mask = draw()
    words = {"where": mask, "policy": way, "chunk_size": (5, 8)}
    ours = lambda h, w: dpo(linear.log_probabilities(h, w, tokens, **words), mask)
    theirs = lambda h, w: dpo(plain(h, w, tokens)[0], mask)
    got, expected = jax.jit(lambda *x: [jax.value_and_grad(f, (0, 1))(*x) for f in (ours, theirs)])(
        hidden, weight
    )
    chex.assert_trees_all_close(got, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("way", ["fastest", "least_memory"])
def test_grpo_with_an_entropy_bonus_is_that_of_all_logits(way):
    hidden, weight, tokens, mask = draw()

    def ours(hidden, weight):
        found = linear.statistics(hidden, weight, tokens, where=mask, policy=way, chunk_size=(5, 8))
        return grpo(found.log_probability, found.entropy, mask)

    theirs = lambda h, w: grpo(*plain(h, w, tokens), mask)
    got, expected = jax.jit(lambda *x: [jax.value_and_grad(f, (0, 1))(*x) for f in (ours, theirs)])(
        hidden, weight
    )
    chex.assert_trees_all_close(got, expected, rtol=1e-5, atol=1e-6)


def temporary(loss, classes, rows=512, dim=8):
    struct = jax.ShapeDtypeStruct
    shape = (4, rows // 4)
    data = struct((*shape, dim), "f4"), struct((dim, classes), "f4"), struct(shape, "i4")
    program = jax.jit(jax.grad(loss, (0, 1))).lower(*data).compile()
    return program.memory_analysis().temp_size_in_bytes


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dpo", "grpo"])
def test_memory_does_not_grow_with_the_vocabulary(name):
    """But for copies of the weight, [8, classes]; all logits would be 512 x classes."""
    words = {"policy": "least_memory", "chunk_size": (128, 512)}

    def fused(hidden, weight, tokens):
        mask = tokens >= 0
        words_here = words | {"where": mask}
        if name == "dpo":
            return dpo(linear.log_probabilities(hidden, weight, tokens, **words_here), mask)
        found = linear.statistics(hidden, weight, tokens, **words_here)
        return grpo(found.log_probability, found.entropy, mask)

    narrow, wide = (temporary(fused, classes) for classes in (4096, 65536))
    assert narrow < 8 * 128 * 512 * 4 + 4 * 8 * 4096 * 4
    assert wide - narrow < 4 * 8 * (65536 - 4096) * 4
    assert wide < 512 * 65536 * 4 / 10
