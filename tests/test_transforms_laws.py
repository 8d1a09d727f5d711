"""Transforms, aggregators, penalties and `total` under JAX's strict flags, called eagerly.

`CALLS` has a call of every public function, with bfloat16 parameters and numbers of mixed dtypes.
Each runs eagerly three times with strict dtype promotion, rank promotion that raises, and
`debug_nans`; the third time compiles nothing. A function without a call fails the first test.
"""

import contextlib
import functools
import inspect

import jax
import jax.numpy as jnp
import optax
import pytest

import jaxloss as jl
from jaxloss import aggregators, penalties, transforms

pytestmark = pytest.mark.few

HALF, KEY = jnp.bfloat16, jax.random.key(0)
PARAMS = {"w": jnp.asarray([[3.0, -1.0], [0.5, 2.0]], HALF), "b": jnp.asarray([1.0, 0.0], HALF)}
MATRIX = {"w": PARAMS["w"]}
GRADS = {"w": jnp.ones((2, 2)), "b": jnp.asarray([2.0, -1.0], HALF)}
STACK = {k: jnp.stack([g, -0.5 * g, g * g, g]) for k, g in GRADS.items()}
GRAMIAN = jnp.asarray([[4.0, -1.0, 0.5, 1.0], [-1.0, 2.0, 0.0, 1.0],
                       [0.5, 0.0, 1.0, 0.5], [1.0, 1.0, 0.5, 3.0]], HALF)  # fmt: skip
PREFERENCE = jnp.asarray([1.0, 2.0, 1.0, 1.0], HALF)
LOSSES = {"a": jnp.asarray(1.0, HALF), "b": jnp.float32(0.5), "c": 0.0, "d": jnp.float16(0.25)}
INFINITE = jax.tree.map(lambda g: g * jnp.inf, GRADS)
SCALE = jnp.asarray(0.5, HALF)
SCHEDULE = optax.linear_schedule(0.1, 0.5, 3)


def train(loss, tx, *args, **kwargs):
    init, step = transforms.make_train_step(loss, tx, **kwargs)
    state = init(PARAMS)
    return lambda: step(PARAMS, state, *args)


def updated(tx, grads=GRADS, **extra_args):
    state = tx.init(PARAMS)
    return lambda: tx.update(grads, state, PARAMS, **extra_args)


def balanced(make, count=4):
    state = make.init(count)
    for _ in range(3):  # past the first epochs
        _, state = make.update(state, losses=LOSSES, gramian=GRAMIAN)
    return lambda: make.update(state, losses=LOSSES, gramian=GRAMIAN)


def differentiated(penalty, params=PARAMS):
    return lambda: jax.value_and_grad(penalty)(params)


def fit(params, target):
    return jnp.sum(jnp.square((params["w"] @ params["b"]).astype(jnp.float32) - target))


WEIGHTINGS = {
    "aligned_mtl": functools.partial(aggregators.aligned_mtl, preference=PREFERENCE),
    "cagrad": functools.partial(aggregators.cagrad, c=SCALE),
    "con_fig": functools.partial(aggregators.con_fig, preference=PREFERENCE),
    "dual_projection": functools.partial(aggregators.dual_projection, preference=PREFERENCE),
    "fair_grad": functools.partial(aggregators.fair_grad, alpha=SCALE),
    "imtl_g": aggregators.imtl_g,
    "krum": functools.partial(aggregators.krum, byzantine=1),
    "mgda": aggregators.mgda,
    "nash": aggregators.nash,
    "pcgrad": functools.partial(aggregators.pcgrad, key=KEY),
    "upgrad": functools.partial(aggregators.upgrad, regularization=SCALE),
    "cosines": aggregators.cosines,
}
BALANCERS = {
    "dwa": aggregators.dwa(1, temperature=SCALE),
    "famo": aggregators.famo(ideal=SCALE * 0),
    "grad_vac": aggregators.grad_vac(decay=SCALE),
    "gradnorm": aggregators.gradnorm(alpha=SCALE),
    "random": aggregators.random(),
    "relobralo": aggregators.relobralo(alpha=SCALE, temperature=SCALE),
    "soft_adapt": aggregators.soft_adapt(beta=SCALE, normalized=True, loss_weighted=True),
}
SCALARIZATIONS = {
    "geometric_mean": aggregators.geometric_mean,
    "imtl_l": functools.partial(aggregators.imtl_l, log_scales=PREFERENCE),
    "smooth_tchebycheff": functools.partial(
        aggregators.smooth_tchebycheff, mu=SCALE, weights=PREFERENCE, ideal=SCALE * 0
    ),
    "uncertainty": functools.partial(aggregators.uncertainty, log_variances=PREFERENCE),
}
CALLS = {
    **{name: lambda f=f: lambda: f(GRAMIAN) for name, f in WEIGHTINGS.items()},
    **{name: lambda b=b: balanced(b) for name, b in BALANCERS.items()},
    **{name: lambda f=f: lambda: f(LOSSES) for name, f in SCALARIZATIONS.items()},
    "gramian": lambda: lambda: aggregators.gramian(STACK),
    "combine": lambda: lambda: aggregators.combine(PREFERENCE, STACK),
    "grad_drop": lambda: lambda: aggregators.grad_drop(STACK["w"], KEY, leak=PREFERENCE),
    "trimmed_mean": lambda: lambda: aggregators.trimmed_mean(STACK["b"]),
    "l1": lambda: differentiated(penalties.l1),
    "l2": lambda: differentiated(penalties.l2),
    "elastic_net": lambda: differentiated(functools.partial(penalties.elastic_net, l1_ratio=SCALE)),
    "huber_penalty": lambda: differentiated(
        functools.partial(penalties.huber_penalty, delta=SCALE)
    ),
    "group_lasso": lambda: differentiated(penalties.group_lasso),
    "total_variation": lambda: differentiated(penalties.total_variation),
    "orthogonality": lambda: differentiated(penalties.orthogonality, MATRIX),
    "spectral_norm": lambda: differentiated(penalties.spectral_norm, MATRIX),
    "nuclear_norm": lambda: differentiated(penalties.nuclear_norm, MATRIX),
    "add_penalty": lambda: updated(transforms.add_penalty(penalties.l2, SCALE)),
    "add_penalty schedule": lambda: updated(transforms.add_penalty(penalties.l1, SCHEDULE)),
    "regularize": lambda: updated(
        transforms.regularize(optax.sgd(0.1), penalties.l2, SCALE), value=SCALE, grad=GRADS
    ),
    "add_anchored_penalty": lambda: updated(
        transforms.add_anchored_penalty(
            SCHEDULE, anchor=jax.tree.map(jnp.float32, PARAMS), importance=PARAMS
        )
    ),
    "add_ema_penalty": lambda: updated(transforms.add_ema_penalty(SCALE, decay=SCALE)),
    "accumulate": lambda: updated(
        transforms.accumulate(optax.sgd(0.1), 1), weight=SCALE, value=SCALE, grad=GRADS
    ),
    "accumulate without a step": lambda: updated(
        transforms.accumulate(optax.sgd(0.1), 2), weight=SCALE
    ),
    "dynamic_loss_scale overflow": lambda: updated(
        transforms.dynamic_loss_scale(optax.sgd(0.1), initial=4.0), INFINITE
    ),
    "dynamic_loss_scale": lambda: updated(
        transforms.dynamic_loss_scale(optax.sgd(0.1), initial=4.0), grad=GRADS
    ),
    "skip_nonfinite skipped": lambda: updated(transforms.skip_nonfinite(optax.sgd(0.1)), INFINITE),
    "skip_nonfinite": lambda: updated(transforms.skip_nonfinite(optax.sgd(0.1)), value=SCALE),
    "aggregate": lambda: updated(transforms.aggregate(aggregators.upgrad, 4), STACK),
    "aggregate_coordinates": lambda: updated(
        transforms.aggregate_coordinates(aggregators.grad_drop, 4), STACK
    ),
    "tree_where": lambda: lambda: transforms.tree_where(False, GRADS, GRADS),
    "loss_scale": lambda: functools.partial(
        transforms.loss_scale, transforms.dynamic_loss_scale(optax.sgd(0.1)).init(PARAMS)
    ),
    "make_train_step": lambda: train(fit, optax.sgd(0.1), SCALE.astype(jnp.float32)),
    "total": lambda: functools.partial(
        jl.total,
        {"rows": (PARAMS["w"], SCALE), "mean": jl.Mean(SCALE, 2), "half": (SCALE, SCHEDULE)},
        step=jnp.int32(1),
    ),
}


def public_functions():
    modules = (aggregators, penalties, transforms)
    for module in modules:
        for name in getattr(module, "__all__", dir(module)):
            found = getattr(module, name)
            if inspect.isfunction(found) and found.__module__.startswith(module.__name__):
                yield name


def test_every_public_function_is_called():
    names = {name for name in public_functions() if name[0] != "_"} | {"total"}
    assert names == {name.split()[0] for name in CALLS}


@contextlib.contextmanager
def compilations():
    """How many programs XLA compiles inside."""
    counts = []

    def react(event, duration, **kwargs):
        if event == "/jax/core/compile/backend_compile_duration":
            counts.append(duration)

    jax.monitoring.register_event_duration_secs_listener(react)
    try:
        yield counts
    finally:
        jax.monitoring.unregister_event_duration_listener(react)


@pytest.mark.parametrize("name", CALLS)
def test_strict_flags_and_no_compilation_in_the_third_call(name):
    with (
        jax.numpy_dtype_promotion("strict"),
        jax.numpy_rank_promotion("raise"),
        jax.debug_nans(True),
    ):
        call = CALLS[name]()
        call(), call()
        with compilations() as compiled:
            jax.block_until_ready(call())
    assert not compiled, f"{name} compiles {len(compiled)} programs in the third eager call"
