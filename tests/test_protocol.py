"""What every transformation keeps, whatever it does: Optax's protocol and JAX's transformations.

`CASES` has at least a row for each transformation of `jaxloss.transforms`; one without fails the
first test. A row says what else its updates need: stacked gradients, a weight, losses.
"""

import dataclasses
import functools
import inspect
import pickle
import warnings

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxloss import aggregators, penalties, transforms

pytestmark = pytest.mark.few

with warnings.catch_warnings():
    # flax 0.12.0, the newest for jax 0.8.0, imports what that deprecates.
    warnings.simplefilter("ignore", DeprecationWarning)
    import flax.nnx as nnx


@dataclasses.dataclass(frozen=True)
class Case:
    """A transformation, and what its updates look like."""

    tx: optax.GradientTransformationExtraArgs
    stacked: int = 0
    extra: tuple[tuple[str, object], ...] = ()
    takes_integers: bool = True

    def update(self, updates, state, params, **more):
        return self.tx.update(updates, state, params, **{**dict(self.extra), **more})

    def updates_like(self, params):
        """Seeded gradients in the shapes that it is given."""

        def leaf(p):
            grown = (self.stacked, *p.shape) if self.stacked else p.shape
            draw = np.random.default_rng(p.size).normal(size=grown)
            return jnp.asarray(draw, p.dtype)

        return jax.tree.map(leaf, params)


def is_matrix(params):
    return jax.tree.map(lambda p: p.ndim > 1, params)


ADAM = optax.adam(0.1)
LOSSES = (("losses", jnp.array([1.0, 2.0])),)
CASES = {
    "add_penalty": Case(transforms.add_penalty(penalties.l2, 1e-2)),
    "add_penalty array": Case(transforms.add_penalty(penalties.l2, jnp.float32(1e-2))),
    "add_penalty schedule": Case(
        transforms.add_penalty(penalties.l1, optax.linear_schedule(0.0, 1e-2, 10))
    ),
    "add_penalty mask": Case(transforms.add_penalty(penalties.elastic_net, 1e-2, mask=is_matrix)),
    "regularize": Case(transforms.regularize(ADAM, penalties.l2, 1e-2)),
    "add_anchored_penalty": Case(transforms.add_anchored_penalty(1e-2)),
    "add_anchored_penalty schedule": Case(
        transforms.add_anchored_penalty(optax.linear_schedule(0.0, 1e-2, 10))
    ),
    "add_ema_penalty": Case(transforms.add_ema_penalty(1e-2, decay=0.9)),
    "accumulate": Case(transforms.accumulate(ADAM, 2), extra=(("weight", 3.0),)),
    "dynamic_loss_scale": Case(transforms.dynamic_loss_scale(ADAM, initial=4.0)),
    "skip_nonfinite": Case(transforms.skip_nonfinite(ADAM)),
    "skip_nonfinite around all": Case(
        transforms.skip_nonfinite(
            transforms.dynamic_loss_scale(transforms.regularize(ADAM, penalties.l2, 1e-2))
        )
    ),
    "aggregate": Case(transforms.aggregate(aggregators.upgrad, 2), stacked=2),
    "aggregate random": Case(transforms.aggregate(aggregators.pcgrad, 2), stacked=2),
    "aggregate balancer": Case(transforms.aggregate(aggregators.famo(), 2), 2, LOSSES),
    "aggregate_coordinates": Case(
        transforms.aggregate_coordinates(aggregators.trimmed_mean, 3), stacked=3
    ),
    "aggregate_coordinates random": Case(
        transforms.aggregate_coordinates(aggregators.grad_drop, 2), stacked=2
    ),
}


def rows(cases):
    """The quick tier looks at one row of each transformation, the slow one at its variants, too."""
    slow = {name for name in cases if " " in name and name != "aggregate balancer"}
    return pytest.mark.parametrize(
        "case",
        [pytest.param(c, id=n, marks=[pytest.mark.slow] * (n in slow)) for n, c in cases.items()],
    )


EVERY = rows(CASES)
# `MultiSteps`, `apply_if_finite` and modules keep gradients in the shape of the parameters.
UNSTACKED = {name: case for name, case in CASES.items() if not case.stacked}
EVERY_UNSTACKED = rows(UNSTACKED)
NOT_TRANSFORMATIONS = {"loss_scale", "make_train_step", "tree_where"}


def parameters(dtype=np.float32):
    rng = np.random.default_rng(0)
    draw = {"w": rng.normal(size=(3, 2)), "b": rng.normal(size=2)}
    return jax.tree.map(lambda x: jnp.asarray(x, dtype), draw)


@pytest.fixture
def x64():
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


def test_every_transformation_has_a_row():
    public = {
        name
        for name in transforms.__all__
        if inspect.isfunction(getattr(transforms, name)) and name not in NOT_TRANSFORMATIONS
    }
    assert public == {name.split()[0] for name in CASES}
    for case in CASES.values():
        assert isinstance(case.tx, optax.GradientTransformationExtraArgs)


# --- JAX ----------------------------------------------------------------------------------------


@EVERY
@pytest.mark.parametrize(
    "dtype", ["float32", "bfloat16", pytest.param("float16", marks=pytest.mark.slow)]
)
def test_dtypes_are_stable_under_scan(case, dtype):
    """A carry that changes its type makes `scan` raise."""
    params = parameters(dtype)
    update = case.updates_like(params)

    def body(carry, _):
        params, state = carry
        updates, state = case.update(update, state, params)
        chex.assert_trees_all_equal_shapes_and_dtypes(updates, params)
        return (optax.apply_updates(params, updates), state), None

    scan = functools.partial(jax.lax.scan, body, length=2)
    jax.eval_shape(scan, (params, case.tx.init(params)))


@pytest.mark.slow
@EVERY
@pytest.mark.usefixtures("x64")
def test_float64_stays_float64(case):
    params = parameters(np.float64)
    update = case.updates_like(params)

    def body(carry, _):
        params, state = carry
        updates, state = case.update(update, state, params)
        chex.assert_trees_all_equal_shapes_and_dtypes(updates, params)
        return (optax.apply_updates(params, updates), state), None

    jax.eval_shape(functools.partial(jax.lax.scan, body, length=2), (params, case.tx.init(params)))


@EVERY
def test_init_is_abstract_and_its_state_has_no_leaf_like_a_parameter(case):
    params = parameters()
    state = case.tx.init(params)
    chex.assert_trees_all_equal_shapes_and_dtypes(jax.eval_shape(case.tx.init, params), state)
    mapped = optax.tree_utils.tree_map_params(case.tx, lambda leaf: None, state)
    # What is left after the parameters are taken away has the shape of none of them.
    left = [x for x in jax.tree.leaves(mapped) if jnp.ndim(x)]
    assert not any(x.shape in {(3, 2), (2,)} and not case.stacked for x in left)


@EVERY
def test_buffers_can_be_donated(case):
    """No two leaves share a buffer, nor does the state hold one that lives outside it."""
    step = functools.partial(jax.jit, donate_argnums=(0, 1), keep_unused=True)(
        lambda p, s, u: case.update(u, s, p)[::-1]
    )
    params = parameters()
    update = case.updates_like(params)
    _, state = case.update(update, case.tx.init(params), params)  # not compiled: nothing is copied
    for fresh in (state, case.tx.init(params)):
        step(parameters(), fresh, update)
    step(params, case.tx.init(params), update)  # the parameters it started from, too


@EVERY
def test_vmap_over_seeds_is_a_loop(case):
    params = jax.tree.map(lambda p: jnp.stack([p, 2 * p - 1]), parameters())
    one = jax.tree.map(lambda p: p[0], params)
    update = case.updates_like(one)
    updates = jax.tree.map(lambda u: jnp.stack([u, u + 0.5]), update)

    def twice(update, params):
        state = case.tx.init(params)
        for _ in range(2):
            new, state = case.update(update, state, params)
        return new, state

    twice = jax.jit(twice)
    got = jax.jit(jax.vmap(twice))(updates, params)
    for i in range(2):
        expected = twice(*jax.tree.map(lambda x, i=i: x[i], (updates, params)))
        chex.assert_trees_all_close(
            jax.tree.map(lambda x, i=i: x[i], got), expected, rtol=2e-5, atol=1e-6
        )


@EVERY
def test_states_are_arrays_that_a_checkpoint_takes(case):
    params = parameters()
    update = case.updates_like(params)
    _, state = case.update(update, case.tx.init(params), params)
    again = pickle.loads(pickle.dumps(jax.tree.map(np.asarray, state)))
    chex.assert_trees_all_equal_structs(again, state)
    got, expected = (case.update(update, s, params) for s in (again, state))
    chex.assert_trees_all_close(got, expected, rtol=1e-6)


# --- Optax --------------------------------------------------------------------------------------


@EVERY
def test_unknown_arguments_pass_and_empty_trees_too(case):
    params = {"w": jnp.ones((2, 2)), "frozen": None, "off": optax.MaskedNode()}
    update = case.updates_like(params)
    updates, _ = case.update(
        update, case.tx.init(params), params, value=1.0, grad_fn=None, unheard_of=2
    )
    chex.assert_trees_all_equal_structs(updates, params)
    for empty in ({}, {"frozen": None}):
        updates, state = case.update(empty, case.tx.init(empty), empty)
        assert updates == empty
        chex.assert_trees_all_equal_shapes_and_dtypes(state, case.tx.init(empty))


def spy():
    """A transformation that keeps the names of the extra arguments that it was given."""
    seen = {}

    def update(updates, state, params=None, **extra_args):
        seen.update(extra_args)
        return updates, state

    return optax.GradientTransformationExtraArgs(lambda params: (), update), seen


@EVERY
def test_extra_arguments_reach_the_next_transformation(case):
    inner, seen = spy()
    tx = optax.chain(case.tx, inner)
    params = parameters()
    tx.update(case.updates_like(params), tx.init(params), params, **dict(case.extra), unheard_of=7)
    assert seen["unheard_of"] == 7


WRAPPERS = {
    "accumulate": lambda tx: transforms.accumulate(tx, 1),
    "dynamic_loss_scale": transforms.dynamic_loss_scale,
    "regularize": lambda tx: transforms.regularize(tx, penalties.l2, 0.1),
    "skip_nonfinite": transforms.skip_nonfinite,
}


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_extra_arguments_reach_an_inner_transformation_even_if_it_takes_none(wrap):
    inner, seen = spy()
    params = parameters()
    tx = wrap(inner)
    tx.update(params, tx.init(params), params, weight=1.0, unheard_of=7)
    assert seen["unheard_of"] == 7
    tx = wrap(optax.GradientTransformation(*optax.scale(2.0)))
    tx.update(params, tx.init(params), params, weight=1.0, unheard_of=7)
    tx = wrap(optax.MultiSteps(optax.sgd(0.1), 2))  # is no GradientTransformation
    tx.update(params, tx.init(params), params, weight=1.0)


def masked(case):
    return optax.masked(case.tx, {"w": True, "b": False}), {"w"}


def partition(case):
    labels = {"w": "ours", "b": "other"}
    head = {"ours": case.tx, "other": optax.set_to_zero()}
    return optax.partition(head, labels), {"w"}


COMPOSED = {
    "chain": lambda case: (optax.chain(case.tx, optax.scale(-0.1)), {"w", "b"}),
    "named_chain": lambda case: (
        optax.named_chain(("ours", case.tx), ("rate", optax.scale(-0.1))),
        {"w", "b"},
    ),
    "masked": masked,
    "partition": partition,
}


@EVERY
@pytest.mark.parametrize("compose", COMPOSED.values(), ids=COMPOSED)
def test_it_composes(case, compose):
    tx, own = compose(case)
    params = parameters()
    update = case.updates_like(params)
    if case.stacked:  # what is not its own passes through as it is: it must fit the rest
        update |= {k: params[k] for k in params if k not in own}

    def step(params, state):
        updates, state = tx.update(update, state, params, **dict(case.extra))
        return optax.apply_updates(params, updates), state

    state = tx.init(params)
    new, after = jax.jit(step)(*jax.jit(step)(params, state))
    chex.assert_trees_all_equal_shapes_and_dtypes((new, after), (params, state))
    assert all(jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(new))


@EVERY_UNSTACKED
def test_it_lives_in_multi_steps_and_apply_if_finite(case):
    params = parameters()
    update = case.updates_like(params)
    for tx in (
        optax.MultiSteps(case.tx, 2),
        optax.apply_if_finite(case.tx, 3),
        optax.conditionally_transform(case.tx, lambda step: step < 1),
    ):
        state = tx.init(params)
        for _ in range(2):
            updates, state = jax.jit(tx.update)(update, state, params, **dict(case.extra))
        chex.assert_trees_all_equal_shapes_and_dtypes(updates, params)


@pytest.mark.parametrize("name", ["aggregate", "aggregate_coordinates"])
def test_heads_say_that_multi_steps_is_not_for_them(name):
    """It would keep a stack in the shape of the parameters: the error names the leaf and the remedy."""
    tx, params = optax.MultiSteps(CASES[name].tx, 2), parameters()
    # The shape of a bias of 2 is by chance that of 2 scalars stacked: the parameters tell.
    with pytest.raises(
        ValueError, match=r"`updates\['b'\]` has shape \(2,\), exp.*multi_value_and"
    ):
        tx.update(params, tx.init(params), params)


def test_numbers_can_be_injected():
    """Those of the constructor become part of the state, and can be changed there."""
    inject = optax.inject_hyperparams
    made = {
        "add_penalty": inject(transforms.add_penalty, static_args=("penalty", "mask"))(
            penalties.l2, weight=0.5
        ),
        "regularize": inject(transforms.regularize, static_args=("inner", "penalty", "mask"))(
            optax.sgd(1.0), penalties.l2, weight=0.5
        ),
        "add_anchored_penalty": inject(
            transforms.add_anchored_penalty, static_args=("anchor", "importance")
        )(weight=0.5),
        "add_ema_penalty": inject(transforms.add_ema_penalty)(weight=0.5, decay=0.9),
    }
    params = parameters()
    zeros = jax.tree.map(jnp.zeros_like, params)
    for name, tx in made.items():
        state = tx.init(jax.tree.map(jnp.zeros_like, params))
        once, _ = jax.jit(tx.update)(zeros, state, params)
        state.hyperparams["weight"] = jnp.float32(1.0)
        twice, _ = jax.jit(tx.update)(zeros, state, params)
        chex.assert_trees_all_close(
            twice, jax.tree.map(lambda u: 2 * u, once), rtol=1e-6, custom_message=name
        )
        assert np.any(once["w"])


@EVERY_UNSTACKED
def test_a_state_has_no_field_that_line_searches_look_for(case):
    """A second `value` or `grad` in the state of a chain makes `value_and_grad_from_state` fail."""
    search = optax.scale_by_backtracking_linesearch(5, store_grad=True)
    tx = optax.chain(case.tx, optax.sgd(1.0), search)
    params = parameters()
    optax.value_and_grad_from_state(penalties.l2)(params, state=tx.init(params))


# --- models -------------------------------------------------------------------------------------


@EVERY_UNSTACKED
def test_flax_nnx_optimizers_take_it(case):
    model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.chain(case.tx, optax.scale(-0.1)), wrt=nnx.Param)
    before = jnp.array(model.kernel[...])
    x = jnp.ones((4, 3))

    @nnx.jit
    def step(model, optimizer):
        value, grads = nnx.value_and_grad(lambda m: jnp.mean((m(x) - 1) ** 2))(model)
        optimizer.update(model, grads, value=value, **dict(case.extra))
        return value

    for _ in range(2):
        value = step(model, optimizer)
    assert jnp.isfinite(value)
    assert not np.array_equal(before, model.kernel[...])


@pytest.mark.parametrize("name", ["aggregate", "aggregate balancer"])
def test_flax_nnx_models_of_several_losses(name):
    from jaxloss import gradients

    graph, params = nnx.split(nnx.Linear(3, 2, rngs=nnx.Rngs(0)), nnx.Param)
    x, tx = jnp.ones((4, 3)), optax.chain(CASES[name].tx, optax.sgd(0.1))

    def losses(params):
        y = nnx.merge(graph, params)(x)
        return {"up": jnp.mean((y - 1) ** 2), "down": jnp.mean((y + 1) ** 2)}

    @jax.jit
    def step(params, state):
        values, stacked = gradients.multi_value_and_grad(losses)(params)
        updates, state = tx.update(stacked, state, params, losses=values)
        return optax.apply_updates(params, updates), state, values

    new, _, values = step(params, tx.init(params))
    chex.assert_trees_all_equal_structs(new, params)
    assert values["up"] > 0


class Network(eqx.Module):
    """A module with arrays, a number and a function in it."""

    layer: eqx.nn.Linear
    scale: float
    activation: object = eqx.field(static=True)

    def __call__(self, x):
        return self.activation(self.scale * self.layer(x))


@EVERY
def test_equinox_modules_take_it(case):
    model = Network(eqx.nn.Linear(3, 2, key=jax.random.key(0)), 2.0, jnp.tanh)
    params, static = eqx.partition(model, eqx.is_inexact_array)
    state = case.tx.init(params)

    @eqx.filter_jit
    def step(params, state):
        update = case.updates_like(params)
        updates, state = case.update(update, state, params)
        return eqx.apply_updates(eqx.combine(params, static), updates), state

    new, state = step(params, state)
    new, _ = step(eqx.filter(new, eqx.is_inexact_array), state)
    assert new(jnp.ones(3)).shape == (2,)
    assert not np.array_equal(new.layer.weight, model.layer.weight)


def test_an_unfiltered_module_is_refused_with_what_to_write():
    model = eqx.nn.MLP(3, 2, 4, 1, key=jax.random.key(0))  # its activation is a leaf
    for tx in (
        transforms.add_penalty(penalties.l2, 0.1),
        transforms.add_anchored_penalty(0.1),
        transforms.add_ema_penalty(0.1),
    ):
        with pytest.raises(TypeError, match=r"`params.*activation` is of type .*None.*mask"):
            tx.update(model, tx.init(model), model)


# --- wrong use ----------------------------------------------------------------------------------


def test_a_mask_of_the_wrong_structure_is_named():
    for tx in (
        transforms.add_penalty(penalties.l2, 0.1, mask={"w": True}),
        transforms.regularize(ADAM, penalties.l2, 0.1, mask={"w": True}),
    ):
        params = parameters()
        with pytest.raises(
            ValueError, match=r"transforms\.\w+: `mask` does not have the structure"
        ):
            tx.update(params, tx.init(params), params)


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_an_optimizer_that_was_not_called_is_named(wrap):
    with pytest.raises(TypeError, match=r"`inner` is adam, expected .*`optax.adam\(1e-3\)`"):
        wrap(optax.adam)
