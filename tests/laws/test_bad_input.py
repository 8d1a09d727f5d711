"""What is wrong in values: NaN without checks, an error with them."""

import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import SIZES
from harness.calls import call, x64
from harness.programs import program

import jaxloss as jl
from laws import law


def guarded(setting):
    return [i for i, form in enumerate(setting.array_specs) if form.domain.guard]


def class_ids(setting):
    return [i for i in guarded(setting) if setting.array_specs[i].kind == "Int"]


def classes_of(form):
    return SIZES[form.domain.meaning.split()[-3]]


@law(only=guarded)
def test_a_label_outside_gives_nan_and_never_a_class(setting):
    p = program(setting)
    clean, others = p.first(), np.ones(p.shape[:2], bool)
    others[1, 1] = False
    for i in guarded(setting):
        name, form = p.names[i], setting.array_specs[i]
        ids = form.domain.meaning.startswith("class ids")
        for label in [-1, -100, 10**6, classes_of(form)] if ids else [0.25, 7, -100]:
            wrong = p.inputs[name].copy()
            wrong[1, 1] = label
            got = p.first(**{name: wrong})
            assert np.all(np.isnan(got.values[1, 1])), f"{label} counts as a label"
            for other in p.floating:
                assert np.any(np.isnan(got.slopes[other][1, 1])), f"{label} has a gradient"
                if not setting.set_axes:
                    assert np.all(np.isfinite(got.slopes[other][others]))
            if not setting.set_axes:
                np.testing.assert_array_equal(got.values[others], clean.values[others])


@law(only=class_ids)
def test_ids_are_compared_before_they_are_narrowed(setting):
    data = setting.data()
    for i in class_ids(setting):
        for label, dtype in ((2**32, np.int64), (-(2**63), np.int64), (2**32 - 1, np.uint32)):
            wrong = data[i].astype(dtype)
            wrong[1, 1] = label
            changed = [*data[:i], wrong, *data[i + 1 :]]
            with x64():
                got = jax.jit(call(setting))(*changed)
            assert np.all(np.isnan(got[1, 1])), f"under x64 {label} counts as a label"
            assert np.all(np.isnan(call(setting)(*changed)[1, 1])), f"{label} counts as a label"


def outside(form):
    """A value outside the domain of a form; None where every number is inside."""
    if form.domain.meaning.startswith("class ids"):
        return classes_of(form)
    for value in (-7,) if form.kind == "Int" else (np.nan, -7.0, 0.5):
        holds, _ = form.domain.test(np.full((2,), value), {})
        if not np.all(holds):
            return value
    return None


@law()
def test_checks_name_the_loss_the_argument_and_the_value(setting):
    data, values = setting.data(), jax.jit(call(setting))
    for i, (name, form) in enumerate(zip(setting.info.data, setting.array_specs, strict=True)):
        value = outside(form)
        if value is None or form.kind == "Bool":
            continue
        wrong = [x.copy() for x in data]
        wrong[i].flat[1] = value
        named = f"{re.escape(setting.info.name)}: `{name}` must be .*, got "
        with pytest.raises(ValueError, match=named):
            jl.checked(values)(*wrong)
    chex.assert_trees_all_close(jl.checked(values)(*data), values(*data), rtol=1e-5, atol=1e-6)


@law()
def test_checks_off_leave_no_trace(setting):
    data = [jnp.asarray(x) for x in setting.data()]
    before = str(jax.make_jaxpr(call(setting))(*data))
    with jl.checks():
        during = jax.make_jaxpr(call(setting))(*data)
    assert during.effects
    after = jax.make_jaxpr(call(setting))(*data)
    assert str(after) == before
    assert not after.effects
