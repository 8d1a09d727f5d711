"""How many units in the last place values and gradients are off, against 160 exact digits.

The exact value is the row's oracle on mpmath numbers; the exact gradient is its central
difference at a step so small that the error is far below float32. Inputs lie all over the domain.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import cases
import jax
import jax.numpy as jnp
import mpmath
import numpy as np
from arithmetic import to_exact, ulp_error

from harness.programs import BATCH, COUNT, Program

STEP = mpmath.mpf(10) ** -30
DRAWN = 96  # examples, in blocks of `COUNT`

Evaluate = Callable[[dict[str, Any]], tuple[Any, Mapping[str, Any]]]


def exact_gradient(oracle, named, name):
    """The derivative of the oracle with respect to each entry of one argument."""

    def at(x):
        return np.sum(oracle(**{**named, name: x}))  # of all examples, in a loss over a set

    x = named[name]
    if not isinstance(x, np.ndarray):
        step = STEP * max(abs(x), STEP)
        return (at(x + step) - at(x - step)) / (2 * step)
    gradient = np.empty(x.shape, object)
    for place in np.ndindex(x.shape):
        step = STEP * max(abs(x[place]), STEP)
        up, down = x.copy(), x.copy()
        up[place], down[place] = x[place] + step, x[place] - step
        gradient[place] = (at(up) - at(down)) / (2 * step)
    return gradient


def exact_gradients(case, one, names):
    """The derivative with respect to every entry of the named arguments, one after the other."""
    oracle = case.around(one)
    return [e for name in names for e in np.ravel(exact_gradient(oracle, one, name))]


def last_place(x):
    """The unit in the last place of float32 of a number."""
    return mpmath.ldexp(1, max(mpmath.frexp(x)[1], -125) - 24)


def moved_by_last_places(one, names, shown):
    """The inputs, and options that are arrays, with all floats moved by a last place, four times."""
    generator = np.random.default_rng(3)
    arrays = [n for n, x in shown.items() if n not in names and np.ndim(x) and x.dtype.kind == "f"]
    for _ in range(4):
        moved = dict(one)
        for name in (*names, *arrays):
            x = np.asarray(shown[name], np.float32)
            step = np.where(generator.random(x.shape) < 0.5, -1, 1) * np.spacing(np.abs(x))
            moved[name] = to_exact(np.float64(x) + step)
        yield moved


def change_of_value(oracle, one, names, shown):
    """How many last places of its own each value moves at most, as the inputs move by theirs."""
    values, largest = np.ravel(oracle(**one)), 0
    for moved in moved_by_last_places(one, names, shown):
        largest = np.maximum(largest, abs(np.ravel(oracle(**moved)) - values))
    return [
        float(change / last_place(value)) for change, value in zip(largest, values, strict=True)
    ]


def change_of_gradient(case, one, names, shown):
    """How far the gradient moves at most."""
    gradient, largest = exact_gradients(case, one, names), 0
    for moved in moved_by_last_places(one, names, shown):
        there = exact_gradients(case, moved, names)
        largest = max([largest, *(abs(a - b) for a, b in zip(there, gradient, strict=True))])
    return largest


def _narrow(x):
    """Floats as float32; class ids as they are."""
    return x.astype(np.float32) if x.dtype.kind == "f" else x


def extremes(setting: cases.Setting, *, wide: bool = False) -> list[dict[str, Any]]:
    """Data all over the domain, in blocks of the shape that programs take; in float64 if `wide`."""
    generator = np.random.default_rng(11)
    blocks: list[dict[str, Any]] = [{} for _ in range(DRAWN // COUNT)]
    for name, form in zip(setting.info.data, setting.array_specs, strict=True):
        if name in setting.case.extremes:
            x = _narrow(np.asarray(setting.case.extremes[name](generator, DRAWN)))
        else:
            x = cases.draw_extreme(form, generator, DRAWN)
        if wide and x.dtype == np.float32:  # all bits in use, and no nearer to the end of a domain
            x = x * (1 - 1e-8 * generator.random(x.shape))
        of_blocks = x.reshape(-1, *BATCH, *x.shape[1:]) if form.batched else [x] * len(blocks)
        for block, part in zip(blocks, of_blocks, strict=True):
            block[name] = part
    return blocks


def own_evaluation(setting: cases.Setting) -> Evaluate:
    """Values and gradients by the program that the laws use."""
    programs = Program(setting)
    return lambda data: programs.first(**data)[:2]


def evaluation_of(loss: Callable[..., Any], setting: cases.Setting) -> Evaluate:
    """Values and gradients of another function of the same data, compiled."""
    names = [setting.info.data[i] for i in setting.floating()]

    @jax.jit
    def both(data):
        def total(floating):
            every = data | floating  # in the order of keys, as jit returns a dict
            values = loss(*(every[n] for n in setting.info.data))
            return jnp.sum(values), values

        (_, values), slopes = jax.value_and_grad(total, has_aux=True)({n: data[n] for n in names})
        return values, slopes

    return lambda data: jax.tree.map(np.asarray, both(data))


def worst_errors(
    setting: cases.Setting,
    evaluate: Evaluate,
    rows: Iterable[int] = range(DRAWN),
    bounds: tuple[float, float] = (0.0, 0.0),
    wide: bool = False,
) -> dict[str, tuple[float, Any]]:
    """The largest error of value and gradient in ULP, each with the inputs where it occurs.

    Args:
        setting: What is evaluated.
        evaluate: Maps data to values and gradients.
        rows: Which of the `DRAWN` examples are compared.
        bounds: Errors of value and gradient up to which it does not matter how far the inputs
            account for them, which takes long to find.
        wide: Whether the data are float64.
    """
    oracle = setting.case.oracle
    names = [setting.info.data[i] for i in setting.floating()]
    options = setting.options(BATCH)
    worst = {"value": (0.0, None), "gradient": (0.0, None)}
    wanted = set(rows)
    for block, data in enumerate(extremes(setting, wide=wide)):
        here = [row for row in range(COUNT) if block * COUNT + row in wanted]
        values, slopes = evaluate(data) if here else ((), {})
        for row in here:
            index = tuple(map(int, np.unravel_index(row, BATCH)))
            shown = setting.examples(data | options, index)
            one = {n: to_exact(v) for n, v in shown.items()}
            got = [x for n in names for x in np.ravel(slopes[n][index])]
            errors = _errors(setting, oracle, one, names, shown, values[index], got, worst, bounds)
            for kind, error in errors.items():
                if error > worst[kind][0]:
                    worst[kind] = error, shown
    return worst


def _errors(setting, oracle, one, names, shown, value, got, worst, bounds):
    """The errors of one example."""
    of_values = ulp_error(np.ravel(value), np.ravel(oracle(**one)))
    exact = exact_gradients(setting.case, one, names)
    largest = max(map(abs, exact), default=0)
    of_components = []
    for g, e in zip(got, exact, strict=True):
        error = float(ulp_error(g, e))
        if not setting.by_component and np.isfinite(g) and largest:
            error = min(error, float(abs(float(g) - e) / (largest * np.finfo(g.dtype).eps)))
        of_components.append(error)
    conditioned = setting.case.conditioned
    if conditioned(shown) if callable(conditioned) else conditioned:
        about = one, names, shown
        if np.max(of_values) > max(worst["value"][0], bounds[0]):
            of_values = of_values / np.maximum(1, change_of_value(oracle, *about))
        if max(of_components, default=0) > max(worst["gradient"][0], bounds[1]):
            change = change_of_gradient(setting.case, *about)
            of_components = [
                min(error, float(abs(float(g) - e) / change)) if change else error
                for error, g, e in zip(of_components, got, exact, strict=True)
            ]
    return {"value": float(np.max(of_values)), "gradient": max(of_components, default=0.0)}
