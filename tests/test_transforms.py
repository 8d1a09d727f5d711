"""Losses for Optax: what each transformation does; what all of them keep is in test_protocol."""

import functools
import pickle
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxloss import aggregators, gradients
from jaxloss._combine import total
from jaxloss._core.reduction import Mean
from jaxloss.penalties import elastic_net, l1, l2
from jaxloss.transforms import (
    AddPenaltyState,
    accumulate,
    add_anchored_penalty,
    add_ema_penalty,
    add_penalty,
    aggregate,
    aggregate_coordinates,
    dynamic_loss_scale,
    loss_scale,
    make_train_step,
    regularize,
    skip_nonfinite,
    tree_where,
)

pytestmark = pytest.mark.few

MATRIX, TARGET = np.array([[3.0, 1.0], [1.0, 2.0]], np.float32), np.array([1.0, -1.0], np.float32)
BEST = np.linalg.solve(MATRIX + 0.5 * np.eye(2), MATRIX @ TARGET)


def is_matrix(params):
    return jax.tree.map(lambda p: p.ndim > 1, params)


def parameters(dtype=np.float32):
    rng = np.random.default_rng(0)
    draw = {"w": rng.normal(size=(3, 2)), "b": rng.normal(size=2)}
    return jax.tree.map(lambda x: jnp.asarray(x, dtype), draw)


def some_gradients(steps, dtype=np.float32):
    """Gradients of a step count, that come from nowhere in particular."""
    rng = np.random.default_rng(1)
    draw = {"w": rng.normal(size=(steps, 3, 2)), "b": rng.normal(size=(steps, 2))}
    return jax.tree.map(lambda x: jnp.asarray(x, dtype), draw)


def run(tx, params, grads, penalty=None, weight=0.0):
    """Steps op by op: compiled whole, XLA would round two equal programs differently."""
    state = tx.init(params)
    for i in range(len(grads["b"])):
        update = jax.tree.map(lambda g, i=i: g[i], grads)
        if penalty is not None:

            def loss(p, update=update):
                fit = sum(jnp.sum(update[k].astype(jnp.float32) * p[k]) for k in p)
                return fit + weight * penalty(p)

            update = jax.grad(loss)(params)
        updates, state = tx.update(update, state, params)
        params = optax.apply_updates(params, updates)
    return params


@pytest.fixture
def x64():
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


# --- add_penalty: what it equals, to the bit ----------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("weight", [0, 1e-3, 0.3])
@pytest.mark.parametrize("penalty", [l1, l2, elastic_net], ids=lambda f: f.__name__)
def test_before_the_optimizer_it_is_a_term_of_the_loss(penalty, weight, dtype):
    tx = optax.sgd(1e-2, 0.9)
    params, grads = parameters(dtype), some_gradients(3, dtype)
    got = run(optax.chain(add_penalty(penalty, weight), tx), params, grads)
    chex.assert_trees_all_equal(got, run(tx, params, grads, penalty, weight))


@pytest.mark.parametrize(
    "mask", [None, is_matrix, {"w": True, "b": False}], ids=["all", "function", "tree"]
)
@pytest.mark.parametrize("weight", [0.0, 1e-3, 0.3])
def test_l2_is_add_decayed_weights(weight, mask):
    txs = [optax.chain(f, optax.sgd(0.1, 0.9)) for f in
           (add_penalty(l2, weight, mask), optax.add_decayed_weights(weight, mask))]  # fmt: skip
    chex.assert_trees_all_equal(*(run(tx, parameters(), some_gradients(4)) for tx in txs))


@pytest.mark.slow
def test_behind_adam_it_is_adamw():
    def decoupled(weight):
        return optax.chain(
            optax.scale_by_adam(), add_penalty(l2, weight), optax.scale_by_learning_rate(1e-2)
        )

    params, grads = ({"b": tree["b"]} for tree in (parameters(), some_gradients(200)))
    got = run(decoupled(0.1), params, grads)
    chex.assert_trees_all_equal(got, run(optax.adamw(1e-2, weight_decay=0.1), params, grads))


def test_before_or_behind_clipping_matters():
    params, update = {"w": jnp.array([3.0, 4.0])}, {"w": jnp.array([30.0, 40.0])}
    clip, gradient = optax.clip_by_global_norm(1.0), add_penalty(l2, 1.0)

    def norm(tx):
        return np.linalg.norm(tx.update(update, tx.init(params), params)[0]["w"])

    np.testing.assert_allclose(norm(optax.chain(gradient, clip)), 1, rtol=1e-6)
    np.testing.assert_allclose(norm(optax.chain(clip, gradient)), 6, rtol=1e-6)


# --- add_penalty: weight, mask, state -----------------------------------------------------------


def test_the_state_logs_the_unweighted_penalty_and_the_weight():
    schedule = optax.linear_schedule(0.0, 1.0, 4)
    tx = optax.chain(add_penalty(l2, schedule), optax.identity())
    params, zeros = ({"w": jnp.array(x, jnp.bfloat16)} for x in ([3, 4], [0, 0]))
    state = tx.init(params)
    for count, weight in enumerate([0.0, 0.25, 0.5]):
        updates, state = tx.update(zeros, state, params)
        np.testing.assert_array_equal(updates["w"], weight * np.float32([3, 4]))
        assert state[0] == AddPenaltyState(count + 1, 12.5, weight)
    assert optax.tree_utils.tree_get(state, "penalty") == 12.5


def test_an_injected_weight_is_that_of_a_schedule():
    schedule = optax.linear_schedule(0.0, 0.1, 3)
    inject = optax.inject_hyperparams(add_penalty, static_args=("penalty", "mask"))
    txs = inject(l2, weight=schedule), add_penalty(l2, schedule)
    chex.assert_trees_all_equal(*(run(tx, parameters(), some_gradients(3)) for tx in txs))


def test_without_static_args_inject_hyperparams_is_refused():
    """It would take the penalty for a schedule, and replace it with its value at step 0."""
    with pytest.raises(TypeError, match=r"`penalty` is a .*expected a function.*`static_args`"):
        optax.inject_hyperparams(add_penalty)(lambda p: 0.0, weight=0.1).init(parameters())


def test_a_traced_weight_compiles_nothing_again_and_has_a_gradient():
    traced = []
    params = parameters()

    @jax.jit
    def gradient(weight):
        traced.append(1)
        tx = add_penalty(l2, weight)
        return tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)[0]["b"]

    np.testing.assert_array_equal(
        [gradient(0.5), gradient(2.0)], [params["b"] / 2, params["b"] * 2]
    )
    assert len(traced) == 1
    np.testing.assert_allclose(jax.jacobian(gradient)(0.5), params["b"], rtol=1e-6)


@jax.tree_util.register_pytree_node_class
class Module:
    """A module as Equinox has them: a pytree that can be called, here with two leaves."""

    def __init__(self, w, b):
        self.leaves = (w, b)

    def __call__(self, x):
        raise AssertionError("a mask that is a module is no function of the parameters")

    def tree_flatten(self):
        return self.leaves, None

    @classmethod
    def tree_unflatten(cls, aux, leaves):
        return cls(*leaves)


def test_a_mask_leaves_update_and_penalty_alone():
    w, log_variance = jnp.array([1.0, -2.0]), jnp.array(jnp.inf)
    params, update = Module({"w": w}, log_variance), Module({"w": w}, jnp.array(5.0))
    for mask in (Module(True, False), lambda p: Module({"w": True}, False)):
        tx = add_penalty(l1, 0.5, mask)
        got, state = tx.update(update, tx.init(params), params)
        np.testing.assert_array_equal(got.leaves[0]["w"], [1.5, -2.5])
        assert got.leaves[1] is update.leaves[1]
        assert state.penalty == 3
    for nothing in (False, Module(False, False)):
        got, state = add_penalty(l1, 0.5, nothing).update(update, tx.init(params), params)
        assert jax.tree.leaves(got) == jax.tree.leaves(update)
        assert state.penalty == 0


def test_other_leaves_are_seen_but_not_differentiated():
    """An unfiltered module: counters, functions, and leaves without a gradient."""
    params = {"w": jnp.array([1.0, 2.0]), "power": 2, "activation": jnp.tanh, "off": None}
    tx = add_penalty(lambda p: jnp.sum(p["w"] ** p["power"]), 1.0)
    update = {"w": jnp.zeros(2), "power": None, "activation": None, "off": None}
    got, _ = tx.update(update, tx.init(params), params)
    np.testing.assert_array_equal(got.pop("w"), [2.0, 4.0])
    assert not any(got.values())
    got, _ = tx.update(update | {"w": None}, tx.init(params), params)
    assert got["w"] is None
    with pytest.raises(TypeError, match=r"l2: `params\['activation'\]` is of type"):
        add_penalty(l2, 1.0).update(update, tx.init(params), params)


def test_updates_keep_their_precision_whatever_that_of_the_parameters():
    tx, full, half = add_penalty(l2, 2.0), jnp.full(2, 1e-3), jnp.ones(2, jnp.bfloat16)
    got, _ = tx.update(full, tx.init(half), half)
    np.testing.assert_array_equal(got, np.float32([2.001, 2.001]))
    full = jnp.float32(full)  # and no longer weakly typed
    got, _ = tx.update(half, tx.init(full), full)
    assert got.dtype == jnp.bfloat16


@pytest.mark.usefixtures("x64")
def test_float64_parameters_are_logged_in_float32():
    tx, params = add_penalty(l2, lambda count: jnp.float64(0.1)), {"w": jnp.float64(3)}
    updates, state = tx.update({"w": jnp.float64(0)}, tx.init(params), params)
    assert updates["w"] == np.float64(0.1) * 3
    chex.assert_trees_all_equal_dtypes(state, tx.init(params))


def test_a_penalty_that_is_a_leaf_is_copied():
    tx, params = add_penalty(lambda p: p["scale"], 0.1), {"scale": jnp.float32(2.0)}
    _, state = tx.update(params, tx.init(params), params)
    jax.jit(lambda params, state: (params, state), donate_argnums=(0, 1))(params, state)


# --- add_penalty: inside the wrappers of Optax --------------------------------------------------


def test_masked_and_partition_take_leaves_away():
    params, update = parameters(), jax.tree.map(jnp.zeros_like, parameters())
    only_w = optax.masked(add_penalty(l2, 1.0), {"w": True, "b": False})
    labelled = optax.partition(
        {"yes": add_penalty(l2, 1.0), "no": optax.set_to_zero()}, {"w": "yes", "b": "no"}
    )
    for tx in (only_w, labelled):
        got, state = tx.update(update, tx.init(params), params)
        chex.assert_trees_all_equal(got, {"w": params["w"], "b": update["b"]})
        np.testing.assert_allclose(
            optax.tree_utils.tree_get(state, "penalty"), l2(params["w"]), rtol=1e-6
        )


def test_inside_multi_steps_it_gradients_once_and_its_schedule_counts_optimizer_steps():
    params, grads = parameters(), some_gradients(4)
    penalty = add_penalty(l2, optax.linear_schedule(0.1, 0.3, 1))
    tx = optax.chain(penalty, optax.sgd(0.1))
    got = jax.jit(functools.partial(run, optax.MultiSteps(tx, 2)))(params, grads)
    halves = jax.tree.map(lambda g: g.reshape(2, 2, *g.shape[1:]).mean(1), grads)
    expected = jax.jit(functools.partial(run, tx))(params, halves)
    chex.assert_trees_all_close(got, expected, rtol=1e-6)


def test_a_value_kept_by_a_line_search_is_still_found():
    """A second field `value` or `grad` in the state of a chain would make that search fail."""
    search = optax.scale_by_backtracking_linesearch(5, store_grad=True)
    tx = optax.chain(add_penalty(l2, 0.1), optax.sgd(1.0), search)
    params = jnp.ones(2)
    optax.value_and_grad_from_state(l2)(params, state=tx.init(params))


# --- add_penalty: errors ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"penalty": 0.1}, TypeError, "add_penalty: `penalty` is a float, expected a function"),
        ({"weight": jnp.ones(2)}, ValueError, r"`weight` has shape \(2,\), expected"),
        ({"weight": lambda step: jnp.ones(2)}, ValueError, r"`weight` has shape \(2,\), expected"),
        ({"weight": None}, TypeError, "`weight` is a NoneType, expected"),
        ({"weight": "0.1"}, TypeError, "`weight` is a str, expected"),
        ({"weight": 1j}, TypeError, "`weight` is complex64, expected"),
        (
            {"mask": {"w": True}},
            ValueError,
            "`mask` does not have the structure of the parameters: ",
        ),
        ({"mask": {"w": 1.0, "b": True}}, TypeError, r"`mask\['w'\]` is 1\.0, expected True or"),
        ({"penalty": lambda p: p["b"]}, ValueError, r"`penalty` returned shape \(2,\).*jnp.sum"),
        ({"penalty": lambda p: 1j}, TypeError, "`penalty` returned complex64, expected a real"),
    ],
)
def test_what_is_wrong_is_named(arguments, error, message):
    def update(params, penalty=l2, weight=0.1, mask=None):
        tx = add_penalty(penalty, weight, mask)
        return tx.update(params, tx.init(params), params)

    with pytest.raises(error, match=message):
        update(parameters(), **arguments)


def test_parameters_are_asked_for():
    tx, params = add_penalty(l2, 0.1), parameters()
    with pytest.raises(ValueError, match=r"`params` is None.*tx\.update"):
        tx.update(params, tx.init(params))
    with pytest.raises(ValueError, match="`updates` and `params` differ in structure"):
        tx.update({"w": params["w"]}, tx.init(params), params)


def test_a_penalty_that_misses_a_masked_leaf_is_given_so():
    params = parameters()
    tx = add_penalty(lambda p: jnp.sum(p["b"] * p["b"]), 0.1, is_matrix)
    with pytest.raises(TypeError) as caught:
        tx.update(params, tx.init(params), params)
    assert any("add_penalty: masked-out leaves are" in note for note in caught.value.__notes__)


# --- regularize ---------------------------------------------------------------------------------


def quartic(x):
    return jnp.sum((x["w"] - TARGET) ** 4) + jnp.sum((x["w"] - TARGET) ** 2)


@functools.partial(jax.jit, static_argnums=(0, 1))
def descend(tx, steps):
    """L-BFGS by hand, with all that it wants; the length of the true gradient at the end."""

    def body(carry, _):
        params, state = carry
        value, grad = jax.value_and_grad(quartic)(params)
        updates, state = tx.update(grad, state, params, value=value, grad=grad, value_fn=quartic)
        return (optax.apply_updates(params, updates), state), None

    params = {"w": jnp.array([2.0, 3.0])}
    (params, state), _ = jax.lax.scan(body, (params, tx.init(params)), length=steps)
    slope = jax.grad(lambda p: quartic(p) + 0.5 * l2(p))(params)
    return optax.tree_utils.tree_norm(slope), state


@pytest.mark.slow
def test_lbfgs_sees_a_regularized_loss_and_not_a_penalty_in_a_chain():
    good, state = descend(regularize(optax.lbfgs(), l2, 0.5), 20)
    bad, _ = descend(optax.chain(add_penalty(l2, 0.5), optax.lbfgs()), 20)
    assert good < 1e-5
    assert bad > 1e-2
    assert (state.count, state.weight) == (20, 0.5)


def test_around_what_sees_only_gradients_it_is_add_penalty():
    schedule = optax.linear_schedule(0.1, 0.3, 2)
    txs = (
        regularize(optax.sgd(0.1, 0.9), l1, schedule, mask=is_matrix),
        optax.chain(add_penalty(l1, schedule, mask=is_matrix), optax.sgd(0.1, 0.9)),
    )
    chex.assert_trees_all_equal(*(run(tx, parameters(), some_gradients(3)) for tx in txs))


def test_value_and_functions_of_more_arguments_are_those_of_the_sum():
    seen = {}

    def spy(updates, state, params=None, **extra_args):
        seen.update(extra_args)
        return updates, state

    inner = optax.GradientTransformationExtraArgs(lambda p: (), spy)
    tx, params = regularize(inner, l2, 0.5), {"w": jnp.array([3.0, 4.0])}

    def value_fn(params, batch):
        return jnp.sum(params["w"]) * batch

    tx.update(params, tx.init(params), params, value=1.0, grad=params, value_fn=value_fn, batch=2.0)
    assert seen["value"] == 1 + 0.5 * 12.5
    np.testing.assert_array_equal(seen["grad"]["w"], [4.5, 6.0])
    assert seen["value_fn"]({"w": jnp.array([1.0, 0.0])}, 3.0) == 3 + 0.25
    assert seen["value_fn"].__wrapped__ is value_fn  # line searches look at its names
    assert seen["batch"] == 2
    tx.update(params, tx.init(params), params, value=None)
    assert seen["value"] is None


# --- anchors ------------------------------------------------------------------------------------


def test_an_anchor_is_a_term_of_the_loss_bit_for_bit():
    start, importance = parameters(), jax.tree.map(jnp.square, parameters())
    moved = jax.tree.map(lambda p: p + 0.5, start)

    def term(params):
        apart = jax.tree.map(lambda p, a, f: f * (p - a) ** 2, params, start, importance)
        return 0.5 * sum(jnp.sum(x) for x in jax.tree.leaves(apart))

    tx = add_anchored_penalty(0.3, anchor=start, importance=importance)
    update = jax.tree.map(jnp.ones_like, start)
    got, state = tx.update(update, tx.init(moved), moved)
    value, slope = jax.value_and_grad(term)(moved)
    chex.assert_trees_all_close(got, jax.tree.map(lambda s: 1 + 0.3 * s, slope), rtol=1e-6)
    np.testing.assert_allclose(state.penalty, value, rtol=1e-6)
    assert state.weight == np.float32(0.3)


def test_an_anchor_at_the_start_gradients_nothing_at_first_and_outlives_its_parameters():
    tx = optax.chain(add_anchored_penalty(1.0), optax.sgd(1.0))
    params = parameters()
    state = tx.init(params)
    kept = jax.tree.map(np.array, params)
    step = jax.jit(lambda p, s, u: tx.update(u, s, p), donate_argnums=(0, 1))
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, state = step(params, state, zeros)
    assert params["w"].is_deleted()
    assert not any(np.any(x) for x in jax.tree.leaves(updates))
    chex.assert_trees_all_equal(state[0].anchor, kept)


def test_elastic_weights_remember_the_old_task_where_it_counts():
    """Two quadratics, the second blind to what the first needs: EWC keeps it, SGD forgets."""
    fisher = jnp.array([10.0, 0.0])
    old, new = jnp.array([1.0, 1.0]), jnp.array([-3.0, -3.0])

    def end(tx):
        params, state = old, tx.init(old)
        for _ in range(200):
            updates, state = tx.update(params - new, state, params)
            params = optax.apply_updates(params, updates)
        return params

    ewc = optax.chain(add_anchored_penalty(1.0, importance=fisher), optax.sgd(0.05))
    np.testing.assert_allclose(end(optax.sgd(0.05)), new, atol=1e-3)
    np.testing.assert_allclose(end(ewc), [(10 * 1 - 3) / 11, -3], atol=1e-3)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_average_is_kept_in_float32_and_gradients(dtype):
    tx = add_ema_penalty(0.5, decay=0.999)
    params = jnp.ones(2, dtype)
    state = tx.init(jnp.zeros(2, dtype))
    zeros = jnp.zeros(2, dtype)
    for count in range(3):
        before = state.ema
        updates, state = tx.update(zeros, state, params)
        np.testing.assert_allclose(
            np.float32(updates), 0.5 * (1 - before), rtol=float(jnp.finfo(dtype).eps)
        )
        np.testing.assert_allclose(state.ema, 1 - 0.999 ** (count + 1), rtol=1e-4)
    assert (state.ema.dtype, updates.dtype) == (jnp.float32, dtype)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: add_anchored_penalty(0.1, anchor={"w": 1.0}), ValueError, "`anchor` is PyTreeDef"),
        (
            lambda: add_anchored_penalty(0.1, importance={"w": jnp.ones(2), "b": jnp.ones(2)}),
            ValueError,
            r"`importance\['w'\]` has shape \(2,\), expected \(3, 2\)",
        ),
        (lambda: add_anchored_penalty(jnp.ones(2)), ValueError, r"`weight` has shape \(2,\)"),
        (lambda: add_ema_penalty(0.1, decay=1.5), ValueError, "`decay` must be between 0 and 1"),
    ],
)
def test_anchors_that_do_not_fit(make, error, message):
    with pytest.raises(error, match=message):
        make().init(parameters())


@pytest.mark.parametrize("tx", [add_anchored_penalty(0.1), add_ema_penalty(0.1)])
def test_anchors_want_parameters_with_gradients(tx):
    params = parameters()
    with pytest.raises(ValueError, match="`params` is None"):
        tx.update(params, tx.init(params))
    with pytest.raises(ValueError, match="differ in structure"):
        tx.update({"w": params["w"]}, tx.init(params), params)
    counted = {"w": jnp.ones(2), "n": jnp.arange(2)}
    with pytest.raises(TypeError, match=r"`params\['n'\]` is int32, which has no gradient.*masked"):
        tx.update(counted, tx.init(counted), counted)


# --- accumulate ---------------------------------------------------------------------------------


def mean_of_rows(params, x, mask):
    return Mean(jnp.sum(jnp.where(mask, x @ params["b"], 0)), jnp.sum(mask))


@pytest.mark.slow
def test_micro_batches_over_calls_are_one_step_of_the_whole_batch():
    rng = np.random.default_rng(2)
    x = rng.normal(size=(3, 8, 2)).astype(np.float32)
    mask = rng.random((3, 8)) < np.array([0.9, 0.2, 0.5])[:, None]
    params = {"b": jnp.array([1.0, -2.0])}

    def step(tx, state, i):
        mean, gradient = jax.vjp(lambda p: mean_of_rows(p, x[i], mask[i]).value, params)
        weight = jnp.sum(mask[i])
        return tx.update(gradient(jnp.float32(1))[0], state, params, weight=weight, value=mean)

    tx = accumulate(optax.chain(add_penalty(l2, 0.1), optax.polyak_sgd()), 3)
    state = tx.init(params)
    for i in range(3):
        updates, state = step(tx, state, i)
        assert np.signbit(updates["b"]).all() or i == 2  # -0 changes nothing, to the bit
    flat, everything = x.reshape(24, 2), mask.reshape(24)
    value, grad = jax.value_and_grad(lambda p: mean_of_rows(p, flat, everything).value)(params)
    inner = optax.chain(add_penalty(l2, 0.1), optax.polyak_sgd())
    expected, _ = inner.update(grad, inner.init(params), params, value=value)
    chex.assert_trees_all_close(updates, expected, rtol=2e-6)
    assert state.micro_step == 0
    assert state.inner_state[0].count == 1
    assert not np.any(state.gradients["b"])


@pytest.mark.slow
def test_the_train_step_passes_the_weight_of_a_micro_batch():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(4, 6, 2)).astype(np.float32)
    mask = rng.random((4, 6)) < np.array([1.0, 0.2, 0.6, 0.0])[:, None]
    init, step = make_train_step(mean_of_rows, accumulate(optax.adam(0.1), 4))
    params = {"b": jnp.array([1.0, -2.0])}
    state = init(params)
    for i in range(4):
        params, state, _ = step(params, state, x[i], mask[i])
    init, step = make_train_step(mean_of_rows, optax.adam(0.1))
    whole = {"b": jnp.array([1.0, -2.0])}
    whole, _, _ = step(whole, init(whole), x.reshape(24, 2), mask.reshape(24))
    chex.assert_trees_all_close(params, whole, rtol=1e-6)


def test_a_micro_batch_of_nothing_adds_nothing_even_if_it_is_nan():
    tx, params = accumulate(optax.sgd(1.0), 2), jnp.zeros(1)
    _, state = tx.update(jnp.array([jnp.nan]), tx.init(params), weight=0.0, value=jnp.nan)
    updates, state = tx.update(jnp.array([3.0]), state, weight=2.0, value=1.0)
    np.testing.assert_array_equal(updates, [-3])
    for _ in range(2):
        updates, state = tx.update(jnp.array([jnp.nan]), state, weight=0.0)
    np.testing.assert_array_equal(updates, [0])


def test_half_precision_is_accumulated_in_float32():
    tx, params = accumulate(optax.sgd(1.0), 300), jnp.zeros((), jnp.bfloat16)

    def body(state, _):
        updates, state = tx.update(jnp.ones((), jnp.bfloat16), state, params, weight=1.0)
        return state, updates

    _, updates = jax.lax.scan(body, tx.init(params), length=300)
    assert updates[-1] == -1
    assert updates.dtype == jnp.bfloat16
    assert not np.any(updates[:-1])


def test_what_accumulate_refuses():
    tx, params = accumulate(optax.lbfgs(), 2), parameters()
    with pytest.raises(ValueError, match=r"`weight` is not given.*weight=mean.weight"):
        tx.update(params, tx.init(params), params)
    with pytest.raises(ValueError, match=r"`value_fn`\), which here is that of the last micro"):
        tx.update(params, tx.init(params), params, weight=1.0, value=1.0, grad=params, value_fn=l2)
    with pytest.raises(ValueError, match="`micro_batches` is 0, expected"):
        accumulate(optax.adam(0.1), 0)
    with pytest.raises(
        TypeError, match="accumulate: `inner` is adam, expected an Optax transformation"
    ):
        accumulate(optax.adam, 2)


# --- half precision -----------------------------------------------------------------------------


def half_loss(params, x):
    """A tiny gradient, that float16 would lose: 1e-6 * 1e-3 of a sum in half precision."""
    half = (params["w"] * x).astype(jnp.float16)
    return jnp.sum(half).astype(jnp.float32) * 1e-9


def test_scaled_training_in_float16_is_training_in_float32():
    init, step = make_train_step(half_loss, dynamic_loss_scale(optax.sgd(1e9), initial=2.0**20))
    params = {"w": jnp.ones(2)}
    params, _, value = jax.jit(step)(params, init(params), jnp.ones(2, jnp.float16))
    np.testing.assert_allclose(params["w"], 0.0, atol=1e-3)
    np.testing.assert_allclose(value, 2e-9, rtol=1e-3)  # the value is never scaled
    init, step = make_train_step(half_loss, optax.sgd(1e9))
    plain, _, _ = step({"w": jnp.ones(2)}, init({"w": jnp.ones(2)}), jnp.ones(2, jnp.float16))
    np.testing.assert_array_equal(plain["w"], 1)  # the gradient has vanished


@pytest.mark.slow
def test_the_scale_grows_shrinks_and_stays_in_its_bounds():
    tx = dynamic_loss_scale(optax.sgd(0.1), initial=4.0, period=2, minimum=1.0, maximum=8.0)
    good, bad = jnp.ones(2), jnp.array([1.0, jnp.inf])
    state, scales = tx.init(good), []
    for gradient in [good, good, good, good, good, bad, good, bad, bad, bad, bad]:
        updates, state = tx.update(gradient, state)
        scales.append(float(loss_scale(state)))
        assert np.isfinite(updates).all()
    assert scales == [4, 8, 8, 8, 8, 4, 4, 2, 1, 1, 1]
    assert (state.skipped, state.good_steps) == (5, 0)
    state = jax.tree.unflatten(jax.tree.structure(state), jax.tree.leaves(state))
    again = pickle.loads(pickle.dumps(jax.tree.map(np.asarray, state)))
    chex.assert_trees_all_equal(tx.update(good, again), tx.update(good, state))
    assert loss_scale(again) == 1


def test_an_overflow_leaves_everything_as_it_was_and_gradients_inside_have_their_size():
    tx = dynamic_loss_scale(
        optax.chain(add_penalty(l2, 0.5), optax.clip(1.0), optax.adam(0.1)), initial=8.0
    )
    params = {"w": jnp.array([-0.0, 4.0])}
    _, state = tx.update({"w": jnp.array([8.0, 2.0])}, tx.init(params), params)
    bad, after = tx.update({"w": jnp.array([jnp.nan, 2.0])}, state, params)
    chex.assert_trees_all_equal(after.inner_state, state.inner_state)
    new = optax.apply_updates(params, bad)
    assert bytes(new["w"]) == bytes(params["w"])  # minus zero, too
    seen = {}

    def spy(updates, state, params=None, **extra_args):
        seen.update(extra_args, updates=updates)
        return updates, state

    tx = dynamic_loss_scale(optax.GradientTransformationExtraArgs(lambda p: (), spy), initial=8.0)
    tx.update(jnp.array([16.0]), tx.init(params), grad=jnp.array([16.0]), value=3.0)
    assert seen == {"updates": 2, "grad": 2, "value": 3}


@pytest.mark.parametrize(
    "words", [{"factor": 1.0}, {"period": 0}, {"minimum": 0.0}, {"initial": 2.0**30}]
)
def test_scales_that_make_no_sense(words):
    with pytest.raises(ValueError, match="expected `factor` > 1, `period` >= 1 and 0 < `minimum`"):
        dynamic_loss_scale(optax.sgd(0.1), **words)


def test_a_state_without_a_scale_has_none():
    with pytest.raises(ValueError, match="holds 0 dynamic loss scales, expected one"):
        loss_scale(optax.adam(0.1).init(jnp.ones(2)))


# --- guards -------------------------------------------------------------------------------------


BAD = {
    "gradient": (jnp.array([jnp.nan, 1.0]), 1.0),
    "value": (jnp.ones(2), jnp.nan),
    "infinite value": (jnp.ones(2), jnp.inf),
    "penalty inside": (jnp.full(2, 3e38), 1.0),
}


@pytest.mark.parametrize(("gradient", "value"), BAD.values(), ids=BAD)
def test_a_skipped_step_changes_nothing_and_is_counted(gradient, value):
    # What is finite before `scale` and not behind it is seen, too.
    tx = skip_nonfinite(optax.chain(optax.scale(10.0), optax.trace(0.9)))
    update = jax.jit(tx.update)
    params = jnp.array([-0.0, 2.0])
    _, state = update(jnp.ones(2), tx.init(params), params, value=1.0)
    updates, after = update(gradient, state, params, value=value)
    chex.assert_trees_all_equal(after.inner_state, state.inner_state)
    assert bytes(optax.apply_updates(params, updates)) == bytes(params)
    assert (after.skipped, after.consecutive, after.last_ok) == (1, 1, False)
    _, after = update(gradient, after, params, value=value)
    assert (after.skipped, after.consecutive) == (2, 2)
    _, after = update(jnp.ones(2), after, params, value=1.0)
    assert (after.skipped, after.consecutive, after.last_ok) == (2, 0, True)


@pytest.mark.slow
def test_it_never_gives_up_and_optax_does():
    ours, theirs = skip_nonfinite(optax.sgd(1.0)), optax.apply_if_finite(optax.sgd(1.0), 3)
    bad, applied = jnp.array([jnp.nan]), []
    for tx in (ours, theirs):
        state = tx.init(bad)
        for _ in range(10):
            updates, state = tx.update(bad, state)
        applied.append(bool(jnp.isnan(updates[0])))
    assert applied == [False, True]


def test_the_value_is_looked_at_unless_given_not_to():
    tx = skip_nonfinite(optax.sgd(1.0), check_value=False)
    updates, state = tx.update(jnp.ones(1), tx.init(jnp.ones(1)), value=jnp.nan)
    assert (updates, state.skipped) == (-1, 0)


@pytest.mark.slow
def test_a_good_step_is_that_of_the_optimizer_inside():
    txs = skip_nonfinite(optax.adam(0.1)), optax.adam(0.1)
    ends = [run(tx, parameters(), some_gradients(3)) for tx in txs]
    chex.assert_trees_all_close(*ends, rtol=1e-6)  # the branch is compiled whole


def test_a_guard_needs_no_more_memory_than_one_that_looks_at_gradients_alone():
    """What comes out is judged before it is written: old and new state never exist side by side."""

    def memory(tx):
        def step(params, state, x):
            grads = jax.grad(lambda p: jnp.sum(jnp.tanh(x @ p) ** 2))(params)
            updates, state = tx.update(grads, state, params)
            return optax.apply_updates(params, updates), state

        params = jnp.zeros((256, 256))
        step = jax.jit(step, donate_argnums=(0, 1))
        compiled = step.lower(params, tx.init(params), jnp.zeros((16, 256))).compile()
        return compiled.memory_analysis().temp_size_in_bytes / params.nbytes

    adam = optax.adam(0.1)
    assert memory(skip_nonfinite(adam)) < memory(optax.apply_if_finite(adam, 3)) + 0.1
    assert memory(skip_nonfinite(adam)) < memory(adam) + 2.1  # the gradient, and the updates


def test_a_guarded_line_search_is_run_once_and_guarded_all_the_same():
    calls = []

    def update(updates, state, params=None, *, value_fn, **extra_args):
        calls.append(1)
        return updates * value_fn(params), state + 1

    inner = optax.GradientTransformationExtraArgs(lambda p: jnp.zeros((), jnp.int32), update)
    tx, params = skip_nonfinite(inner), jnp.array([2.0])
    state = tx.init(params)
    for worst, ok in ((1.0, True), (jnp.inf, False)):
        calls.clear()
        updates, after = tx.update(params, state, params, value_fn=lambda p, w=worst: w)
        assert len(calls) == 2  # once to know the shapes, and once in the branch that is taken
        assert (after.last_ok, after.inner_state) == (ok, int(ok))
        np.testing.assert_array_equal(updates, [2.0 if ok else -0.0])


def test_a_step_out_of_ten_is_bad_and_training_arrives():
    def loss(params, target, poison):
        return jnp.sum((params["b"] - target) ** 2) * jnp.where(poison, jnp.nan, 1)

    init, step = make_train_step(loss, skip_nonfinite(optax.adam(0.1)))
    params = {"b": jnp.zeros(2)}

    def body(carry, poison):
        params, state, _ = step(*carry, TARGET, poison)
        return (params, state), optax.tree_utils.tree_get(state, "last_ok")

    carry, ok = jax.lax.scan(body, (params, init(params)), jnp.arange(300) % 10 == 3)
    np.testing.assert_allclose(carry[0]["b"], TARGET, atol=1e-3)
    assert (carry[1].skipped, jnp.sum(ok)) == (30, 270)


def test_statistics_are_selected_bit_for_bit():
    new = {"mean": jnp.array([jnp.nan]), "none": None, "n": jnp.int32(4)}
    old = {"mean": jnp.array([-0.0]), "none": None, "n": jnp.int32(3)}
    got = jax.jit(tree_where)(False, new, old)
    assert np.signbit(got["mean"][0])
    assert (got["n"], got["n"].dtype) == (3, jnp.int32)
    assert jax.jit(tree_where)(True, new, old)["n"] == 4
    with pytest.raises(ValueError, match="`new` is PyTreeDef.*expected one structure"):
        tree_where(True, new, {})


# --- several gradients --------------------------------------------------------------------------


def rivals(params):
    x = params["b"]
    return {"near": jnp.sum((x - 1) ** 2), "far": 10 * jnp.sum((x + 1) ** 2 + x[0] ** 2)}


@pytest.mark.slow
def test_the_head_and_the_oracle_give_the_same_steps():
    stacked = gradients.multi_value_and_grad(rivals)
    direct = gradients.multi_value_and_grad(rivals, aggregators.upgrad)
    head = optax.chain(aggregate(aggregators.upgrad, 2), optax.adam(0.1))
    tail = optax.adam(0.1)

    def step(oracle, tx, carry):
        params, state = carry
        updates, state = tx.update(oracle(params)[1], state, params)
        return optax.apply_updates(params, updates), state

    ends = []
    for oracle, tx in ((stacked, head), (direct, tail)):
        params = {"b": jnp.array([3.0, -2.0])}
        carry = (params, tx.init(params))
        carry = jax.lax.fori_loop(0, 20, lambda _, c, o=oracle, t=tx: step(o, t, c), carry)
        ends.append(carry)
    chex.assert_trees_all_close(ends[0][0], ends[1][0], rtol=1e-5)
    state = ends[0][1][0]
    assert state.count == 20
    assert state.loss_weights.shape == (2,)
    assert -1 <= state.cosines[0, 1] <= 1
    np.testing.assert_allclose(jnp.diagonal(state.cosines), 1, rtol=1e-5)


BALANCERS = {"dwa": aggregators.dwa(2), "soft_adapt": aggregators.soft_adapt()}


@pytest.mark.slow
@pytest.mark.parametrize("balancer", BALANCERS.values(), ids=BALANCERS)
def test_a_balancer_in_the_chain_is_one_at_the_level_of_the_losses(balancer):
    head = optax.chain(aggregate(balancer, 2), optax.adam(0.1))

    def in_chain(params):
        state = head.init(params)
        for _ in range(8):
            losses, stacked = gradients.multi_value_and_grad(rivals)(params)
            updates, state = head.update(stacked, state, params, losses=losses)
            params = optax.apply_updates(params, updates)
        return params

    def in_loss(params):
        tx, memory = optax.adam(0.1), balancer.init(2)
        state = tx.init(params)
        for _ in range(8):
            losses = rivals(params)
            (far, near), memory = balancer.update(memory, losses=losses)
            grads = jax.grad(
                lambda p, far=far, near=near: far * rivals(p)["far"] + near * rivals(p)["near"]
            )(params)
            updates, state = tx.update(grads, state, params)
            params = optax.apply_updates(params, updates)
        return params

    start = {"b": jnp.array([3.0, -2.0])}
    chex.assert_trees_all_close(jax.jit(in_chain)(start), jax.jit(in_loss)(start), rtol=1e-5)


@pytest.mark.slow
def test_random_rules_draw_anew_at_every_step_and_leaf():
    tx = aggregate(aggregators.pcgrad, 3, seed=1)
    three = jnp.array([[1.0, 0.0], [-0.8, 0.6], [-0.5, -0.9]])
    state, drawn = tx.init(jnp.zeros(2)), []
    for _ in range(20):
        updates, state = tx.update(three, state)
        drawn.append(tuple(np.round(np.asarray(updates), 4).tolist()))
    assert len(set(drawn)) > 1
    tx = aggregate_coordinates(aggregators.grad_drop, 2)
    stacked = {"a": jnp.tile(jnp.array([[1.0], [-1.0]]), 64)}
    stacked["b"] = stacked["a"]
    first, state = tx.update(stacked, tx.init(stacked))
    second, _ = tx.update(stacked, state)
    assert not np.array_equal(first["a"], first["b"])
    assert not np.array_equal(first["a"], second["a"])


def test_any_function_along_the_first_axis_is_a_rule():
    tx = aggregate_coordinates(functools.partial(jnp.median, axis=0), 3)
    updates, _ = tx.update({"w": jnp.array([[1.0], [5.0], [900.0]])}, tx.init(None))
    np.testing.assert_array_equal(updates["w"], [5])


@pytest.mark.parametrize(
    ("tx", "updates", "message"),
    [
        (
            aggregate(aggregators.upgrad, 3),
            {"w": jnp.ones((3, 2)), "b": jnp.ones(2)},
            r"aggregate: `updates\['b'\]` has shape \(2,\), expected \(3, ...\).*multi_value_and",
        ),
        (aggregate(aggregators.upgrad, 3), {"b": 1.0}, r"`updates\['b'\]` has shape \(\)"),
        (aggregate(aggregators.dwa(1), 2), {"w": jnp.ones((2, 2))}, "`losses` was not given"),
        (aggregate(jnp.sum, 2), {"w": jnp.ones((2, 2))}, r"`weighting` returned shape \(\)"),
        (
            aggregate_coordinates(aggregators.trimmed_mean, 3),
            {"w": jnp.ones((4, 2))},
            r"aggregate_coordinates: `updates\['w'\]` has shape \(4, 2\), expected \(3",
        ),
        (
            aggregate_coordinates(jnp.sum, 2),
            {"w": jnp.ones((2, 2))},
            r"`rule` returned shape \(\) for",
        ),
    ],
)
def test_gradients_that_are_not_stacked_are_named(tx, updates, message):
    with pytest.raises(ValueError, match=message):
        tx.update(updates, tx.init(updates))


def test_heads_want_functions_and_counts():
    with pytest.raises(TypeError, match="aggregate: `weighting` is a str.*aggregators.upgrad"):
        aggregate("upgrad", 2)
    with pytest.raises(TypeError, match="aggregate_coordinates: `rule` is a float"):
        aggregate_coordinates(0.5, 2)
    for make in (aggregate, aggregate_coordinates):
        with pytest.raises(ValueError, match="`num_losses` is 0, expected an integer"):
            make(aggregators.upgrad, 0)


# --- make_train_step ----------------------------------------------------------------------------


def ridge(params, target):
    """A quadratic with an L2 penalty inside the loss, where a line search can see it."""
    x = params["w"] - target
    return total({"fit": 0.5 * x @ MATRIX @ x, "decay": (l2(params), 0.5)})


@pytest.mark.parametrize(
    ("tx", "steps", "tolerance"),
    [
        (optax.adam(0.1), 300, 1e-3),
        (optax.chain(optax.adam(0.1), optax.contrib.reduce_on_plateau(patience=20)), 300, 1e-2),
        (optax.polyak_sgd(f_min=float(ridge({"w": BEST}, TARGET)[0])), 15, 1e-3),
        (optax.lbfgs(memory_size=3), 12, 1e-6),
        (optax.chain(optax.sgd(1.0), optax.scale_by_backtracking_linesearch(15)), 60, 1e-3),
        (optax.contrib.momo(0.5, lower_bound=float(ridge({"w": BEST}, TARGET)[0])), 400, 1e-2),
        (optax.contrib.sam(optax.sgd(0.1), optax.sgd(1e-3)), 300, 1e-2),
        (optax.contrib.sam(optax.sgd(0.1), optax.sgd(1e-3), opaque_mode=True), 150, 1e-2),
        (optax.chain(skip_nonfinite(optax.lbfgs(memory_size=3))), 12, 1e-6),
        (optax.named_chain(("inner", dynamic_loss_scale(optax.sgd(0.1)))), 150, 1e-3),
    ],
    ids=[
        "adam",
        "plateau",
        "polyak",
        "lbfgs",
        "line search",
        "momo",
        "sam",
        "opaque sam",
        "guarded lbfgs",
        "scaled sgd",
    ],
)
def test_optimizers_get_what_they_want_and_arrive(tx, steps, tolerance):
    init, step = make_train_step(ridge, tx, has_aux=True)
    params = {"w": jnp.array([2.0, 3.0])}

    def body(carry, _):
        params, state, (value, terms) = step(*carry, TARGET)
        return (params, state), (value, terms)

    (params, _), (values, terms) = jax.jit(
        lambda carry: jax.lax.scan(body, carry, length=steps)
    )((params, init(params)))  # fmt: skip
    np.testing.assert_allclose(params["w"], BEST, atol=tolerance)
    assert (values[0], terms["fit"][0], terms["decay"][0]) == (24.75, 21.5, 6.5)


def test_schedule_free_is_evaluated_by_its_own_function():
    init, step = make_train_step(
        lambda p: ridge(p, TARGET)[0], optax.contrib.schedule_free_sgd(0.2)
    )
    params = {"w": jnp.array([2.0, 3.0])}
    (params, state), _ = jax.lax.scan(
        lambda carry, _: (step(*carry)[:2], None), (params, init(params)), length=300
    )
    best = optax.contrib.schedule_free_eval_params(state, params)
    np.testing.assert_allclose(best["w"], BEST, atol=1e-2)


@pytest.mark.slow
def test_a_step_is_the_loop_written_by_hand():
    def loss(params, x, scale=1.0):
        return scale * jnp.sum((params["b"] - x) ** 2)

    tx = optax.adam(0.1)
    init, step = make_train_step(loss, tx)
    params = {"b": jnp.array([1.0, 2.0])}
    got, state = params, init(params)
    expected, expected_state = params, tx.init(params)
    for x in (0.5, -1.0, 3.0):  # another batch each: nothing may be kept from the last
        at_hand = expected
        value, grads = jax.value_and_grad(loss)(expected, x, scale=2.0)
        updates, expected_state = tx.update(grads, expected_state, expected)
        expected = optax.apply_updates(expected, updates)
        got, state, came = step(got, state, x, scale=2.0)
        assert came == value == loss(at_hand, x, scale=2.0)
    chex.assert_trees_all_equal((got, state), (expected, expected_state))


@pytest.mark.parametrize("has_aux", [False, True])
def test_a_mean_is_divided_and_half_precision_reported_in_float32(has_aux):
    def loss(params, x):
        parts = Mean(jnp.sum(params * x), jnp.sum(x > 0))
        return (parts, "aux") if has_aux else parts

    init, step = make_train_step(
        loss, optax.scale(-1.0), has_aux=has_aux
    )  # takes no extra arguments
    params = jnp.full(3, 2, jnp.bfloat16)
    params, _, value = step(params, init(params), jnp.array([1, 3, 0], jnp.bfloat16))
    value, aux = value if has_aux else (value, "aux")
    assert (value, value.dtype, value.weak_type, aux) == (4, jnp.float32, False, "aux")
    np.testing.assert_array_equal(params, jnp.array([1.5, 0.5, 2], jnp.bfloat16))


def test_it_is_compiled_once_and_its_buffers_are_donated():
    traced = []

    def loss(params, x):
        traced.append(1)
        return jnp.sum(params["w"] ** 2) * x

    init, step = make_train_step(loss, optax.chain(add_penalty(l2, 0.1), optax.adam(0.1)))
    step = jax.jit(step, donate_argnums=(0, 1))
    params = parameters()
    state = jax.jit(init)(params)
    old = params["w"]
    for x in (1.0, 2.0, 3.0):
        params, state, _ = step(params, state, x)
    assert len(traced) == 1
    assert old.is_deleted()


def test_multi_steps_forwards_the_value():
    """It is no `GradientTransformation`, and turned into one it would lose extra arguments."""
    init, step = make_train_step(l2, optax.MultiSteps(optax.polyak_sgd(), 2))
    params, state = jnp.ones(2), init(jnp.ones(2))
    for _ in range(2):
        params, state, _ = step(params, state)
    np.testing.assert_allclose(params, [0.5, 0.5], rtol=1e-6)


@pytest.mark.parametrize(
    ("result", "has_aux", "error", "message"),
    [
        (
            np.ones(3, np.float32),
            False,
            ValueError,
            r"the value of the loss has shape \(3,\), expected one.*reduction=\"mean\"",
        ),
        (
            Mean(np.ones(3), np.ones(3)),
            False,
            ValueError,
            r"the value of the loss holds means of shape \(3,\).*tree.map\(jnp.sum, mean",
        ),
        (
            (1.0, {}),
            False,
            TypeError,
            "the loss returned a tuple of 2, expected a scalar.*`has_aux=True`",
        ),
        (1.0, True, TypeError, r"the loss returned a float, expected a pair `\(value, aux\)`"),
        ((1.0, 2.0, 3.0), True, TypeError, "the loss returned a tuple of 3, expected a pair"),
        (3, False, TypeError, "the value of the loss is int32, expected a floating-point"),
        (None, False, TypeError, "the value of the loss is a NoneType, expected a scalar"),
    ],
)
def test_what_a_loss_may_not_give(result, has_aux, error, message):
    init, step = make_train_step(lambda p: result, optax.sgd(0.1), has_aux=has_aux)
    with pytest.raises(error, match=f"make_train_step: {message}"):
        step(jnp.ones(2), init(jnp.ones(2)))


def test_what_make_train_step_refuses():
    with pytest.raises(TypeError, match=r"make_train_step: `tx` is adam, .*optax.adam\(1e-3\)"):
        make_train_step(l2, optax.adam)
    init, step = make_train_step(lambda p: 1.0, optax.sgd(0.1))
    for leaf, came in [(np.arange(2), "int64"), (jnp.tanh, "of type")]:
        for call in (init, lambda p: step(p, ())):
            with pytest.raises(TypeError, match=rf"`params\['n'\]\[0\]` is {came}.*no gradient"):
                call({"w": 1.0, "n": [leaf]})


# --- imports ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_jaxloss_alone_does_not_import_optax():
    code = "import sys, jaxloss; sys.exit('optax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
