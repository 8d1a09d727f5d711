"""Calls that a type checker must accept."""

from typing import Unpack

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Real

import jaxloss as jl

jl.regression.huber(jnp.zeros(3), np.zeros(3), delta=2, where=jnp.ones(3, bool), reduction="mean")
jl.regression.huber([1.0, 2.0], 0.0, weights=[1, 2])
jl.classification.softmax_cross_entropy(
    jnp.zeros((2, 3)), [0, 1], axis=-1, mask=None, label_smoothing=0.1, class_weights=np.ones(3)
)
parts = jl.regression.squared_error(jnp.zeros(3), 0.0, reduction="parts")
print(parts.value, (parts + parts).total)
jax.grad(lambda x: jl.regression.mean_squared_error(x, 0.0))(jnp.zeros(3))


@jl.loss
def plain(prediction, target, *, factor=3.0):
    """A loss of one's own without annotations."""
    return factor * (prediction - target)


@jl.loss(jl.traits.convex, factor=jl.domains.positive)
def annotated(
    prediction: Real[jl.ArrayLike, "*batch"],
    target: Real[jl.ArrayLike, "*batch"],
    *,
    factor: Real[jl.ArrayLike, ""] = 3.0,
    **reduction: Unpack[jl.Reduction],
) -> Float[Array, "*batch"]:
    """A loss of one's own with annotations."""
    return factor * jnp.abs(prediction - target)


plain(1.0, 2.0, factor=2.0)


@jl.loss(elementwise=True, reduction="mean")
def declared(prediction, target):
    """A loss of one's own that is a function of each element."""
    return prediction - target


jl.classification.softmax_cross_entropy(jnp.zeros((2, 3, 4)), [0, 1], axis=(1, 2))
declared(1.0, 2.0)
annotated(1.0, 2.0, factor=2.0, reduction="sum", where=[True])
