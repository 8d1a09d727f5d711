"""All losses against all laws: one test a law, parametrised over the catalogue.

A loss that breaks a law fails one test here, whose message says what to do.
"""

import functools
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
EACH = list({(s.info.name, s.array_specs): s for s in reversed(ALL)}.values())[::-1]
every_setting = pytest.mark.parametrize("setting", cases.each(ALL))
each_loss = pytest.mark.parametrize("setting", cases.each(EACH))
every_card = pytest.mark.parametrize("info", cases.losses(), ids=lambda info: info.name)


def call(setting: Setting, **words):
    """The loss as a function of its data alone."""
    options = {"reduction": "none"} | setting.options() | words
    return lambda *data: setting.loss(*data, **options)


# Compilation is most of the time of the suite: what several laws look at is compiled once. Laws
# that compare programs with each other, whatever the compiler makes of them, are compiled in a
# fifth of the time: XLA optimises as ever, LLVM does not, so that a * b + c is rounded twice.
# Values and gradients against the oracle, second derivatives, and what must be finite see the
# compiler that users have.

BRIEF = {"xla_backend_optimization_level": 0, "xla_cpu_parallel_codegen_split_count": 1}
if jax.__version_info__ < (0, 11):
    BRIEF["xla_cpu_use_fusion_emitters"] = False  # later there is no other emitter
briefly = functools.partial(jax.jit, compiler_options=BRIEF)


@functools.cache
def values(setting: Setting):
    """Compiled: one value an example."""
    return jax.jit(call(setting))


@functools.cache
def gradients(setting: Setting):
    """Compiled: the gradients of the sum with respect to the floating data."""

    def of(*data):
        return jax.grad(lambda *x: jnp.sum(call(setting)(*merge(setting, data, x))), at)(
            *(data[i] for i in setting.floating())
        )

    at = tuple(range(len(setting.floating())))
    return jax.jit(of)


@functools.cache
def masked(setting: Setting):
    """Compiled: with a mask, the values, and value and gradients of the mean."""

    def of(where, *data):
        def mean(*x):
            return call(setting, where=where, reduction="mean")(*merge(setting, data, x))

        floating = [data[i] for i in setting.floating()]
        argnums = tuple(range(len(floating)))
        return call(setting, where=where)(*data), jax.value_and_grad(mean, argnums)(*floating)

    return briefly(of)


def merge(setting: Setting, data, floating):
    """The data with its floating arrays replaced."""
    replaced = dict(zip(setting.floating(), floating, strict=True))
    return [replaced.get(i, x) for i, x in enumerate(data)]


def total(setting: Setting, **words):
    """A scalar function of the floating data, for derivatives; and the data it starts from."""
    data = setting.data()

    def function(*floating):
        return jnp.sum(call(setting, **words)(*merge(setting, data, floating)))

    return function, [jnp.asarray(data[i]) for i in setting.floating()]


# --- the mathematics ---------------------------------------------------------------------------


@every_setting
def test_value_is_that_of_the_oracle(setting):
    data, options = setting.data(), setting.options()
    got = np.asarray(values(setting)(*data))
    assert got.shape == setting.result_shape()
    named = dict(zip(setting.info.data, data, strict=True)) | options
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
    named = dict(zip(setting.info.data, data, strict=True)) | options
    one = setting.examples(named, index)
    wrt = {setting.info.data[i] for i in at} | {
        n for n in numeric if np.asarray(numeric[n]).dtype != bool
    }

    def ours(values):
        every = one | values
        positional = [every.pop(n) for n in setting.info.data]
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


@every_setting
def test_subnormal_numbers_are_no_worse_than_zeros(setting):
    """Compiled, one of them is 0 in one place and not in another: 0 / 0 and 0 * inf lie near."""
    above_zero = (jl.domains.positive, jl.domains.nonzero)
    below_zero = jl.domains.log_probability
    data, tiny, zero = setting.data(), [], []
    for name, form, x in zip(setting.info.data, setting.array_specs, data, strict=True):
        fixed = name in setting.case.draws or form.domain in above_zero or form.domain.guard
        if x.dtype != np.float32 or fixed:
            tiny.append(x), zero.append(x)
            continue
        every_other = np.arange(x.size).reshape(x.shape) % 2 == 0
        number = np.float32(-1e-41 if form.domain == below_zero else 1e-41)
        tiny.append(np.where(every_other, number, x))
        zero.append(np.where(every_other, np.float32(0), x))
    for compiled in (values(setting), gradients(setting)):
        got, of_zeros = (jax.tree.leaves(compiled(*arrays)) for arrays in (tiny, zero))
        for ours, theirs in zip(got, of_zeros, strict=True):
            assert not np.isnan(ours)[~np.isnan(theirs)].any()


# --- law 1: shape ------------------------------------------------------------------------------


@pytest.mark.slow
@each_loss
def test_batch_is_nested_vmap_is_a_loop(setting):
    data, once = setting.data(), call(setting)
    got = values(setting)(*data)
    batched = {n for n, v in setting.given.items() if isinstance(v, cases.Batched)}
    assert not batched, "the first set of options of a row must not differ between examples"
    mapped = briefly(jax.vmap(jax.vmap(once)))(*data)
    chex.assert_trees_all_close(mapped, got, rtol=1e-6, atol=1e-7)
    looped = [values(setting)(*(x[index] for x in data)) for index in np.ndindex(BATCH)]
    chex.assert_trees_all_close(jnp.stack(looped).reshape(got.shape), got, rtol=1e-6, atol=1e-7)


@pytest.mark.slow
@each_loss
def test_an_empty_batch_is_fine(setting):
    data = setting.data(batch=(0,))
    assert jax.eval_shape(call(setting), *data).shape == setting.result_shape((0,))
    assert briefly(call(setting, reduction="mean"))(*data) == 0


@each_loss
def test_wrong_shapes_are_refused_with_names_and_remedy(setting):
    data = [jnp.asarray(x) for x in setting.data()]
    for i, name in enumerate(setting.info.data[1:], start=1):
        wrong = [*data[:i], data[i][..., None], *data[i + 1 :]]
        with pytest.raises(
            (ValueError, TypeError), match=f"{setting.info.name}: `{name}`.*expected"
        ):
            call(setting)(*wrong)
        shorter = [*data[:i], data[i][:1], *data[i + 1 :]]
        with pytest.raises(
            (ValueError, TypeError), match=f"{setting.info.name}: `{name}`.*expected"
        ):
            call(setting)(*shorter)


@pytest.mark.slow
@each_loss
def test_axis_moves(setting):
    if "axis" not in setting.info.signature.parameters:
        assert "axis" not in setting.info.spec.common_kwargs
        return
    data = setting.data()
    moved = [
        np.moveaxis(x, -1, 1) if form.event else x
        for x, form in zip(data, setting.array_specs, strict=True)
    ]
    got = briefly(call(setting, axis=1))(*moved)
    chex.assert_trees_all_close(got, values(setting)(*data), rtol=1e-6, atol=1e-7)
    with pytest.raises(ValueError, match="`axis` is 7"):
        call(setting, axis=7)(*data)


# --- law 2: where, weights, reduction ----------------------------------------------------------


@each_loss
def test_where_hides_whatever_the_inputs_hold(setting):
    shape, dims = setting.result_shape(), setting.info.spec.result.dims
    where = np.arange(np.prod(shape)).reshape(shape) % 2 == 0
    clean = setting.data()
    expected, _ = masked(setting)(where, *clean)
    if not setting.set_axes:
        kept = np.asarray(values(setting)(*clean))[where]
        np.testing.assert_allclose(np.asarray(expected)[where], kept, rtol=2e-6, atol=1e-7)
    for bad in (np.nan, np.inf, -np.inf):
        dirty = [x.copy() for x in clean]
        for x, form in zip(dirty, setting.array_specs, strict=True):
            if form.dims[: len(dims)] == dims:
                x[~where] = bad if x.dtype == np.float32 else -100
        got, (_, slopes) = masked(setting)(where, *dirty)
        assert np.all(np.asarray(got)[~where] == 0)
        np.testing.assert_array_equal(got, expected)
        chex.assert_tree_all_finite(slopes)
        for slope in slopes:
            if slope.shape[: len(shape)] == shape:
                assert np.all(np.asarray(slope)[~where] == 0)


@each_loss
def test_where_takes_an_example_out_of_its_set(setting):
    """The loss of the examples that are kept is that of a set which never held the others."""
    if not setting.set_axes:
        return
    rank, kept = len(BATCH), np.array([0, 2, 3])
    where = np.isin(np.arange(setting.result_shape()[rank]), kept)
    subset = [
        np.take(x, kept, axis=rank) if form.dims[1:2] == setting.set_axes[:1] else x
        for x, form in zip(setting.data(), setting.array_specs, strict=True)
    ]
    got = call(setting, where=np.broadcast_to(where, setting.result_shape()))(*setting.data())
    expected = call(setting)(*subset)
    got = np.take(np.asarray(got), kept, axis=rank)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


@each_loss
def test_nothing_that_counts_gives_zero_with_gradient_zero(setting):
    nothing = np.zeros(setting.result_shape(), bool)
    got, (mean, slopes) = masked(setting)(nothing, *setting.data())
    assert np.all(np.asarray(got) == 0)
    assert mean == 0
    assert all(np.all(np.asarray(slope) == 0) for slope in slopes)


@pytest.mark.slow
@each_loss
def test_weights_and_reductions_are_what_they_say(setting):
    shape = setting.result_shape()
    weights = np.random.default_rng(3).uniform(0.5, 2, shape).astype(np.float32)
    where = np.arange(np.prod(shape)).reshape(shape) % 3 != 1

    @briefly
    def of(where, weights, *data):
        both = {"where": where, "weights": weights}
        reduced = {r: call(setting, **both, reduction=r)(*data) for r in ("parts", "sum", "mean")}
        return (
            call(setting, where=where)(*data),
            call(setting, weights=weights)(*data),
            call(setting, weights=jnp.zeros(shape), reduction="mean")(*data),
            call(setting, reduction="mean")(*data),
            reduced,
        )

    kept, weighted, weightless, mean, reduced = of(where, weights, *setting.data())
    plain = np.asarray(values(setting)(*setting.data()))
    counted = np.where(where, weights, 0)
    total, weight = np.sum(counted * np.float64(kept)), np.sum(np.float64(counted))
    near = {"rtol": 1e-5, "atol": 1e-6}
    np.testing.assert_allclose(
        (reduced["parts"].total, reduced["parts"].weight), (total, weight), **near
    )
    np.testing.assert_allclose((reduced["sum"], reduced["mean"]), (total, total / weight), **near)
    np.testing.assert_allclose(weighted, weights * plain, rtol=2e-6, atol=1e-7)
    np.testing.assert_allclose(mean, plain.mean(), **near)
    assert weightless == 0


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
    with pytest.raises(TypeError, match=f"{setting.info.name}: missing"):
        call(setting)(*data[:-1])


# --- law 4: arguments --------------------------------------------------------------------------


@pytest.mark.slow
@each_loss
def test_any_array_like_will_do(setting):
    data = setting.data()
    expected = values(setting)(*data)
    lists = call(setting)(*(x.tolist() for x in data))  # eager, as a newcomer calls it
    assert lists.dtype == expected.dtype == jnp.float32
    assert not lists.weak_type
    chex.assert_trees_all_close(lists, expected, rtol=2e-6, atol=1e-6)
    wide = {np.dtype(np.float32): np.float64, np.dtype(np.int32): np.int64}
    got = call(setting)(*(x.astype(wide.get(x.dtype, x.dtype)) for x in data))
    chex.assert_trees_all_close(got, expected, rtol=2e-6, atol=1e-6)
    for x, name in zip(data, setting.info.data, strict=True):
        others = {n: y for n, y in zip(setting.info.data, data, strict=True) if n != name}
        with pytest.raises(TypeError, match=f"{setting.info.name}: `{name}`"):
            setting.loss(**others, **{name: x.astype(complex)}, **setting.options())
        with pytest.raises(TypeError, match=f"{setting.info.name}: `{name}` holds text"):
            setting.loss(**others, **{name: "one"}, **setting.options())


@pytest.mark.slow
@every_setting
def test_one_trace_however_the_numbers_change(setting):
    data = cases.tree_to_jax(setting.data())
    options = {"reduction": "none"} | setting.options()
    numeric = {n: jnp.asarray(v) for n, v in options.items() if not isinstance(v, bool | str | int)}
    fixed = {n: v for n, v in options.items() if n not in numeric}

    @briefly
    @chex.assert_max_traces(n=1)
    def jitted(data, numeric):
        return setting.loss(*data, **numeric, **fixed)

    chex.clear_trace_counter()
    got = jitted(data, numeric)
    chex.assert_trees_all_close(got, values(setting)(*data), rtol=1e-5, atol=1e-6)
    jitted(data, {n: v if v.dtype == bool else 0.9 * v for n, v in numeric.items()})


# --- law 5: precision --------------------------------------------------------------------------


@pytest.mark.slow
@each_loss
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_computed_in_float32(setting, dtype):
    half = [jnp.asarray(x, dtype) if x.dtype == np.float32 else x for x in setting.data()]
    got = briefly(call(setting))(*half)
    assert got.dtype == jnp.float32
    same = [jnp.asarray(x, jnp.float32) if x.dtype == dtype else x for x in half]
    chex.assert_trees_all_close(got, values(setting)(*same), rtol=2e-6, atol=1e-7)
    slopes = jax.eval_shape(gradients(setting), *half)
    assert all(slope.dtype == dtype for slope in slopes)


@pytest.mark.slow
@each_loss
def test_float64_stays_and_float32_does_not_widen(setting):
    data, options = setting.data(), setting.options()
    with cases.x64():
        wide = [x.astype(np.float64) if x.dtype == np.float32 else x for x in data]
        got = values(setting)(*wide)
        assert got.dtype == jnp.float64
        assert jax.eval_shape(call(setting), *data).dtype == jnp.float32
        named = dict(zip(setting.info.data, wide, strict=True)) | options
        index = (1, 2)
        # A default such as 0.1 is another number in float32, which is what oracles take it for.
        spec = setting.info.spec.defaults
        numbers = {n: v for n, v in spec.items() if isinstance(v, float)}
        expected = setting.case.oracle(**numbers | setting.examples(named, index))
        np.testing.assert_allclose(got[index], expected, rtol=1e-10, atol=1e-12)


# --- law 6: derivatives ------------------------------------------------------------------------


def directions(floating):
    generator = np.random.default_rng(6)
    return [jnp.asarray(generator.normal(size=x.shape), x.dtype) for x in floating]


@pytest.mark.slow
@every_setting
def test_forward_mode_is_reverse_mode(setting):
    function, floating = total(setting)
    tangents = directions(floating)

    @briefly
    def both(floating, tangents):
        gradient = jax.grad(function, argnums=tuple(range(len(floating))))
        return jax.jvp(function, floating, tangents)[1], gradient(*floating)

    forward, slopes = both(floating, tangents)
    reverse = sum(jnp.sum(g * t) for g, t in zip(slopes, tangents, strict=True))
    np.testing.assert_allclose(forward, reverse, rtol=2e-5, atol=1e-5)


@pytest.mark.slow
@each_loss
def test_second_derivative_is_that_of_the_gradient(setting):
    """Forward over reverse and reverse over reverse agree, with differences of the gradient."""
    function, floating = total(setting)
    tangents = directions(floating)
    argnums = tuple(range(len(floating)))
    gradient = jax.grad(function, argnums=argnums)

    def inner(*floating):
        return sum(jnp.sum(g * t) for g, t in zip(gradient(*floating), tangents, strict=True))

    @jax.jit
    def both(floating, tangents):
        return jax.jvp(gradient, floating, tangents)[1], jax.grad(inner, argnums)(*floating)

    forward, reverse = both(floating, tangents)
    chex.assert_tree_all_finite((forward, reverse))
    # What cancels in a second derivative has the size of the squared first one.
    steepest = max(np.max(np.abs(g)) for g in gradients(setting)(*setting.data()))
    atol = max(1e-5, 1e-7 * steepest**2)
    chex.assert_trees_all_close(forward, reverse, rtol=1e-4, atol=atol)
    with cases.x64():
        wide = [np.float64(x) for x in floating]
        steps = [1e-5 * np.float64(t) for t in tangents]
        ends = [[x + sign * s for x, s in zip(wide, steps, strict=True)] for sign in (1, -1)]
        up, down = (gradients(setting)(*merge(setting, setting.data(), end)) for end in ends)
    for f, u, d in zip(forward, up, down, strict=True):
        np.testing.assert_allclose(f, np.subtract(u, d) / 2e-5, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
@each_loss
def test_in_a_scan_second_derivatives_are_those_outside(setting):
    """Differentiated, a scan forgets the rule of a function: its formula must be right too."""
    function, floating = total(setting)
    tangents = directions(floating)

    def scanned(*floating):
        step = lambda sum, x: (sum + function(*x), None)
        twice = [jnp.stack([x, x]) for x in floating]  # what is the same in each turn moves out
        return jax.lax.scan(step, 0 * function(*floating), twice)[0] / 2

    @briefly
    def product(floating, tangents):
        gradients = [jax.grad(f, tuple(range(len(floating)))) for f in (function, scanned)]
        return [jax.jvp(gradient, floating, tangents) for gradient in gradients]

    fills = [setting.array_specs[i].domain.fill for i in setting.floating()]
    perfect = [jnp.full_like(x, fill) for x, fill in zip(floating, fills, strict=True)]
    # What cancels in a second derivative has the size of the squared first one.
    steepest = max(np.max(np.abs(g)) for g in gradients(setting)(*setting.data()))
    for at in floating, perfect:
        expected, got = (jax.tree.leaves(x) for x in product(at, tangents))
        for e, g in zip(expected, got, strict=True):
            finite = np.isfinite(e)
            atol = max(1e-6, 1e-6 * steepest**2)
            np.testing.assert_allclose(g[finite], e[finite], rtol=1e-4, atol=atol)


@pytest.mark.slow
@each_loss
def test_derivatives_are_finite_where_predictions_are_perfect(setting):
    """Ties, zeros and equal arguments: where norms, roots and logarithms go wrong."""
    data = list(setting.data())
    for i in setting.floating():
        data[i] = np.asarray(setting.array_specs[i].domain.fill + np.zeros_like(data[i]))
    floating = [jnp.asarray(data[i]) for i in setting.floating()]

    @jax.jit
    def derivatives(*floating):
        def function(*x):
            return jnp.sum(call(setting)(*merge(setting, data, x)))

        gradient = jax.grad(function, argnums=tuple(range(len(floating))))
        ones = tuple(jnp.ones_like(x) for x in floating)
        return function(*floating), jax.jvp(gradient, floating, ones)

    value, slopes = derivatives(*floating)
    if np.isfinite(value):
        chex.assert_tree_all_finite(slopes)


# --- law 7: bad input --------------------------------------------------------------------------


def outside(form):
    """A value outside the domain of a form; None where every number is inside."""
    meaning = form.domain.meaning
    if meaning.startswith("class ids"):
        return SIZES[meaning.split()[-3]]
    for value in (-7,) if form.kind == "Int" else (np.nan, -7.0, 0.5):
        holds, _ = form.domain.test(np.full((2,), value), {})
        if not np.all(holds):
            return value
    return None


@pytest.mark.slow
@each_loss
def test_checks_name_the_loss_the_argument_and_the_value(setting):
    data = setting.data()
    for i, (name, form) in enumerate(zip(setting.info.data, setting.array_specs, strict=True)):
        value = outside(form)
        if value is None or form.kind == "Bool":
            continue
        wrong = [x.copy() for x in data]
        wrong[i].flat[1] = value
        named = f"{re.escape(setting.info.name)}: `{name}` must be .*, got "
        with pytest.raises(ValueError, match=named):
            jl.checked(values(setting))(*wrong)
    got = jl.checked(values(setting))(*data)
    chex.assert_trees_all_close(got, values(setting)(*data), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
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
    """The jaxpr is that of the bare mathematics, the guard of class ids and long loops apart."""
    if (
        any(form.domain.guard for form in setting.array_specs)
        or setting.info.spec.common_kwargs["reduction"] != "none"
    ):
        return
    data = cases.tree_to_jax(setting.data())
    options = {
        n: jnp.asarray(v) if isinstance(v, np.ndarray) else v for n, v in setting.options().items()
    }
    bare = jax.make_jaxpr(lambda *data: setting.loss.__wrapped__(*data, **options))(*data)
    assert str(jax.make_jaxpr(call(setting))(*data)) == str(bare)


@each_loss
def test_a_label_outside_gives_nan_and_never_a_class(setting):
    clean = np.asarray(values(setting)(*setting.data()))
    others = np.ones(BATCH, bool)
    others[1, 1] = False
    for i in (i for i, form in enumerate(setting.array_specs) if form.domain.guard):
        meaning = setting.array_specs[i].domain.meaning
        outside = [0.25, 7] if meaning.startswith("-1 or +1") else [-1, -100, 10**6]
        outside += [SIZES[meaning.split()[-3]]] if meaning.startswith("class ids") else []
        for label in outside:
            wrong = [x.copy() for x in setting.data()]
            wrong[i][1, 1] = label
            got = np.asarray(values(setting)(*wrong))
            assert np.all(np.isnan(got[1, 1]))
            for slope in gradients(setting)(*wrong):
                assert np.any(np.isnan(slope[1, 1]))
                if not setting.set_axes:
                    assert np.all(np.isfinite(slope[others]))
            if not setting.set_axes:
                np.testing.assert_array_equal(got[others], clean[others])


# --- law 9 and the catalogue -------------------------------------------------------------------


@every_card
def test_every_loss_has_a_row(info):
    assert info.name in cases.rows(), (
        f"{info.name} has no row: add one to tests/cases/{info.family.split('.')[0]}.py"
    )


def test_every_row_has_a_loss():
    assert set(cases.rows()) <= {info.name for info in cases.losses()}


@every_card
def test_docstring_is_complete(info):
    text = inspect.getdoc(info.function)
    first, _, rest = text.partition("\n\n")
    assert "\n" not in first, "the first line is one line"
    assert first.endswith("."), "the first line is a sentence"
    assert "$$" in rest, "the equation is missing"
    sections = re.findall(r"^(\w+):$", text, re.MULTILINE)
    assert sections == ["Args", "Returns", "Raises", "Example", "References"]
    arguments = text.split("\nArgs:")[1].split("\nReturns:")[0]
    described = re.findall(r"^    (\w+): ", arguments, re.MULTILINE)
    assert described == list(info.signature.parameters), "Args names each parameter, in order"
    example = text.split("\nExample:")[1].split("\nReferences:")[0]
    assert 1 <= example.count(">>>") + example.count("...") <= 4


@every_card
def test_signature_shows_every_word(info):
    parameters = inspect.signature(info.function).parameters
    assert {"where", "weights", "reduction"} <= set(parameters)
    for name in info.data:
        assert parameters[name].kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    for name in (*info.options, "where", "weights", "reduction"):
        assert parameters[name].kind is inspect.Parameter.KEYWORD_ONLY
    assert "ArrayLike" in str(inspect.signature(info.function))


def test_everything_public_on_a_shelf_is_catalogued():
    filed = {info.function for info in cases.losses()}
    for family in sorted({info.family for info in cases.losses()}):
        module = importlib.import_module(f"jaxloss.{family}")
        public = {
            name: value
            for name, value in vars(module).items()
            if inspect.isfunction(value)
            and value.__module__.startswith(module.__name__)
            and not name.startswith("_")
        }
        loose = [name for name, value in public.items() if value not in filed]
        assert sorted(loose) == sorted(getattr(module, "HELPERS", [])), (
            f"{family}: {loose} are public but no losses: put @loss before them, "
            f"or name them in HELPERS of the module"
        )
