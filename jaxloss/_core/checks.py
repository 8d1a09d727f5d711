"""The switch that has values checked at run time.

Under `jit` nobody can look at values, so a loss never does: an out-of-range label gives NaN for
its example, in value and gradient, and that is all. To find out which label it was, run the same
code inside `with jaxloss.checks():`, or wrap a step with `jaxloss.checked`. Every argument is
then compared with its domain, under `jit`, `grad`, `vmap`, `scan` and `remat`, and an error names
the loss, the argument and the value. The switch is part of `jit`'s cache key: a function compiled
without checks is traced again with them, and off means off, down to the jaxpr.
"""

import contextlib
import functools
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

from jaxloss.domains import Domain

P = ParamSpec("P")
T = TypeVar("T")

_mode = jax.make_user_context("off")
_MARK = "jaxloss check failed: "


def _is_not_ours(record: logging.LogRecord) -> bool:
    """Whether a line of JAX's log is about something else than a check that failed."""
    return not (record.exc_info and _MARK in str(record.exc_info[1]))


# JAX logs a callback that raises, traceback and all, before it raises the error that we turn into
# one sentence.
logging.getLogger("jax._src.debugging").addFilter(_is_not_ours)


@contextlib.contextmanager
def checks(enabled: bool = True) -> Iterator[None]:
    """Has every loss called inside check the values of its arguments and of its result.

    Args:
        enabled: False switches checks off again inside a block that has them on.

    Raises:
        ValueError: At the first value outside its domain: it names loss, argument and value.

    Example:
        >>> import jaxloss as jl
        >>> with checks():
        ...     jl.classification.softmax_cross_entropy([0.0, 1.0, 2.0], 3)
        Traceback (most recent call last):
        ValueError: jaxloss.classification.softmax_cross_entropy: `labels` must be class ids \
from 0 to classes - 1 (classes = 3), got 3.
    """
    with _mode("on" if enabled else "off"):
        try:
            yield
            jax.effects_barrier()
        except jax.errors.JaxRuntimeError as error:
            # The error of a compiled program carries a traceback of the callback as text.
            found = re.search(re.escape(_MARK) + r"(.*)", str(error))
            if found is None:
                raise
            raise ValueError(found.group(1).replace(" (`check` failed)", "")) from None


def checked(step: Callable[P, T]) -> Callable[P, T]:
    """Wraps a function, jitted or not, so that every call of it runs with checks on.

    Args:
        step: Any function that calls losses: a training step, say.

    Returns:
        The same function; it waits for its result, and raises where a check fails.

    Raises:
        ValueError: From the call, at the first value outside its domain.

    Example:
        >>> import jax, jaxloss as jl
        >>> checked(jax.jit(jl.regression.squared_error))(jnp.nan, 1.0)
        Traceback (most recent call last):
        ValueError: jaxloss.regression.squared_error: `prediction` must be finite, got nan.
    """

    @functools.wraps(step)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        with checks():
            return jax.block_until_ready(step(*args, **kwargs))

    return run


def are_on() -> bool:
    """Whether values are checked here."""
    return _mode.value == "on"


def sizes_of(domain: Domain, context: Mapping[str, Any]) -> str:
    """The sizes of the axes that the meaning of a domain mentions, in brackets."""
    words = domain.meaning.split()
    sizes = [f"{n} = {size}" for n, size in context.items() if n in words and type(size) is int]
    return f" ({', '.join(sizes)})" if sizes else ""


def check(
    fun_name: str,
    what: str,
    domain: Domain,
    array: Array,
    context: Mapping[str, Any],
    unless: Array | bool = False,
) -> Array | bool:
    """Compares an array with its domain: at once if it is concrete, else when the program runs.

    Returns whether all is well; where `unless` holds, nobody complains if it is not.
    """
    holds, shown = domain.test(array, context)
    if holds.size == 0:
        return True
    message = f"{fun_name}: `{what}` must be {domain.meaning}{sizes_of(domain, context)}, got "
    place = f" at flat index {{index}} of shape {shown.shape}." if shown.ndim else "."
    first = jnp.argmin(holds)
    value = jax.lax.stop_gradient(jnp.ravel(shown)[first])
    all_hold = jnp.all(holds)
    fine = all_hold | unless

    def fail(fine: Array, value: Array, index: Array) -> None:
        if not fine:
            shortest = str(np.asarray(value))
            raise ValueError(f"{_MARK}{message}{shortest}{place.format(index=index)}")

    if not isinstance(fine, Tracer):
        if not fine:
            shortest = str(np.asarray(value))
            raise ValueError(f"{message}{shortest}{place.format(index=first)}")
        return all_hold
    from jax.experimental import checkify  # where it is needed: it is slow to import

    # Plain jit obeys the callback; checkify and chex.chexify obey the check, which jit drops.
    jax.debug.callback(fail, fine, value, first)
    literal = (_MARK + message).replace("{", "{{").replace("}", "}}")
    shown_at = {"index": first} if shown.ndim else {}
    checkify.debug_check(fine, literal + "{value}" + place, value=value, **shown_at)
    return all_hold
