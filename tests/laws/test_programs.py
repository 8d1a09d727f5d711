"""What a loss is as a program: its jaxpr, strict promotion, export, eager calls."""

import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
from cases import BATCH
from harness.calls import arrays, call, cast, gradient, strict
from jax import export
from jax.experimental import checkify
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from laws import law


def is_bare(setting):
    """The guard of class ids, and a reduction by default, are steps of their own."""
    spec = setting.info.spec
    guarded = any(form.domain.guard for form in setting.array_specs)
    return not guarded and spec.common_kwargs["reduction"] == "none"


@law(only=is_bare)
def test_the_decorator_adds_nothing_to_the_program(setting):
    data = arrays(setting)
    options = {
        n: jnp.asarray(v) if isinstance(v, np.ndarray) else v for n, v in setting.options().items()
    }
    bare = jax.make_jaxpr(lambda *data: setting.loss.__wrapped__(*data, **options))(*data)
    assert str(jax.make_jaxpr(call(setting))(*data)) == str(bare)


@law()
def test_strict_promotion_is_no_trouble(setting):
    where = np.ones(setting.result_shape(), bool)
    words = {"where": where, "weights": jnp.ones(where.shape), "reduction": "mean"}
    with strict():
        # The body computes these in float32 too: it need not be traced twice.
        jax.eval_shape(gradient(setting, **words), *cast(setting, jnp.bfloat16))


# The losses that add to places which may be equal, in no given order on GPU: docs/accelerators.md.
# `sequence.ctc` does so on CPU alone, where the order is given.
SCATTER_ADDS = {"distillation.top_k_kl", "self_supervised.koleo", "sequence.ctc"}


def adds_by_scatter(program):
    scatters = re.findall(r'"stablehlo\.scatter".*?stablehlo\.return', program, re.DOTALL)
    return any("unique_indices = true" not in s and "stablehlo.add" in s for s in scatters)


@law()
def test_it_exports_for_every_platform_and_any_batch(setting):
    """Value and gradient, after a round through bytes, where they can be run."""
    data = setting.data()
    rows, columns = export.symbolic_shape("rows, columns")

    def both(*data):
        return call(setting)(*data), gradient(setting, reduction="mean")(*data)

    specs = [
        jax.ShapeDtypeStruct((rows, columns, *x.shape[2:]) if form.batched else x.shape, x.dtype)
        for x, form in zip(data, setting.array_specs, strict=True)
    ]
    exported = export.export(jax.jit(both), platforms=("cpu", "cuda", "tpu"))(*specs)
    assert exported.out_avals[0].shape[: len(BATCH)] == (rows, columns)
    assert adds_by_scatter(exported.mlir_module()) == (setting.info.name in SCATTER_ADDS)
    got = export.deserialize(exported.serialize()).call(*data)
    for ours, expected in zip(
        jax.tree.leaves(got), jax.tree.leaves(jax.jit(both)(*data)), strict=True
    ):
        np.testing.assert_allclose(ours, expected, rtol=2e-6, atol=1e-6)


@law()
def test_it_runs_where_one_argument_differs_between_devices(setting):
    """Types alone, on one device: JAX marks in them what may differ."""
    data, mesh = arrays(setting), jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,))
    *_, last = (i for i, form in enumerate(setting.array_specs) if form.batched)
    specs = tuple(P("data") if i == last else P() for i in range(len(data)))

    def both(*data):
        results = call(setting)(*data), gradient(setting, reduction="mean")(*data)
        return jax.tree.map(lambda x: x[None], results)

    function = jax.shard_map(both, mesh=mesh, in_specs=specs, out_specs=P("data"))
    jax.eval_shape(function, *data)


@law()
def test_checkify_reads_its_gradient(setting):
    both = lambda *data: (call(setting)(*data), gradient(setting)(*data))
    checked = checkify.checkify(both, errors=checkify.all_checks)
    jax.eval_shape(lambda *data: checked(*data)[1], *arrays(setting))


@law()
def test_eager_calls_compile_once_and_make_no_nan(setting, count_compilations):
    data = arrays(setting)
    loss, slopes = call(setting), gradient(setting)
    with jax.debug_nans(True):
        for _ in range(2):
            loss(*data), slopes(*data)
        with count_compilations() as compiled:
            loss(*data), slopes(*data)
        jax.jit(lambda *data: (loss(*data), slopes(*data)))(*data)
    assert not compiled, f"the third eager call compiled {len(compiled)} programs"


def mask_of(setting):
    """A mask of one whole example and of some of others, but not of class 0 or that of a label."""
    form, data = setting.info.spec.array_specs["mask"][0], setting.data()
    sizes = {}
    for x, own in zip(data, setting.array_specs, strict=True):
        sizes |= dict(zip(own.event, x.shape[x.ndim - len(own.event) :], strict=True))
    mask = np.random.default_rng(4).random(shape := form.shape(BATCH, sizes)) < 0.6
    for x, own in zip(data, setting.array_specs, strict=True):
        if own.kind == "Int" and form.event == ("classes",):
            mask |= np.any(np.arange(shape[-1]) == x.reshape(*BATCH, -1, 1), axis=-2)
            mask[..., 0] = True
    if form.event == ("bins",):  # of which a target lies between two
        mask |= np.abs(np.arange(shape[-1]) - data[1][..., None]) < 1
    mask[0, 1] = False
    return mask


def left_out(setting, mask, place):
    """Which entries of one of the data a mask leaves out: along its axes, wherever those are."""
    x, form = setting.data()[place], setting.array_specs[place]
    axes, event = setting.info.spec.array_specs["mask"][0].event, form.event
    for start in range(len(event) - len(axes) + 1) if form.batched else ():
        if event[start : start + len(axes)] == axes:
            behind = (1,) * (len(event) - start - len(axes))
            of_event = mask.reshape(*BATCH, *(1,) * start, *mask.shape[len(BATCH) :], *behind)
            return np.broadcast_to(~of_event, x.shape)
    return np.zeros(x.shape, bool)


@law(only=lambda setting: "mask" in setting.info.spec.array_specs)
def test_mask_hides_whatever_the_inputs_hold(setting):
    data, mask = arrays(setting), mask_of(setting)
    loss, slopes = call(setting, mask=mask), gradient(setting, mask=mask)
    both = jax.jit(lambda *data: (loss(*data), slopes(*data)))
    with jax.debug_nans(True):
        loss(*data), slopes(*data)
        expected = both(*data)
    chex.assert_tree_all_finite(expected)
    assert np.all(expected[0][0, 1] == 0)
    hidden = {i: left_out(setting, mask, i) for i in setting.floating()}
    dirty = [jnp.where(hidden[i], jnp.nan, x) if i in hidden else x for i, x in enumerate(data)]
    chex.assert_trees_all_equal(both(*dirty), expected)
    for slope, there in zip(expected[1], hidden.values(), strict=True):
        assert np.all(slope[there] == 0), "a masked entry has a gradient"
