"""How many units in the last place values and gradients are off, against 160 exact digits.

The exact value is the row's oracle on mpmath numbers; the exact gradient is its central
difference at a step so small that the error is far below float32. Inputs lie all over the domain.
"""

import functools

import cases
import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from arithmetic import to_exact, ulp_error

COUNT = 96
STEP = mpmath.mpf(10) ** -30


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


def exact_gradients(oracle, one, names):
    """The derivative with respect to every entry of the named arguments, one after the other."""
    return [e for name in names for e in np.ravel(exact_gradient(oracle, one, name))]


def last_place(x):
    """The unit in the last place of float32 of a number."""
    return mpmath.ldexp(1, max(mpmath.frexp(x)[1], -125) - 24)


def moved_by_last_places(one, names, shown):
    """The inputs with all floats moved by a last place either way, four times."""
    generator = np.random.default_rng(3)
    for _ in range(4):
        moved = dict(one)
        for name in names:
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


def change_of_gradient(oracle, one, names, shown):
    """How far the gradient moves at most."""
    gradient, largest = exact_gradients(oracle, one, names), 0
    for moved in moved_by_last_places(one, names, shown):
        there = exact_gradients(oracle, moved, names)
        largest = max([largest, *(abs(a - b) for a, b in zip(there, gradient, strict=True))])
    return largest


def _narrow(x):
    """Floats as float32; class ids as they are."""
    return x.astype(np.float32) if x.dtype.kind == "f" else x


def worst_errors(setting, count=COUNT, loss=None):
    """The largest error of value and gradient in ULP, each with the inputs where it occurs."""
    loss = loss or functools.partial(setting.loss, reduction="none")
    generator = np.random.default_rng(11)
    data = [
        _narrow(np.asarray(setting.case.extremes[name](generator, count)))
        if name in setting.case.extremes
        else cases.draw_extreme(form, generator, count)
        for name, form in zip(setting.info.data, setting.array_specs, strict=True)
    ]
    options = setting.options(batch=(count,))
    at = setting.floating()

    def of_floating(*floating):
        merged = list(data)
        for i, x in zip(at, floating, strict=True):
            merged[i] = x
        return loss(*merged, **options)

    floating = [jnp.asarray(data[i]) for i in at]
    values = np.asarray(jax.jit(of_floating)(*floating))
    total = lambda *x: jnp.sum(of_floating(*x))
    gradients = jax.jit(jax.grad(total, argnums=tuple(range(len(at)))))(*floating)
    named = dict(zip(setting.info.data, data, strict=True)) | options
    worst = {"value": (0.0, None), "gradient": (0.0, None)}
    for row in range(count):
        one = {n: to_exact(v) for n, v in setting.examples(named, (row,)).items()}
        shown = {n: v for n, v in setting.examples(named, (row,)).items()}
        right = np.ravel(setting.case.oracle(**one))
        of_values = ulp_error(np.ravel(values[row]), right)
        names = [setting.info.data[i] for i in at]
        exact = exact_gradients(setting.case.oracle, one, names)
        got = [x for gradient in gradients for x in np.ravel(np.asarray(gradient)[row])]
        largest = max(map(abs, exact), default=0)
        of_components = []
        for g, e in zip(got, exact, strict=True):
            error = float(ulp_error(g, e))
            if not setting.by_component and np.isfinite(g) and largest:
                error = min(error, float(abs(float(g) - e) / (largest * 2**-23)))
            of_components.append(error)
        conditioned = setting.case.conditioned
        if conditioned(shown) if callable(conditioned) else conditioned:
            # What the inputs change takes long to find, and only lowers an error.
            about = setting.case.oracle, one, names, shown
            if np.max(of_values) > worst["value"][0]:
                of_values = of_values / np.maximum(1, change_of_value(*about))
            if max(of_components, default=0) > worst["gradient"][0]:
                change = change_of_gradient(*about)
                of_components = [
                    min(error, float(abs(float(g) - e) / change)) if change else error
                    for error, g, e in zip(of_components, got, exact, strict=True)
                ]
        errors = {"value": float(np.max(of_values)), "gradient": max(of_components, default=0.0)}
        for kind, error in errors.items():
            if error > worst[kind][0]:
                worst[kind] = error, shown
    return worst


@pytest.mark.slow
@pytest.mark.parametrize("setting", cases.settings(), ids=str)
def test_accurate_to_a_few_units_in_the_last_place(setting):
    # A draw of a set has several values, and the exact gradients of 96 would take a minute:
    # `benchmarks/accuracy.py` measures those.
    worst = worst_errors(setting, COUNT // 4 if setting.set_axes else COUNT)
    for (kind, (error, where)), bound in zip(worst.items(), setting.case.ulp, strict=True):
        assert error <= bound, f"the {kind} is {error:.1f} ULP off (bound {bound}) at {where}"
