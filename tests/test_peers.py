"""Every row of `tests/peers` is true: our expression has the frozen value and gradient of the peer.

No peer is needed here. All rows are one program, and their inputs are its constants, so that XLA
evaluates most of it while it compiles; compiling kernels for it takes twice as long.
"""

import functools
import json
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import peers
import pytest

import jaxloss as jl
from tools import coming_from

FROZEN = json.loads(peers.FROZEN.read_text())
ROWS = [(peer.name, row) for peer in peers.PEERS.values() for row in peer.rows]
REMEDY = "run tests/oracles/make_peers.py where the peers are installed"


def evaluate(row):
    """Value and gradient of our expression."""
    names = {"jl": jl, "jax": jax, "jnp": jnp, "np": np, "math": math}
    names |= {name: jnp.asarray(x) for name, x in peers.INPUTS.items()}
    of = lambda x: eval(row.ours, names | {row.argument: x})
    value, vjp_fn = jax.vjp(of, names[row.argument])
    return value, *vjp_fn(jnp.asarray(peers.cotangent(value)))


@functools.cache
def results():
    """Of each row value and gradient in float64, or the error that it raised."""
    errors = {}

    def evaluate_all():
        found = {}
        for peer, row in ROWS:
            try:
                found[peer, row.theirs] = evaluate(row)
            except Exception as error:  # reported with its row
                errors[peer, row.theirs] = error
        return found

    with jax.enable_x64(True):
        quickly = {"xla_backend_optimization_level": "0"}
        program = jax.jit(evaluate_all).lower().compile(compiler_options=quickly)
        return jax.tree.map(np.asarray, program()) | errors


def check(rows, compare):
    """Fails with all rows that are wrong."""
    wrong = []
    for peer, row in rows:
        result = results()[peer, row.theirs]
        try:
            if isinstance(result, Exception):
                raise result
            compare(row, FROZEN["values"][peer][row.theirs], *result)
        except Exception as error:  # reported with its row
            wrong.append(f"{row.theirs}\n{row.ours}\n{type(error).__name__}: {error}")
    if wrong:
        pytest.fail("\n\n".join(wrong), pytrace=False)


@pytest.mark.slow
def test_values_and_gradients_agree():
    def compare(row, frozen, value, gradient):
        np.testing.assert_allclose(value, frozen["value"], row.rtol, row.rtol * 1e-2)
        if frozen["gradient"] is not None:
            np.testing.assert_allclose(gradient, frozen["gradient"], row.rtol, row.rtol * 1e-2)

    check([(peer, row) for peer, row in ROWS if not row.truth], compare)


@pytest.mark.slow
def test_where_a_peer_differs_ours_is_the_definition():
    def compare(row, frozen, value, gradient):
        truth = eval(row.truth, {"np": np, "math": math, **peers.INPUTS})
        np.testing.assert_allclose(value, truth, 1e-9)
        theirs = np.array(frozen["value"])
        assert not np.allclose(theirs, truth, 1e-9, 0, equal_nan=True), "the peer agrees"
        assert row.note, "write a note about the difference"

    check([(peer, row) for peer, row in ROWS if row.truth], compare)


@pytest.mark.parametrize("peer", peers.PEERS.values(), ids=lambda peer: peer.name)
def test_frozen_values_belong_to_the_rows(peer):
    frozen = {
        theirs: (entry["argument"], entry["inputs"])
        for theirs, entry in FROZEN["values"][peer.name].items()
    }
    assert frozen == {row.theirs: (row.argument, row.inputs) for row in peer.rows}, REMEDY


@pytest.mark.parametrize("peer", peers.PEERS.values(), ids=lambda peer: peer.name)
def test_every_public_name_of_a_peer_has_a_row_or_a_reason(peer):
    used = set(re.findall(r"\w+", " ".join(row.theirs for row in peer.rows)))
    missing = set(FROZEN["names"][peer.name]) - used - set(peer.gaps)
    assert not missing, f"no row in tests/peers/{peer.name}.toml, and no reason under [gaps]"


def test_pages_are_current():
    for path, text in coming_from.pages().items():
        assert path.read_text() == text, "run `make readme`"
