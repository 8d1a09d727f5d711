"""What the table for people who come from another library says is true, row by row.

The peers' values and gradients are frozen; none of the peers is needed here.
"""

import importlib
import json
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import peers
import pytest

import jaxloss as jl

FROZEN = json.loads(peers.FROZEN.read_text())
ROWS = [(peer, row) for peer, rows in peers.ROWS.items() for row in rows]
AGREEING = [(peer, row) for peer, row in ROWS if not row.truth]
DIFFERING = [(peer, row) for peer, row in ROWS if row.truth]
REMEDY = "run tests/oracles/make_peers.py where the peers are installed"


def label(x):
    return x if isinstance(x, str) else x.theirs


def ours(row):
    """Value and gradient of our side, in float64."""
    with jax.enable_x64(True):
        arrays = {name: jnp.asarray(x) for name, x in peers.INPUTS.items()}
        names = {"jl": jl, "jax": jax, "jnp": jnp, "np": np, "math": math, **arrays}
        code = compile(row.ours, row.ours, "eval")

        def evaluate(x):
            value, pull = jax.vjp(lambda x: eval(code, names | {row.argument: x}), x)
            return value, *pull(jnp.asarray(peers.cotangent(value)))

        value, gradient = jax.jit(evaluate)(arrays[row.argument])
        return np.asarray(value), np.asarray(gradient)


@pytest.mark.parametrize(("peer", "row"), AGREEING, ids=label)
def test_value_and_gradient_agree(peer, row):
    frozen = FROZEN["values"][peer][row.theirs]
    value, gradient = ours(row)
    np.testing.assert_allclose(value, frozen["value"], row.rtol, 1e-11)
    if frozen["gradient"] is not None:
        np.testing.assert_allclose(gradient, frozen["gradient"], row.rtol, 1e-11)


@pytest.mark.parametrize(("peer", "row"), DIFFERING, ids=label)
def test_ours_is_the_definition_where_the_peer_differs(peer, row):
    frozen = np.array(FROZEN["values"][peer][row.theirs]["value"])
    truth = eval(row.truth, {"np": np, "math": math, **peers.INPUTS})
    value, _ = ours(row)
    np.testing.assert_allclose(value, truth, 1e-9)
    assert row.note
    assert not np.allclose(frozen, truth, row.rtol, 0)


