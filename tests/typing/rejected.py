"""Calls that a type checker must reject, one a line; a test counts the errors."""

import jax.numpy as jnp

import jaxloss as jl

jl.regression.huber(jnp.zeros(3), jnp.zeros(3), reduction="avg")  # no such reduction
jl.regression.huber(jnp.zeros(3), jnp.zeros(3), wher=None)  # no such keyword
jl.regression.huber(jnp.zeros(3))  # the target is missing
jl.regression.huber(jnp.zeros(3), jnp.zeros(3), 2.0)  # options are given by name
jl.regression.squared_error(jnp.zeros(3), jnp.zeros(3), delta=1.0)  # not its option
jl.regression.squared_error(jnp.zeros(3), jnp.zeros(3), axis=1)  # elementwise: no axis
jl.classification.z_loss(jnp.zeros(3), axis="last")  # an integer, or several
jl.classification.hinge(jnp.zeros(3), jnp.ones(3), zero_one_labels="yes")  # a bool
