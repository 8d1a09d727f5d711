"""Precision: half is computed in single, double stays double."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from harness.calls import call, cast, gradient, strict, total, x64

from laws import law

# The losses whose body asks for the dtype that came: products, gathers and sorts of it.
READ_WHAT_CAME = (
    "contrastive.",
    "classification.multi_margin",
    "router.load_cv",
    "self_supervised.koleo",
    "self_supervised.swav",
)


@law()
@pytest.mark.parametrize("dtype", [jnp.bfloat16, pytest.param(jnp.float16, marks=pytest.mark.slow)])
def test_half_precision_is_computed_in_float32(setting, dtype):
    """The program is that of the widened inputs, so that its numbers need not be looked at.

    Some losses have a use for what came on GPU and TPU: of these the numbers are.
    """
    half = cast(setting, dtype)
    widened = lambda *data: call(setting)(
        *(x.astype(jnp.float32) if x.dtype == dtype else x for x in data)
    )
    got, expected = (jax.make_jaxpr(f)(*half) for f in (call(setting), widened))
    assert [x.dtype for x in got.out_avals] == [jnp.float32]
    if str(got) != str(expected):
        assert setting.info.name.startswith(READ_WHAT_CAME)
        values = (jax.jit(f)(*half) for f in (call(setting), widened))
        np.testing.assert_allclose(*values, rtol=1e-6)  # the temperature divides later
    slopes = jax.eval_shape(gradient(setting), *half)
    assert all(slope.dtype == dtype for slope in slopes)


@law()
def test_float64_stays_and_float32_does_not_widen(setting):
    """In value and gradient, with strict promotion: NumPy's rule sums int32 to int64, for one."""
    where = np.ones(setting.result_shape(), bool)
    words = {"where": where, "weights": np.ones(where.shape), "reduction": "mean"}
    with x64(), strict():
        function, floating = total(setting, cast(setting, np.float64), **words)
        derivatives = jax.value_and_grad(function, tuple(range(len(floating))))
        value, slopes = jax.eval_shape(derivatives, *floating)
        assert all(x.dtype == jnp.float64 for x in (value, *slopes))
        assert jax.eval_shape(call(setting), *setting.data()).dtype == jnp.float32


@law()
def test_float64_has_its_digits(setting):
    data, options = setting.data(), setting.options()
    options = {
        n: np.float64(v) if isinstance(v, np.ndarray) and v.dtype == np.float32 else v
        for n, v in options.items()
    }
    with x64():
        wide = [x.astype(np.float64) if x.dtype == np.float32 else x for x in data]
        got = jax.jit(call(setting, **options))(*wide)
        assert got.dtype == jnp.float64
        named = dict(zip(setting.info.data, wide, strict=True)) | options
        # A default such as 0.1 is another number in float32, which is what oracles reads it as.
        numbers = {n: v for n, v in setting.info.spec.defaults.items() if isinstance(v, float)}
        for index in ((1, 2), (0, 0)):
            expected = setting.case.oracle(**numbers | setting.examples(named, index))
            np.testing.assert_allclose(got[index], expected, rtol=1e-10, atol=1e-12)
