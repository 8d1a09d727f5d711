"""Losses for Optax: `add_penalty` in a chain, and `minimize` around one.

The first part holds for every transformation: a new one gets a row in `TRANSFORMATIONS`.
"""

import functools
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxloss.combine import total
from jaxloss.penalties import elastic_net, l1, l2
from jaxloss.reduction import Mean
from jaxloss.transforms import AddPenaltyState, add_penalty, minimize


def is_matrix(params):
    return jax.tree.map(lambda p: p.ndim > 1, params)


TRANSFORMATIONS = {
    "add_penalty": add_penalty(l2, 1e-2),
    "add_penalty, array": add_penalty(l2, jnp.float32(1e-2)),
    "add_penalty, schedule": add_penalty(l1, optax.linear_schedule(0.0, 1e-2, 10)),
    "add_penalty, mask": add_penalty(elastic_net, 1e-2, mask=is_matrix),
}
EVERY = pytest.mark.parametrize("tx", TRANSFORMATIONS.values(), ids=TRANSFORMATIONS)


def parameters(dtype=np.float32):
    rng = np.random.default_rng(0)
    draw = {"w": rng.normal(size=(3, 2)), "b": rng.normal(size=2)}
    return jax.tree.map(lambda x: jnp.asarray(x, dtype), draw)


def gradients(steps, dtype=np.float32):
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


# --- every transformation -----------------------------------------------------------------------


@EVERY
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_dtypes_are_stable_under_scan(tx, dtype):
    """A carry that changes its type makes `scan` raise."""

    def body(carry, update):
        params, state = carry
        updates, state = tx.update(update, state, params)
        chex.assert_trees_all_equal_dtypes(updates, update)
        return (optax.apply_updates(params, updates), state), None

    params = parameters(dtype)
    scan = functools.partial(jax.lax.scan, body)
    jax.eval_shape(scan, (params, tx.init(params)), gradients(2, dtype))


@EVERY
def test_init_is_abstract_and_its_state_is_told_from_parameters(tx):
    params = parameters()
    chex.assert_trees_all_equal_shapes_and_dtypes(jax.eval_shape(tx.init, params), tx.init(params))
    optax.tree_utils.tree_map_params(tx, lambda leaf: leaf, tx.init(params))


@EVERY
def test_buffers_can_be_donated(tx):
    """No two leaves share a buffer, nor does the state hold one that lives outside it."""
    step = functools.partial(jax.jit, donate_argnums=(0, 1), keep_unused=True)(
        lambda p, s, u: tx.update(u, s, p)[::-1]
    )
    params, grads = parameters(), gradients(1)
    update = jax.tree.map(lambda g: g[0], grads)
    _, state = tx.update(update, tx.init(params), params)  # not compiled, so nothing is copied
    for fresh in (state, tx.init(params)):
        step(parameters(), fresh, update)
    tx.update(update, tx.init(params), params)


@EVERY
def test_unknown_arguments_pass_and_empty_trees_too(tx):
    params = {"w": jnp.ones((2, 2)), "frozen": None, "off": optax.MaskedNode()}
    updates, _ = tx.update(params, tx.init(params), params, value=1.0, grad_fn=None, unheard_of=2)
    chex.assert_trees_all_equal_structs(updates, params)
    assert isinstance(tx, optax.GradientTransformationExtraArgs)
    for empty in ({}, {"frozen": None}):
        updates, state = tx.update(empty, tx.init(empty), empty)
        assert updates == empty
        chex.assert_trees_all_equal_shapes_and_dtypes(state, tx.init(empty))


@EVERY
def test_vmap_is_a_loop(tx):
    params, grads = gradients(2), gradients(2)
    state = jax.vmap(tx.init)(params)
    updates, state = jax.jit(jax.vmap(tx.update))(grads, state, params)
    update = jax.jit(tx.update)
    for i in range(2):
        one, grad = (jax.tree.map(lambda x, i=i: x[i], tree) for tree in (params, grads))
        expected = update(grad, tx.init(one), one)
        got = jax.tree.map(lambda x, i=i: x[i], (updates, state))
        chex.assert_trees_all_close(got, expected, rtol=1e-6)


# --- add_penalty: what it equals, to the bit ----------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("weight", [0, 1e-3, 0.3])
@pytest.mark.parametrize("penalty", [l1, l2, elastic_net], ids=lambda f: f.__name__)
def test_before_the_optimizer_it_is_a_term_of_the_loss(penalty, weight, dtype):
    tx = optax.sgd(1e-2, 0.9)
    params, grads = parameters(dtype), gradients(3, dtype)
    got = run(optax.chain(add_penalty(penalty, weight), tx), params, grads)
    chex.assert_trees_all_equal(got, run(tx, params, grads, penalty, weight))


@pytest.mark.parametrize(
    "mask", [None, is_matrix, {"w": True, "b": False}], ids=["all", "function", "tree"]
)
@pytest.mark.parametrize("weight", [0.0, 1e-3, 0.3])
def test_l2_is_add_decayed_weights(weight, mask):
    txs = [optax.chain(f, optax.sgd(0.1, 0.9)) for f in
           (add_penalty(l2, weight, mask), optax.add_decayed_weights(weight, mask))]  # fmt: skip
    chex.assert_trees_all_equal(*(run(tx, parameters(), gradients(4)) for tx in txs))


def test_behind_adam_it_is_adamw():
    def decoupled(weight):
        return optax.chain(
            optax.scale_by_adam(), add_penalty(l2, weight), optax.scale_by_learning_rate(1e-2)
        )

    params, grads = ({"b": tree["b"]} for tree in (parameters(), gradients(200)))
    got = run(decoupled(0.1), params, grads)
    chex.assert_trees_all_equal(got, run(optax.adamw(1e-2, weight_decay=0.1), params, grads))


def test_before_or_behind_clipping_matters():
    params, update = {"w": jnp.array([3.0, 4.0])}, {"w": jnp.array([30.0, 40.0])}
    clip, pull = optax.clip_by_global_norm(1.0), add_penalty(l2, 1.0)

    def norm(tx):
        return np.linalg.norm(tx.update(update, tx.init(params), params)[0]["w"])

    np.testing.assert_allclose(norm(optax.chain(pull, clip)), 1, rtol=1e-6)
    np.testing.assert_allclose(norm(optax.chain(clip, pull)), 6, rtol=1e-6)


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
    chex.assert_trees_all_equal(*(run(tx, parameters(), gradients(3)) for tx in txs))


def test_without_static_args_inject_hyperparams_is_refused():
    """It would take the penalty for a schedule, and replace it with its value at step 0."""
    with pytest.raises(TypeError, match=r"`penalty` is a .*expected a function.*`static_args`"):
        optax.inject_hyperparams(add_penalty)(lambda p: 0.0, weight=0.1).init(parameters())


def test_a_traced_weight_compiles_nothing_again_and_has_a_gradient():
    traced = []
    params = parameters()

    @jax.jit
    def pull(weight):
        traced.append(1)
        tx = add_penalty(l2, weight)
        return tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)[0]["b"]

    np.testing.assert_array_equal([pull(0.5), pull(2.0)], [params["b"] / 2, params["b"] * 2])
    assert len(traced) == 1
    np.testing.assert_allclose(jax.jacobian(pull)(0.5), params["b"], rtol=1e-6)


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


def test_inside_multi_steps_it_pulls_once_and_its_schedule_counts_optimizer_steps():
    params, grads = parameters(), gradients(4)
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
        ({"mask": {"w": True}}, ValueError, "`mask` does not fit the parameters: "),
        ({"mask": {"w": 1.0, "b": True}}, TypeError, r"`mask\['w'\]` is 1\.0, expected True or"),
        ({"penalty": lambda p: p["b"]}, ValueError, r"`penalty` gave shape \(2,\).*jnp.sum"),
        ({"penalty": lambda p: 1j}, TypeError, "`penalty` gave complex64, expected a real"),
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


def test_a_penalty_that_misses_a_masked_leaf_is_told_so():
    params = parameters()
    tx = add_penalty(lambda p: jnp.sum(p["b"] * p["b"]), 0.1, is_matrix)
    with pytest.raises(TypeError) as caught:
        tx.update(params, tx.init(params), params)
    assert any("add_penalty: masked-out leaves are" in note for note in caught.value.__notes__)


# --- minimize -----------------------------------------------------------------------------------


MATRIX, TARGET = np.array([[3.0, 1.0], [1.0, 2.0]], np.float32), np.array([1.0, -1.0], np.float32)
BEST = np.linalg.solve(MATRIX + 0.5 * np.eye(2), MATRIX @ TARGET)


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
    ],
    ids=["adam", "plateau", "polyak", "lbfgs", "line search"],
)
def test_optimizers_get_what_they_want_and_arrive(tx, steps, tolerance):
    init, step = minimize(ridge, tx, has_aux=True)
    params = {"w": jnp.array([2.0, 3.0])}

    def body(carry, _):
        params, state, (value, terms) = step(*carry, TARGET)
        return (params, state), (value, terms)

    (params, _), (values, terms) = jax.jit(
        lambda carry: jax.lax.scan(body, carry, length=steps)
    )((params, init(params)))  # fmt: skip
    np.testing.assert_allclose(params["w"], BEST, atol=tolerance)
    assert (values[0], terms["fit"][0], terms["decay"][0]) == (24.75, 21.5, 6.5)


def test_a_step_is_the_loop_written_by_hand():
    def loss(params, x, scale=1.0):
        return scale * jnp.sum((params["b"] - x) ** 2)

    tx = optax.adam(0.1)
    init, step = minimize(loss, tx)
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

    init, step = minimize(loss, optax.scale(-1.0), has_aux=has_aux)  # takes no extra arguments
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

    init, step = minimize(loss, optax.chain(add_penalty(l2, 0.1), optax.adam(0.1)))
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
    init, step = minimize(l2, optax.MultiSteps(optax.polyak_sgd(), 2))
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
            r"shape \(3,\), expected one.*reduction=\"mean\"",
        ),
        (Mean(np.ones(3), np.ones(3)), False, ValueError, r"shape \(3,\).*tree.map\(jnp.sum, mean"),
        ((1.0, {}), False, TypeError, "a tuple of 2, expected a scalar.*`has_aux=True`"),
        (1.0, True, TypeError, r"float, expected a pair `\(value, aux\)`"),
        ((1.0, 2.0, 3.0), True, TypeError, "a tuple of 3, expected a pair"),
        (3, False, TypeError, "int32, expected a floating-point"),
        (None, False, TypeError, "a NoneType, expected a scalar"),
    ],
)
def test_what_a_loss_may_not_give(result, has_aux, error, message):
    init, step = minimize(lambda p: result, optax.sgd(0.1), has_aux=has_aux)
    with pytest.raises(error, match=f"minimize: the loss gave {message}"):
        step(jnp.ones(2), init(jnp.ones(2)))


def test_what_minimize_needs():
    with pytest.raises(TypeError, match=r"minimize: `tx` is adam, .*optax.adam\(1e-3\)"):
        minimize(l2, optax.adam)
    init, step = minimize(lambda p: 1.0, optax.sgd(0.1))
    for leaf, came in [(np.arange(2), "int64"), (jnp.tanh, "of type")]:
        for call in (init, lambda p: step(p, ())):
            with pytest.raises(TypeError, match=rf"`params\['n'\]\[0\]` is {came}.*no gradient"):
                call({"w": 1.0, "n": [leaf]})


# --- imports ------------------------------------------------------------------------------------


def test_jaxloss_alone_does_not_import_optax():
    code = "import sys, jaxloss; sys.exit('optax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
