"""What must hold on a mesh, on eight devices made of one CPU: the tests of `test_sharded.py`."""

import functools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxloss as jl
from jaxloss import (
    classification,
    contrastive,
    divergence,
    gradients,
    linear,
    ranking,
    sequence,
    sharded,
)
from jaxloss import transforms as jt
from jaxloss.classification import softmax_cross_entropy

ROWS, DIM, CLASSES = 64, 16, 128
CHECKS = {}


def check(function):
    """Files a check, or one for each mesh."""
    CHECKS[function.__name__] = function
    return function


def draw(seed=0):
    generator = np.random.default_rng(seed)
    hidden = generator.normal(size=(ROWS, DIM)).astype(np.float32)
    weight = generator.normal(size=(DIM, CLASSES)).astype(np.float32) / 4
    labels = generator.integers(0, CLASSES, ROWS).astype(np.int32)
    return tuple(jnp.asarray(x) for x in (hidden, weight, labels))


def mesh_of(kind, data=2, model=4):
    return jax.make_mesh((data, model), ("data", "model"), axis_types=(kind,) * 2)


def head(weight, hidden, labels):
    return softmax_cross_entropy(hidden @ weight, labels)


def plain(hidden, weight, labels):
    return softmax_cross_entropy(hidden @ weight, labels, reduction="mean")


LAYOUTS = {
    "data": (P(("data", "model")), P()),
    "vocabulary": (P(), P(None, ("data", "model"))),
    "both": (P("data"), P(None, "model")),
    "fsdp": (P(("data", "model")), P(("data", "model"))),
}


def sizes_of(text, operation):
    """The number of entries of each result of a collective in compiled code."""
    found = re.findall(rf"= \(?(.*?) {operation}(?:-start)?\(", text)
    shapes = [s for line in found for s in re.findall(r"\w+\[([\d,]*)\]", line)]
    return [int(np.prod([int(n) for n in s.split(",") if n] or [1])) for s in shapes]


def run_layout(loss, kind, layout):
    """Value and gradients on a mesh, those of one device, and the compiled code."""
    hidden, weight, labels = draw()
    expected = jax.jit(jax.value_and_grad(plain, (0, 1)))(hidden, weight, labels)
    mesh = mesh_of(kind)
    of_hidden, of_weight = LAYOUTS[layout]
    with jax.set_mesh(mesh):
        put = lambda x, spec: jax.device_put(x, NamedSharding(mesh, spec))
        of_labels = P(of_hidden[0]) if len(of_hidden) else P()
        arrays = put(hidden, of_hidden), put(weight, of_weight), put(labels, of_labels)
        program = jax.jit(jax.value_and_grad(loss, (0, 1))).lower(*arrays).compile()
        got = jax.device_get(program(*arrays))
    chex.assert_trees_all_close(got, jax.device_get(expected), rtol=2e-5, atol=2e-6)
    return program.as_text()


FUSED = {
    "plain": plain,
    "chunked": lambda h, w, y: jl.chunked(head, 16)(w, h, y),
    "linear": lambda h, w, y: linear.softmax_cross_entropy(h, w, y, chunk_size=16),
}


def per_device_products(text):
    """The sizes of the matrix products that one device computes in one turn of the loop."""
    found = re.findall(r"= f32\[([\d,]+)\]\S* dot\(", text)
    return [int(np.prod([int(n) for n in s.split(",")])) for s in found]


def layout_check(name, layout, kind):
    def run():
        text = run_layout(FUSED[name], kind, layout)
        gathered = sizes_of(text, "all-gather")
        if layout == "fsdp":  # the weight is in pieces, and is put together once
            assert all(size <= DIM * CLASSES for size in gathered), gathered
        else:
            assert not [size for size in gathered if size >= ROWS * DIM // 8], gathered
        logits = max(per_device_products(text))
        rows = 16 if name != "plain" else ROWS
        assert logits <= max(rows * CLASSES // 8, DIM * CLASSES), per_device_products(text)

    run.__name__ = f"{name}-{layout}-{kind.name.lower()}"
    return run


for _name in FUSED:
    for _layout in LAYOUTS:
        for _kind in (AxisType.Auto, AxisType.Explicit):
            check(layout_check(_name, _layout, _kind))


def head_in_chunks(hidden, weight, labels, policy, reduction="mean"):
    loss = jl.chunked(head, 24, reduction=reduction, policy=policy)
    return jnp.mean(loss(weight, hidden, labels))


def linear_in_blocks(hidden, weight, labels, policy, reduction="mean", **words):
    return jnp.mean(
        linear.softmax_cross_entropy(
            hidden, weight, labels, policy=policy, reduction=reduction, **words
        )
    )


PADDED = {
    "chunked": functools.partial(head_in_chunks, policy="fastest"),
    "chunked-none": functools.partial(head_in_chunks, policy="fastest", reduction="none"),
    "chunked-least": functools.partial(head_in_chunks, policy="least_memory"),
    "linear": functools.partial(linear_in_blocks, policy="fastest", chunk_size=24),
    "linear-none": functools.partial(
        linear_in_blocks, policy="fastest", reduction="none", chunk_size=24
    ),
    "linear-least": functools.partial(linear_in_blocks, policy="least_memory", chunk_size=(24, 48)),
    "linear-least-none": functools.partial(
        linear_in_blocks, policy="least_memory", reduction="none", chunk_size=(24, 48)
    ),
}


def padded_check(name, kind):
    """56 rows, 7 on each device, in chunks of at most 24: the last one is padded on each device."""

    def run():
        hidden, weight, labels = (x[:56] if len(x) == ROWS else x for x in draw())
        expected = jax.jit(jax.value_and_grad(plain, (0, 1)))(hidden, weight, labels)
        mesh = mesh_of(kind)
        for layout in ("data", "both"):
            of_hidden, of_weight = LAYOUTS[layout]
            with jax.set_mesh(mesh):
                put = lambda x, spec: jax.device_put(x, NamedSharding(mesh, spec))
                arrays = (
                    put(hidden, of_hidden),
                    put(weight, of_weight),
                    put(labels, P(of_hidden[0])),
                )
                got = jax.device_get(jax.jit(jax.value_and_grad(PADDED[name], (0, 1)))(*arrays))
            chex.assert_trees_all_close(got, jax.device_get(expected), rtol=2e-5, atol=2e-6)

    run.__name__ = f"padded-{name}-{kind.name.lower()}"
    return run


for _name in PADDED:
    for _kind in (AxisType.Auto, AxisType.Explicit):
        check(padded_check(_name, _kind))


@check
def second_derivatives_on_a_mesh():
    hidden, weight, labels = draw()
    mesh = mesh_of(AxisType.Auto)
    put = lambda x, spec: jax.device_put(x, NamedSharding(mesh, spec))
    arrays = put(hidden, P("data")), put(weight, P(None, "model")), put(labels, P("data"))

    def product(loss, hidden, weight, labels):
        f = lambda w: loss(hidden, w, labels)
        return jax.jvp(f, (weight,), (weight,)), jax.jvp(jax.grad(f), (weight,), (weight,))[1]

    expected = product(plain, hidden, weight, labels)
    for name in ("chunked", "linear"):
        got = jax.jit(lambda *x, f=FUSED[name]: product(f, *x))(*arrays)
        chex.assert_trees_all_close(got, expected, rtol=2e-5, atol=2e-6)


def vocabulary_parallel(policy, transposed=False):
    """The loss of a head whose rows lie on `data` and whose classes on `model`."""

    def local(hidden, weight, labels, where, bias):
        parts, metrics = linear.softmax_cross_entropy(
            hidden, weight, labels, where=where, bias=bias, axis_name="model", label_smoothing=0.1,
            reduction="parts", chunk_size=(8, 16), policy=policy, metrics=True, transposed=transposed,
        )  # fmt: skip
        return parts.psum("data").value, metrics

    of_weight = P("model") if transposed else P(None, "model")
    return jax.shard_map(
        local,
        mesh=mesh_of(AxisType.Auto),
        in_specs=(P("data"), of_weight, P("data"), P("data"), P("model")),
        out_specs=(P(), P("data")),
    )


def vocabulary_check(policy, transposed):
    def run():
        hidden, weight, labels = draw()
        bias = np.linspace(-1, 1, CLASSES, dtype=np.float32)
        where = np.arange(ROWS) < 40  # 32 count on one half of the devices, 8 on the other

        def whole(hidden, weight, labels, where, bias):
            logits = hidden @ weight + bias
            words = {"where": where, "label_smoothing": 0.1, "reduction": "mean"}
            return softmax_cross_entropy(logits, labels, **words)

        turn = (lambda w: w.T) if transposed else (lambda w: w)
        loss = vocabulary_parallel(policy, transposed)
        function = jax.jit(
            jax.value_and_grad(
                lambda h, w, b: loss(h, turn(w), labels, where, b), (0, 1, 2), has_aux=True
            )
        )
        program = function.lower(hidden, weight, bias).compile()
        (value, metrics), slopes = program(hidden, weight, bias)
        expected = jax.value_and_grad(lambda h, w, b: whole(h, w, labels, where, b), (0, 1, 2))(
            hidden, weight, bias
        )
        chex.assert_trees_all_close((value, slopes), expected, rtol=2e-5, atol=2e-6)
        logits = hidden @ weight + bias
        np.testing.assert_array_equal(
            np.asarray(metrics.predicted)[where], np.asarray(logits.argmax(-1))[where]
        )
        text = program.as_text()
        assert not sizes_of(text, "all-gather")
        # In the loop one number a row; at the end, once, the gradients.
        reduced = sorted(set(sizes_of(text, "all-reduce")))
        allowed = {1, 8, DIM * CLASSES // 4, ROWS * DIM // 2, CLASSES // 4}
        assert set(reduced) <= allowed, (reduced, allowed)

        def product(f):
            return jax.jvp(jax.grad(f), (weight,), (weight,))[1]

        got = jax.jit(lambda: product(lambda w: loss(hidden, turn(w), labels, where, bias)[0]))()
        second = product(lambda w: whole(hidden, w, labels, where, bias))
        chex.assert_trees_all_close(got, second, rtol=1e-4, atol=1e-5)

    run.__name__ = f"vocabulary-parallel-{policy}{'-transposed' if transposed else ''}"
    return run


for _policy in ("fastest", "least_memory"):
    check(vocabulary_check(_policy, False))
check(vocabulary_check("fastest", True))


@check
def log_probabilities_of_a_split_vocabulary():
    hidden, weight, labels = draw()
    local = lambda h, w, y: linear.log_probabilities(h, w, y, axis_name="model", chunk_size=8)
    loss = jax.shard_map(
        local,
        mesh=mesh_of(AxisType.Auto),
        in_specs=(P("data"), P(None, "model"), P("data")),
        out_specs=P("data"),
    )
    cotangent = np.linspace(-1, 1, ROWS, dtype=np.float32)
    got, expected = (
        jax.jit(jax.value_and_grad(lambda h, w, f=f: jnp.vdot(f(h, w), cotangent), (0, 1)))(
            hidden, weight
        )
        for f in (lambda h, w: loss(h, w, labels), lambda h, w: -head(w, h, labels))
    )
    chex.assert_trees_all_close(got, expected, rtol=2e-5, atol=2e-5)


@check
def logits_of_a_split_vocabulary():
    hidden, weight, labels = draw()
    logits = 20 * hidden @ weight
    loss = jax.shard_map(
        lambda x, y: sharded.softmax_cross_entropy(x, y, axis_name="model"),
        mesh=mesh_of(AxisType.Auto),
        in_specs=(P("data", "model"), P("data")),
        out_specs=P("data"),
    )
    wrong = labels.at[3].set(CLASSES)
    program = jax.jit(loss).lower(logits, labels).compile()
    np.testing.assert_allclose(
        program(logits, labels), softmax_cross_entropy(logits, labels), rtol=1e-5, atol=1e-6
    )
    assert np.isnan(program(logits, wrong)[3])
    assert np.isfinite(np.delete(np.asarray(program(logits, wrong)), 3)).all()
    text = program.as_text()
    assert not sizes_of(text, "all-gather")
    assert max(sizes_of(text, "all-reduce")) == ROWS // 2
    slope = jax.jit(jax.grad(lambda x: jnp.sum(loss(x, labels))))(logits)
    exact = jax.grad(lambda x: jnp.sum(softmax_cross_entropy(x, labels)))(logits)
    np.testing.assert_allclose(slope, exact, rtol=1e-5, atol=1e-7)


OF_CLASSES = {
    "cross-entropy": classification.softmax_cross_entropy,
    "focal": classification.softmax_focal,
    "perceptron": classification.multiclass_perceptron,
    "hinge": classification.multiclass_hinge,
    "multi_margin": classification.multi_margin,
}
OF_DISTRIBUTIONS = {
    "cross-entropy of distributions": classification.softmax_cross_entropy,
    "poly1": classification.poly1,
    "kl_logits": divergence.kl_logits,
    "ranking": ranking.softmax,
}


def split_classes(kind):
    """Logits whose classes lie on several devices stay where they are."""

    def run():
        hidden, weight, labels = draw()
        logits, others = hidden @ weight, jax.nn.softmax(hidden[::-1] @ weight)

        def every(logits, others, labels):
            ones = {n: f(logits, labels, reduction="mean") for n, f in OF_CLASSES.items()}
            more = {n: f(logits, others, reduction="mean") for n, f in OF_DISTRIBUTIONS.items()}
            return ones | more

        both = lambda *data: (every(*data), jax.jacrev(every)(*data))
        expected = jax.jit(both)(logits, others, labels)
        mesh = mesh_of(kind)
        with jax.set_mesh(mesh):
            put = lambda x, *spec: jax.device_put(x, NamedSharding(mesh, P(*spec)))
            split = put(logits, "data", "model"), put(others, "data", "model"), put(labels, "data")
            program = jax.jit(both).lower(*split).compile()
            got = jax.device_get(program(*split))
        chex.assert_trees_all_close(got, jax.device_get(expected), rtol=2e-5, atol=2e-6)
        for collective in ("all-gather", "all-to-all", "collective-permute"):
            moved = sizes_of(program.as_text(), collective)
            assert not [n for n in moved if n >= ROWS * CLASSES // 8], (collective, moved)

    run.__name__ = f"classes-{kind.name.lower()}"
    return run


for _kind in (AxisType.Auto, AxisType.Explicit):
    check(split_classes(_kind))


CONTRASTIVE = {
    "info_nce": (sharded.info_nce, contrastive.info_nce, {}),
    "clip": (sharded.clip, contrastive.clip, {}),
    "siglip": (sharded.siglip, contrastive.siglip, {"bias": -3.0}),
}


def contrastive_check(name, way):
    def run():
        local, whole, options = CONTRASTIVE[name]
        x, _, _ = draw()
        y, _, _ = draw(1)
        where = np.arange(ROWS) % 5 > 0
        where[:24] = False  # three of the eight devices hold nothing that counts
        mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
        loss = jax.shard_map(
            lambda x, y, m, t: local(
                x, y, where=m, temperature=t, axis_name="data", strategy=way, **options
            ),
            mesh=mesh,
            in_specs=(P("data"), P("data"), P("data"), P()),
            out_specs=P(),
        )

        # A set that is masked counts for nothing in the mean on one device neither.
        def mean(x, y, m, t):
            values = whole(x, y, where=m, temperature=t, **options)
            return jl.mean(values, where=m)

        tangents = y, x, jnp.float32(0.2)

        def derivatives(f):
            g = lambda x, y, t: f(x, y, where, t)
            grad = jax.grad(g, (0, 1, 2))
            primals = x, y, jnp.float32(0.3)
            return g(*primals), grad(*primals), jax.jvp(grad, primals, tangents)[1]

        got, expected = jax.jit(lambda: derivatives(loss))(), derivatives(mean)
        chex.assert_trees_all_close(got, expected, rtol=2e-4, atol=2e-5)
        text = jax.jit(jax.grad(lambda x, y: loss(x, y, where, 0.3), (0, 1))).lower(x, y)
        text = text.compile().as_text()
        square = [int(a) * int(b) for a, b in re.findall(r"f32\[(\d+),(\d+)\]", text)]
        if way == "ring":
            assert not sizes_of(text, "all-gather")
            assert max(square) <= (ROWS // 8) * max(DIM, ROWS // 8), max(square)
        else:
            assert max(sizes_of(text, "all-gather")) == ROWS * DIM
            assert max(square) <= ROWS * max(DIM, ROWS // 8), max(square)

    run.__name__ = f"{name}-{way}"
    return run


for _name in CONTRASTIVE:
    for _way in ("ring", "gather"):
        check(contrastive_check(_name, _way))


@check
def uneven_counts_give_the_global_mean():
    """The devices hold 0, 1, ... 7 values that count; means of means would be wrong."""
    values = np.arange(64, dtype=np.float32)
    where = (np.arange(64) % 8) < (np.arange(64) // 8)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))

    def local(prediction, where, scale):
        loss = jl.regression.squared_error(
            scale * prediction, 0 * prediction, where=where, reduction="parts"
        )
        return loss.psum("data").value

    specs = (P("data"), P("data"), P())
    loss = jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=P())
    got = jax.jit(jax.value_and_grad(loss, (0, 2)))(values, where, 1.5)
    whole = lambda x, m, s: jnp.sum(jnp.where(m, (s * x) ** 2, 0)) / jnp.sum(m)
    expected = jax.value_and_grad(whole, (0, 2))(values, where, 1.5)
    chex.assert_trees_all_close(got, expected, rtol=1e-5)


@check
def chunks_inside_shard_map_add_up_gradients_once():
    """A weight that all devices share: one all-reduce of its gradient, after the loop."""
    hidden, weight, labels = draw()
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))

    def local(hidden, weight, labels):
        return jl.chunked(head, 2, reduction="parts")(weight, hidden, labels).psum("data").value

    loss = jax.shard_map(local, mesh=mesh, in_specs=(P("data"), P(), P("data")), out_specs=P())
    program = jax.jit(jax.value_and_grad(loss, (0, 1))).lower(hidden, weight, labels).compile()
    got, expected = (
        program(hidden, weight, labels),
        jax.value_and_grad(plain, (0, 1))(hidden, weight, labels),
    )
    chex.assert_trees_all_close(got, expected, rtol=2e-5, atol=2e-6)
    text = program.as_text()
    assert not sizes_of(text, "all-gather")
    assert sizes_of(text, "all-reduce").count(DIM * CLASSES) == 1
    bodies = re.findall(r"^%?(\S*body\S*) .*?^}", text, re.MULTILINE | re.DOTALL)
    assert not any("all-reduce" in body for body in bodies)


def refused(function, message, error=ValueError):
    try:
        function()
    except error as raised:
        text = str(raised)
    else:
        text = "nothing was raised"
    assert re.search(message, text), text


SLOPES = np.arange(1, 17, dtype=np.float32)  # the gradients of `p * x`, two on each device


WHOLE = P()


def on_eight(function, *arrays, split=(False, True), out=WHOLE):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    specs = tuple(P("data") if s else P() for s in split)
    return jax.jit(jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=out))(*arrays)


def local_terms(p, x):
    return {"a": jnp.mean(p * x), "b": jnp.mean((p * x) ** 2)}


def global_terms(p, x):
    return jax.lax.pmean(local_terms(p, x), "data")


def own(p):
    return jax.lax.pcast(p, "data", to="varying")


@check
def gradients_of_examples_are_those_of_each_device():
    """Of what all devices share, JAX would add up the gradients of all."""
    p = jnp.float32(2.0)
    per_example = gradients.per_example_value_and_grad(lambda p, x: p * x)
    data = P("data")
    got = on_eight(per_example, p, SLOPES, out=(data, data))
    chex.assert_trees_all_close(got, (2 * SLOPES, SLOPES))
    for size in (None, 1):
        clipped = gradients.per_example_value_and_grad(
            lambda p, x: p * x, clip=9.0, chunk_size=size
        )
        local = lambda p, x, f=clipped: (f(p, x)[0], jax.lax.pmean(f(p, x)[1], "data"))
        got = on_eight(local, p, SLOPES, out=(data, P()))
        chex.assert_trees_all_close(got, (2 * SLOPES, np.minimum(SLOPES, 9).mean()), rtol=1e-6)


FUNCTIONS = {
    "scaled": lambda f: gradients.scaled_value_and_grad(lambda p, x: f(p, x)["b"], 4.0),
    "stacked": gradients.multi_value_and_grad,
    "vmap": lambda f: gradients.multi_value_and_grad(f, jacobian="vmap"),
    "combined": lambda f: gradients.multi_value_and_grad(f, jl.aggregators.upgrad),
    "streamed": lambda f: gradients.multi_value_and_grad(
        f, jl.aggregators.upgrad, jacobian="stream"
    ),
    "gramian": gradients.value_and_gramian,
    "gramian of a map": lambda f: gradients.value_and_gramian(f, jacobian="map"),
    "gauss-newton": lambda f: (
        lambda p, x: gradients.gauss_newton_vp(
            lambda outputs: f(outputs, 1.0)["b"], lambda p, x: p * x, p, (x,)
        )(p)
    ),
    "train step": lambda f: (
        lambda p, x: jt.make_train_step(
            lambda p: f(p, x)["b"], jt.add_penalty(jl.penalties.l2, 0.1)
        )[1](p, jt.add_penalty(jl.penalties.l2, 0.1).init(p))[0]
    ),
}


def differentiation_check(name):
    """With a loss of all devices it is that of one device; a loss of one device says what to write."""

    def run():
        p, of = jnp.float32(2.0), FUNCTIONS[name]
        expected = of(local_terms)(p, SLOPES)
        got = on_eight(of(global_terms), p, SLOPES)
        chex.assert_trees_all_close(got, expected, rtol=1e-5)
        refused(
            lambda: on_eight(of(local_terms), p, SLOPES),
            "the loss differs between devices along 'data', and parameters do not.*pmean",
        )
        own_of = lambda p, x: jax.tree.map(lambda a: a[None], of(local_terms)(own(p), x))
        got = on_eight(own_of, p, SLOPES, out=P("data"))
        each = [of(local_terms)(p, x) for x in SLOPES.reshape(8, 2)]
        chex.assert_trees_all_close(got, jax.tree.map(lambda *a: jnp.stack(a), *each), rtol=1e-5)

    run.__name__ = f"differentiation-{name}"
    return run


for _name in FUNCTIONS:
    check(differentiation_check(_name))


@check
def accumulation_says_axis_name():
    p = jnp.float32(2.0)

    def parts(p, x):
        return jl.regression.squared_error(p * x, 0 * x, reduction="parts")

    expected = gradients.accumulate_value_and_grad(parts, 2)(p, SLOPES)
    whole = gradients.accumulate_value_and_grad(parts, 2, axis_name="data")
    chex.assert_trees_all_close(on_eight(whole, p, SLOPES), expected, rtol=1e-6)
    alone = gradients.accumulate_value_and_grad(parts, 2)
    refused(lambda: on_eight(alone, p, SLOPES), "Write `axis_name='data'`")
    local = lambda p, x: jax.tree.map(lambda a: a[None], alone(own(p), x))
    got = on_eight(local, p, SLOPES, out=P("data"))
    each = [alone(p, x) for x in SLOPES.reshape(8, 2)]
    chex.assert_trees_all_close(got, jax.tree.map(lambda *a: jnp.stack(a), *each), rtol=1e-6)


@check
def penalties_of_split_parameters():
    tx = jt.add_penalty(jl.penalties.l2, 1.0)

    def update(split, shared):
        params = (split, shared)
        return tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)[0]

    refused(
        lambda: on_eight(update, SLOPES, jnp.ones(2), split=(True, False), out=(P("data"), P())),
        "the penalty.*`mask`",
    )
    got = on_eight(update, SLOPES, SLOPES, split=(True, True), out=P("data"))
    chex.assert_trees_all_close(got, update(SLOPES, SLOPES))


@check
def wrong_meshes_are_refused():
    hidden, weight, labels = draw()
    mesh = mesh_of(AxisType.Auto)

    def lose(axis_name="model", of_weight=(None, "model"), **words):
        local = lambda h, w, y: linear.softmax_cross_entropy(h, w, y, axis_name=axis_name)
        specs = (P(), P(*of_weight), P())
        return jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=P(), **words)(
            hidden, weight, labels
        )

    refused(lambda: lose("expert"), "there is no mesh axis 'expert' here, only .*'model'")
    refused(lambda: lose(of_weight=()), "`weight` is the same on all devices of the mesh axis")
    refused(lambda: lose(check_vma=False), "leave `check_vma` of `jax.shard_map` on")
    refused(
        lambda: jax.shard_map(
            lambda x: sharded.clip(x, x, axis_name="data"),
            mesh=mesh, in_specs=P("data"), out_specs=P(), check_vma=False,
        )(hidden),
        "`left` is the same on all devices",
    )  # fmt: skip
    refused(
        lambda: linear.softmax_cross_entropy(hidden, weight, labels, axis_name="model"),
        "under plain `jit` the shardings",
    )
    # 130 classes do not divide over 4 devices: JAX says so before the loss is called.
    wide = np.concatenate([weight, weight[:, :2]], 1)
    refused(
        lambda: jax.shard_map(
            lambda h, w, y: linear.softmax_cross_entropy(h, w, y, axis_name="model"),
            mesh=mesh, in_specs=(P(), P(None, "model"), P()), out_specs=P(),
        )(hidden, wide, labels),
        "(?s)divi",
    )  # fmt: skip


@check
def a_closure_over_what_all_devices_share_says_so():
    hidden, weight, labels = draw()
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))

    def local(hidden, weight, labels):
        loss = jl.chunked(lambda _, h, y: softmax_cross_entropy(h @ weight, y), 2, reduction="sum")
        return jax.lax.psum(loss(None, hidden, labels), "data")

    function = jax.shard_map(local, mesh=mesh, in_specs=(P("data"), P(), P("data")), out_specs=P())
    refused(lambda: jax.jit(function)(hidden, weight, labels), "pass it as `shared`")


def ctc_of_examples(logits, labels, frames):
    words = {"logit_lengths": frames, "label_lengths": jnp.minimum(frames, 2)}
    return sequence.ctc(logits, labels, where=frames > 3, reduction="mean", **words)


@check
def ctc_of_examples_split_over_devices():
    """Value, gradient and its change; logits split over frames and classes are put together."""
    generator = np.random.default_rng(0)
    arrays = (
        generator.normal(size=(16, 8, 4)).astype(np.float32),
        generator.integers(1, 4, (16, 2)).astype(np.int32),
        generator.integers(2, 9, 16).astype(np.int32),
    )

    def step(logits, *others):
        both = jax.value_and_grad(ctc_of_examples)
        return jax.jvp(lambda x: both(x, *others), (logits,), (jnp.cos(logits),))

    expected = jax.device_get(jax.jit(step)(*arrays))
    for spec in (P("data"), P(("data", "model")), P("data", None, "model"), P(None, "data")):
        mesh = mesh_of(AxisType.Explicit)
        with jax.set_mesh(mesh):
            specs = spec, P(*spec[:1]), P(*spec[:1])
            put = (
                jax.device_put(x, NamedSharding(mesh, s))
                for x, s in zip(arrays, specs, strict=True)
            )
            got = jax.device_get(jax.jit(step)(*put))
        chex.assert_trees_all_close(got, expected, rtol=1e-5, atol=1e-6)
