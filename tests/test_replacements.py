"""The page docs/replacements.md: each snippet runs, and has the frozen numbers of the function it replaces.

`tests/oracles/make_replacements.py` froze them; no other project is needed here.
"""

import json
import math
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxloss as jl

ROOT = pathlib.Path(__file__).parents[1]
pytestmark = pytest.mark.slow  # `make docs` runs them
FROZEN = json.loads((ROOT / "tests" / "oracles" / "replacements.json").read_text())
PAGE = (ROOT / "docs" / "replacements.md").read_text()
SECTIONS = {
    re.sub(r"`(\w+)` of (\w+)", r"\2_\1", heading).lower(): re.findall(
        r"```python\n(.*?)```", text, re.DOTALL
    )
    for heading, text in re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE)
}
MEASURED = json.loads((ROOT / "tests" / "oracles" / "replacements_measured.json").read_text())
SAVED = "what is saved"
PEERS = [name for name in FROZEN if name != "commits"]


def inputs(name):
    arrays = {key: jnp.asarray(x) for key, x in FROZEN[name]["inputs"].items()}
    return {"jl": jl, "jax": jax, "jnp": jnp, "constant": entropy_of_smoothed_labels()} | arrays


def entropy_of_smoothed_labels():
    return -(0.9 * math.log(0.9) + 0.1 * math.log(0.1 / 6))


def run(name, **given):
    """What the snippets of a section define."""
    space = inputs(name) | given
    for code in SECTIONS[name]:
        exec(code, space)
    return space


def same(got, expected):
    np.testing.assert_allclose(got, np.asarray(expected, float), rtol=2e-5, atol=2e-6)


def value(name, key="loss", variable="loss", **given):
    same(run(name, **given)[variable], FROZEN[name]["values"][key])


def gradient(name, *of, variable="loss", **given):
    """The gradients of what the snippets compute, in the inputs that are named."""
    arrays = inputs(name)

    def total(*x):
        return jnp.sum(run(name, **given, **dict(zip(of, x, strict=True)))[variable])

    return jax.grad(total, tuple(range(len(of))))(*(arrays[key] for key in of))


def others(name):
    return FROZEN[name]["others"]


def test_the_page_has_a_section_for_each_frozen_function_and_short_snippets():
    assert set(SECTIONS) - {SAVED} == set(PEERS)
    for code in (code for codes in SECTIONS.values() for code in codes):
        assert len(code.splitlines()) <= 5


def test_the_table_of_what_is_saved_is_what_was_measured():
    section = PAGE[PAGE.index("## What is saved") : PAGE.index("## `compute_gae` of brax")]
    rows = re.findall(r"^\| `(\w+)` of (\w+) \| (.*) \|$", section, re.MULTILINE)
    table = {f"{project}_{function}".lower(): row for function, project, row in rows}
    assert set(table) == set(MEASURED)
    for name, found in MEASURED.items():
        row = table[name]
        theirs, ours = found["lines"]
        assert row.startswith(f"{theirs} / {ours} |")
        assert ours == sum(len(code.splitlines()) for code in SECTIONS[name])
        for size in found["temporaries"].values():
            assert f"{size / 2**20:.0f} MiB" in row


def test_gae_of_brax():
    found = run("brax_compute_gae")
    kept = ~found["truncation"]
    same(jnp.where(kept, found["target"], 0), FROZEN["brax_compute_gae"]["values"]["target"])
    value("brax_compute_gae", "advantage", "advantage")


def test_advantages_of_brax_are_those_of_gae_for_a_trace_of_one_only():
    found = run("brax_compute_gae")
    kept, ends = ~found["truncation"].T, found["termination"].T
    following = found["following"].T

    def advantage(trace):
        return jl.policy.gae(
            found["rewards"].T, found["values"].T, following, trace=trace, terminal=ends, mask=kept
        ).advantage.T

    same(advantage(1.0), others("brax_compute_gae")["advantage of lambda 1"])
    assert np.abs(advantage(0.95) - found["advantage"]).max() > 0.01


def test_ppo_loss_of_brax():
    name = "brax_compute_ppo_loss"
    value(name)
    for got, expected in zip(
        gradient(name, "log_prob", "values"), FROZEN[name]["values"]["gradients"], strict=True
    ):
        same(got, expected)


def test_clip_loss_of_stoix():
    name = "stoix_ppo_clip_loss"
    value(name)
    same(gradient(name, "log_prob")[0], FROZEN[name]["values"]["gradient"])
    assert np.isnan(others(name)["gradient at a log-ratio of 200"]).all()
    assert jax.grad(jl.policy.clipped)(200.0, 0.0, 1.0) == 0


def test_grpo_of_tunix():
    name = "tunix_grpo_loss_fn"
    found, frozen = run(name), FROZEN[name]["values"]
    same(found["loss"], frozen["losses"]["grpo"])
    same(gradient(name, "log_prob")[0], frozen["gradient"])
    width = found["mask"].shape[-1]
    for kind, options in {
        "dapo": {"per": "token"},
        "luspo": {"per": "sequence_sum"},
        "dr_grpo": {"per": "sequence_sum", "length": width},
    }.items():
        mean = jl.policy.token_mean(found["tokens"], found["mask"], **options)
        same(mean.value, frozen["losses"][kind])


def test_where_tunix_has_nan_or_zero():
    name = "tunix_grpo_loss_fn"
    mask, log_prob = (inputs(name)[key] for key in ("mask", "log_prob"))
    assert np.isnan(others(name)["loss with NaN as padding"])
    assert others(name)["KL at a log-ratio of 1e-4"] == [0.0]
    found = run(name, log_prob=jnp.where(mask, log_prob, jnp.nan))
    same(found["loss"], FROZEN[name]["values"]["losses"]["grpo"])
    np.testing.assert_allclose(jl.policy.kl_estimate(0.0, 1e-4), 5e-9 + 1e-12 / 6, rtol=1e-6)


def test_load_balance_of_maxtext():
    name = "maxtext_load_balance_loss"
    value(name)
    same(gradient(name, "logits")[0], FROZEN[name]["values"]["gradient"])
    assert others(name)["at an even spread"] == 2  # of k = 2 experts a token


def test_dpo_of_trl():
    name = "trl_dpo_loss"
    arrays = inputs(name)
    pair = [arrays[key] for key in ("chosen", "rejected", "reference_chosen", "reference_rejected")]
    losses = FROZEN[name]["values"]["losses"]
    same(run(name)["loss"], losses["sigmoid 0.0"])
    same(jl.preference.dpo(*pair, label_smoothing=0.1), losses["sigmoid 0.1"])
    same(jl.preference.dpo(*pair, label_smoothing=0.1, robust=True), losses["robust 0.1"])
    same(jl.preference.hinge_dpo(*pair, beta=0.1), losses["hinge 0.0"])
    same(gradient(name, "chosen")[0], FROZEN[name]["values"]["gradient"])


@pytest.mark.parametrize("name", ["t5x_compute_weighted_cross_entropy", "axlearn_cross_entropy"])
def test_cross_entropies(name):
    value(name)
    same(gradient(name, "logits")[0], FROZEN[name]["values"]["gradient"])


def test_a_label_that_is_too_large_is_padding_in_axlearn_and_nan_here():
    (frozen,) = others("axlearn_cross_entropy").values()
    same(frozen, math.log(3))
    loss = jl.classification.softmax_cross_entropy(np.zeros((2, 3)), [0, 3], reduction="mean")
    assert np.isnan(loss)


def test_contrastive_loss_of_big_vision():
    name = "big_vision_bidirectional_contrastive_loss"
    value(name)
    same(gradient(name, "images")[0], FROZEN[name]["values"]["gradient"])
    mask = inputs(name)["mask"]

    def masked(images):
        arrays = images, inputs(name)["texts"]
        return jl.contrastive.clip(*arrays, temperature=0.1, where=mask, reduction="mean")

    loss, slopes = jax.value_and_grad(masked)(inputs(name)["images"])
    same(loss, others(name)["loss with a mask"])
    same(slopes, others(name)["gradient with a mask"])


def test_next_token_loss_of_levanter():
    name = "levanter_maybe_fused_next_token_loss"
    value(name)
    for got, expected in zip(
        gradient(name, "hidden", "weight"), FROZEN[name]["values"]["gradients"], strict=True
    ):
        same(got, expected)


def test_where_blocks_of_levanter_are_wrong():
    """The gradient of a soft cap, and classes that are no whole number of blocks."""
    name, found = (
        "levanter_maybe_fused_next_token_loss",
        others("levanter_maybe_fused_next_token_loss"),
    )
    space = run(name)
    data, where = (space[key] for key in ("hidden", "weight", "labels")), space["where"]
    hidden, weight, labels = data

    def loss(hidden, weight, labels, **options):
        return jl.linear.softmax_cross_entropy(
            hidden, weight, labels, where=where, reduction="mean", chunk_size=(6, 4), **options
        )

    for got, expected, wrong in zip(
        jax.grad(loss, (0, 1))(hidden, weight, labels, softcap=1.0),
        found["gradient with a soft cap"],
        found["gradient with a soft cap and blocks"],
        strict=True,
    ):
        same(got, expected)
        assert np.abs(got - np.asarray(wrong)).max() > 1e-3
    few = loss(hidden, weight[:, :7], jnp.roll(space["tokens"] % 7, -1, axis=1))
    same(few, found["loss of 7 classes"])
    assert found["loss of 7 classes in blocks of 4"] - few > 0.2
