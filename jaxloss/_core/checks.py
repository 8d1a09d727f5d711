"""The switch that has values checked at run time.

Under `jit` the values are not known while a program is traced, so a loss cannot raise for them: a
label out of range gives NaN for its example, in value and gradient. To find out which label it
was, run the same code inside `with jaxloss.checks():`, or wrap a step with `jaxloss.checked`.
Every argument is then compared with its domain, under `jit`, `grad`, `vmap`, `scan`, `remat` and
`shard_map`, and an error names the loss, the argument and the value. The switch is part of `jit`'s
cache key: a function compiled without checks is traced again with them, and with checks off the
jaxpr is the same as without them.

A check in a compiled program does not raise there, since the other devices of a collective would
wait for one that has stopped: its failure is recorded, and raised as soon as the program is done.
"""

import contextlib
import functools
import inspect
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

from jaxloss._core.spec import ArraySpec, LossSpec
from jaxloss._core.typing import Size
from jaxloss.domains import Domain, distribution, nonnegative_number

__all__ = ["are_on", "check", "check_arguments", "checked", "checks", "sizes_of"]

P = ParamSpec("P")
T = TypeVar("T")

_mode = jax.make_user_context("off")


class _Failures:
    """The first failure of the programs that run inside blocks with checks on.

    Callbacks of compiled programs run in threads of the runtime, where the context of their
    caller is not known: one record serves all.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open = 0
        self._first: str | None = None

    def open(self) -> None:
        """A block begins."""
        with self._lock:
            self._open += 1

    def close(self) -> None:
        """A block ends; with the last one, the record is cleared."""
        with self._lock:
            self._open -= 1
            if not self._open:
                self._first = None

    def record(self, message: str) -> None:
        """Keeps a failure; raises it if the program was run outside any block."""
        with self._lock:
            if self._open:
                self._first = self._first or message
                return
        raise ValueError(message)

    def take(self) -> str | None:
        """The first failure, and forgets it."""
        with self._lock:
            message, self._first = self._first, None
        return message


_failures = _Failures()


@contextlib.contextmanager
def checks(enabled: bool = True) -> Iterator[None]:
    """Has every loss called inside check the values of its arguments and of its result.

    A loss that is called outside compiled code raises at once. A check inside compiled code is
    raised when the block ends, so put the block around a step rather than around a training
    loop; `checked` raises from the call. Logits that look like probabilities give a warning.

    Under `vmap`, JAX computes both branches of a `cond` for all examples, so that a branch that an
    example does not take is checked as well. Leave examples out by `where`, give the branch
    harmless inputs by `jnp.where`, or write `jax.lax.map`, which takes the branches one by one.

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
    if not enabled:
        with _mode("off"):
            yield
        return
    _failures.open()
    try:
        with _mode("on"):
            yield
        jax.effects_barrier()
    except Exception as error:
        # What failed first is the reason: a NaN may have stopped the block.
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            jax.effects_barrier()
        message = _failures.take()
        if message is None:
            raise
        raise ValueError(message) from error
    else:
        message = _failures.take()
        if message is not None:
            raise ValueError(message)
    finally:
        _failures.close()


def checked(step: Callable[P, T]) -> Callable[P, T]:
    """Wraps a function, jitted or not, so that every call of it runs with checks on.

    Args:
        step: Any function that calls losses: a training step.

    Returns:
        The same function; it waits for its result, and raises where a check fails.

    Raises:
        ValueError: From the call, at the first value outside its domain.

    Example:
        >>> import jax, jaxloss as jl
        >>> checked(jax.jit(jl.regression.squared_error))(jnp.nan, 1.0)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ValueError: jaxloss.regression.squared_error: `prediction` must be finite, got nan...
    """

    @functools.wraps(step)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        with checks():
            return jax.block_until_ready(step(*args, **kwargs))

    return run


def are_on() -> bool:
    """Whether values are checked here."""
    return _mode.value == "on"


def sizes_of(domain: Domain, context: Mapping[str, Size]) -> str:
    """The sizes of the axes that the meaning of a domain mentions, in brackets."""
    words = set(domain.meaning.split()) - {"axis"}  # which is an argument, not the name of an axis
    sizes = [f"{n} = {size}" for n, size in context.items() if n in words and type(size) is int]
    return f" ({', '.join(sizes)})" if sizes else ""


def check(
    fun_name: str,
    what: str,
    domain: Domain,
    array: Array,
    context: Mapping[str, Size],
    unless: Array | bool = False,
    *,
    given: Array | np.ndarray | None = None,
    hint: str = "",
) -> Array | bool:
    """Compares an array with its domain: at once if it is concrete, else when the program runs.

    Args:
        fun_name: The function in whose name an error is raised.
        what: The argument.
        domain: Its domain.
        array: Its values.
        context: Sizes of axes and other arguments, for the domain.
        unless: Where this holds, no error is raised.
        given: The values as they came, to show in an error, where they have been converted.
        hint: A sentence at the end of the error.

    Returns:
        Whether all values are inside.
    """
    holds, shown = domain.test(array, context)
    if holds.size == 0:
        return True
    if given is not None and shown is array and given.shape == array.shape:
        shown = given
    message = f"{fun_name}: `{what}` must be {domain.meaning}{sizes_of(domain, context)}, got "
    place = f" at flat index {{index}} of shape {shown.shape}." if shown.ndim else "."
    place = f"{place} {hint}" if hint else place
    first = jnp.argmin(holds)
    all_hold = jnp.all(holds)
    fine = all_hold | unless

    def text(index: Any, value: object = None) -> str:
        # NumPy arrays are looked up there: as constants of a program they would be narrowed.
        value = shown.reshape(-1)[int(index)] if isinstance(shown, np.ndarray) else value
        return f"{message}{np.asarray(value)!s}{place.format(index=index)}"

    if not isinstance(fine, Tracer):
        if not fine:
            raise ValueError(text(first, jnp.ravel(shown)[first]))
        return all_hold
    from jax.experimental import checkify  # noqa: PLC0415  # it is slow to import

    value = jax.lax.stop_gradient(jnp.ravel(jnp.asarray(shown))[first])
    called_at = _user_line()

    def report(fine: Array, value: Array, index: Array) -> None:
        if not fine:
            _failures.record(text(index, value) + called_at)

    # Plain jit runs the callback; checkify and chex.chexify see the check, which jit drops.
    jax.debug.callback(report, fine, value, first)
    literal = message.replace("{", "{{").replace("}", "}}")
    shown_at = {"index": first} if shown.ndim else {}
    checkify.debug_check(fine, literal + "{value}" + place, value=value, **shown_at)
    return all_hold


def check_arguments(
    spec: LossSpec,
    arrays: Mapping[str, Array],
    came: Mapping[str, Any],
    forms: Mapping[str, ArraySpec],
    context: Mapping[str, Size],
) -> Array | bool:
    """Compares every argument of a call with its domain.

    Args:
        spec: The loss.
        arrays: Its arguments, converted; what is left out has been replaced.
        came: The same as they came, to show in an error.
        forms: The form of each.
        context: Sizes of axes and other arguments, for the domains.

    Returns:
        Whether all values are inside.
    """
    sane: Array | bool = True
    for name, x in arrays.items():
        domain, hint = forms[name].domain, ""
        if name == "weights" and context["reduction"] in ("mean", "parts"):
            domain = nonnegative_number
        if domain is distribution and jnp.issubdtype(came[name].dtype, jnp.integer):
            hint = "Integers of this shape are one-hot labels; class ids have no class axis."
        elif spec.data[1:2] == (name,) and _look_swapped(came[spec.data[0]], came[name]):
            hint = f"Are the arguments swapped? `{spec.data[0]}` holds integers."
        sane &= check(spec.name, name, domain, x, context, given=came[name], hint=hint)
        if name == "logits" and forms[name].event[-1:] == ("classes",):
            _warn_of_probabilities(spec.name, x)
    return sane


def _warn_of_probabilities(fun_name: str, logits: Array) -> None:
    """Warns if all logits look like the result of a softmax; left-out rows hold zeros."""
    inside = jnp.all((logits >= 0) & (logits <= 1), axis=-1)
    sums_to_one = inside & (jnp.abs(jnp.sum(logits, axis=-1) - 1) < 1e-3)
    is_mixed = sums_to_one & jnp.any((logits > 0) & (logits < 1), axis=-1)  # a one-hot row is not
    is_left_out = jnp.all(logits == 0, axis=-1)
    look_alike = jnp.all(sums_to_one | is_left_out) & (jnp.sum(is_mixed) > 1)
    message = (
        f"{fun_name}: all rows of `logits` are between 0 and 1 and sum to 1, as probabilities do. "
        "Give the scores before the softmax, or the logarithms of the probabilities."
    )

    def warn(look_alike: Array) -> None:
        if look_alike:
            warnings.warn(message, stacklevel=2)

    if isinstance(look_alike, Tracer):
        jax.debug.callback(warn, look_alike)
    else:
        warn(look_alike)


def _look_swapped(first: Array, second: Array) -> bool:
    """Whether the predictions are integers and the targets are not."""
    are_integers = any(jnp.issubdtype(first.dtype, kind) for kind in (jnp.integer, bool))
    return are_integers and jnp.issubdtype(second.dtype, jnp.floating)


def _user_line() -> str:
    """Where the loss was called, outside jaxloss and JAX: an error that comes later tells it."""
    frame = inspect.currentframe()
    while frame is not None:
        package = frame.f_globals.get("__name__", "").partition(".")[0]
        if package not in ("jaxloss", "jax", "functools", "contextlib", "chex"):
            return f" (Called in {frame.f_code.co_filename}, line {frame.f_lineno}.)"
        frame = frame.f_back
    return ""
