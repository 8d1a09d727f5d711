"""Advantages and the clipped objective beside rlax and the forms that trainers write by hand.

Run it with `python benchmarks/policy.py [--rounds 15]` in an environment with rlax; it writes
`benchmarks/policy.md`. All functions of a row are compiled for the same numbers and run in turn. With
`--compilers`, where those of TPU and GPU are installed (`make accelerators` says how), it writes what
they make of the same functions, `benchmarks/policy.compilers.md`.
rlax's functions take one trajectory and are mapped; forms by hand are a reverse scan over arrays
with the time first, as in purejaxrl.
"""

import argparse
import pathlib
import platform

import jax
import jax.numpy as jnp
import rlax
from timing import compile_all, interleaved, keep_memory, markdown, ratio

from jaxloss import policy

BATCH, TIME, DISCOUNT, TRACE = 2048, 128, 0.99, 0.95
ABOUT = f"""Of {BATCH} trajectories of {TIME} steps, float32. Time is that of a call by the time of
rlax's function under `vmap`, the median over alternating runs; below 1 is faster. Memory is the
temporary memory of the compiled program. `clipped` is value and gradient of the mean; its ratio is
exact to a few units in the last place at log-probabilities of any size, which takes a subtraction
and an exponential of two floats.
"""


COMPILED = f"""Of {BATCH} trajectories of {TIME} steps, float32; one array is 1 MiB. Nothing runs: XLA
compiles for a described device, and its program is read ([hlo.py](hlo.py)). Kernels count as often as
their loop runs them: a reverse scan runs one or more a step, the parallel form a few in all.

jax {jax.__version__}, rlax {rlax.__version__}.
"""


def by_hand_gae(rewards, values, next_values, done):
    def step(advantage, at):
        reward, value, next_value, is_done = at
        error = reward + DISCOUNT * next_value * (1 - is_done) - value
        advantage = error + DISCOUNT * TRACE * (1 - is_done) * advantage
        return advantage, advantage

    start = jnp.zeros(rewards.shape[1:])
    return jax.lax.scan(step, start, (rewards, values, next_values, done), reverse=True)[1]


def rlax_gae(rewards, values, next_values, done):
    every = jnp.concatenate([values, next_values[:, -1:]], axis=1)
    of_one = rlax.truncated_generalized_advantage_estimation
    return jax.vmap(of_one, (0, 0, None, 0))(rewards, DISCOUNT * (1 - done), TRACE, every)


def our_gae(rewards, values, next_values, done, **options):
    found = policy.gae(
        rewards, values, next_values, discount=DISCOUNT, trace=TRACE, terminal=done, **options
    )
    return found.advantage


def rlax_vtrace(log_prob, old_log_prob, rewards, values, next_values, done):
    of_one = rlax.vtrace_td_error_and_advantage
    ratios = jnp.exp(log_prob - old_log_prob)
    found = jax.vmap(of_one)(values, next_values, rewards, DISCOUNT * (1 - done), ratios)
    return found.errors, found.pg_advantage


def our_vtrace(log_prob, old_log_prob, rewards, values, next_values, done, **options):
    data = log_prob, old_log_prob, rewards, values, next_values
    found = policy.vtrace(*data, discount=DISCOUNT, terminal=done, **options)
    return found.target - values, found.advantage


def by_hand_clipped(log_prob, old_log_prob, advantage):
    ratios = jnp.exp(log_prob - old_log_prob)
    bounded = jnp.clip(ratios, 0.8, 1.2)
    return -jnp.mean(jnp.minimum(ratios * advantage, bounded * advantage))


def rlax_clipped(log_prob, old_log_prob, advantage):
    of_one = lambda p, q, a: rlax.clipped_surrogate_pg_loss(jnp.exp(p - q), a, 0.2)
    return jnp.mean(jax.vmap(of_one)(log_prob, old_log_prob, advantage))


def our_clipped(log_prob, old_log_prob, advantage):
    return policy.clipped(log_prob, old_log_prob, advantage, reduction="mean")


def drawn():
    keys = jax.random.split(jax.random.key(0), 5)
    shape = (BATCH, TIME)
    rewards, log_prob = jax.random.normal(keys[0], shape), -jax.random.uniform(keys[1], shape)
    every = jax.random.normal(keys[2], (BATCH, TIME + 1))
    done = jax.random.uniform(keys[3], shape) < 0.02
    old_log_prob = log_prob + 0.2 * jax.random.normal(keys[4], shape)
    return log_prob, old_log_prob, rewards, every[:, :-1], every[:, 1:], done


def compare(name, forms, rounds):
    """The rows of one function: `forms` maps a label to a function and its data."""
    programs = [compile_all([function], *data)[0][0] for function, data in forms.values()]
    calls = [lambda p=p, d=d: p(*d) for p, (_, d) in zip(programs, forms.values(), strict=True)]
    times = interleaved(calls, rounds=rounds, calls=5)
    rows = []
    for label, program, mine in zip(forms, programs, times, strict=True):
        memory = program.memory_analysis().temp_size_in_bytes / 2**20
        rows.append([name, label, f"{ratio(mine, times[0]):.2f}", f"{memory:.2f}"])
        print(*rows[-1], sep=" | ", flush=True)
    return rows


def ours(function, data):
    """Loops over the steps, and the associative scan."""
    time_first = [jnp.transpose(x) for x in data]
    return {
        "jaxloss, time first": (lambda *x: function(*x, axis=0, parallel=False), time_first),
        "jaxloss": (lambda *x: function(*x, parallel=False), data),
        "jaxloss, parallel": (lambda *x: function(*x, parallel=True), data),
    }


def forms():
    """Of each function the forms that are compared: a label, a function and its data."""
    log_prob, old_log_prob, *steps = drawn()
    clipping = log_prob, old_log_prob, steps[0]
    time_first = [jnp.transpose(x) for x in steps]
    return {
        "`gae`": {
            "rlax": (rlax_gae, steps),
            "by hand, time first": (by_hand_gae, time_first),
            **ours(our_gae, steps),
        },
        "`vtrace`": {
            "rlax": (rlax_vtrace, (log_prob, old_log_prob, *steps)),
            **ours(our_vtrace, (log_prob, old_log_prob, *steps)),
        },
        "`clipped`": {
            "rlax": (jax.value_and_grad(rlax_clipped), clipping),
            "by hand": (jax.value_and_grad(by_hand_clipped), clipping),
            "jaxloss": (jax.value_and_grad(our_clipped), clipping),
        },
    }


def by_compilers():
    """The page of what the compilers of TPU and GPU make of each form."""
    import accelerators  # it sets the environment of the TPU compiler
    import hlo

    rows = []
    for target, compiler in (("v5e", "tpu"), ("h100", "cuda")):
        sharding = jax.sharding.SingleDeviceSharding(accelerators.device(target))
        for name, group in forms().items():
            for label, (function, data) in group.items():
                arguments = [
                    jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding) for x in data
                ]
                traced = jax.jit(function).trace(*arguments)
                compiled = traced.lower(lowering_platforms=(compiler,)).compile()
                program = hlo.Program(compiled.as_text())
                memory = compiled.memory_analysis().temp_size_in_bytes / 2**20
                cycles = f"{program.cycles:,}" if program.cycles else ""
                moved = f"{program.bytes / 2**20:.1f}"
                row = [target, name, label, moved, f"{memory:.1f}", program.kernels, cycles]
                rows.append([str(x) for x in row])
                print(*rows[-1], sep=" | ", flush=True)
    headings = ["device", "function", "form", "MiB moved", "temporaries, MiB", "kernels", "cycles"]
    text = (
        f"# Advantages and the clipped objective, by the compilers of TPU and GPU\n\n{COMPILED}\n"
    )
    pathlib.Path(__file__).with_suffix(".compilers.md").write_text(
        text + markdown(headings, rows) + "\n"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--compilers", action="store_true")
    given = parser.parse_args()
    if given.compilers:
        by_compilers()
        return
    keep_memory()
    rows = [row for name, group in forms().items() for row in compare(name, group, given.rounds)]
    text = f"# Advantages and the clipped objective\n\n{ABOUT}\n{platform.machine()}, two cores, "
    text += f"{jax.devices()[0].device_kind}, jax {jax.__version__}, rlax {rlax.__version__}.\n\n"
    headings = ["function", "form", "time by rlax's", "temporary memory, MiB"]
    text += markdown(headings, rows) + "\n"
    pathlib.Path(__file__).with_suffix(".md").write_text(text)


if __name__ == "__main__":
    main()
