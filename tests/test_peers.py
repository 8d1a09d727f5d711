"""What the page for people who come from another library says is true, row by row.

The peers' values and gradients are frozen, so that none of the peers is needed here. All rows of
a peer are compiled as one program, which is several times quicker than one by one.
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

FROZEN = json.loads(peers.FROZEN.read_text())
REMEDY = "run tests/oracles/make_peers.py where the peers are installed"


@functools.cache
def ours(peer):
    """Of each row, value and gradient of our side in float64, or the error it raised."""
    rows = peers.ROWS[peer]

    def evaluate(row, arrays):
        names = {"jl": jl, "jax": jax, "jnp": jnp, "np": np, "math": math, **arrays}
        of = lambda x: eval(row.ours, names | {row.argument: x})
        value, pull = jax.vjp(of, arrays[row.argument])
        return value, *pull(jnp.asarray(peers.cotangent(value)))

    errors = {}

    def evaluate_all(arguments):
        results = {}
        for row in rows:
            x = arguments[row.argument]
            try:
                results[row.theirs] = evaluate(row, arrays | {row.argument: x})
            except Exception as error:
                errors[row.theirs] = error
        return results

    with jax.enable_x64(True):
        arrays = {name: jnp.asarray(x) for name, x in peers.INPUTS.items()}
        program = jax.jit(evaluate_all).lower({r.argument: arrays[r.argument] for r in rows})
        quickly = {"xla_backend_optimization_level": "0"}
        results = program.compile(compiler_options=quickly)(
            {r.argument: arrays[r.argument] for r in rows}
        )
    return jax.tree.map(np.asarray, results), errors


def check(peer, rows, compare):
    """Fails with what is wrong in which rows."""
    results, errors = ours(peer)
    wrong = []
    for row in rows:
        try:
            if row.theirs in errors:
                raise errors[row.theirs]
            compare(row, FROZEN["values"][peer][row.theirs], *results[row.theirs])
        except Exception as error:
            wrong.append(f"{row.theirs}\n{row.ours}\n{type(error).__name__}: {error}")
    if wrong:
        pytest.fail("\n\n".join(wrong), pytrace=False)


@pytest.mark.slow
@pytest.mark.parametrize("peer", peers.ROWS)
def test_values_and_gradients_agree(peer):
    def compare(row, frozen, value, gradient):
        rtol = max(row.rtol, peers.RTOL.get(peer, 0))
        np.testing.assert_allclose(value, frozen["value"], rtol, rtol * 1e-2)
        if frozen["gradient"] is not None:
            np.testing.assert_allclose(gradient, frozen["gradient"], rtol, rtol * 1e-2)

    rows = [row for row in peers.ROWS[peer] if not row.truth]
    check(peer, rows, compare)


@pytest.mark.slow
@pytest.mark.parametrize("peer", peers.ROWS)
def test_where_a_peer_differs_ours_is_the_definition(peer):
    def compare(row, frozen, value, gradient):
        truth = eval(row.truth, {"np": np, "math": math, **peers.INPUTS})
        np.testing.assert_allclose(value, truth, 1e-9)
        theirs = np.array(frozen["value"])
        assert not np.allclose(theirs, truth, 1e-9, 0, equal_nan=True), "the peer agrees"
        assert row.note, "say what the difference is"

    rows = [row for row in peers.ROWS[peer] if row.truth]
    check(peer, rows, compare)


@pytest.mark.parametrize("peer", peers.ROWS)
def test_frozen_values_belong_to_the_rows(peer):
    frozen = {
        theirs: (entry["argument"], entry["inputs"])
        for theirs, entry in FROZEN["values"][peer].items()
    }
    assert frozen == {row.theirs: (row.argument, row.inputs) for row in peers.ROWS[peer]}, REMEDY


@pytest.mark.parametrize("peer", peers.ROWS)
def test_every_public_name_of_a_peer_has_a_row_or_a_reason(peer):
    used = set(re.findall(r"\w+", " ".join(row.theirs for row in peers.ROWS[peer])))
    missing = set(FROZEN["names"][peer]) - used - set(peers.GAPS[peer])
    assert not missing, "no row in tests/peers.py, and no reason in GAPS"


def test_page_is_current():
    assert peers.PAGE.read_text() == peers.page(), "run `python tests/peers.py`"
