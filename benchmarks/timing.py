"""Interleaved timing: on a shared machine only ratios of alternating runs are reliable."""

import ctypes
import statistics
import time

import jax


def compile_all(functions, *arguments, rounds=1):
    """Each function compiled for the arguments, and the seconds of tracing and compiling.

    With several rounds, the caches of JAX are cleared before each.
    """
    functions = list(functions)
    compiled, seconds = [], [[] for _ in functions]
    for _ in range(rounds):
        compiled = []
        for function, mine in zip(functions, seconds, strict=True):
            if rounds > 1:
                jax.clear_caches()
            start = time.perf_counter()
            compiled.append(jax.jit(function).lower(*arguments).compile())
            mine.append(time.perf_counter() - start)
    return compiled, seconds


def interleaved(functions, *arguments, rounds=15, calls=1):
    """Seconds of a call of each function in each round, run in turn after a warm-up.

    A round is several calls, so that the final synchronization takes a small part of it.
    """
    for function in functions:
        jax.block_until_ready(function(*arguments))
    times = [[] for _ in functions]
    for _ in range(rounds):
        for function, mine in zip(functions, times, strict=True):
            start = time.perf_counter()
            jax.block_until_ready([function(*arguments) for _ in range(calls)])
            mine.append((time.perf_counter() - start) / calls)
    return times


def ratio(times, baseline):
    """The median of the ratios, round by round."""
    return statistics.median(a / b for a, b in zip(times, baseline, strict=True))


def markdown(headings, rows):
    """A table."""
    lines = [f"| {' | '.join(headings)} |", f"|{' --- |' * len(headings)}"]
    return "\n".join(lines + [f"| {' | '.join(map(str, row))} |" for row in rows])


def measured_before(path, headings, keys):
    """The rows of the tables in a file, by their first cells."""
    lines = path.read_text().splitlines() if path.exists() else []
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if "|" in line]
    rows = [row for row in rows if len(row) == len(headings) and row[0] not in ("---", headings[0])]
    return {tuple(row[:keys]): row for row in rows}


def keep_memory():
    """Lets glibc keep up to 2 GB of freed memory."""
    trim_threshold, top_pad, mmap_threshold = -1, -2, -3
    mallopt = getattr(ctypes.CDLL(None), "mallopt", lambda name, value: None)
    mallopt(mmap_threshold, 1 << 25)
    mallopt(trim_threshold, (1 << 31) - 1)
    mallopt(top_pad, 1 << 30)
