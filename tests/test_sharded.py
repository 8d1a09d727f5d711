"""Meshes: eight devices made of one CPU. The checks are in `meshes/`."""

import pathlib
import re

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from meshes import eight_devices, guarantees

from jaxloss import sharded

CHECKS = eight_devices.CHECKS | guarantees.CHECKS
PAGE = pathlib.Path(__file__).parents[1] / "docs" / "meshes.md"


@pytest.mark.mesh
@pytest.mark.slow
@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_on_eight_devices(check):
    assert jax.device_count() == 8, "eight devices are made unless pytest is given -m 'not slow'"
    check()


def test_a_share_of_labels_beyond_1_is_refused():
    loss = lambda x: sharded.softmax_cross_entropy(x, [0], axis_name="model", label_smoothing=1.5)
    mesh = jax.make_mesh((1,), ("model",), axis_types=(AxisType.Auto,))
    split = jax.shard_map(loss, mesh=mesh, in_specs=P(None, "model"), out_specs=P())
    message = "sharded.softmax_cross_entropy: `label_smoothing` must be between 0 and 1, got 1.5"
    with pytest.raises(ValueError, match=message):
        split(jnp.zeros((1, 3)))


@pytest.mark.mesh
@pytest.mark.slow
def test_the_snippets_of_the_page_on_meshes_run():
    names = {"__name__": "meshes"}
    for snippet in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL):
        exec(compile(snippet, "meshes.md", "exec"), names)
    assert names["loss"](*(names[n] for n in ("hidden", "weight", "labels")), names["labels"] == 0)


def test_the_page_has_a_row_for_each_guarantee():
    """And each row names a check that exists."""
    assert set(re.findall(r"\| `(\w+)` \|", PAGE.read_text())) == set(guarantees.CHECKS)
