"""All losses against all laws: one test a law, parametrised over the catalogue.

A loss that breaks a law fails one test here, whose message says what to do.
"""

import importlib
import inspect
import re

import cases
import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import BATCH, SIZES, Setting

import jaxloss as jl

ALL = cases.settings()
EACH = list({(s.card.name, s.forms): s for s in reversed(ALL)}.values())[::-1]
every_setting = pytest.mark.parametrize("setting", cases.each(ALL))
each_loss = pytest.mark.parametrize("setting", cases.each(EACH))
every_card = pytest.mark.parametrize("card", cases.losses(), ids=lambda card: card.name)


def call(setting: Setting, **words):
    """The loss as a function of its data alone."""
    options = {"reduction": "none"} | setting.options() | words
    return lambda *data: setting.loss(*data, **options)


def total(setting: Setting, data=None, **words):
    """A scalar function of the floating data, for derivatives; and the data it starts from."""
    data, at = setting.data() if data is None else data, setting.floating()

    def function(*floating):
        merged = list(data)
        for index, value in zip(at, floating, strict=True):
            merged[index] = value
        return jnp.sum(call(setting, **words)(*merged))

    return function, [jnp.asarray(data[i]) for i in at]


# --- the mathematics ---------------------------------------------------------------------------


@every_setting
def test_value_is_that_of_the_oracle(setting):
    data, options = setting.data(), setting.options()
    got = np.asarray(call(setting)(*data))
    assert got.shape == setting.result_shape()
    named = dict(zip(setting.card.data, data, strict=True)) | options
    for index in np.ndindex(BATCH):
        one = setting.examples(named, index)
        exact = {
            n: np.float64(v) if np.asarray(v).dtype == np.float32 else v for n, v in one.items()
        }
        expected = setting.case.oracle(**exact)
        np.testing.assert_allclose(got[index], expected, rtol=3e-6, atol=1e-6)


@every_setting
def test_gradient_is_that_of_the_oracle(setting):
    """Central differences of the oracle in float64, for data and numeric options alike."""
    data, options = setting.data(), setting.options()
    numeric = {n: v for n, v in options.items() if not isinstance(v, bool | str | int)}
    fixed = {n: v for n, v in options.items() if n not in numeric}
    at = setting.floating()
    index = (0, 1)
    named = dict(zip(setting.card.data, data, strict=True)) | options
    one = setting.examples(named, index)
    wrt = {setting.card.data[i] for i in at} | {
        n for n in numeric if np.asarray(numeric[n]).dtype != bool
    }

    def ours(values):
        every = one | values
        positional = [every.pop(n) for n in setting.card.data]
        return jnp.sum(setting.loss(*positional, **fixed, **{n: every[n] for n in numeric}))

    def exact(values):
        every = {n: np.float64(v) if np.asarray(v).dtype.kind == "f" else v for n, v in one.items()}
        every |= values
        return np.sum(setting.case.oracle(**every))

    got = jax.jit(jax.grad(ours))({n: jnp.asarray(one[n], jnp.float32) for n in wrt})
    start = {n: np.array(one[n], np.float64) for n in wrt}
    for name in wrt:
        for place in np.ndindex(start[name].shape):
            step = np.zeros(start[name].shape)
            step[place] = 1e-6
            up, down = (exact(start | {name: start[name] + s}) for s in (step, -step))
            np.testing.assert_allclose(
                np.asarray(got[name])[place],
                (up - down) / 2e-6,
                rtol=2e-4,
                atol=2e-5,
                err_msg=f"the derivative with respect to {name}{list(place)}",
            )


# --- law 1: shape ------------------------------------------------------------------------------


@each_loss
def test_batch_is_nested_vmap_is_a_loop(setting):
    data, loss = setting.data(), call(setting)
    got = loss(*data)
    batched = {n for n, v in setting.given.items() if isinstance(v, cases.Batched)}
    assert not batched, "the first set of options of a row must not differ between examples"
    once = call(setting)
    chex.assert_trees_all_close(jax.vmap(jax.vmap(once))(*data), got, rtol=1e-6, atol=1e-7)
    looped = [once(*(x[index] for x in data)) for index in np.ndindex(BATCH)]
    chex.assert_trees_all_close(jnp.stack(looped).reshape(got.shape), got, rtol=1e-6, atol=1e-7)


@each_loss
def test_an_empty_batch_is_fine(setting):
    data = setting.data(batch=(0,))
    assert call(setting)(*data).shape == setting.result_shape((0,))
    assert call(setting, reduction="mean")(*data) == 0


@each_loss
def test_wrong_shapes_are_refused_with_names_and_remedy(setting):
    data = [jnp.asarray(x) for x in setting.data()]
    for i, name in enumerate(setting.card.data[1:], start=1):
        wrong = [*data[:i], data[i][..., None], *data[i + 1 :]]
        with pytest.raises(
            (ValueError, TypeError), match=f"{setting.card.name}: `{name}`.*expected"
        ):
            call(setting)(*wrong)
        shorter = [*data[:i], data[i][:1], *data[i + 1 :]]
        with pytest.raises(
            (ValueError, TypeError), match=f"{setting.card.name}: `{name}`.*expected"
        ):
            call(setting)(*shorter)


@each_loss
def test_axis_moves(setting):
    if "axis" not in setting.card.signature.parameters:
        assert "axis" not in setting.card.declaration.words
        return
    data = setting.data()
    moved = [
        np.moveaxis(x, -1, 1) if form.event else x
        for x, form in zip(data, setting.forms, strict=True)
    ]
    chex.assert_trees_all_close(call(setting, axis=1)(*moved), call(setting)(*data), rtol=1e-6)
    with pytest.raises(ValueError, match="`axis` is 7"):
        call(setting, axis=7)(*data)


# --- law 2: where, weights, reduction ----------------------------------------------------------


@each_loss
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_where_hides_whatever_the_inputs_hold(setting, bad):
    shape = setting.result_shape()
    where = np.arange(np.prod(shape)).reshape(shape) % 2 == 0
    clean = setting.data()
    dirty = []
    for x, form in zip(clean, setting.forms, strict=True):
        x = x.copy()
        if (
            form.dims[: len(setting.card.declaration.result.dims)]
            == setting.card.declaration.result.dims
        ):
            x[~where] = bad if x.dtype == np.float32 else -100
        dirty.append(x)
    got = call(setting, where=where)(*dirty)
    assert np.all(np.asarray(got)[~where] == 0)
    np.testing.assert_array_equal(got, call(setting, where=where)(*clean))
    if not setting.set_axes:
        np.testing.assert_allclose(
            np.asarray(got)[where], np.asarray(call(setting)(*clean))[where], rtol=1e-6
        )
    for i in setting.floating():
        gradient = jax.jit(
            jax.grad(
                lambda x, i=i: call(setting, where=where, reduction="mean")(
                    *dirty[:i], x, *dirty[i + 1 :]
                )
            )
        )(jnp.asarray(dirty[i]))
        chex.assert_tree_all_finite(gradient)
        if clean[i].shape[: len(shape)] == shape:
            assert np.all(np.asarray(gradient)[~where] == 0)


@each_loss
def test_where_takes_an_example_out_of_its_set(setting):
    """The loss of the examples that are kept is that of a set which never held the others."""
    if not setting.set_axes:
        return
    rank, kept = len(BATCH), np.array([0, 2, 3])
    where = np.isin(np.arange(setting.result_shape()[rank]), kept)
    subset = [
        np.take(x, kept, axis=rank) if form.dims[1:2] == setting.set_axes[:1] else x
        for x, form in zip(setting.data(), setting.forms, strict=True)
    ]
    got = call(setting, where=np.broadcast_to(where, setting.result_shape()))(*setting.data())
    expected = call(setting)(*subset)
    np.testing.assert_allclose(np.take(got, kept, axis=rank), expected, rtol=1e-5, atol=1e-6)


@each_loss
def test_nothing_that_counts_gives_zero_with_gradient_zero(setting):
    data = setting.data()
    where = np.zeros(setting.result_shape(), bool)
    for reduction in ("mean", "sum", "none"):
        function, floating = total(setting, where=where, reduction=reduction)
        argnums = tuple(range(len(floating)))
        value, gradients = jax.jit(jax.value_and_grad(function, argnums=argnums))(*floating)
        assert value == 0
        assert all(jnp.all(g == 0) for g in gradients)
    assert call(setting, weights=np.zeros(setting.result_shape()), reduction="mean")(*data) == 0


@each_loss
def test_weights_and_reductions_are_what_they_say(setting):
    data, shape = setting.data(), setting.result_shape()
    weights = np.random.default_rng(3).uniform(0.5, 2, shape).astype(np.float32)
    where = np.arange(np.prod(shape)).reshape(shape) % 3 != 1
    values = np.asarray(call(setting, where=where, reduction="none")(*data), np.float64)
    parts = call(setting, where=where, weights=weights, reduction="parts")(*data)
    counted = np.where(where, weights, 0)
    expected = np.sum(counted * values), np.sum(counted)
    np.testing.assert_allclose((parts.total, parts.weight), expected, rtol=1e-5, atol=1e-6)
    for reduction, number in (("sum", expected[0]), ("mean", expected[0] / expected[1])):
        got = call(setting, where=where, weights=weights, reduction=reduction)(*data)
        np.testing.assert_allclose(got, number, rtol=1e-5, atol=1e-6)
    got = call(setting, weights=weights, reduction="none")(*data)
    plain = np.asarray(call(setting, reduction="none")(*data))
    np.testing.assert_allclose(got, weights * plain, rtol=1e-6)
    np.testing.assert_allclose(
        call(setting, reduction="mean")(*data), plain.mean(), rtol=1e-5, atol=1e-6
    )


@each_loss
def test_words_are_checked(setting):
    data, shape = setting.data(), setting.result_shape()
    with pytest.raises(
        ValueError, match=r"`reduction` is 'averag'.*'none', 'mean', 'sum', 'parts'"
    ):
        call(setting, reduction="averag")(*data)
    with pytest.raises(TypeError, match="`where` is float32.*booleans"):
        call(setting, where=np.ones(shape, np.float32))(*data)
    with pytest.raises(ValueError, match="`weights`.*expected"):
        call(setting, weights=np.ones((*shape, 1), np.float32))(*data)
    with pytest.raises(TypeError, match="Did you mean `weights`"):
        call(setting, weigths=None)(*data)
    with pytest.raises(TypeError, match=f"{setting.card.name}: missing"):
        call(setting)(*data[:-1])


# --- law 4: arguments --------------------------------------------------------------------------


@each_loss
def test_any_array_like_will_do(setting):
    data = setting.data()
    expected = call(setting)(*data)
    assert expected.dtype == jnp.float32
    lists = call(setting)(*(x.tolist() for x in data))
    chex.assert_trees_all_close(lists, expected, rtol=1e-6)
    assert lists.dtype == jnp.float32
    assert not lists.weak_type
    wide = call(setting)(
        *(x.astype(np.float64) if x.dtype == np.float32 else x.astype(np.int64) for x in data)
    )
    chex.assert_trees_all_close(wide, expected, rtol=1e-6)
    for x, name in zip(data, setting.card.data, strict=True):
        others = {n: y for n, y in zip(setting.card.data, data, strict=True) if n != name}
        with pytest.raises(TypeError, match=f"{setting.card.name}: `{name}`"):
            setting.loss(**others, **{name: x.astype(complex)}, **setting.options())
        with pytest.raises(TypeError, match=f"{setting.card.name}: `{name}` holds text"):
            setting.loss(**others, **{name: "one"}, **setting.options())


@every_setting
def test_one_trace_however_the_numbers_change(setting):
    data = cases.tree_to_jax(setting.data())
    options = setting.options()
    numeric = {n: jnp.asarray(v) for n, v in options.items() if not isinstance(v, bool | str | int)}
    fixed = {n: v for n, v in options.items() if n not in numeric}

    @jax.jit
    @chex.assert_max_traces(n=1)
    def jitted(data, numeric):
        return setting.loss(*data, **numeric, **fixed)

    chex.clear_trace_counter()
    expected = setting.loss(*data, **options)
    chex.assert_trees_all_close(jitted(data, numeric), expected, rtol=1e-5, atol=1e-6)
    jitted(data, {n: v if v.dtype == bool else 0.9 * v for n, v in numeric.items()})


# --- law 5: precision --------------------------------------------------------------------------


@each_loss
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_computed_in_float32(setting, dtype):
    half = [jnp.asarray(x, dtype) if x.dtype == np.float32 else x for x in setting.data()]
    got = call(setting)(*half)
    assert got.dtype == jnp.float32
    same = [jnp.asarray(x, jnp.float32) if x.dtype == dtype else x for x in half]
    np.testing.assert_array_equal(got, call(setting)(*same))
    for i in setting.floating():
        gradient = jax.jit(
            jax.grad(lambda x, i=i: call(setting, reduction="sum")(*half[:i], x, *half[i + 1 :]))
        )(half[i])
        assert gradient.dtype == dtype


@each_loss
def test_float64_stays_and_float32_does_not_widen(setting):
    data, options = setting.data(), setting.options()
    with cases.x64():
        wide = [x.astype(np.float64) if x.dtype == np.float32 else x for x in data]
        got = call(setting)(*wide)
        assert got.dtype == jnp.float64
        assert call(setting)(*data).dtype == jnp.float32
        named = dict(zip(setting.card.data, wide, strict=True)) | options
        index = (1, 2)
        one = setting.examples(named, index)
        expected = setting.case.oracle(**one)
        np.testing.assert_allclose(got[index], expected, rtol=1e-10, atol=1e-12)


# --- law 6: derivatives ------------------------------------------------------------------------


@every_setting
def test_forward_mode_is_reverse_mode(setting):
    function, floating = total(setting)
    generator = np.random.default_rng(5)
    tangents = [jnp.asarray(generator.normal(size=x.shape), x.dtype) for x in floating]
    gradients = jax.jit(jax.grad(function, argnums=tuple(range(len(floating)))))(*floating)
    _, forward = jax.jit(lambda x, t: jax.jvp(function, x, t))(floating, tangents)
    reverse = sum(jnp.sum(g * t) for g, t in zip(gradients, tangents, strict=True))
    np.testing.assert_allclose(forward, reverse, rtol=2e-5, atol=1e-5)


@each_loss
def test_second_derivative_is_that_of_the_gradient(setting):
    """Forward over reverse and reverse over reverse agree, with differences of the gradient."""
    function, floating = total(setting)
    generator = np.random.default_rng(6)
    tangents = [jnp.asarray(generator.normal(size=x.shape), x.dtype) for x in floating]
    argnums = tuple(range(len(floating)))
    gradient = jax.grad(function, argnums=argnums)

    def inner(*floating):
        return sum(jnp.sum(g * t) for g, t in zip(gradient(*floating), tangents, strict=True))

    _, forward = jax.jit(lambda x, t: jax.jvp(gradient, x, t))(floating, tangents)
    reverse = jax.jit(jax.grad(inner, argnums=argnums))(*floating)
    chex.assert_tree_all_finite((forward, reverse))
    chex.assert_trees_all_close(forward, reverse, rtol=1e-4, atol=1e-5)
    with cases.x64():
        wide = [np.float64(x) for x in floating]
        steps = [1e-5 * np.float64(t) for t in tangents]
        jitted = jax.jit(gradient)
        up = jitted(*(x + s for x, s in zip(wide, steps, strict=True)))
        down = jitted(*(x - s for x, s in zip(wide, steps, strict=True)))
    for f, u, d in zip(forward, up, down, strict=True):
        np.testing.assert_allclose(f, np.subtract(u, d) / 2e-5, rtol=1e-3, atol=1e-3)


@each_loss
def test_derivatives_are_finite_where_predictions_are_perfect(setting):
    """Ties, zeros and equal arguments: where norms, roots and logarithms go wrong."""
    data = list(setting.data())
    for i in setting.floating():
        data[i] = np.asarray(setting.forms[i].domain.fill + np.zeros_like(data[i]))
    at = setting.floating()
    function = lambda *x: jnp.sum(
        call(setting)(*(x[at.index(i)] if i in at else data[i] for i in range(len(data))))
    )
    floating = [jnp.asarray(data[i]) for i in at]
    value = function(*floating)
    gradient = jax.grad(function, argnums=tuple(range(len(at))))
    if np.isfinite(value):
        ones = [jnp.ones_like(x) for x in floating]
        chex.assert_tree_all_finite(jax.jit(lambda x: jax.jvp(gradient, x, ones))(floating))


# --- law 7: bad input --------------------------------------------------------------------------


def outside(form):
    """A value outside the domain of a form; None where every number is inside."""
    meaning = form.domain.meaning
    if meaning.startswith("class ids"):
        return SIZES[meaning.split()[-3]]
    for value in (np.nan, -7.0, 0.5):
        holds, _ = form.domain.test(np.full((2,), value), {})
        if not np.all(holds):
            return value
    return None


@each_loss
def test_checks_name_the_loss_the_argument_and_the_value(setting):
    data = setting.data()
    for i, (name, form) in enumerate(zip(setting.card.data, setting.forms, strict=True)):
        value = outside(form)
        if value is None or form.kind == "Bool":
            continue
        wrong = [x.copy() for x in data]
        wrong[i].flat[1] = value
        for run in (call(setting), jax.jit(call(setting))):
            with pytest.raises(
                ValueError, match=f"{re.escape(setting.card.name)}: `{name}` must be .*, got "
            ):
                jl.checked(run)(*wrong)
    with jl.checks():
        chex.assert_trees_all_close(
            jax.jit(call(setting))(*data), call(setting)(*data), rtol=1e-5, atol=1e-6
        )


@each_loss
def test_checks_off_leave_no_trace(setting):
    data = cases.tree_to_jax(setting.data())
    before = str(jax.make_jaxpr(call(setting))(*data))
    with jl.checks():
        during = jax.make_jaxpr(call(setting))(*data)
    assert during.effects
    after = jax.make_jaxpr(call(setting))(*data)
    assert str(after) == before
    assert not after.effects


@each_loss
def test_the_decorator_adds_nothing_to_compiled_code(setting):
    """The guard of class ids apart, the jaxpr of a call is that of the bare mathematics."""
    if (
        any(form.domain.guard for form in setting.forms)
        or setting.card.declaration.words["reduction"] != "none"
    ):
        return
    data = cases.tree_to_jax(setting.data())
    options = setting.options()
    bare = jax.make_jaxpr(lambda *data: setting.loss.__wrapped__(*data, **options))(*data)
    assert str(jax.make_jaxpr(call(setting))(*data)) == str(bare)


@each_loss
@pytest.mark.parametrize("label", [-1, -100, "classes", 10**6])
def test_a_label_outside_gives_nan_and_never_a_class(setting, label):
    guarded = [i for i, form in enumerate(setting.forms) if form.domain.guard]
    data = [x.copy() for x in setting.data()]
    inner = len(setting.card.declaration.result.dims) - 1
    for i in guarded:
        meaning = setting.forms[i].domain.meaning
        outlier = (
            SIZES[meaning.split()[-3]] if label == "classes" and "class ids" in meaning else label
        )
        wrong = [x.copy() for x in data]
        wrong[i][1, 1] = 0.25 if meaning.startswith("-1 or +1") else outlier
        got = np.asarray(call(setting, reduction="none")(*wrong))
        assert np.all(np.isnan(got[1, 1]))
        clean = np.asarray(call(setting, reduction="none")(*data))
        others = np.ones(BATCH, bool)
        others[1, 1] = False
        if not inner:
            np.testing.assert_array_equal(got[others], clean[others])
        for j in setting.floating():
            function, floating = total(setting, data=wrong)
            gradients = jax.jit(jax.grad(function, argnums=tuple(range(len(floating)))))(*floating)
            gradient = np.asarray(gradients[setting.floating().index(j)])
            if j != i:
                assert np.any(np.isnan(gradient[1, 1]))
                assert np.all(np.isfinite(gradient[others]))


# --- law 9 and the catalogue -------------------------------------------------------------------


@every_card
def test_every_loss_has_a_row(card):
    assert card.name in cases.rows(), (
        f"{card.name} has no row: add one to tests/cases/{card.shelf.split('.')[0]}.py"
    )


def test_every_row_has_a_loss():
    assert set(cases.rows()) <= {card.name for card in cases.losses()}


@every_card
def test_docstring_is_complete(card):
    text = inspect.getdoc(card.function)
    first, _, rest = text.partition("\n\n")
    assert "\n" not in first, "the first line is one line"
    assert first.endswith("."), "the first line is a sentence"
    assert "$$" in rest, "the equation is missing"
    sections = re.findall(r"^(\w+):$", text, re.MULTILINE)
    assert sections == ["Args", "Returns", "Raises", "Example", "References"]
    arguments = text.split("\nArgs:")[1].split("\nReturns:")[0]
    described = re.findall(r"^    (\w+): ", arguments, re.MULTILINE)
    assert described == list(card.signature.parameters), "Args names each parameter, in order"
    example = text.split("\nExample:")[1].split("\nReferences:")[0]
    assert 1 <= example.count(">>>") + example.count("...") <= 4


@every_card
def test_signature_shows_every_word(card):
    parameters = inspect.signature(card.function).parameters
    assert {"where", "weights", "reduction"} <= set(parameters)
    for name in card.data:
        assert parameters[name].kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    for name in (*card.options, "where", "weights", "reduction"):
        assert parameters[name].kind is inspect.Parameter.KEYWORD_ONLY
    assert "ArrayLike" in str(inspect.signature(card.function))


def test_everything_public_on_a_shelf_is_catalogued():
    filed = {card.function for card in cases.losses()}
    for shelf in sorted({card.shelf for card in cases.losses()}):
        module = importlib.import_module(f"jaxloss.{shelf}")
        public = {
            name: value
            for name, value in vars(module).items()
            if inspect.isfunction(value)
            and value.__module__.startswith(module.__name__)
            and not name.startswith("_")
        }
        loose = [name for name, value in public.items() if value not in filed]
        assert sorted(loose) == sorted(getattr(module, "HELPERS", [])), (
            f"{shelf}: {loose} are public but no losses: put @loss before them, "
            f"or name them in HELPERS of the module"
        )
