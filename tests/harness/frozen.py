"""Values and gradients that `tests/oracles/freezing.py` has written, and comparisons with them."""

import functools
import json
import pathlib

import cases
import jax
import jax.numpy as jnp
import numpy as np

ORACLES = pathlib.Path(__file__).parents[1] / "oracles"


@functools.cache
def _evaluate(frozen, function, *arguments):
    """Value and gradient of ours; of peers that agree, it is one and the same."""
    with cases.x64():
        first, *others = (jnp.asarray(frozen.inputs[key]) for key in arguments)
        value, gradient = jax.jit(jax.value_and_grad(function))(first, *others)
    return float(value), np.ravel(gradient)


class Frozen:
    """A file of frozen losses of peers, in float64.

    Attributes:
        inputs: What the peers were given.
        losses: Value and gradient of each, by the name of the peer's.
    """

    def __init__(self, name):
        content = json.loads((ORACLES / f"{name}.json").read_text())
        self.inputs = {key: np.asarray(x) for key, x in content["inputs"].items()}
        self.losses = content["losses"]

    def check(self, name, function, *arguments, rtol):
        """Ours, of the inputs of these names, has the value and the gradient in the first one."""
        value, gradient = _evaluate(self, function, *arguments)
        expected = self.losses[name]
        np.testing.assert_allclose(value, expected["value"], rtol=rtol)
        if expected["gradient"] is not None:
            atol = rtol * np.max(np.abs(gradient))
            np.testing.assert_allclose(gradient, expected["gradient"], rtol=rtol, atol=atol)
