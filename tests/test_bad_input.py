"""Bad input, over the catalogue: what is wrong in shapes and numbers raises at the call, and what
is wrong in values raises inside `jaxloss.checks()`; each error names the loss and the argument.

Class ids outside, in value and gradient, are a law in `tests/laws/test_bad_input.py`.
"""

import re

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxloss as jl

EACH = list({(s.info.name, s.array_specs): s for s in reversed(cases.settings())}.values())[::-1]
each_loss = pytest.mark.parametrize("setting", EACH, ids=str)

# Of each domain, values outside it that tempt: what peers clip, wrap or let pass.
OUTSIDE = {
    jl.domains.unit_interval: (-0.25, 1.3, np.nan),
    jl.domains.positive: (0.0, -1.0, np.inf),
    jl.domains.nonnegative_number: (-1.0, np.nan),
    jl.domains.log_probability: (0.5, np.nan),
    jl.domains.sign: (0.0, 2.0),
    jl.domains.sign_label: (0.0, 2.0),
    jl.domains.decision_label: (0.0, 2.0),
}
BY_DOMAIN = [
    pytest.param(setting, name, value, id=f"{setting}-{name}-{value}")
    for setting in EACH
    for name, form in zip(setting.info.data, setting.array_specs, strict=True)
    for value in OUTSIDE.get(form.domain, ())
    if form.kind == "Real"
]
NUMBERS = [
    pytest.param(setting, name, value, id=f"{setting}-{name}-{value}")
    for setting in EACH
    for name in setting.info.options
    if name in setting.info.spec.scalar_options
    for value in (-7.0, 7.0, 0.0, np.nan)
    if not setting.info.spec.array_specs[name][0].domain.test(value, cases.SIZES | setting.given)[0]
]


def named(setting, argument):
    return f"{re.escape(setting.info.name)}: `{argument}` must be "


@pytest.mark.few
@pytest.mark.parametrize(("setting", "name", "value"), BY_DOMAIN)
def test_a_value_outside_its_domain_is_named(setting, name, value):
    data = dict(zip(setting.info.data, setting.data(), strict=True))
    data[name] = data[name].copy()
    data[name].flat[0] = value
    with pytest.raises(ValueError, match=named(setting, name)), jl.checks():
        setting.loss(**data, **setting.options())


@each_loss
def test_rows_that_do_not_sum_to_one_are_named(setting):
    for i, form in enumerate(setting.array_specs):
        if form.domain == jl.domains.distribution:
            data = list(setting.data())
            data[i] = 0.75 * data[i]
            expected = named(setting, setting.info.data[i]) + ".*sum to 1.*got 0.7"
            with pytest.raises(ValueError, match=expected), jl.checks():
                setting.loss(*data, **setting.options())


@pytest.mark.parametrize(("setting", "name", "value"), NUMBERS)
def test_a_number_out_of_range_raises_at_the_call(setting, name, value):
    options = setting.options() | {name: value}
    with pytest.raises(ValueError, match=named(setting, name) + f".*got {value!r}"):
        jax.eval_shape(lambda *data: setting.loss(*data, **options), *setting.data())


@each_loss
def test_a_word_that_is_no_choice_raises_at_the_call(setting):
    for name, choices in setting.info.spec.choices.items():
        options = setting.options() | {name: f"{choices[0]}s"}
        expected = f"{re.escape(setting.info.name)}: `{name}` is .*expected"
        with pytest.raises(ValueError, match=expected):
            setting.loss(*setting.data(), **options)


@each_loss
def test_a_flag_or_an_integer_of_another_type_raises_at_the_call(setting):
    for name in setting.info.spec.static_types:
        expected = f"{re.escape(setting.info.name)}: `{name}` is 'no', expected "
        with pytest.raises(TypeError, match=expected):
            setting.loss(*setting.data(), **setting.options() | {name: "no"})


@each_loss
def test_an_axis_without_classes_raises_at_the_call(setting):
    for axis in ("classes", "components", "levels"):
        if not any(axis in form.event for form in setting.array_specs):
            continue

        def shrink(x, form, axis=axis):
            return np.take(x, [], axis=form.event.index(axis) - len(form.event))

        data = [
            shrink(x, form) if axis in form.event else x
            for x, form in zip(setting.data(), setting.array_specs, strict=True)
        ]
        with pytest.raises(
            ValueError, match=f"{re.escape(setting.info.name)}: .* `{axis}` axis must not be empty"
        ):
            setting.loss(*data, **setting.options())


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"logit_lengths": [3, 7]}, {"label_lengths": [1, 4]}], ids=str)
def test_lengths_past_the_end_are_named_and_give_nan(options):
    logits, labels = np.zeros((2, 6, 4), np.float32), np.ones((2, 3), np.int32)
    (name,) = options
    got = jl.sequence.ctc(logits, labels, **options)
    assert np.isnan(got).tolist() == [False, True]
    slope = jax.grad(lambda x: jl.sequence.ctc(x, labels, **options)[1])(jnp.asarray(logits))
    assert np.any(np.isnan(slope[1]))
    with pytest.raises(ValueError, match=f"`{name}` must be lengths from 0"), jl.checks():
        jl.sequence.ctc(logits, labels, **options)
    with pytest.raises(ValueError, match=f"`{name}` must be lengths from 0 .* got 99"):
        jl.sequence.ctc(logits, labels, **{name: 99})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: jl.sequence.ctc(np.zeros((2, 3)), [1], blank=3),
            "`blank` is 3, expected a class id from 0 to 2 .* write `blank=2`",
        ),
        (lambda: jl.sequence.ctc(np.zeros((2, 3)), [1], blank=-1), "`blank` is -1"),
        (lambda: jl.classification.multi_margin([0.0, 1.0], 0, power=3), "`power` is 3"),
        (
            lambda: jl.contrastive.triplet([0.0], [0.0], [0.0], distance="euclid"),
            "`distance` is 'euclid'",
        ),
        (lambda: jl.classification.bi_tempered([0.0, 1.0], 0, t1=2.0), "`t1` must be .*got 2.0"),
    ],
    ids=lambda value: value if isinstance(value, str) else "call",
)
def test_static_options_out_of_range_raise_at_the_call(call, message):
    with pytest.raises(ValueError, match=message):
        call()
