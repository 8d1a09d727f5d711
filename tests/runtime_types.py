"""The type checker of `make suite`, which watches the private modules while the tests run."""

import numpy as np
from beartype import BeartypeConf, FrozenDict, beartype
from jax import Array

# An int may stand for a float, and for an array the literals that JAX makes of scalars.
check = beartype(
    conf=BeartypeConf(
        is_pep484_tower=True,
        hint_overrides=FrozenDict({Array: Array | float | np.ndarray}),
    )
)
