"""Losses that have a form of their own on CPU where no derivative is taken: the values are equal."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxloss import classification, ranking

pytestmark = pytest.mark.few

ROWS = [
    ([0.3, -1.2, 2.0, 0.7], [0.25, 0.25, 0.4, 0.1]),
    ([200.0, 0.0, 0.0, 1.0], [1.0, 0.0, 0.0, 0.0]),  # certain
    ([200.0, 0.0, 0.0, 1.0], [0.0, 0.5, 0.5, 0.0]),  # certain, and wrong
    ([17.0, 0.0, -1.0, 0.0], [1.0, 0.0, 0.0, 0.0]),
    ([3.0, 3.0, 3.0, 1.0], [0.5, 0.0, 0.25, 0.25]),  # ties
    ([-np.inf, 0.0, 1.0, 0.0], [0.0, 0.5, 0.5, 0.0]),
    ([-np.inf, 0.0, 1.0, 0.0], [0.5, 0.5, 0.0, 0.0]),  # the label is impossible
    ([1.0, 2.0, 3.0, 0.0], [2.0, 0.0, 1.0, 0.5]),  # labels that do not sum to 1
    ([np.inf, 0.0, 1.0, 0.0], [1.0, 0.0, 0.0, 0.0]),
]


def logit_adjusted(logits, labels):
    counts = jnp.arange(1.0, 1 + logits.shape[-1])
    return classification.logit_adjusted(logits, labels, class_counts=counts)


LOSSES = [
    classification.softmax_cross_entropy,
    classification.poly1,
    classification.softmax_focal,
    ranking.poly1_softmax,
    logit_adjusted,
]


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.__name__)
def test_the_value_alone_is_that_beside_the_gradient(loss):
    logits, labels = jnp.asarray(ROWS, jnp.float32).swapaxes(0, 1)
    alone = jax.jit(loss)(logits, labels)
    beside, _ = jax.jit(jax.vmap(jax.value_and_grad(loss)))(logits, labels)
    np.testing.assert_allclose(alone, beside, rtol=5e-7)
