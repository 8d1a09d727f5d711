"""Aggregators: against TorchJD's frozen values, against their definitions, and what all keep.

`oracles/torchjd.json` is made by `oracles/make_torchjd.py`. Where TorchJD only approximates (a few
steps of Frank and Wolfe, a cone solver at its tolerance), ours must be at least as good by the
measure that defines the rule.
"""

import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from jaxloss import aggregators as agg

pytestmark = pytest.mark.few

FROZEN = json.loads((pathlib.Path(__file__).parent / "oracles" / "torchjd.json").read_text())
STACKS = {name: np.array(x) for name, x in FROZEN["stacks"].items()}
KEY = jax.random.key(0)
OURS = {
    "upgrad": agg.upgrad,
    "dual_projection": agg.dual_projection,
    "mgda": agg.mgda,
    "cagrad 0.5": functools.partial(agg.cagrad, c=0.5),
    "aligned_mtl": agg.aligned_mtl,
    "imtl_g": agg.imtl_g,
    "config": agg.con_fig,
    "fair_grad 1": agg.fair_grad,
    "fair_grad 2": functools.partial(agg.fair_grad, alpha=2.0),
    "nash": agg.nash,
    "krum 1 2": functools.partial(agg.krum, byzantine=1, selected=2),
    "pcgrad": functools.partial(agg.pcgrad, key=KEY),
}
EVERY = pytest.mark.parametrize("name", OURS)
# Compared by what they minimize or maximize, further down.
APPROXIMATE = {"mgda", "cagrad 0.5"}
# TorchJD's own tolerance where it stops: an iteration on cone programs, least squares.
LOOSE = {"nash": 1e-6, "fair_grad 1": 1e-8, "fair_grad 2": 1e-8}
# Nearly dependent gradients, of which a Gramian keeps half of the digits.
CONDITION = {("aligned_mtl", "rank two of five"), ("config", "rank two of five"),
             ("imtl_g", "rank two of five")}  # fmt: skip
DIFFERENT = {
    # Dependent gradients: the pseudo-inverse of the cosines, not of the inner products.
    ("imtl_g", "three in two"),
    # TorchJD has not solved its equations there: see the residuals below.
    ("fair_grad 1", "wide range"),
    ("fair_grad 2", "wide range"),
    ("nash", "wide range"),
    ("nash", "zero row"),
    ("nash", "identical"),
    ("fair_grad 1", "zero row"),
    ("fair_grad 2", "zero row"),
    ("fair_grad 1", "opposite"),
    ("fair_grad 2", "opposite"),
    ("nash", "opposite"),
}


@pytest.fixture
def x64():
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


def weights_of(name, stack):
    matrix = jnp.asarray(stack @ stack.T)
    return np.asarray(jax.jit(OURS[name])(matrix))


def size(stack):
    return np.sqrt(np.square(stack).sum())


# --- TorchJD ------------------------------------------------------------------------------------


# Every number of losses is another program to compile: a few are enough for the quick tier.
COUNTS = [{2, 4}, pytest.param({1, 3, 5, 6, 7, 8}, marks=pytest.mark.slow)]


@pytest.mark.parametrize("name", [name for name in OURS if name not in APPROXIMATE])
@pytest.mark.parametrize("counts", COUNTS, ids=["few", "all"])
@pytest.mark.usefixtures("x64")
def test_directions_are_those_of_torchjd(name, counts):
    compared = 0
    for stack_name, expected in FROZEN["directions"][name].items():
        stack = STACKS[stack_name]
        if (name, stack_name) in DIFFERENT or len(stack) not in counts:
            continue
        direction = stack.T @ weights_of(name, stack)
        tolerance = 1e-7 if (name, stack_name) in CONDITION else LOOSE.get(name, 1e-10)
        scale = max(np.linalg.norm(expected), 1e-4 * size(stack))
        error = np.linalg.norm(direction - expected) / scale
        assert error < tolerance, f"{stack_name}: {error:.1e}"
        compared += 1
    assert compared


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_entry_by_entry_rules_are_those_of_torchjd():
    for stack_name, expected in FROZEN["directions"]["trimmed_mean 1"].items():
        got = agg.trimmed_mean(jnp.asarray(STACKS[stack_name]), trim=1)
        np.testing.assert_allclose(got, expected, rtol=1e-13)
    # TorchJD was given a probability of 0 or 1: the sign that holds the larger sum.
    for stack_name, expected in FROZEN["directions"]["grad_drop"].items():
        stack = STACKS[stack_name]
        keys = jax.random.split(KEY, 64)
        drawn = jax.vmap(lambda k, s=stack: agg.grad_drop(jnp.asarray(s), k))(keys)
        positive, negative = np.maximum(stack, 0).sum(0), np.minimum(stack, 0).sum(0)
        either = np.isclose(drawn, positive) | np.isclose(drawn, negative)
        assert either.all()
        likely = np.where(stack.sum(0) > 0, positive, negative)
        decided = np.abs(stack.sum(0)) > 1e-9
        np.testing.assert_allclose(likely[decided], np.array(expected)[decided], rtol=1e-12)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_scalar_balancers_are_those_of_torchjd():
    frozen = FROZEN["losses"]
    losses, scales = jnp.array(frozen["values"]), jnp.array(frozen["scales"])
    tchebycheff = functools.partial(
        agg.smooth_tchebycheff,
        mu=0.3,
        weights=jnp.array([0.2, 0.5, 0.3]),
        ideal=jnp.array([0.1, 0.2, 0.0]),
    )
    for name, function, learned in [
        ("uncertainty", agg.uncertainty, (scales,)),
        ("imtl_l", agg.imtl_l, (scales,)),
        ("geometric_mean", agg.geometric_mean, ()),
        ("smooth_tchebycheff", tchebycheff, ()),
    ]:
        value, *slopes = frozen[name]
        got, gradients = jax.value_and_grad(function, argnums=tuple(range(1 + len(learned))))(
            losses, *learned
        )
        np.testing.assert_allclose(got, value, rtol=1e-14)
        for gradient, slope in zip(gradients, slopes, strict=True):
            np.testing.assert_allclose(gradient, slope, rtol=1e-13)


def course(balancer, count, **seen):
    """Weights at every step, in one scan."""

    def step(state, given):
        weights, state = balancer.update(state, **given)
        return state, weights

    return jax.jit(lambda s: jax.lax.scan(step, balancer.init(count), s)[1])(seen)


@pytest.mark.slow
def test_balancers_with_a_memory_are_those_of_torchjd():
    frozen = FROZEN["memory"]
    losses, pairs = jnp.array(frozen["losses"]), np.array(frozen["pairs"])
    np.testing.assert_allclose(course(agg.dwa(2), 3, losses=losses), frozen["dwa"], rtol=2e-6)
    np.testing.assert_allclose(course(agg.famo(), 3, losses=losses), frozen["famo"], rtol=2e-5)
    matrices = jnp.asarray(pairs @ pairs.swapaxes(1, 2), jnp.float32)
    weights = course(agg.grad_vac(), 2, gramian=matrices)
    directions = np.einsum("sk,skn->sn", weights, pairs)
    np.testing.assert_allclose(directions, frozen["grad_vac"], rtol=1e-4, atol=1e-5)


# --- definitions --------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_mgda_is_the_shortest_combination():
    """No shorter one exists: at the solution no vertex is nearer, the condition of optimality."""
    for name, stack in STACKS.items():
        weights = weights_of("mgda", stack)
        assert (weights >= 0).all(), name
        np.testing.assert_allclose(weights.sum(), 1, rtol=1e-12)
        direction = stack.T @ weights
        slack = (stack @ direction - direction @ direction) / size(stack) ** 2
        assert slack.min() > -1e-12, name
        theirs = np.linalg.norm(FROZEN["directions"]["mgda"][name])
        assert np.linalg.norm(direction) <= theirs * (1 + 1e-12) + 1e-12 * size(stack), name


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_cagrad_helps_the_worst_loss_as_much_as_the_ball_allows():
    """Weak duality: no direction of the ball helps more than the bound of any convex weights."""
    for name, stack in STACKS.items():
        mean, weights = stack.mean(0), weights_of("cagrad 0.5", stack)
        direction, radius = stack.T @ weights, 0.5 * np.linalg.norm(stack.mean(0))
        assert np.linalg.norm(direction - mean) <= radius * (1 + 1e-9) + 1e-12, name
        share = weights - 1 / len(stack)
        if share.sum() <= 1e-9:
            continue
        convex = stack.T @ (share / share.sum())
        bound = convex @ mean + radius * np.linalg.norm(convex)
        gap = (bound - (stack @ direction).min()) / size(stack) ** 2
        assert gap < 1e-9, f"{name}: {gap:.1e}"
        theirs = (stack @ np.array(FROZEN["directions"]["cagrad 0.5"][name])).min()
        assert (stack @ direction).min() >= theirs - 1e-7 * size(stack) ** 2, name


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_projections_solve_their_quadratic_programs():
    """With scipy, on a stack that TorchJD has not seen, and twelve losses, more than 8."""
    stack = np.random.default_rng(5).normal(size=(12, 20))
    matrix = stack @ stack.T
    matrix = matrix / np.trace(matrix) + 1e-4 * np.eye(12)
    root = np.linalg.cholesky(matrix).T

    def project(u):  # v = u + s with s >= 0: nonnegative least squares
        return u + optimize.nnls(root, -root @ u)[0]

    mean = np.full(12, 1 / 12)
    upgrad = sum(project(u) for u in np.diag(mean))
    np.testing.assert_allclose(weights_of("upgrad", stack), upgrad, rtol=1e-10)
    np.testing.assert_allclose(weights_of("dual_projection", stack), project(mean), rtol=1e-10)
    preference = np.linspace(0.5, 2, 12)
    got = agg.dual_projection(jnp.asarray(stack @ stack.T), preference=preference)
    np.testing.assert_allclose(got, project(preference), rtol=1e-10)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "alpha", [2.0, *(pytest.param(a, marks=pytest.mark.slow) for a in (0.5, 1.0, 5.0))]
)
def test_fair_weights_solve_their_equations_for_gradients_of_any_length(alpha):
    solve = jax.jit(functools.partial(agg.fair_grad, alpha=alpha))
    for name in ["normal 2", "normal 8", "wide range", "conflict", "no conflict", "three in two"]:
        for scale in (1.0, 1e-6, 1e6):
            stack = scale * STACKS[name]
            matrix = stack @ stack.T
            weights = np.asarray(solve(matrix))
            residual = (matrix @ weights) * weights ** (1 / alpha) - 1
            assert np.abs(residual).max() < 1e-9, (name, scale, residual)


def test_float32_keeps_its_digits_although_it_is_regularized():
    weights = jax.jit(agg.mgda)(jnp.diag(jnp.array([4.0, 1.0])))
    np.testing.assert_allclose(weights, [0.2, 0.8], rtol=2e-7)


@pytest.mark.slow
def test_nash_is_fair_grad_of_one_and_has_the_norm_of_a_bargain():
    stack = STACKS["normal 5"].astype(np.float32)
    weights = weights_of("nash", stack)
    np.testing.assert_array_equal(weights, weights_of("fair_grad 1", stack))
    np.testing.assert_allclose(np.linalg.norm(stack.T @ weights), 5**0.5, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_equal_projections_and_equal_cosines():
    for name in ["normal 3", "normal 8", "wide range", "conflict", "no conflict"]:
        stack = STACKS[name]
        units = stack / np.linalg.norm(stack, axis=1, keepdims=True)
        projections = units @ (stack.T @ weights_of("imtl_g", stack))
        np.testing.assert_allclose(projections, projections[0], rtol=1e-9)
        direction = stack.T @ weights_of("config", stack)
        length = np.linalg.norm(direction)
        cosines = units @ direction / length
        np.testing.assert_allclose(cosines, cosines[0], rtol=1e-9)
        np.testing.assert_allclose(length, (stack @ direction).sum() / length, rtol=1e-9)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_aligned_gradients_are_orthogonal_and_equally_long():
    """As if the stack were U V' of its singular value decomposition, times the smallest one."""
    for name in ["normal 3", "normal 8", "conflict", "wide range"]:
        left, values, right = np.linalg.svd(STACKS[name], full_matrices=False)
        expected = values[-1] * (left @ right).mean(0)
        direction = STACKS[name].T @ weights_of("aligned_mtl", STACKS[name])
        np.testing.assert_allclose(direction, expected, rtol=1e-7, atol=1e-9 * values[-1])


@pytest.mark.slow
def test_surgery_of_two_harms_neither_and_of_three_depends_on_the_order():
    stack = STACKS["conflict"].astype(np.float32)
    direction = stack.T @ weights_of("pcgrad", stack)
    own = [g - min(0, g @ h) / (h @ h) * h for g, h in (stack, stack[::-1])]
    np.testing.assert_allclose(direction, np.add(*own), rtol=1e-5)
    three = np.array([[1, 0], [-0.8, 0.6], [-0.5, -0.9]], np.float32)
    keys = jax.random.split(KEY, 200)
    drawn = jax.vmap(lambda k: agg.pcgrad(three @ three.T, k))(keys)
    outcomes = {tuple(w) for w in np.round(np.asarray(drawn), 4).tolist()}

    def surgery(orders):
        total = np.zeros(3)
        for i, order in enumerate(orders):
            weights = np.eye(3)[i]
            for j in order:
                inner = three[j] @ (three.T @ weights)
                weights[j] -= min(0, inner) / (three[j] @ three[j])
            total += weights
        return tuple(np.round(total, 4).tolist())

    orders = [[(1, 2), (2, 1)], [(0, 2), (2, 0)], [(0, 1), (1, 0)]]
    possible = {surgery([orders[0][a], orders[1][b], orders[2][c]])
                for a in (0, 1) for b in (0, 1) for c in (0, 1)}  # fmt: skip
    assert len(possible) > 1
    assert len(outcomes) == len(possible)
    np.testing.assert_allclose(sorted(outcomes), sorted(possible), atol=2e-4)


@pytest.mark.slow
def test_vaccination_restores_the_cosine_that_was_usual():
    balancer = agg.grad_vac(decay=1.0)
    friends, foes = np.array([[1, 0], [0.8, 0.6]]), np.array([[1.0, 0.0], [-0.6, 0.8]])
    _, state = balancer.update(balancer.init(2), gramian=friends @ friends.T)
    np.testing.assert_allclose(state.targets, [[0, 0.8], [0.8, 0]], atol=1e-6)
    weights, _ = balancer.update(state, gramian=foes @ foes.T)
    # g1 + a g2 has cosine 0.8 with g2, and by symmetry the other.
    a = optimize.brentq(lambda a: (foes[0] + a * foes[1]) @ foes[1]
                        - 0.8 * np.linalg.norm(foes[0] + a * foes[1]), 0, 9)  # fmt: skip
    np.testing.assert_allclose(weights, [1 + a, 1 + a], rtol=1e-5)


@pytest.mark.slow
def test_krum_leaves_the_stranger_out():
    stack = np.array([[1, 0], [1.1, 0], [0.9, 0], [1, 0.1], [-50, 9]], np.float32)
    weights = agg.krum(stack @ stack.T, byzantine=1, selected=3)
    assert weights[4] == 0
    np.testing.assert_allclose(weights.sum(), 1, rtol=1e-6)


@pytest.mark.slow
def test_grad_drop_draws_the_sign_by_its_share_and_leaks():
    stack = jnp.array([[3.0], [-1.0]])
    keys = jax.random.split(KEY, 4000)
    drawn = jax.vmap(lambda k: agg.grad_drop(stack, k))(keys)[:, 0]
    assert set(np.unique(drawn)) == {-1.0, 3.0}
    np.testing.assert_allclose(jnp.mean(drawn == 3), 0.75, atol=0.02)
    np.testing.assert_array_equal(agg.grad_drop(stack, KEY, leak=jnp.ones(2)), [2.0])
    assert agg.grad_drop(jnp.zeros((2, 3)), KEY).tolist() == [0, 0, 0]


# --- what all weightings keep -------------------------------------------------------------------

POWERS = {"nash": 0.0, "fair_grad 1": 0.0, "fair_grad 2": -1 / 3}  # of the length; else 1


@EVERY
def test_gradients_of_any_scale_have_one_direction(name):
    """No absolute threshold: 1e-6 of a gradient has the same direction, in float32."""
    for stack_name in ("normal 4", "no conflict"):
        stack = STACKS[stack_name].astype(np.float32)
        big, small = (s * (stack.T @ weights_of(name, s * stack)) for s in (1.0, 1e-6))
        power = POWERS.get(name, 1.0)
        np.testing.assert_allclose(small, big * 1e-6**power, rtol=2e-3, atol=2e-4 * abs(
            big).max() * 1e-6**power)  # fmt: skip


NOT_KRUM = pytest.mark.parametrize("name", [n for n in OURS if n != "krum 1 2"])  # it needs four


@NOT_KRUM
@pytest.mark.slow
def test_one_gradient_alone_and_two_that_are_opposite(name):
    one = weights_of(name, np.array([[3.0, 4.0]], np.float32))
    lengths = {"cagrad 0.5": 1.5, "fair_grad 1": 0.2, "nash": 0.2, "fair_grad 2": 25 ** (-2 / 3)}
    np.testing.assert_allclose(one, [lengths.get(name, 1.0)], rtol=1e-5)
    opposite = STACKS["opposite"].astype(np.float32)
    weights = weights_of(name, opposite)
    assert np.isfinite(weights).all()
    assert np.abs(opposite.T @ weights).max() <= 1e-3 * np.abs(weights).max()


@NOT_KRUM
def test_identical_gradients_and_gradients_of_zero(name):
    for stack in (np.ones((3, 4)), np.zeros((3, 4)), STACKS["zero row"]):
        weights = weights_of(name, stack.astype(np.float32))
        assert np.isfinite(weights).all(), stack
        direction = stack.T @ weights
        if not np.ptp(stack, axis=0).any():
            assert (direction >= -1e-6).all()


@pytest.mark.slow
@EVERY
def test_losses_may_change_places(name):
    if name == "pcgrad":
        return  # its orders are drawn
    for stack_name in ("normal 5", "no conflict"):
        stack = STACKS[stack_name].astype(np.float32)
        order = np.random.default_rng(0).permutation(len(stack))
        np.testing.assert_allclose(
            weights_of(name, stack[order]), weights_of(name, stack)[order], rtol=2e-3, atol=1e-5
        )


@pytest.mark.parametrize("name", ["upgrad", "dual_projection", "mgda", "nash", "fair_grad 2"])
def test_no_loss_is_harmed(name):
    stacks = np.random.default_rng(3).normal(size=(64, 4, 6)).astype(np.float32)
    matrices = jnp.asarray(np.einsum("bkn,bln->bkl", stacks, stacks))
    weights = jax.jit(jax.vmap(OURS[name]))(matrices)
    changes = np.einsum("bkl,bl->bk", matrices, weights)
    scale = np.einsum("bkk->b", matrices)[:, None] * np.abs(weights).max(1, keepdims=True)
    # By no more than the regularization: 1e-4 of the trace.
    assert (changes / scale).min() > -2e-4
    harmed = np.einsum("bkl->bk", matrices).min(1) < -0.1
    assert harmed.mean() > 0.3  # the mean, on the other hand, harms many


@pytest.mark.slow
@EVERY
def test_half_precision_is_computed_in_float32_and_weights_have_no_gradient(name):
    stack = STACKS["normal 4"].astype(np.float32)
    matrix = jnp.asarray(stack @ stack.T, jnp.bfloat16)
    assert OURS[name](matrix).dtype == jnp.float32
    slope = jax.grad(lambda m: jnp.sum(OURS[name](m)))(jnp.asarray(stack @ stack.T))
    assert not np.any(slope)


@pytest.mark.slow
def test_batches_of_gramians_are_a_loop():
    stacks = np.random.default_rng(4).normal(size=(5, 3, 4)).astype(np.float32)
    matrices = jnp.asarray(np.einsum("bkn,bln->bkl", stacks, stacks))
    for name in ("upgrad", "cagrad 0.5", "nash", "mgda"):
        mapped = jax.jit(jax.vmap(OURS[name]))(matrices)
        looped = [jax.jit(OURS[name])(m) for m in matrices]
        np.testing.assert_allclose(mapped, looped, rtol=1e-4, atol=1e-5)


# --- balancers ----------------------------------------------------------------------------------


def test_dwa_of_papers_and_famo_of_equal_progress():
    losses = jnp.array([[1.0, 4.0], [1.0, 2.0], [9.0, 9.0]])
    weights = course(agg.dwa(1, temperature=2.0), 2, losses=losses)
    np.testing.assert_array_equal(weights[:2], 1)
    ratios = np.exp(np.array([1.0, 0.5]) / 2)
    np.testing.assert_allclose(weights[2], 2 * ratios / ratios.sum(), rtol=1e-6)
    weights = course(agg.famo(), 2, losses=jnp.array([[1.0, 3.0], [0.5, 1.5]]))
    np.testing.assert_allclose(weights, [[0.75, 0.25]] * 2, rtol=1e-5)


@pytest.mark.slow
def test_relobralo_and_soft_adapt_are_their_formulas():
    rng = np.random.default_rng(0)
    losses = rng.uniform(0.5, 2, size=(6, 3)).astype(np.float32)

    def since(now, past, temperature):
        raw = np.exp(now / (temperature * past) - np.max(now / (temperature * past)))
        return 3 * raw / raw.sum()

    for lookback in (0.0, 1.0):
        balancer = agg.relobralo(alpha=0.7, temperature=0.5, lookback=lookback)
        weights = np.ones(3)
        got = course(balancer, 3, losses=jnp.asarray(losses))
        np.testing.assert_array_equal(got[0], weights)
        for t in range(1, 6):
            history = weights if lookback else since(losses[t], losses[0], 0.5)
            weights = 0.7 * history + 0.3 * since(losses[t], losses[t - 1], 0.5)
            np.testing.assert_allclose(got[t], weights, rtol=1e-5)
    drawn = course(agg.relobralo(lookback=0.5, alpha=1.0), 3, losses=jnp.asarray(losses))
    assert 1 < len(np.unique(np.round(drawn, 5), axis=0)) < 6  # some look back, some do not

    change = losses[3] - losses[2]
    for normalized, loss_weighted in [(False, False), (True, False), (False, True)]:
        balancer = agg.soft_adapt(beta=2.0, normalized=normalized, loss_weighted=loss_weighted)
        raw = np.exp(2 * change / (np.abs(change).sum() if normalized else 1))
        raw = raw * losses[3] if loss_weighted else raw
        got = course(balancer, 3, losses=jnp.asarray(losses))[3]
        np.testing.assert_allclose(got, raw / raw.sum(), rtol=1e-5)


@pytest.mark.slow
def test_gradnorm_makes_lengths_equal_and_favours_who_lags():
    balancer = agg.gradnorm(alpha=0.0, learning_rate=0.02)
    matrices = jnp.tile(jnp.diag(jnp.array([16.0, 1.0])), (400, 1, 1))
    weights = course(balancer, 2, losses=jnp.ones((400, 2)), gramian=matrices)[-1]
    np.testing.assert_allclose(weights * jnp.array([4.0, 1.0]), [1.6, 1.6], rtol=0.1)
    losses = jnp.stack([jnp.linspace(1, 0.1, 50), jnp.ones(50)], 1)
    same = jnp.tile(jnp.eye(2), (50, 1, 1))
    weights = course(agg.gradnorm(), 2, losses=losses, gramian=same)[-1]
    assert weights[1] > 1.2 > weights[0]
    np.testing.assert_allclose(weights.sum(), 2, rtol=1e-5)


def test_random_weights_differ_between_steps_and_seeds_and_are_uniform_on_average():
    a, b = (np.asarray(course(agg.random(seed), 3, losses=jnp.ones((500, 3)))) for seed in (0, 1))
    assert len(np.unique(a, axis=0)) == 500
    assert not np.any(a == b)
    np.testing.assert_allclose(a.mean(0), 1 / 3, atol=0.03)


BALANCERS = {
    "dwa": agg.dwa(2),
    "famo": agg.famo(),
    "gradnorm": agg.gradnorm(),
    "relobralo": agg.relobralo(),
    "soft_adapt": agg.soft_adapt(),
    "random": agg.random(),
    "grad_vac": agg.grad_vac(),
}


@pytest.mark.slow
@pytest.mark.parametrize("balancer", BALANCERS.values(), ids=BALANCERS)
def test_states_are_plain_arrays_that_keep_their_types(balancer):
    def step(state, _):
        weights, state = balancer.update(state, losses={"b": 1.0, "a": 2.0}, gramian=jnp.eye(2))
        return state, weights

    start = balancer.init(2)
    assert all(not jnp.issubdtype(x.dtype, jax.dtypes.prng_key) for x in jax.tree.leaves(start))
    _, weights = jax.lax.scan(step, start, length=3)
    assert weights.shape == (3, 2)
    slope = jax.grad(lambda s: jnp.sum(balancer.update(
        start, losses=jnp.array([1.0, 2.0]) * s, gramian=s * jnp.eye(2))[0]))  # fmt: skip
    assert slope(1.0) == 0


@pytest.mark.parametrize("name", ["dwa", "famo", "gradnorm", "relobralo", "soft_adapt"])
def test_a_balancer_without_losses_says_where_they_go(name):
    balancer = BALANCERS[name]
    with pytest.raises(ValueError, match=rf"{name}: `losses` was not given.*losses=losses"):
        balancer.update(balancer.init(2), gramian=jnp.eye(2))
    with pytest.raises(ValueError, match=rf"{name}: got 3 losses, expected 2"):
        balancer.update(balancer.init(2), losses=jnp.ones(3), gramian=jnp.eye(2))


# --- numbers to differentiate -------------------------------------------------------------------


@pytest.mark.slow
def test_learned_scales_settle_where_the_losses_say():
    losses = {"b": jnp.float32(4.0), "a": jnp.float32(0.25)}  # sorted: a, b
    best = jnp.log(jnp.array([0.25, 4.0]))
    np.testing.assert_allclose(jax.grad(agg.uncertainty, 1)(losses, best), 0, atol=1e-6)
    np.testing.assert_allclose(jax.grad(agg.imtl_l, 1)(losses, -best), 0, atol=1e-6)
    slopes = jax.grad(agg.uncertainty)(losses, best)
    np.testing.assert_allclose([slopes["a"], slopes["b"]], [0.5 / 0.25, 0.5 / 4], rtol=1e-6)


def test_a_geometric_mean_of_zero_has_no_gradient_and_no_nan():
    value, slope = jax.value_and_grad(agg.geometric_mean)(jnp.array([0.0, 4.0]))
    assert value == 0
    np.testing.assert_array_equal(slope, 0)
    assert agg.geometric_mean(jnp.array([1e-30, 1e30])) == pytest.approx(1.0, rel=1e-5)


@pytest.mark.slow
def test_smooth_tchebycheff_is_between_the_maximum_and_a_sum():
    losses = jnp.array([1.0, 1e4])
    near = agg.smooth_tchebycheff(losses, mu=1e-3, weights=jnp.ones(2))
    np.testing.assert_allclose(near, 1e4, rtol=1e-6)
    slope = jax.grad(lambda x: agg.smooth_tchebycheff(x, mu=1e6))(losses)
    np.testing.assert_allclose(slope, 0.25, rtol=1e-2)


# --- errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: agg.upgrad(jnp.ones((2, 3))), ValueError, r"upgrad: `gramian` has shape \(2, 3\)"),
        (lambda: agg.mgda(jnp.ones(2)), ValueError, r"mgda: `gramian` .*aggregators.gramian\(st"),
        (
            lambda: agg.con_fig(jnp.eye(2), preference=jnp.ones(3)),
            ValueError,
            r"con_fig: `preference` has shape \(3,\), expected \(2,\)",
        ),
        (lambda: agg.krum(jnp.eye(3), byzantine=1), ValueError, r"krum: of 3 gradients, .*<= 0"),
        (lambda: agg.trimmed_mean(jnp.ones((2, 1))), ValueError, "trim` can be 0 to 0, got 1"),
        (lambda: agg.trimmed_mean(1.0), ValueError, "aggregate_coordinates"),
        (lambda: agg.grad_drop(jnp.ones((2, 1)), KEY, leak=jnp.ones(3)), ValueError, "`leak` has"),
        (lambda: agg.uncertainty(jnp.ones(2), jnp.ones(3)), ValueError, "`log_variances` has"),
        (lambda: agg.geometric_mean({}), ValueError, "there are no losses"),
        (lambda: agg.geometric_mean(1.0), ValueError, r"`losses` has shape \(\), expected a dict"),
        (lambda: agg.dwa(0), ValueError, "dwa: `steps_per_epoch` is 0, expected an integer"),
        (
            lambda: agg.gradnorm().update(agg.gradnorm().init(2), losses=jnp.ones(2)),
            ValueError,
            "gradnorm: `gramian` was not given.*transforms.aggregate",
        ),
        (
            lambda: agg.grad_vac().update(agg.grad_vac().init(3), gramian=jnp.eye(2)),
            ValueError,
            "that of 2 gradients, expected 3",
        ),
        (lambda: agg.gramian({"w": jnp.ones(3), "b": 1.0}), ValueError, r"`updates\['b'\]` has"),
        (lambda: agg.gramian({}), ValueError, "no leaves"),
        (
            lambda: agg.combine(jnp.ones(2), {"w": jnp.ones((3, 2))}),
            ValueError,
            r"`updates\['w'\]` has shape \(3, 2\), expected \(2, ...\)",
        ),
    ],
)
def test_mistakes_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
