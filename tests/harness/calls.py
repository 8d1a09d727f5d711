"""A loss as a function of its data, and other things that laws share."""

import contextlib
from collections.abc import Iterator
from typing import Any

import cases
import jax
import jax.numpy as jnp
import numpy as np
from cases import Setting


def call(setting: Setting, **words: Any):
    """The loss as a function of its data alone."""
    options = {"reduction": "none"} | setting.options() | words
    return lambda *data: setting.loss(*data, **options)


def arrays(setting: Setting) -> list[Any]:
    """Its data, as arrays of JAX."""
    return [jnp.asarray(x) for x in setting.data()]


def total(setting: Setting, data: Any = None, **words: Any):
    """A scalar function of the floating data, for derivatives; and the data it starts from."""
    data = setting.data() if data is None else data
    at = setting.floating()

    def function(*floating):
        replaced = dict(zip(at, floating, strict=True))
        return jnp.sum(call(setting, **words)(*(replaced.get(i, x) for i, x in enumerate(data))))

    return function, [jnp.asarray(data[i]) for i in at]


def gradient(setting: Setting, **words: Any):
    """The gradients of the sum with respect to the floating data, as a function of all data."""

    def of(*data):
        function, floating = total(setting, data, **words)
        return jax.grad(function, tuple(range(len(floating))))(*floating)

    return of


def directions(floating: Any) -> list[Any]:
    generator = np.random.default_rng(6)
    return [jnp.asarray(generator.normal(size=x.shape), x.dtype) for x in floating]


def cast(setting: Setting, dtype: Any) -> list[Any]:
    """Its data with the floats of another dtype, as NumPy arrays: those are cast uncompiled."""
    return [x.astype(dtype) if x.dtype == np.float32 else x for x in setting.data()]


@contextlib.contextmanager
def strict() -> Iterator[None]:
    """Promotion of ranks is an error, and so is that of dtypes."""
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        yield


x64 = cases.x64
