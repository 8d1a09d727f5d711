"""Breaks the package on purpose, one place at a time, and looks which test notices.

    python -m tools.mutations [--first | --check] [NAME ...]

Each mutation is a piece of text that occurs once in the package, and its replacement. In
a copy of the project it is applied, and tests run until one fails: those that are named beside it
first, then all of `make test`; with `--first`, only those that are named, which takes minutes and
not hours; with `--check`, what `make test` lets pass is given to what CI runs. It
prints a table: of each mutation, whether `make test` notices, and by which test. Text that has gone
or occurs several times is reported, and counts as not noticed.
"""

import argparse
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from typing import NamedTuple

from tools import ROOT


class Mutation(NamedTuple):
    """What is broken, and which tests look first."""

    name: str
    old: str
    new: str
    first: str


MUTATIONS = [
    Mutation(
        "a factor: Tukey's loss is twice itself",
        "square * (3 + square * (square - 3)) / 6",
        "square * (3 + square * (square - 3)) / 3",
        "tests/laws -k robust.tukey",
    ),
    Mutation(
        "a sign: the hinge is on the wrong side",
        "def _hinge(lead: Array) -> Array:\n    return numerics.relu(1 - lead)",
        "def _hinge(lead: Array) -> Array:\n    return numerics.relu(1 + lead)",
        "tests/laws -k classification.hinge",
    ),
    Mutation(
        "a slope: Huber's gradient is clipped at 1, not at delta",
        "jnp.clip(error, -delta, delta) * error_dot",
        "jnp.clip(error, -1, 1) * error_dot",
        "tests/laws -k regression.huber",
    ),
    Mutation(
        "a slope: Huber has no derivative in delta",
        "numerics.relu(jnp.abs(error) - delta) * delta_dot",
        "0 * numerics.relu(jnp.abs(error) - delta) * delta_dot",
        "tests/laws -k regression.huber",
    ),
    Mutation(
        "a second derivative: Welsch's slope is a constant to JAX",
        "lambda z_dot, _, z: z * exp_minus_half_square(z) * z_dot",
        "lambda z_dot, _, z: z * jax.lax.stop_gradient(exp_minus_half_square(z)) * z_dot",
        "tests/laws -k robust.welsch",
    ),
    Mutation(
        "a constant: a normal density without its pi",
        "constant = HALF_LOG_2PI if full else 0.0\n    return 0.5 * jnp.square(score)",
        "constant = 0.5 if full else 0.0\n    return 0.5 * jnp.square(score)",
        "tests/laws -k nll.gaussian",
    ),
    Mutation(
        "an option: label smoothing is dropped for class ids",
        "return (1 - label_smoothing) * nll + label_smoothing * spread",
        "return nll",
        "tests/laws -k classification.softmax_cross_entropy",
    ),
    Mutation(
        "last places: an exponential of a rounded square",
        "return most + most * jnp.expm1(-0.5 * (z - short) * (z + short))",
        "return jnp.exp(-0.5 * z * z)",
        "tests/laws tests/test_robust.py -k welsch",
    ),
    Mutation(
        "last places: log1p of a small square becomes log of one and it",
        "jnp.log1p(0.5 * jnp.square(jnp.where(far, 0, z)))",
        "jnp.log(1 + 0.5 * jnp.square(jnp.where(far, 0, z)))",
        "tests/laws -k robust.cauchy",
    ),
    Mutation(
        "a leak: inputs with an event axis are not filled where `where` is False",
        "if forms[name].dims[: len(dims)] == dims\n",
        "if forms[name].dims == dims\n",
        "tests/laws/test_reductions.py",
    ),
    Mutation(
        "a mask: weights count where `where` is False",
        "            weights = jnp.where(where, weights, 0)\n        values = ",
        "            pass\n        values = ",
        "tests/laws/test_reductions.py",
    ),
    Mutation(
        "a mean over nothing is NaN",
        "quotient = total / jnp.where(nothing, 1, weight)\n    return jnp.where(nothing, 0, quotient)",
        "return total / weight",
        "tests/laws/test_reductions.py",
    ),
    Mutation(
        "a label: the number of classes counts as a class",
        "((x >= 0) & (x < context[axis_name]), x)",
        "((x >= 0) & (x <= context[axis_name]), x)",
        "tests/laws/test_bad_input.py",
    ),
    Mutation(
        "a dtype: bfloat16 is computed in bfloat16",
        "narrowest = jnp.dtype(jnp.float32) if floating else default",
        "narrowest = jnp.dtype(jnp.bfloat16) if floating else default",
        "tests/laws/test_precision.py",
    ),
    Mutation(
        "a broadcast: any two sizes agree",
        "    except AssertionError:\n        return False\n    return True",
        "    except AssertionError:\n        return True\n    return True",
        "tests/laws/test_shapes.py",
    ),
    Mutation(
        "a retrace: an option is made a Python number",
        "return _pseudo_huber(prediction - target, delta)",
        "return _pseudo_huber(prediction - target, float(delta))",
        "tests/laws -k regression.pseudo_huber",
    ),
    Mutation(
        "a set: masked examples are still negatives",
        "of_columns = True if columns_in_set is None else columns_in_set[..., None, :]",
        "of_columns = True",
        "tests/laws -k contrastive",
    ),
    Mutation(
        "a list: items of equal relevance are a pair in order",
        "(rows.relevance[..., :, None] > items.relevance[..., None, :])",
        "(rows.relevance[..., :, None] >= items.relevance[..., None, :])",
        "tests/laws -k ranking",
    ),
    Mutation(
        "an image: a mean over pixels where a sum is meant",
        "return jnp.sum(shares, axis=(-3, -2))",
        "return jnp.mean(shares, axis=(-3, -2))",
        "tests/laws -k segmentation",
    ),
    Mutation(
        "a sequence: equal labels in a row need no blank between them",
        "_Lattice(ids, own >= 0, own != following,",
        "_Lattice(ids, own >= 0, own == own,",
        "tests/laws -k sequence",
    ),
    Mutation(
        "micro-batches: each has the weight of one",
        "means, _ = evaluate(params, *rows)\n            return {k: sums[k] + m.weight",
        "means, _ = evaluate(params, *rows)\n            return {k: sums[k] + jnp.ones_like(m.weight)",
        "tests/test_gradients.py",
    ),
    Mutation(
        "a trait: the absolute error says that it is smooth",
        "@loss(convex, nonnegative, bounded_gradient, symmetric, translation_invariant, zero_at_match)\n"
        "def absolute_error",
        "@loss(convex, nonnegative, bounded_gradient, symmetric, translation_invariant, smooth)\n"
        "def absolute_error",
        "tests/laws -k regression.absolute_error",
    ),
    Mutation(
        "a constant: the CRPS of a Laplace distribution keeps all of its spread",
        "return jnp.abs(error) + scale * (numerics.expm1(-size) + 0.25)",
        "return jnp.abs(error) + scale * (numerics.expm1(-size) + 1.0)",
        "tests/laws -k scoring.crps_laplace",
    ),
    Mutation(
        "a set: positives and negatives change places",
        "return self.others & same, self.others & ~same",
        "return self.others & ~same, self.others & same",
        "tests/laws -k contrastive",
    ),
    Mutation(
        "a factor: the divergence of a latent is twice itself",
        "each = 0.5 * (jnp.square(mean) + numerics.expm1_minus_x(log_variance))",
        "each = jnp.square(mean) + numerics.expm1_minus_x(log_variance)",
        "tests/laws -k generative.gaussian_vae_kl",
    ),
    Mutation(
        "a constant of the gradient: the target of SimSiam is differentiated",
        "return -numerics.cosine_similarity(prediction, lax.stop_gradient(target))",
        "return -numerics.cosine_similarity(prediction, target)",
        "tests/laws -k self_supervised.negative_cosine",
    ),
    Mutation(
        "a side: quantiles above and below change places",
        "asymmetry = jnp.where(error < 0, 1 - level, level)",
        "asymmetry = jnp.where(error < 0, level, 1 - level)",
        "tests/laws -k value.quantile_huber",
    ),
    Mutation(
        "an image: differences along one axis alone",
        "return sums[0] + sums[1]",
        "return sums[0] + 0 * sums[1]",
        "tests/laws -k image.total_variation",
    ),
    Mutation(
        "a ratio: what is missed counts half in the Jaccard index",
        "_one_less_tversky(predicted, true, 1, 1, smooth)",
        "_one_less_tversky(predicted, true, 1, 0.5, smooth)",
        "tests/laws -k segmentation.jaccard",
    ),
    Mutation(
        "a mask: a mean divides by all entries",
        "/ jnp.maximum(number, 1).astype(x.dtype)\n",
        "/ x.shape[-1]\n",
        "tests/laws -k regression.quantiles",
    ),
]


def place_of(old: str, package: pathlib.Path) -> pathlib.Path | None:
    """The one file in which the text occurs once."""
    found = [p for p in package.rglob("*.py") for _ in range(p.read_text().count(old))]
    return found[0] if len(found) == 1 else None


def failing_test(folder: pathlib.Path, arguments: str) -> str | None:
    """The first test that fails; None if all pass."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
    process = subprocess.run(
        [*command, *shlex.split(arguments)],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    if process.returncode in (0, 5):
        return None
    failed = re.findall(r"^(?:FAILED|ERROR) (\S+)", process.stdout, re.MULTILINE)
    return failed[0].rsplit("@", 1)[0] if failed else f"pytest ended with {process.returncode}"


def noticed_by(mutation: Mutation, runs: int) -> tuple[str, str]:
    """In which tier, and by which test, a mutation is noticed, in so many runs of tests."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary) / "jaxloss"
        hidden = shutil.ignore_patterns(".git", ".venv", ".*_cache", "build", "dist", "__pycache__")
        shutil.copytree(ROOT, folder, ignore=hidden)
        place = place_of(mutation.old, folder / "jaxloss")
        if place is None:
            return "no longer applies", ""
        place.write_text(place.read_text().replace(mutation.old, mutation.new))
        tiers = [
            ("make test", f"-n 0 -m 'not slow' {mutation.first}"),
            ("make test", "-n logical --maxprocesses 8 --dist loadgroup -m 'not slow'"),
            ("make check", f"-n 0 -m 'not slow or mesh' {mutation.first}"),
            ("make check", "-n logical --maxprocesses 8 --dist loadgroup -m 'not slow or mesh'"),
        ]
        for tier, arguments in tiers[:runs]:
            test = failing_test(folder, arguments)
            if test is not None:
                return tier, test
    return "nothing", ""


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--first", dest="runs", action="store_const", const=1, default=2)
    parser.add_argument("--check", dest="runs", action="store_const", const=4)
    parser.add_argument("names", nargs="*", metavar="NAME", help="parts of names of mutations")
    options = parser.parse_args()
    chosen = [m for m in MUTATIONS if not options.names or any(n in m.name for n in options.names)]
    noticed = 0
    print("| mutation | noticed by | first test to fail |\n| --- | --- | --- |")
    for mutation in chosen:
        tier, test = noticed_by(mutation, options.runs)
        noticed += tier == "make test"
        print(f"| {mutation.name} | {tier} | `{test}` |", flush=True)
    print(f"\n{noticed} of {len(chosen)} are noticed by `make test`.", file=sys.stderr)


if __name__ == "__main__":
    main()
