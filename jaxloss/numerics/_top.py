"""The largest logit of each row, and what is relative to it: of logits that may be a `DD`."""

from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxloss._xla import on_cpu, recompute_on_gpu
from jaxloss.numerics._double_double import DD, exp_shifted, finite
from jaxloss.numerics._online_sums import finite_top

T = TypeVar("T")
# Of logits that are a `DD`: the same, each computed from an unshared copy of what it is made of.
# XLA on GPU would write the low words, in float32, where they are read twice; the first copy is
# read for the label, the last for the gradient.
Copies = tuple[DD, ...]


def high_word(x: Any) -> Any:
    return x.hi if isinstance(x, DD) else x


def top_of_row(logits: Array | DD) -> Any:
    """The largest logit of each row; 0 for a row of -inf."""
    hi = high_word(logits)
    top = finite_words(lax.stop_gradient(jnp.max(hi, axis=-1, keepdims=True, initial=-jnp.inf)))
    if not isinstance(logits, DD):
        return top
    at_top = jnp.where(hi == top, logits.lo, -jnp.inf)
    return DD(top, finite(jnp.max(at_top, axis=-1, keepdims=True, initial=-jnp.inf)))


def finite_words(top: Any) -> Any:
    """The largest logit, and 0 if all are -inf."""
    return top._replace(hi=finite_top(top.hi)) if isinstance(top, DD) else finite_top(top)


def is_top(exps: Array, logits: Array | DD, top: Array | DD) -> Array:
    """Where the logit is the largest of its row; on CPU also where its exponential rounds to 1."""
    return on_cpu(_is_top_by_exps, _is_top_by_logits, exps, high_word(logits), high_word(top))


def _is_top_by_exps(exps: Array, _logits: Array, _top: Array) -> Array:
    return exps == 1


def _is_top_by_logits(_exps: Array, logits: Array, top: Array) -> Array:
    # On GPU what many terms need is written out, unless each can compute it cheaply.
    return logits == top


def below_top(top: Array | DD, logits: Array | DD) -> Array:
    """The top less the logits: at least 0, and 0 for +inf."""
    hi = high_word(logits)
    gap = jnp.where(hi == jnp.inf, 0, high_word(top) - hi)
    if not isinstance(logits, DD):
        return gap
    return gap - (logits.lo - top.lo if isinstance(top, DD) else logits.lo)


def of_rows(numbers: T) -> T:
    """Numbers of each row, in arrays that broadcast against the classes."""
    return jax.tree.map(lambda x: x[..., None], numbers)


def first_of(computed: Array, *_: Any) -> Array:
    return computed


def exps_again(_computed: Array, logits: Array | DD, top: Any) -> Array:
    return exp_shifted(logits, recompute_on_gpu(top))
