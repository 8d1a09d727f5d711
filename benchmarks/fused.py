"""The last layer and its loss, fused: time and memory beside Optax, and the bare products.

Run it with `python benchmarks/fused.py [--rounds 7]`; it writes `benchmarks/fused.md`. It also
compares tokamax, jax-cce and torch if they are installed. All functions are `value_and_grad` for
hidden states and weight, compiled for the same arrays and run in turn. A ratio is the median over
the rounds of a function's time by Optax's on plain logits, with the ratio of the shortest times in
brackets; memory is the temporary memory of the program, which torch does not report.
"""

import argparse
import functools
import importlib.util
import os
import pathlib
import platform
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
from timing import compile_all, interleaved, markdown, ratio

import jaxloss as jl
from jaxloss import classification, linear

MIB = 2**20


def optax_loss(h, w, y):
    return optax.softmax_cross_entropy_with_integer_labels(h @ w, y).mean()


def plain(h, w, y):
    return classification.softmax_cross_entropy(h @ w, y, reduction="mean")


def chunked(h, w, y):
    loss = jl.chunked(lambda w, h, y: classification.softmax_cross_entropy(h @ w, y))
    return loss(w, h, y)


def fused(**options):
    return lambda h, w, y: linear.softmax_cross_entropy(h, w, y, **options)


def products(h, w, y):
    """The floor: the three products of matrices that gradients for both factors need."""
    logits = h @ w
    return logits[0, 0], (logits @ w.T, h.T @ logits)


OPTAX = "Optax on plain logits"
LOSSES = {
    OPTAX: optax_loss,
    "`classification.softmax_cross_entropy` of `h @ w`": plain,
    "`chunked`": chunked,
    "`linear`, fastest": fused(),
    "`linear`, 512 tokens": fused(chunk_size=512),
    "`linear`, least memory": fused(policy="least_memory"),
}
ABOUT = """Value and gradients, for hidden states and weight, of a last layer with its
cross-entropy. Time is the ratio to Optax's loss of plain logits, the median over alternating
runs, with the ratio of the shortest times in brackets; below 1 is faster. "three bare products"
is the floor: the matrix products that any form needs. Memory is the temporary memory of the
compiled program, also as a fraction of Optax's.
"""
FLOOR = "three bare products"
CCE = "jax-cce"


def peers():
    """Installed fused losses of other libraries, as functions of (hidden, weight, labels)."""
    found = {}
    if importlib.util.find_spec("tokamax"):
        from tokamax import linear_softmax_cross_entropy_loss as tokamax_loss

        found["tokamax"] = lambda h, w, y: tokamax_loss(h, y, w, reduction="mean")
    if importlib.util.find_spec("jax_cce"):
        from jax_cce import linear_cross_entropy

        found[CCE] = linear_cross_entropy
    return found


def torch_programs(h, w, y):
    """torch's loss of the last layer, whole and in its own chunks; empty if not installed."""
    if not importlib.util.find_spec("torch"):
        return {}
    os.environ.setdefault(
        "OMP_WAIT_POLICY", "passive"
    )  # its waiting threads must not use the cores of XLA
    import torch  # optional, like the two above

    hidden, weight = (torch.tensor(np.asarray(x.astype(jnp.float32))) for x in (h, w.T))
    labels = torch.tensor(np.asarray(y), dtype=torch.long)
    dtype = getattr(torch, np.dtype(h.dtype).name)
    hidden, weight = (x.to(dtype).requires_grad_() for x in (hidden, weight))

    def program(options):
        def run():
            hidden.grad = weight.grad = None
            loss = torch.nn.functional.linear_cross_entropy(hidden, weight, labels, options=options)
            loss.backward()
            return loss.item()

        return run

    chunks = torch.nn.LinearCrossEntropyOptions(batch_chunk_size=512)
    return {"torch": program(None), "torch, 512 tokens": program(chunks)}


def arguments(rows, dim, classes, dtype, deviation=1.0):
    keys = jax.random.split(jax.random.key(0), 3)
    hidden = jax.random.normal(keys[0], (rows, dim)).astype(dtype)
    weight = (deviation / dim**0.5 * jax.random.normal(keys[1], (dim, classes))).astype(dtype)
    return hidden, weight, jax.random.randint(keys[2], (rows,), 0, classes)


def compare(shape, dtype, rounds):
    """Rows of time and memory at one size."""
    data = arguments(*shape, dtype)
    turned = data[0], data[1].T.copy(), data[2]  # the layout of jax-cce
    functions = {n: jax.value_and_grad(f, (0, 1)) for n, f in (LOSSES | peers()).items()}
    functions[FLOOR] = products
    programs, memory = {}, {}
    for name, function in functions.items():
        own = turned if name == CCE else data
        (program,), _ = compile_all([function], *own)
        programs[name] = functools.partial(program, *own)
        memory[name] = program.memory_analysis().temp_size_in_bytes
    programs |= torch_programs(*data)
    times = interleaved(programs.values(), rounds=rounds)
    rows = []
    for name, mine in zip(programs, times, strict=True):
        held, less = "", ""
        if name in memory:
            held = f"{memory[name] / MIB:.0f}"
            less = f"1/{memory[OPTAX] / memory[name]:.1f}" if name != FLOOR else ""
        shortest = min(mine) / min(times[0])
        rows.append([name, f"{ratio(mine, times[0]):.2f} ({shortest:.2f})", held, less])
        print(shape, np.dtype(dtype).name, *rows[-1], sep=" | ", flush=True)
    return rows


NUMBERS = ("log_probability", "log_normalizer", "entropy", "sum_of_squares", "mean_logit")


def log_probabilities(h, w, y):
    return jnp.sum(linear.log_probabilities(h, w, y))


def several(top_k=None, outputs=(*NUMBERS, "predicted", "correct"), **options):
    """The sum of several outputs, so that each has a cotangent; the ids are returned."""

    def loss(h, w, y):
        found = linear.statistics(h, w, y, outputs=outputs, top_k=top_k, **options)
        leaves = jax.tree.leaves(found)
        return sum(jnp.sum(x) for x in leaves if x.dtype == jnp.float32), found

    return loss


SEVERAL = {
    "`linear.log_probabilities`": (log_probabilities, False),
    "`linear.statistics`, log-probability and entropy": (
        several(outputs=("log_probability", "entropy")),
        True,
    ),
    "`linear.statistics`, all seven outputs": (several(), True),
    "`linear.statistics`, all and the top 8": (several(8), True),
}


def compare_outputs(shape, dtype, rounds):
    """Rows of time and memory of one pass with several outputs, by that of log-probabilities."""
    data = arguments(*shape, dtype)
    programs, memory = {}, []
    for name, (function, has_aux) in SEVERAL.items():
        (program,), _ = compile_all([jax.value_and_grad(function, (0, 1), has_aux=has_aux)], *data)
        programs[name] = functools.partial(program, *data)
        memory.append(program.memory_analysis().temp_size_in_bytes)
    times = interleaved(programs.values(), rounds=rounds)
    rows = []
    for name, mine, held in zip(programs, times, memory, strict=True):
        shortest = min(mine) / min(times[0])
        cell = f"{ratio(mine, times[0]):.2f} ({shortest:.2f})"
        rows.append([name, cell, f"{held / MIB:.0f}"])
        print(shape, np.dtype(dtype).name, *rows[-1], sep=" | ", flush=True)
    return rows


def growth():
    """Temporary memory over the number of tokens, at a fixed chunk: nothing is run."""
    rows = []
    for tokens in (1024, 4096, 16384, 65536):
        line = [tokens]
        for loss in (optax_loss, fused(chunk_size=512), fused(policy="least_memory")):
            struct = jax.ShapeDtypeStruct
            data = struct((tokens, 512), "f4"), struct((512, 32768), "f4"), struct((tokens,), "i4")
            program = jax.jit(jax.value_and_grad(loss, (0, 1))).lower(*data).compile()
            line.append(f"{program.memory_analysis().temp_size_in_bytes / MIB:.0f}")
        rows.append(line)
        print(*line, sep=" | ", flush=True)
    return rows


def exact(h, w, y):
    """Loss and gradients in NumPy's float64."""
    h, w = (np.asarray(x.astype(jnp.float32), np.float64) for x in (h, w))
    logits = h @ w
    shifted = np.exp(logits - logits.max(-1, keepdims=True))
    p = shifted / shifted.sum(-1, keepdims=True)
    at = np.arange(len(h)), np.asarray(y)
    value = -np.mean(np.log(p[at]))
    p[at] -= 1
    p /= len(h)
    return value, p @ w.T, h.T @ p


def accuracy():
    """Relative errors of the loss and of the weight's gradient (in norm) against float64."""
    rows = []
    for dtype in ("float32", "bfloat16"):
        for deviation in (1.0, 10.0, 100.0):
            data = arguments(512, 256, 4096, dtype, deviation)
            value, _, to_weight = exact(*data)
            rounded = np.asarray(jnp.asarray(to_weight, dtype).astype(jnp.float32), np.float64)
            error = lambda x, true: np.linalg.norm(x - true) / np.linalg.norm(true)
            line = [dtype, f"{deviation:g}", f"{error(rounded, to_weight):.1e}"]
            for loss in (optax_loss, fused(chunk_size=64), fused(policy="least_memory")):
                got, (_, slope) = jax.jit(jax.value_and_grad(loss, (0, 1)))(*data)
                slope = np.asarray(slope.astype(jnp.float32), np.float64)
                line.append(f"{abs(float(got) / value - 1):.0e}; {error(slope, to_weight):.1e}")
            rows.append(line)
            print(*line, sep=" | ", flush=True)
    return rows


def _status(name):
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1])


def peak(name):
    """The peak memory of a fresh process while the function runs, in MiB above before."""
    data = arguments(2048, 512, 32768, "float32")
    if name.startswith("torch"):
        torch_programs(*arguments(8, 8, 8, "float32"))[name]()
        run = torch_programs(*data)[name]
    else:
        data = (data[0], data[1].T.copy(), data[2]) if name == CCE else data
        function = jax.value_and_grad((LOSSES | peers())[name], (0, 1))
        run = functools.partial(jax.jit(function).lower(*data).compile(), *data)
    jax.block_until_ready(data)
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
    before = _status("VmRSS")
    jax.block_until_ready(run())
    print((_status("VmHWM") - before) / 1024)


def peaks():
    rows = []
    for name in [*LOSSES, *peers(), *torch_programs(*arguments(8, 8, 8, "float32"))]:
        command = [sys.executable, __file__, "--peak", name]
        out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        rows.append([name, f"{float(out.split()[-1]):.0f}"])
        print(*rows[-1], sep=" | ", flush=True)
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--peak")
    options = parser.parse_args()
    sys.argv[1:] = []  # tokamax reads them too, and raises for unknown ones
    if options.peak:
        return peak(options.peak)
    load = os.getloadavg()[0]
    text = ["# The fused last layer\n", ABOUT]
    text.append(
        f"{platform.machine()}, {os.cpu_count()} cores, {jax.devices()[0].device_kind}, jax "
        f"{jax.__version__}, optax {optax.__version__}; load {load:.1f} when it began.\n"
    )
    headings = ["", "time by Optax's (of the shortest)", "temporary memory, MiB", "of Optax's"]
    for shape, dtype in (
        ((2048, 512, 32768), "float32"),
        ((2048, 512, 32768), "bfloat16"),
        ((2048, 512, 131072), "float32"),
        ((1024, 1024, 50304), "float32"),
    ):
        title = "{} tokens, dim {}, vocabulary {}, ".format(*shape) + dtype
        table = compare(shape, dtype, options.rounds)
        text += [f"## {title}\n", markdown(headings, table) + "\n"]
    text.append("## Several outputs, by the time of log-probabilities alone\n")
    held = ["", "time (of the shortest)", "temporary memory, MiB"]
    for shape, dtype in (((2048, 512, 32768), "float32"), ((1024, 1024, 50304), "float32")):
        text.append("{} tokens, dim {}, vocabulary {}, ".format(*shape) + f"{dtype}:\n")
        text.append(markdown(held, compare_outputs(shape, dtype, options.rounds)) + "\n")
    text.append(
        "## Temporary memory over the number of tokens, MiB\n\nDim 512, vocabulary 32768.\n"
    )
    held = ["tokens", "Optax", "`linear`, 512 tokens", "`linear`, least memory"]
    text.append(markdown(held, growth()) + "\n")
    text.append(
        "## Relative errors against float64: of the loss; of the gradient of the weight, in norm\n"
    )
    names = ["dtype", "deviation of the logits", "rounding the result", "Optax"]
    text.append(markdown([*names, "`linear`", "least memory"], accuracy()) + "\n")
    text.append("## Peak memory of a fresh process, MiB above what it held before the call\n")
    text.append("2048 tokens, dim 512, vocabulary 32768, float32; the gradients have 68 MiB.\n")
    text.append(markdown(["", "MiB"], peaks()) + "\n")
    page = pathlib.Path(__file__).with_suffix(".md")
    text.append(page.with_suffix(".peers.md").read_text())  # of other machines and compilers
    page.write_text("\n".join(text))
    return None


if __name__ == "__main__":
    main()
