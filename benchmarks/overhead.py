"""Time that jaxloss adds to `import jax`, and to an eager call of the bare mathematics.

Run it with `python benchmarks/overhead.py`. Goals: 15 % of the import, 60 us a call.
"""

import statistics
import subprocess
import sys
import time

import jax.numpy as jnp
from timing import markdown

import jaxloss as jl


def import_seconds(module):
    clock = "import time; start = time.perf_counter(); "
    code = f"{clock}import {module}; print(time.perf_counter() - start)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(run.stdout)


def imports(rounds=9):
    pairs = [(import_seconds("jax"), import_seconds("jaxloss")) for _ in range(rounds + 1)][1:]
    ratio = statistics.median(b / a for a, b in pairs)
    return [
        ["`import jax`", f"{1e3 * statistics.median(a for a, _ in pairs):.0f} ms", ""],
        [
            "`import jaxloss`",
            f"{1e3 * statistics.median(b for _, b in pairs):.0f} ms",
            f"{ratio:.2f} x",
        ],
    ]


@jl.loss
def nothing(prediction, target):
    """No mathematics, so that an eager call measures the contract alone."""
    return prediction


@jl.loss(scale=jl.domains.positive, floor=jl.domains.unit_interval)
def nothing_with_options(prediction, target, *, scale=1.0, floor=0.0):
    """The same with two numeric options, which are checked against their domains."""
    return prediction


def eager(loss, *arguments, calls=1000, rounds=15, **words):
    def microseconds():
        start = time.perf_counter()
        for _ in range(calls):
            loss(*arguments, **words)
        return 1e6 * (time.perf_counter() - start) / calls

    times = [microseconds() for _ in range(rounds + 1)][1:]
    name = f"eager `{loss.__name__}`"
    return [name, f"{statistics.median(times):.0f} us", f"{min(times):.0f} us at best"]


if __name__ == "__main__":
    x = jnp.linspace(-2, 2, 64)
    rows = [*imports(), eager(nothing, x, x), eager(nothing_with_options, x, x)]
    print(markdown(["what", "median", "jaxloss adds"], rows))
