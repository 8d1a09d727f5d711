"""The error-free transformations: what is lost makes the result whole, whatever the compiler does.

Float64 holds the exact sum and product of the float32 numbers here. XLA merges constants across
additions, so every argument is tried as a constant too.
"""

import jax
import numpy as np
import pytest

from jaxloss.numerics._double_double import two_product, two_quotient, two_sum

pytestmark = pytest.mark.few

GENERATOR = np.random.default_rng(0)
X = (GENERATOR.normal(size=200) * 10.0 ** GENERATOR.uniform(-3, 3, 200)).astype(np.float32)

WAYS = {
    "eager": lambda function, a, b: function(jax.numpy.asarray(a), jax.numpy.asarray(b)),
    "compiled": lambda function, a, b: jax.jit(function)(a, b),
    "constant first": lambda function, a, b: jax.jit(lambda b: function(a, b))(b),
    "constant second": lambda function, a, b: jax.jit(lambda a: function(a, b))(a),
    "constants": lambda function, a, b: jax.jit(lambda: function(a, b))(),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("other", [1.0, 0.2, 5.0, X[::-1]], ids=["1", "0.2", "5", "array"])
@pytest.mark.parametrize(
    ("function", "exact"),
    [(two_sum, np.add), (two_product, np.multiply), (two_quotient, np.divide)],
)
def test_result_and_loss_make_the_exact_one(function, exact, other, way):
    # The first pair once more alone: scalars are folded where arrays are not.
    for a in (X, X[0], np.float32(0.2)):
        b = np.broadcast_to(np.float32(other), X.shape)[: np.size(a)].reshape(np.shape(a))
        rounded, lost = (np.float64(part) for part in way(function, a, b))
        error = np.abs(rounded + lost - exact(np.float64(a), np.float64(b)))
        assert np.all(error <= 2.0**-44 * np.abs(rounded))
        # A whole last place, not a half: XLA divides by a constant with its reciprocal.
        assert np.all(np.abs(lost) <= 2.0**-23 * np.abs(rounded))
