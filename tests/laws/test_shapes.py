"""Shapes: a batch, whatever its rank; what does not fit is refused; the axis moves."""

import chex
import jax
import numpy as np
import pytest
from cases import BATCH
from harness.calls import arrays, call

from laws import law


@law()
def test_a_batch_is_vmap_is_a_loop(setting):
    assert not set(setting.given) & setting.batched, "the first options of a row are shared"
    data, once = arrays(setting), jax.jit(call(setting))
    got = once(*data)
    mapped = jax.jit(jax.vmap(jax.vmap(call(setting))))(*data)
    chex.assert_trees_all_close(mapped, got, rtol=1e-6, atol=1e-7)
    looped = [once(*(x[index] for x in data)) for index in np.ndindex(BATCH)]
    np.testing.assert_allclose(np.reshape(looped, got.shape), got, rtol=1e-6, atol=1e-7)


@law()
def test_an_empty_batch_is_fine(setting):
    data = setting.data(batch=(0,))
    assert jax.eval_shape(call(setting), *data).shape == setting.result_shape((0,))
    assert jax.jit(call(setting, reduction="mean"))(*data) == 0


@law()
def test_wrong_shapes_are_refused(setting):
    data = setting.data()
    for i, name in enumerate(setting.info.data[1:], start=1):
        for wrong in (data[i][..., None], data[i][:1]):
            with pytest.raises(
                (ValueError, TypeError), match=f"{setting.info.name}: `{name}`.*expected"
            ):
                call(setting)(*data[:i], wrong, *data[i + 1 :])


@law(only=lambda setting: "axis" in setting.info.signature.parameters)
def test_axis_moves(setting):
    data = setting.data()
    moved = [
        np.moveaxis(x, -1, 1) if form.event else x
        for x, form in zip(data, setting.array_specs, strict=True)
    ]
    got = jax.jit(call(setting, axis=1))(*moved)
    chex.assert_trees_all_close(got, jax.jit(call(setting))(*data), rtol=1e-6, atol=1e-7)
    with pytest.raises(ValueError, match="`axis` is 7"):
        call(setting, axis=7)(*data)
