"""Time and memory of transforms, aggregators and gradients, relative to the plain way.

Run it with `python benchmarks/transforms.py`; it writes `benchmarks/transforms.md`. The functions
of a table are compiled for the same arrays and run in turn; a ratio is the median over the rounds.
Memory is reported by the compiler: temporary buffers and bytes accessed.
"""

import functools
import pathlib
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from timing import compile_all, interleaved, markdown, ratio

import jaxloss as jl
from jaxloss import aggregators, gradients, penalties, transforms

TARGET = pathlib.Path(__file__).with_suffix(".md")
INTRODUCTION = """# The Optax side: time and memory

On a CPU with 2 cores, shared with other work, so that only ratios are meaningful: each is the
median of runs in turn. Memory is that of the compiled program. Written by `python
benchmarks/transforms.py`.
"""
WIDTH, DEPTH, ROWS = 512, 6, 64
MIB = 2**20


def network(key=0):
    rng = np.random.default_rng(key)
    shape = (DEPTH, WIDTH, WIDTH)
    return list(jnp.asarray(rng.normal(size=shape) / WIDTH**0.5, jnp.float32))


def hidden(params, x):
    for w in params:
        x = jnp.tanh(x @ w)
    return x


def fit(params, x, y):
    return jl.regression.squared_error(hidden(params, x), y, reduction="mean")


def figures(compiled):
    memory = compiled.memory_analysis().temp_size_in_bytes / MIB
    return memory, compiled.cost_analysis()["bytes accessed"] / MIB


def donated(step, *arguments):
    """A compiled training step that updates parameters and state in place."""
    return jax.jit(step, donate_argnums=(0, 1)).lower(*arguments).compile()


def timed(steps, make, *rest, rounds):
    """Seconds of steps with donated arguments, run in turn."""
    carries = [make(i) for i in range(len(steps))]
    times = [[] for _ in steps]
    for round in range(rounds + 2):
        for i, step in enumerate(steps):
            start = time.perf_counter()
            *carries[i], _ = jax.block_until_ready(step(*carries[i], *rest))
            if round > 1:
                times[i].append(time.perf_counter() - start)
    return times


def compare(title, names, txs, losses, rounds=31):
    """Whole training steps, one for each optimizer; ratios to the first."""
    x, y = jnp.ones((ROWS, WIDTH)), jnp.zeros((ROWS, WIDTH))

    def step(tx, loss, params, state, x, y):
        value, grads = jax.value_and_grad(loss)(params, x, y)
        updates, state = tx.update(grads, state, params, value=value)
        return optax.apply_updates(params, updates), state, value

    steps = [
        donated(functools.partial(step, tx, loss), network(), tx.init(network()), x, y)
        for tx, loss in zip(txs, losses, strict=True)
    ]
    times = timed(steps, lambda i: (network(), txs[i].init(network())), x, y, rounds=rounds)
    rows = []
    for name, compiled, mine in zip(names, steps, times, strict=True):
        memory, accessed = figures(compiled)
        rows.append([name, f"{ratio(mine, times[0]):.2f}", f"{memory:.1f}", f"{accessed:.0f}"])
    headings = ["step", "time", "temporary MiB", "MiB accessed"]
    return f"\n## {title}\n\n{markdown(headings, rows)}\n"


def penalties_and_guards():
    adam = optax.adam(1e-3)

    def in_loss(params, x, y):
        return fit(params, x, y) + 1e-4 * penalties.l2(params)

    one = sum(w.size for w in network()) * 4 / MIB
    note = f"The network has {DEPTH} layers of {WIDTH}: one buffer of parameters is {one:.1f} MiB."
    return f"\n{note}\n" + compare(
        "A penalty, and guards",
        ["Adam alone", "penalty in the loss", "`add_penalty` in the chain",
         "`skip_nonfinite`", "`optax.apply_if_finite`", "`dynamic_loss_scale`"],
        [adam, adam, optax.chain(transforms.add_penalty(penalties.l2, 1e-4), adam),
         transforms.skip_nonfinite(adam), optax.apply_if_finite(adam, 10**6),
         transforms.dynamic_loss_scale(adam)],
        [fit, in_loss, fit, fit, fit, fit],
    )  # fmt: skip


def weightings():
    rows = []
    named = {
        name: getattr(aggregators, name)
        for name in ("upgrad", "dual_projection", "mgda", "cagrad", "aligned_mtl", "imtl_g",
                     "con_fig", "nash")
    }  # fmt: skip
    named["fair_grad alpha=2"] = functools.partial(aggregators.fair_grad, alpha=2.0)
    named["pcgrad"] = functools.partial(aggregators.pcgrad, key=jax.random.key(0))
    named["krum"] = functools.partial(aggregators.krum, byzantine=1)
    for name, rule in named.items():
        shown = []
        for count in (4, 8, 32):
            stack = np.random.default_rng(0).normal(size=(count, 2 * count)).astype(np.float32)
            matrix = jnp.asarray(stack @ stack.T)
            (compiled,), _ = compile_all([rule], matrix)
            (seconds,) = interleaved([compiled], matrix, rounds=50)
            shown.append(f"{1e6 * statistics.median(seconds):.0f}")
        rows.append([f"`{name}`", *shown])
    table = markdown(["weights of m losses, us", "m = 4", "m = 8", "m = 32"], rows)
    return f"\n## Weightings\n\nFrom the Gramian, compiled, dispatch included.\n\n{table}\n"


def jacobians():
    params, x = network(), jnp.ones((ROWS, WIDTH))

    def losses(params, x):
        return jnp.mean((hidden(params, x).reshape(ROWS, 8, -1) - 0.1) ** 2, axis=(0, 2))

    functions = [lambda p, x: jax.value_and_grad(lambda p: jnp.sum(losses(p, x)))(p)]
    functions += [
        gradients.multi_value_and_grad(losses, aggregators.upgrad, jacobian=jacobian)
        for jacobian in ("vmap", "map", "stream")
    ]
    compiled, _ = compile_all(functions, params, x)
    times = interleaved(compiled, params, x, rounds=9)
    names = ["gradient of the sum", 'UPGrad, "vmap"', 'UPGrad, "map"', 'UPGrad, "stream"']
    rows = [
        [name, f"{ratio(mine, times[0]):.1f}", f"{figures(c)[0]:.1f}"]
        for name, c, mine in zip(names, compiled, times, strict=True)
    ]
    table = markdown(["eight losses", "time", "temporary MiB"], rows)
    return f"\n## Eight losses of one network\n\n{table}\n"


def micro_batches():
    params, rows = network(), 4 * ROWS
    x, y, mask = jnp.ones((rows, WIDTH)), jnp.zeros((rows, WIDTH)), jnp.ones((rows, WIDTH), bool)

    def loss(params, x, y, mask):
        return jl.regression.squared_error(hidden(params, x), y, where=mask, reduction="parts")

    def plain(params, x, y, mask):
        return jax.value_and_grad(lambda p: loss(p, x, y, mask).value)(params)

    def known(params, x, y, mask):
        """The same loop with a denominator that is known before it: equal work."""
        micro = jax.tree.map(lambda a: a.reshape(4, ROWS, WIDTH), (x, y, mask))

        def add(sums, rows):
            total = jax.value_and_grad(lambda p: loss(p, *rows).total / x.size)(params)
            return jax.tree.map(jnp.add, sums, total), None

        start = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, params))
        return jax.lax.scan(add, start, micro)[0]

    def averages(params, x, y, mask):
        """The same loop without denominators: the usual, wrong form."""
        micro = jax.tree.map(lambda a: a.reshape(4, ROWS, WIDTH), (x, y, mask))

        def add(sums, rows):
            value, grads = plain(params, *rows)
            return jax.tree.map(lambda a, b: a + b / 4, sums, (value, grads)), None

        start = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, params))
        return jax.lax.scan(add, start, micro)[0]

    functions = [
        known,
        averages,
        gradients.accumulate_value_and_grad(loss, 4),
        gradients.accumulate_value_and_grad(loss, 1),
        plain,
    ]
    compiled, _ = compile_all(functions, params, x, y, mask)
    times = interleaved(compiled, params, x, y, mask, rounds=41)
    names = ["4 micro-batches, the denominator known",
        "4 micro-batches, averages averaged", "`accumulate_value_and_grad`, 4",
             "`accumulate_value_and_grad`, 1", "the whole batch at once"]  # fmt: skip
    table = markdown(
        ["gradient of 256 rows", "time", "temporary MiB"],
        [
            [name, f"{ratio(mine, times[0]):.2f}", f"{figures(c)[0]:.1f}"]
            for name, c, mine in zip(names, compiled, times, strict=True)
        ],
    )
    return f"\n## Micro-batches\n\n{table}\n"


def main():
    text = INTRODUCTION
    for part in (penalties_and_guards, weightings, jacobians, micro_batches):
        shown = part()
        print(shown, flush=True)
        text += shown
    TARGET.write_text(text)


if __name__ == "__main__":
    main()
