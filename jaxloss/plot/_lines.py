"""The values of a loss along a line, and its slopes by `jax.grad`.

Which argument varies, over which range, and the values of the others are read from the declaration
of the loss; `_sections` adds a line for losses whose arguments are vectors.
"""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxloss import domains
from jaxloss._core.registry import LossInfo, info_of
from jaxloss.traits import translation_invariant

POINTS = 401


class Line(NamedTuple):
    """A loss along a line.

    Attributes:
        x: Where on the line.
        value: The loss there.
        slope: The derivative of the value in `x`, by `jax.grad`.
        name: What the loss is called in a legend.
        variable: What varies along the line.
    """

    x: np.ndarray
    value: np.ndarray
    slope: np.ndarray
    name: str
    variable: str


class Subject(NamedTuple):
    """A function of one number, with its name, its variable and its range."""

    function: Callable[[Any], Any]
    name: str
    variable: str
    over: tuple[float, float]

    def sample(self, over: tuple[float, float] | None = None, points: int = POINTS) -> Line:
        """Values and slopes at evenly spaced points; an odd number of them holds the middle."""
        x = np.linspace(*(over or self.over), points)
        value, slope = _value_and_slope(self.function)(jnp.asarray(x, jnp.result_type(float)))
        return Line(x, np.asarray(value), np.asarray(slope), self.name, self.variable)


def _value_and_slope(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return jax.jit(jax.vmap(jax.value_and_grad(function)))


def visible(curves: Sequence[np.ndarray], margin: float = 0.0) -> tuple[float, float]:
    """The range to show of several curves: it includes 0, and excludes poles."""
    y = np.concatenate([np.ravel(curve) for curve in curves])
    y = y[np.isfinite(y)] if np.isfinite(y).any() else np.zeros(1)
    low, high = min(float(y.min()), 0.0), max(float(y.max()), 0.0)
    usual = [float(edge) for edge in np.quantile(y, [0.02, 0.98])]
    usual = min(usual[0], 0.0), max(usual[1], 0.0)
    if high - low > 3 * (usual[1] - usual[0]) > 0:
        low, high = usual
    if low == high:
        high = low + 1.0
    return low - margin * (high - low), high + margin * (high - low)


# The value of an argument that is not given: a target of 0, a label of 1, a scale of 1.
_TYPICAL = {
    domains.unit_interval: 1.0,
    domains.sign_label: 1.0,
    domains.decision_label: 1.0,
    domains.nonnegative_number: 1.0,
    domains.mean_or_its_log: 1.0,
}
# The range of the argument that varies: its domain without the ends where the loss is infinite.
_RANGES = {
    domains.unit_interval: (0.01, 0.99),
    domains.positive: (0.05, 4.0),
    domains.nonnegative_number: (0.0, 4.0),
    domains.at_least_minus_one: (-0.95, 4.0),
    domains.log_probability: (-5.0, -0.01),
    domains.mean_or_its_log: (-3.0, 3.0),
}
_WIDE = (-4.0, 4.0)


def unwrap(loss: Any) -> tuple[Any, LossInfo | None, dict[str, Any]]:
    """The function inside any `functools.partial`, its entry, and the options that were set."""
    options: dict[str, Any] = {}
    while isinstance(loss, functools.partial) and not loss.args:
        options = {**loss.keywords, **options}
        loss = loss.func
    return loss, info_of(loss), options


def title(loss: Any, given: Mapping[str, Any] | None = None) -> str:
    """A loss and its options, for legends: `huber, delta=0.5`."""
    function, info, options = unwrap(loss)
    name = info.function.__name__ if info else getattr(function, "__name__", str(function))
    shown = [f"{key}={_number(value)}" for key, value in {**options, **(given or {})}.items()]
    return ", ".join(["loss" if name == "<lambda>" else name, *shown])


def _number(value: Any) -> str:
    if isinstance(value, str | bool):
        return str(value)
    known = np.ndim(value) == 0 and not isinstance(value, Tracer)
    return f"{float(value):.3g}" if known else "..."


def elementwise(fun_name: str, loss: Any, given: Mapping[str, Any]) -> Subject:
    """A loss as a function of its first argument alone.

    Args:
        fun_name: The function that asks, for errors.
        loss: A loss, or any function of two numbers.
        given: Values for its other arguments, by name.

    Returns:
        The function, its name, the argument that varies and its range.

    Raises:
        TypeError: If it is not a function, or does not take what was given.
        ValueError: If it does not map numbers to a number.
    """
    if not callable(loss):
        raise TypeError(
            f"{fun_name}: expected a loss such as jaxloss.regression.huber, got {loss!r}."
        )
    function, info, options = unwrap(loss)
    options |= given
    first, fixed = (
        _of_loss(fun_name, info, options) if info else _of_signature(fun_name, function, options)
    )
    over = _range(info, first)

    def of_first(x: Any) -> Any:
        return function(x, *fixed.values(), **options)

    try:
        shape = jax.eval_shape(of_first, jnp.zeros(())).shape
    except IndexError as error:
        raise _not_elementwise(fun_name, title(loss), "it indexes its arguments") from error
    if shape != ():
        raise _not_elementwise(fun_name, title(loss), f"a number gives an array of shape {shape}")
    centred = bool(info and translation_invariant in info.traits and fixed.get("target") == 0)
    variable = f"{first} - target" if centred else first
    return Subject(of_first, title(loss, given), variable, over)


def _of_loss(fun_name: str, info: LossInfo, options: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The argument that varies, and the values of the others, which are taken from `options`."""
    spec = info.spec
    events = {n: [form.event for form in spec.array_specs[n]] for n in info.data}
    vectors = [f"`{n}` has the axes {e[0]}" for n, e in events.items() if () not in e]
    if spec.result.event:
        vectors = [f"it is a loss over a whole {spec.result.event[0]}"]
    if vectors:
        raise _not_elementwise(fun_name, info.name, vectors[0])
    unknown = options.keys() - set(spec.arguments)
    if unknown:
        takes = ", ".join(spec.arguments[1:]) or "nothing else"
        message = f"{fun_name}: {info.name} has no argument {sorted(unknown)}; it takes {takes}."
        raise TypeError(message)
    first, *others = info.data
    typical = {n: _TYPICAL.get(d, d.fill) for n in others for d in [spec.array_specs[n][0].domain]}
    return first, {n: options.pop(n, typical[n]) for n in others}


def _of_signature(
    fun_name: str, function: Any, options: dict[str, Any]
) -> tuple[str, dict[str, Any]]:
    """The same for a function that is not a loss: a second argument is a target of 0."""
    parameters = inspect.signature(function).parameters.values()
    first, *others = [
        p.name
        for p in parameters
        if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and p.default is p.empty
    ] or ["x"]
    missing = [name for name in others[1:] if name not in options]
    if missing:
        write = ", ".join(f"{name}=..." for name in missing)
        message = f"{fun_name}: {title(function)} also needs {missing}. Give them by name: {write}."
        raise TypeError(message)
    return first, {name: options.pop(name, 0.0) for name in others}


def _range(info: LossInfo | None, first: str) -> tuple[float, float]:
    return _RANGES.get(info.spec.array_specs[first][0].domain, _WIDE) if info else _WIDE


def _not_elementwise(fun_name: str, name: str, why: str) -> ValueError:
    message = (
        f"{fun_name}: {name} is not elementwise ({why}), so it has no single curve. "
        f"Write plot.section({name.rpartition('.')[2]}) for a line through its inputs, or "
        f"plot.section(function, start, end) for a line of your own."
    )
    return ValueError(message)
