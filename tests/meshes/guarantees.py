"""What docs/meshes.md promises of token means and of the last layer, on eight devices of one CPU."""

import functools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxloss as jl
from jaxloss import contrastive, linear, policy, preference, router, self_supervised, sharded
from jaxloss.classification import softmax_cross_entropy
from jaxloss.linear._statistics import OUTPUTS

BATCH, LENGTH, DIM, CLASSES = 4, 32, 6, 64
CHECKS = {}


def check(function):
    """Files a check; its name is that of a row of the page."""
    CHECKS[function.__name__] = function
    return function


COLLECTIVES = (
    "all-gather|all-reduce|reduce-scatter|all-to-all|ragged-all-to-all|collective-permute"
    "|collective-broadcast"
)


def run(function, *arguments, allowed=("all-reduce",)):
    """The results of a compiled program, which has no other collectives than those."""
    program = jax.jit(function).lower(*arguments).compile()
    found = set(re.findall(rf" ({COLLECTIVES})(?:-start)?\(", program.as_text()))
    assert found <= set(allowed), found
    return program(*arguments)


def mesh_of(name="context", kind=AxisType.Auto):
    return jax.make_mesh((8,), (name,), axis_types=(kind,))


def documents():
    """Tokens of documents that end at different places, and their labels, shifted as a whole."""
    generator = np.random.default_rng(0)
    tokens = generator.integers(0, CLASSES, (BATCH, LENGTH)).astype(np.int32)
    lengths = np.array([32, 19, 5, 1])
    labels = np.concatenate([tokens[:, 1:], np.full((BATCH, 1), -100, np.int32)], axis=1)
    labels[np.arange(LENGTH)[None] + 1 >= lengths[:, None]] = -100
    hidden = generator.normal(size=(BATCH, LENGTH, DIM)).astype(np.float32)
    weight = generator.normal(size=(DIM, CLASSES)).astype(np.float32)
    return tokens, labels, hidden, weight


def on_context(local, *arrays, out=None):
    """`local` on eight shards of the sequence; what has no sequence is the same on all."""
    specs = tuple(P(None, "context") if x.shape[:2] == (BATCH, LENGTH) else P() for x in arrays)
    out = P() if out is None else out
    return jax.shard_map(local, mesh=mesh_of(), in_specs=specs, out_specs=out)(*arrays)


@check
def context_parallel_cross_entropy():
    """The labels are shifted before the sequence is sharded: the mean is that of one device."""
    tokens, labels, hidden, weight = documents()

    def parts(hidden, weight, labels):
        return linear.softmax_cross_entropy(
            hidden, weight, labels, where=labels != -100, reduction="parts"
        )

    def split(hidden, weight, labels=labels):
        local = lambda *x: parts(*x).psum("context").value
        return on_context(local, hidden, weight, labels)

    whole = lambda h, w: parts(h, w, labels).value
    got, expected = (run(jax.value_and_grad(f, (0, 1)), hidden, weight) for f in (split, whole))
    chex.assert_trees_all_close(got, expected, rtol=2e-5, atol=1e-6)

    # Shifted on each shard, the last label of every shard is lost, here of 3 in 32.
    def shifted(tokens):
        return jnp.concatenate([tokens[:, 1:], jnp.full_like(tokens[:, :1], -100)], axis=1)

    inside = on_context(shifted, tokens, out=P(None, "context"))
    assert np.sum(np.asarray(inside) == -100) == 8 * BATCH
    assert np.sum(np.asarray(shifted(tokens)) == -100) == BATCH


@check
def context_parallel_policy_and_preference():
    """The sums of sequences cross the shards before DPO; PPO's means are `Mean`s."""
    _, labels, hidden, weight = documents()
    old = -np.abs(np.random.default_rng(1).normal(size=labels.shape)).astype(np.float32) - 3
    advantage = np.array([1.0, -0.5, 2.0, 0.3], np.float32)
    reference = np.array([-9.0, -30.0], np.float32)

    def losses(hidden, weight, labels, old, add_up):
        mask = labels != -100
        log_prob = linear.log_probabilities(hidden, weight, labels, where=mask)
        ppo = policy.clipped(
            log_prob, old, jnp.broadcast_to(advantage[:, None], labels.shape), where=mask,
            reduction="parts",
        )  # fmt: skip
        sequences = add_up(preference.sequence_log_probability(log_prob, mask=mask))
        dpo = preference.dpo(
            sequences[:2], sequences[2:], reference, reference[::-1], reduction="mean"
        )
        return add_up(ppo.total) / add_up(ppo.weight) + dpo

    add_up = functools.partial(jax.lax.psum, axis_name="context")
    split = lambda h, w: on_context(functools.partial(losses, add_up=add_up), h, w, labels, old)
    whole = lambda h, w: losses(h, w, labels, old, add_up=lambda x: x)
    got, expected = (run(jax.value_and_grad(f, (0, 1)), hidden, weight) for f in (split, whole))
    chex.assert_trees_all_close(got, expected, rtol=2e-5, atol=2e-6)


@check
def a_shard_without_tokens_gives_nothing():
    """All tokens of a shard masked, whatever they hold: (0, 0), with gradient 0; no rows: too."""
    _, labels, hidden, weight = documents()
    labels[:, 16:] = -100
    hidden[:, 16:] = np.nan

    def parts(hidden, weight, labels, policy):
        found = linear.softmax_cross_entropy(
            hidden, weight, labels, where=labels != -100, reduction="parts", policy=policy
        )
        return found.total, found.weight

    for way in ("fastest", "least_memory"):

        def each(hidden, weight, labels, way=way):
            weight = jax.lax.pcast(weight, "context", to="varying")
            total, vjp_fn, count = jax.vjp(
                lambda h, w: parts(h, w, labels, way), hidden, weight, has_aux=True
            )
            slopes = vjp_fn(jnp.ones_like(total))
            sizes = jnp.stack([jnp.sum(jnp.abs(x)) for x in slopes])
            return total[None], count[None], sizes[None]

        local = functools.partial(on_context, each, out=P("context"))
        total, count, sizes = run(local, hidden, weight, labels, allowed=())
        assert np.all(np.asarray(total)[4:] == 0)
        assert np.all(np.asarray(count)[4:] == 0)
        assert np.all(np.asarray(sizes)[4:] == 0)
        assert np.all(np.isfinite(sizes))
        empty = parts(jnp.zeros((0, DIM)), weight, jnp.zeros(0, int), way)
        assert tuple(map(float, empty)) == (0.0, 0.0)


@check
def vocabulary_parallel_with_both_smoothings():
    """Spread over all classes (torch), or over all but the label (Megatron-LM)."""
    share = 0.1
    logits = 5 * np.random.default_rng(0).normal(size=(16, CLASSES)).astype(np.float32)
    labels = np.random.default_rng(1).integers(0, CLASSES, 16).astype(np.int32)

    def split(logits, share):
        local = lambda x, y, s: sharded.softmax_cross_entropy(
            x, y, axis_name="model", label_smoothing=s
        )
        return jax.shard_map(
            local, mesh=mesh_of("model"), in_specs=(P(None, "model"), P(), P()), out_specs=P()
        )(logits, labels, share)

    def torch(logits, share):
        return softmax_cross_entropy(logits, labels, label_smoothing=share)

    def megatron(logits, share):
        spread = share / (CLASSES - 1)
        target = jnp.full_like(logits, spread).at[jnp.arange(16), labels].set(1 - share)
        return -jnp.sum(target * jax.nn.log_softmax(logits), axis=-1)

    of_others = lambda x, s: split(x, s * CLASSES / (CLASSES - 1))
    for got_of, expected_of in ((split, torch), (of_others, megatron)):
        with_slopes = lambda f: (
            lambda x, s: (
                f(x, s),
                jax.grad(lambda x, s: jnp.sum(jnp.cos(jnp.arange(16)) * f(x, s)), (0, 1))(x, s),
            )
        )
        got, expected = (run(with_slopes(f), logits, share) for f in (got_of, expected_of))
        chex.assert_trees_all_close(got, expected, rtol=2e-5, atol=2e-6)


@check
def statistics_of_a_split_vocabulary():
    """Entropy, top k and the others over all devices, with gradients; no logits are gathered."""
    _, labels, hidden, weight = documents()
    hidden, labels = hidden.reshape(-1, DIM)[:24], np.maximum(labels.reshape(-1)[:24], 0)
    bias = np.linspace(-1, 1, CLASSES, dtype=np.float32)
    weight[:, 40] = weight[:, 3]  # a tie between two devices
    bias[40] = bias[3]

    def of(hidden, weight, bias, labels, **words):
        return linear.statistics(
            hidden, weight, labels, bias=bias, outputs=OUTPUTS, top_k=5, chunk_size=(8, 4), **words
        )

    def number(found):
        floats = [x for x in jax.tree.leaves(found) if x.dtype == jnp.float32]
        return sum(jnp.sum(jnp.cos(jnp.arange(x.size)).reshape(x.shape) * x) for x in floats)

    for way in ("fastest", "least_memory"):
        local = functools.partial(of, policy=way, axis_name="model")
        specs = P(), P(None, "model"), P("model"), P()
        split = jax.shard_map(local, mesh=mesh_of("model"), in_specs=specs, out_specs=P())
        with_slopes = lambda f: (
            lambda *x: (
                f(*x, labels),
                jax.grad(lambda *x: number(f(*x, labels)), (0, 1, 2))(*x),
            )
        )
        got, expected = (run(with_slopes(f), hidden, weight, bias) for f in (split, of))
        for name in ("predicted", "correct", "top_ids"):
            np.testing.assert_array_equal(getattr(got[0], name), getattr(expected[0], name))
        chex.assert_trees_all_close(got, expected, rtol=2e-5, atol=5e-6)


@check
def divergences_of_a_split_vocabulary():
    """Between two layers whose classes lie on several devices; no logits are gathered."""
    _, _, hidden, weight = documents()
    generator = np.random.default_rng(1)
    target_hidden = generator.normal(size=(24, 8)).astype(np.float32)
    target_weight = generator.normal(size=(8, CLASSES)).astype(np.float32)
    bias = np.linspace(-1, 1, CLASSES, dtype=np.float32)
    where, temperature = np.arange(24) % 5 > 0, np.float32(1.7)
    arrays = hidden.reshape(-1, DIM)[:24], weight, target_hidden, target_weight, bias, temperature
    specs = P(), P(None, "model"), P(), P(None, "model"), P("model"), P()
    reverse = functools.partial(linear.kl, reverse=True)
    jensen_shannon = functools.partial(linear.generalized_jensen_shannon, beta=np.float32(0.3))
    # Each with one policy: they differ in what is kept, which all divergences do alike.
    for function, reduction, way in (
        (linear.kl, "none", "fastest"),
        (linear.kl, "mean", "least_memory"),
        (reverse, "mean", "fastest"),
        (jensen_shannon, "none", "fastest"),
        (linear.total_variation, "none", "least_memory"),
    ):

        def local(h, w, g, v, b, t, function=function, **words):
            return function(
                h, w, g, v, target_bias=b, temperature=t, where=where, chunk_size=(8, 4), **words
            )

        split = jax.shard_map(
            functools.partial(local, axis_name="model", reduction=reduction, policy=way),
            mesh=mesh_of("model"), in_specs=specs, out_specs=P(), check_vma=True,
        )  # fmt: skip
        whole = functools.partial(local, reduction=reduction)
        cotangent = np.cos(np.arange(24)) if reduction == "none" else 1
        number = lambda f, c=cotangent: lambda *x: jnp.sum(c * f(*x))
        with_slopes = [jax.value_and_grad(number(f), range(6)) for f in (split, whole)]
        got, expected = (run(f, *arrays) for f in with_slopes)
        chex.assert_trees_all_close(got, expected, rtol=2e-5, atol=2e-6)


@check
def load_balance_sums_counts_before_the_product():
    generator = np.random.default_rng(0)
    probabilities = jax.nn.softmax(generator.normal(size=(64, 4)).astype(np.float32))
    probabilities = jax.nn.softmax(2 * jnp.log(probabilities) + jnp.repeat(jnp.eye(4), 16, 0))
    ids = jnp.argsort(-probabilities, axis=-1)[:, :2]
    mask = np.arange(64) < 50
    specs = P("data"), P("data"), P("data")

    def split(probabilities, ids=ids):
        local = lambda p, i, m: router.load_balance(p, i, mask=m, axis_name="data")
        mesh = mesh_of("data")  # the result is the same on all devices, by its type too
        return jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=P(), check_vma=True)(
            probabilities, ids, mask
        )

    whole = lambda p: router.load_balance(p, ids, mask=mask)
    got, expected = (run(jax.value_and_grad(f), probabilities) for f in (split, whole))
    chex.assert_trees_all_close(got, expected, rtol=1e-5, atol=1e-7)
    shards = [slice(8 * i, 8 * i + 8) for i in range(7)]
    each = [router.load_balance(probabilities[s], ids[s], mask=mask[s]) for s in shards]
    assert np.mean(each) > 1.05 * float(expected[0])  # what a mean of the devices' losses gives
    value, slope = run(jax.value_and_grad(split), probabilities, ids.at[3, 1].set(4))
    assert np.isnan(value)  # and so it is on all devices, as is the gradient of every token
    assert np.all(np.isnan(slope[:50]))
    assert float(split(probabilities, ids.at[60, 1].set(4))) == float(split(probabilities))


@check
def multi_token_prediction_has_a_mean_a_depth():
    """The depth d predicts the token d + 1 places on, of which fewer remain at the end."""
    _, labels, hidden, weight = documents()
    depths = {}
    for depth in range(3):
        moved = np.full_like(labels, -100)
        moved[:, : LENGTH - depth] = labels[:, depth:]
        depths[f"depth {depth}"] = moved

    def terms(hidden, weight, *labels):
        return {
            name: linear.softmax_cross_entropy(
                hidden, weight, y, where=y != -100, reduction="parts"
            )
            for name, y in zip(depths, labels, strict=True)
        }

    def split(hidden, weight):
        local = lambda *x: jax.tree.map(
            lambda m: m.psum("context").value, terms(*x), is_leaf=lambda m: isinstance(m, jl.Mean)
        )
        return on_context(local, hidden, weight, *depths.values())

    got = run(split, hidden, weight)
    for name, labels in depths.items():
        values = softmax_cross_entropy(hidden @ weight, np.maximum(labels, 0))
        np.testing.assert_allclose(got[name], jl.mean(values, where=labels != -100), rtol=1e-5)


@check
def means_of_pipeline_stages_are_added_by_name():
    """A stage that has no part of a term adds (0, 0); nothing is divided on a stage."""
    values = np.arange(32, dtype=np.float32)
    where = np.arange(32) % 8 < 1 + np.arange(32) // 8

    def local(values, where):
        stage = jax.lax.axis_index("stage")
        parts = jl.regression.squared_error(values, 0 * values, where=where, reduction="parts")
        terms = {"first": parts, "last": parts}
        at = {"first": stage == 0, "last": stage == 7}
        kept = {
            name: jax.tree.map(lambda x, on=at[name]: jnp.where(on, x, 0), part)
            for name, part in terms.items()
        }
        return {name: part.psum("stage").value for name, part in kept.items()}

    staged = jax.shard_map(
        local, mesh=mesh_of("stage"), in_specs=(P("stage"), P("stage")), out_specs=P()
    )
    got = run(staged, values, where)
    for name, rows in {"first": slice(0, 4), "last": slice(28, 32)}.items():
        np.testing.assert_allclose(got[name], jl.mean(values[rows] ** 2, where=where[rows]))


@check
def contrastive_chunks_on_explicit_sets():
    """Sets that an Explicit mesh splits, a chunk of rows at a time."""
    generator = np.random.default_rng(0)
    x, y = (jnp.asarray(generator.normal(size=(64, 8)).astype(np.float32)) for _ in range(2))
    mesh = mesh_of("data", AxisType.Explicit)
    for loss in (contrastive.clip, contrastive.siglip, contrastive.info_nce):
        expected = jax.jit(
            jax.value_and_grad(lambda x, y, f=loss: f(x, y, reduction="mean"), (0, 1))
        )(x, y)
        with jax.set_mesh(mesh):
            put = lambda a: jax.device_put(a, NamedSharding(mesh, P("data")))
            function = lambda x, y, f=loss: f(x, y, reduction="mean", chunk_size=16)
            step = jax.value_and_grad(function, (0, 1))
            got = jax.device_get(run(step, put(x), put(y), allowed=("all-reduce", "all-gather")))
        chex.assert_trees_all_close(got, jax.device_get(expected), rtol=2e-4, atol=2e-6)


@check
def labelled_sets_are_gathered():
    """Losses without a form for `shard_map`: inside it of gathered sets, under `jit` as they are."""
    generator = np.random.default_rng(0)
    x, y = (jnp.asarray(generator.normal(size=(64, 8)).astype(np.float32)) for _ in range(2))
    labels = jnp.asarray(generator.integers(0, 9, 64))
    mesh, cases = mesh_of("data"), {"hard_negative_info_nce": y, "binary_nce": y}
    for name in ("supervised_contrastive", "multi_similarity", "batch_triplet", "circle"):
        cases[name] = labels
    for name, other in cases.items():
        loss = functools.partial(getattr(contrastive, name), reduction="mean")
        expected = jax.device_get(jax.jit(jax.value_and_grad(loss))(x, other))

        def gathered(*arrays, loss=loss):
            every = (jax.lax.all_gather(a, "data", tiled=True) for a in arrays)
            return jax.lax.pmean(loss(*every), "data")

        inside = jax.shard_map(gathered, mesh=mesh, in_specs=P("data"), out_specs=P())
        put = [jax.device_put(a, NamedSharding(mesh, P("data"))) for a in (x, other)]
        for function in (inside, loss):
            got = jax.device_get(jax.jit(jax.value_and_grad(function))(*put))
            chex.assert_trees_all_close(got, expected, rtol=2e-4, atol=2e-6)


@check
def sets_of_embeddings_over_all_devices():
    """KoLeo, uniformity and VISReg of the whole set: no square of it, and nothing is gathered."""
    generator = np.random.default_rng(0)
    x = jnp.asarray(generator.normal(size=(256, 8)).astype(np.float32))
    directions = jnp.asarray(generator.normal(size=(8, 4)).astype(np.float32))

    def koleo(x, axis_name=None):
        parts = self_supervised.koleo(x, axis_name=axis_name, reduction="parts")
        return (parts if axis_name is None else parts.psum(axis_name)).value

    visreg = functools.partial(self_supervised.visreg, directions=directions)
    for loss in (koleo, self_supervised.uniformity, visreg):
        expected = jax.jit(jax.value_and_grad(loss))(x)
        local = functools.partial(loss, axis_name="data")
        split = jax.shard_map(local, mesh=mesh_of("data"), in_specs=P("data"), out_specs=P())
        program = jax.jit(jax.value_and_grad(split)).lower(x).compile()
        chex.assert_trees_all_close(program(x), expected, rtol=2e-5, atol=1e-6)
        assert "all-gather" not in program.as_text()
        assert not re.search(r"f32\[(256|32),256", program.as_text())


@check
def the_plan_counts_the_rows_of_a_device():
    """On an Explicit mesh the size is that of one device times the devices."""
    hidden, weight = jnp.zeros((4096, 8)), jnp.zeros((8, 32768))
    mesh = mesh_of("data", AxisType.Explicit)
    alone = linear.plan(hidden, weight)
    assert alone.chunk_size == 512
    with jax.set_mesh(mesh):
        split = linear.plan(jax.device_put(hidden, NamedSharding(mesh, P("data"))), weight)
    assert (split.chunk_size, split.devices) == (4096, 8)
    assert str(split).endswith("(all tokens at once, 512 on each of 8 devices)")
    sizes = []

    def local(hidden, weight):
        sizes.append(linear.plan(hidden, weight).chunk_size)
        return hidden

    jax.shard_map(local, mesh=mesh_of("data"), in_specs=(P("data"), P()), out_specs=P("data"))(
        hidden, weight
    )
    assert sizes == [512]
