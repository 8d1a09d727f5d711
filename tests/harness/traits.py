"""What it means that a trait holds: a check for each, on inputs drawn from the domains of a loss."""

from collections.abc import Callable

import cases
import numpy as np

import jaxloss as jl
from harness.programs import BATCH, COUNT, Program


def tolerance(values):
    return 1e-5 * (1 + np.abs(values))


class Drawn:
    """A loss with inputs of one draw, many examples at once."""

    def __init__(self, program: Program, seed: int):
        self.program, self.setting = program, program.setting
        self.generator = np.random.default_rng(seed)
        self.data = self.setting.data(BATCH, seed)
        self.other = self.setting.data(BATCH, seed + 7)[0]
        self.options = {
            n: v for n, v in self.setting.options(BATCH, seed + 1).items() if n in program.numeric
        }

    def _answers(self, data, options=None):
        options = self.options if options is None else options
        return self.program.first(**dict(zip(self.program.names, data, strict=True)), **options)

    def __call__(self, first, *others):
        return np.asarray(self._answers([first, *others]).values, np.float64)

    def with_first(self, first):
        return self(first, *self.data[1:])

    def gradient(self, first):
        """With respect to the first argument."""
        return self._answers([first, *self.data[1:]]).slopes[self.program.names[0]]

    def along(self, path, index):
        """The gradients of one example on a path of the first argument, of `COUNT` points a call."""
        one = [np.broadcast_to(x[index], x.shape) for x in self.data]
        options = {
            n: np.broadcast_to(x[index], x.shape) if n in self.setting.batched else x
            for n, x in self.options.items()
        }
        shape = (*BATCH, *path.shape[1:])
        found = [
            self._answers([block.reshape(shape), *one[1:]], options).slopes[self.program.names[0]]
            for block in path.reshape(-1, COUNT, *path.shape[1:])
        ]
        return np.concatenate([x.reshape(COUNT, *path.shape[1:]) for x in found])


def convex(drawn):
    a, b = drawn.data[0], drawn.other
    for share in (np.float32(0.25), np.float32(0.5)):
        mixed = drawn.with_first(share * a + (1 - share) * b)
        chord = share * drawn.with_first(a) + (1 - share) * drawn.with_first(b)
        assert np.all(mixed <= chord + tolerance(chord))


def nonnegative(drawn):
    assert np.all(drawn(*drawn.data) >= 0)


def bounded(drawn):
    near, far = drawn.with_first(drawn.data[0]), drawn.with_first(np.float32(1e6) * drawn.data[0])
    farther = drawn.with_first(np.float32(1e12) * drawn.data[0])
    assert np.all(np.isfinite(farther))
    assert np.all(np.abs(farther - far) <= 1e-3 * (1 + np.abs(near)))


def symmetric(drawn):
    a, b, *rest = drawn.data
    expected = drawn(a, b, *rest)
    np.testing.assert_allclose(drawn(b, a, *rest), expected, rtol=1e-5, atol=1e-6)


def zero_at_match(drawn):
    target = drawn.data[1]
    np.testing.assert_allclose(drawn(target, target, *drawn.data[2:]), 0, atol=1e-6)


def translation_invariant(drawn):
    a, b, *rest = (np.round(8 * x) / np.float32(8) for x in drawn.data)
    np.testing.assert_allclose(drawn(a + 4, b + 4, *rest), drawn(a, b, *rest), rtol=1e-6)


def shift_invariant(drawn):
    logits = np.round(64 * drawn.data[0]) / np.float32(64)
    shifted = drawn.with_first(logits + 1024)
    np.testing.assert_allclose(shifted, drawn.with_first(logits), rtol=1e-5, atol=1e-6)


def scale_invariant(drawn):
    for scale in (np.float32(0.25), np.float32(1024.0)):
        scaled = drawn.with_first(scale * drawn.data[0])
        np.testing.assert_allclose(scaled, drawn.with_first(drawn.data[0]), rtol=1e-5, atol=1e-6)


def bounded_gradient(drawn):
    """A thousandfold error has no larger gradient than a hundredfold one, to one part in ten."""
    sizes = [
        np.max(np.abs(drawn.gradient(np.float32(scale) * drawn.data[0])))
        for scale in (1, 1e2, 1e3, 1e4)
    ]
    assert max(sizes[2:]) <= 1.1 * max(sizes[:2])


def smooth(drawn):
    """Where the gradient changes, it changes in proportion to the step: no jumps on a line."""
    amounts = drawn.setting.array_specs[0].domain == jl.domains.positive
    largest = {16: 0.0, 1: 0.0}
    for index in [(i, j) for i in range(4) for j in (0, 3)]:
        a, b = drawn.data[0][index], drawn.other[index]
        share = np.linspace(0, 1, 40 * COUNT, dtype=np.float32).reshape(-1, *(1,) * a.ndim)
        fine = drawn.along(a * (b / a) ** share if amounts else a + share * (b - a), index)
        for n in largest:
            largest[n] = max(largest[n], np.max(np.abs(np.diff(fine[::n], axis=0))))
    assert largest[1] <= 0.25 * largest[16] + 1e-4


def proper(drawn):
    """On average over labels drawn from q, no prediction does better than q itself."""
    form, of_labels = drawn.setting.array_specs[:2]
    classes = cases.SIZES["classes"]
    if form.event:
        q = drawn.generator.dirichlet(np.ones(classes)).astype(np.float32)
        outcomes = [np.full(BATCH, k, np.int32) for k in range(classes)]
        if of_labels.event:
            one_hot = np.eye(classes, dtype=np.float32)
            outcomes = [np.broadcast_to(row, (*BATCH, classes)) for row in one_hot]
        best = np.log(q) if form.domain == jl.domains.extended else q
        best = np.broadcast_to(best, (*BATCH, classes))
    else:
        q = np.float32([0, drawn.generator.uniform(0.05, 0.95)])
        q[0] = 1 - q[1]
        outcomes = [np.zeros(BATCH, np.float32), np.ones(BATCH, np.float32)]
        logit = np.log(q[1] / q[0])
        best = np.full(BATCH, logit if form.domain == jl.domains.extended else q[1])

    def expected(prediction):
        return sum(p * drawn(prediction, y) for p, y in zip(q, outcomes, strict=True))

    assert np.all(expected(best) <= expected(drawn.data[0]) + 1e-5)


CHECKS: dict[str, Callable[[Drawn], None]] = {
    name: globals()[name] for name in jl.traits.all_traits()
}


def applies(trait: str, setting: cases.Setting) -> bool:
    """Smoothing and weights move the optimum, as their documentation says."""
    return not (trait == "proper" and setting.given)


def check(trait: str, drawn: Drawn) -> None:
    """Raises an AssertionError that names the trait."""
    try:
        CHECKS[trait](drawn)
    except AssertionError as error:
        raise AssertionError(f"{drawn.setting} is not {trait}: {error}") from None
