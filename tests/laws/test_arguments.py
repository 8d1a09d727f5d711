"""Arguments: what comes in, and what changes without another trace."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from harness.calls import arrays, call
from harness.programs import is_static

from laws import law


@law()
def test_any_array_like_will_do(setting):
    data = setting.data()
    expected = jax.jit(call(setting))(*data)
    lists = call(setting)(*(x.tolist() for x in data))  # eager, as a newcomer calls it
    assert lists.dtype == expected.dtype == jnp.float32
    assert not lists.weak_type
    chex.assert_trees_all_close(lists, expected, rtol=2e-6, atol=1e-6)
    wide = {np.dtype(np.float32): np.float64, np.dtype(np.int32): np.int64}
    got = call(setting)(*(x.astype(wide.get(x.dtype, x.dtype)) for x in data))
    chex.assert_trees_all_close(got, expected, rtol=2e-6, atol=1e-6)


@law()
def test_what_is_no_number_is_refused(setting):
    data = dict(zip(setting.info.data, setting.data(), strict=True))
    for name, x in data.items():
        for wrong, message in ((x.astype(complex), ""), ("one", " holds text")):
            with pytest.raises(TypeError, match=f"{setting.info.name}: `{name}`{message}"):
                setting.loss(**data | {name: wrong}, **setting.options())


@law()
def test_one_trace_however_the_numbers_change(setting):
    options = {"reduction": "none"} | setting.options()
    numeric = {n: jnp.asarray(v) for n, v in options.items() if not is_static(v)}
    fixed = {n: v for n, v in options.items() if n not in numeric}

    @jax.jit
    @chex.assert_max_traces(n=1)
    def jitted(data, numeric):
        return setting.loss(*data, **numeric, **fixed)

    chex.clear_trace_counter()
    data = arrays(setting)
    jitted(data, numeric)
    halved = [x / 2 if x.dtype == jnp.float32 else x for x in data]
    jitted(halved, {n: v if v.dtype == bool else 0.9 * v for n, v in numeric.items()})
