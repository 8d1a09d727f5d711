"""One compiled program a loss setting, which returns everything that the laws look at.

Compilation is most of the time of a suite of losses, so a program takes all that may change as
arguments (data, numeric options, masks, weights, directions) and is asked as often as one likes:
about perfect predictions, about inputs at the end of the domain, about NaN behind a mask. Settings
that differ in numbers alone share a program. The laws are then NumPy on what comes back.
"""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from cases import Setting

BATCH = (4, 6)
COUNT = 24


class Answers(NamedTuple):
    """Of a loss at given inputs, as NumPy arrays.

    Attributes:
        values: One value an example.
        slopes: The gradients of the weighted sum of the values, by the name of the argument.
        forward: The derivative of that sum along the tangents, in forward mode.
        curvature: The Hessian-vector products with the tangents, forward over reverse.
    """

    values: Any
    slopes: Mapping[str, Any]
    forward: Any = None
    curvature: Mapping[str, Any] | None = None


def is_static(value: Any) -> bool:
    """Whether an option decides which program is compiled."""
    return isinstance(value, bool | str | int)


def is_differentiable(x: Any) -> bool:
    return np.asarray(x).dtype.kind == "f"


@functools.lru_cache(maxsize=8)
def _compiled(loss: Any, names: tuple[str, ...], at: frozenset[str], static: tuple[Any, ...]):
    """The programs of a loss: value and gradient, plain and with `where`, and all `Answers`."""
    fixed = dict(static)

    def split(arguments):
        return ({n: x for n, x in arguments.items() if (n in at) is own} for own in (True, False))

    def gradient(still, weights=1, **kwargs):
        """The values and the gradients of their weighted sum, as a function of what moves."""

        def total(moving):
            arguments = moving | still
            data = [arguments[n] for n in names]
            options = {n: x for n, x in arguments.items() if n not in names}
            values = loss(*data, **options, **fixed, **kwargs, reduction="none")
            return jnp.sum(weights * values), values

        return jax.value_and_grad(total, has_aux=True)

    def plain(arguments):
        moving, still = split(arguments)
        (_, values), slopes = gradient(still)(moving)
        return Answers(values, slopes)

    def masked(arguments, where, weights):
        moving, still = split(arguments)
        (_, values), slopes = gradient(still, weights, where=where)(moving)
        return Answers(values, slopes)

    def every(arguments, where, weights, tangents):
        moving, still = split(arguments)
        function = gradient(still, weights, where=where)
        ((_, values), slopes), ((forward, _), curvature) = jax.jvp(function, (moving,), (tangents,))
        return Answers(values, slopes, forward, curvature)

    return jax.jit(plain), jax.jit(masked), jax.jit(every)


class Program:
    """A setting with the inputs that it draws, and what its programs answer about any others.

    Attributes:
        inputs: Its data, of the shape `BATCH` with event axes behind.
        options: Its options as given; `numeric` are those that the program takes as arguments.
        at: The names of the arguments that have a gradient; `floating` are the data among them.
        weights: Weights of the shape of the result, to try.
        tangents: A direction, for each of the arguments that have a gradient.
    """

    def __init__(self, setting: Setting, *, whole: bool = False):
        self.setting, self.whole = setting, whole
        self.names = setting.info.data
        self.options = setting.options(BATCH)
        self.inputs = dict(zip(self.names, setting.data(BATCH), strict=True))
        self.numeric = {n: v for n, v in self.options.items() if not is_static(v)}
        self.static = {n: v for n, v in self.options.items() if is_static(v)}
        floating = {self.names[i] for i in setting.floating()}
        self.at = frozenset(floating | {n for n, v in self.numeric.items() if is_differentiable(v)})
        self.floating = tuple(n for n in self.names if n in floating)
        self.shape = setting.result_shape(BATCH)
        self._plain, self._masked, self._every = _compiled(
            setting.loss, self.names, self.at, tuple(sorted(self.static.items()))
        )
        generator = np.random.default_rng(6)
        self.tangents = {
            n: generator.normal(size=np.shape(self.arguments()[n])).astype(np.float32)
            for n in sorted(self.at)
        }
        self.weights = generator.uniform(0.5, 2, self.shape).astype(np.float32)
        self.everything, self.ones = np.ones(self.shape, bool), np.ones(self.shape, np.float32)

    def arguments(self, **changed: Any) -> dict[str, Any]:
        """All arrays that the program takes: those drawn, with some changed."""
        arrays = self.inputs | self.numeric | changed
        return {
            n: np.asarray(x, np.float32) if isinstance(x, float) else x for n, x in arrays.items()
        }

    def first(self, **changed: Any) -> Answers:
        """Values and gradients; by the program with `where`, if it is compiled anyway.

        With `where` a loss over a set is another program, even where everything counts.
        """
        if self.setting.is_first and not self.setting.set_axes:
            return self.masked(**changed)
        return jax.tree.map(np.asarray, self._plain(self.arguments(**changed)))

    def masked(self, where: Any = None, weights: Any = None, **changed: Any) -> Answers:
        """Values and gradients; unless something is given, everything counts and has weight 1."""
        if self.whole:
            return self.every(where, weights, **changed)
        where = self.everything if where is None else where
        weights = self.ones if weights is None else weights
        return jax.tree.map(np.asarray, self._masked(self.arguments(**changed), where, weights))

    def every(
        self, where: Any = None, weights: Any = None, tangents: Any = None, **changed: Any
    ) -> Answers:
        """All of it, likewise."""
        where = self.everything if where is None else where
        weights = self.ones if weights is None else weights
        tangents = self.tangents if tangents is None else tangents
        arguments = self.arguments(**changed)
        return jax.tree.map(np.asarray, self._every(arguments, where, weights, tangents))

    @functools.cached_property
    def answers(self) -> Answers:
        """All answers, at what was drawn."""
        return self.every()

    def example(self, index: tuple[int, ...], arrays: Mapping[str, Any] | None = None):
        """One example of the inputs and options, in float64."""
        named = (self.inputs | self.options) if arrays is None else arrays
        one = self.setting.examples(named, index)
        return {
            n: np.float64(v) if np.asarray(v).dtype == np.float32 else v for n, v in one.items()
        }


is_quick = False  # in `make test`, which compiles second derivatives of a few losses alone


@functools.lru_cache(maxsize=8)
def program(setting: Setting) -> Program:
    """The program of a setting; tests of one setting run one after the other."""
    return Program(setting, whole=setting.is_first and not is_quick)
