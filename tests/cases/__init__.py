"""One row a loss: how to draw its inputs, and a slow oracle that a reader can check by eye.

An oracle is plain Python or NumPy on *one* example: `oracle(*data, **options) -> number`. Inputs
are drawn from the domains that the loss declares; a row overrides a draw where the mathematics
asks for it. `settings()` is the list that the suite is parametrised over: every loss, with every
form of its arguments and every set of options that its row names.
"""

import contextlib
import dataclasses
import functools
import importlib
import inspect
import itertools
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

import jaxloss as jl
from jaxloss._core.spec import ArraySpec
from jaxloss.catalogue import LossInfo

BATCH = (2, 3)
SIZES = {"classes": 4, "frames": 6, "tokens": 3, "height": 2, "width": 3, "experts": 4}
OTHER_SIZE = 5


@dataclasses.dataclass(frozen=True)
class Case:
    """A row.

    Attributes:
        oracle: The loss of one example, in plain Python or NumPy.
        options: Sets of keyword arguments to try; a `Batched` value has one entry an example.
        draws: For an argument, `draw(generator, batch) -> array` in place of its domain's.
        extremes: For an argument, `draw(generator, count) -> array` of inputs near and far, at
            which accuracy is measured, in place of its domain's.
        ulp: Bounds, in units in the last place of float32, on the error of value and gradient.
        by_component: Whether each component of a gradient is held to its own last place; else,
            where components cancel by nature, to that of the largest component of the example.
            May be a function of the setting.
        conditioned: Whether an error smaller than what one last place of the inputs changes counts
            as that: a difference of given logarithms is as uncertain as they are. May be a function
            of an example.
    """

    oracle: Callable[..., Any]
    options: tuple[Mapping[str, Any], ...] = ({},)
    draws: Mapping[str, Callable[..., Any]] = dataclasses.field(default_factory=dict)
    extremes: Mapping[str, Callable[..., Any]] = dataclasses.field(default_factory=dict)
    ulp: tuple[float, float] = (4, 4)
    by_component: bool | Callable[["Setting"], bool] = True
    conditioned: bool | Callable[[Mapping[str, Any]], bool] = False

    def around(self, example: Mapping[str, Any]) -> Callable[..., Any]:
        """The oracle whose derivatives are those of the loss.

        Where the loss stops a gradient, the oracle takes an argument `fixed`: what is a constant
        of the gradient keeps its value in `example`.
        """
        if "fixed" not in inspect.signature(self.oracle).parameters:
            return self.oracle
        return functools.partial(self.oracle, fixed=example)


@dataclasses.dataclass(frozen=True)
class Batched:
    """An option that differs between examples: `draw(generator, batch) -> array`."""

    draw: Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]


def with_feature_mask(oracle: Callable[..., Any]) -> Callable[..., Any]:
    """The oracle of vectors without the entries that `mask` takes out of them: these are 0."""

    def masked(x: Any, mask: np.ndarray) -> Any:
        fits = isinstance(x, np.ndarray) and x.ndim > 1 and x.shape[-mask.ndim :] == mask.shape
        return np.where(mask, x, 0 * x) if fits else x

    @functools.wraps(oracle)
    def of_masked(*data: Any, mask: np.ndarray | None = None, **options: Any) -> Any:
        if mask is None:
            return oracle(*data, **options)
        if options.get("fixed"):
            options["fixed"] = {n: masked(x, mask) for n, x in options["fixed"].items()}
        options = {n: masked(x, mask) for n, x in options.items()}
        return oracle(*(masked(x, mask) for x in data), **options)

    return of_masked


@dataclasses.dataclass(frozen=True, eq=False)
class Setting:
    """A loss, a choice of forms for its data, and a set of options.

    Attributes:
        info: The loss.
        case: Its row.
        array_specs: The form of each of its data.
        given: Its options.
        is_first: Whether it is the first setting of its loss, which is asked more.
    """

    info: LossInfo
    case: Case
    array_specs: tuple[ArraySpec, ...]
    given: Mapping[str, Any]
    is_first: bool = True

    def __str__(self) -> str:
        chosen = [
            f.kind.lower()
            for f, n in zip(self.array_specs, self.info.data, strict=True)
            if len(self.info.spec.array_specs[n]) > 1
        ]
        return "-".join([self.info.name, *chosen, *(str(name) for name in self.given)])

    @property
    def by_component(self) -> bool:
        rule = self.case.by_component
        return rule if isinstance(rule, bool) else rule(self)

    @property
    def loss(self) -> Callable[..., Any]:
        return self.info.function

    @property
    def set_axes(self) -> tuple[str, ...]:
        """The axes of the result behind the batch: not empty for a loss over a whole batch."""
        return self.info.spec.result.event

    def result_shape(self, batch: tuple[int, ...] = BATCH) -> tuple[int, ...]:
        return (*batch, *(SIZES.get(n, OTHER_SIZE) for n in self.set_axes))

    def data(self, batch: tuple[int, ...] = BATCH, seed: int = 0) -> tuple[np.ndarray, ...]:
        """Float32 and int32 arrays for the positional arguments."""
        generator = np.random.default_rng(seed)
        return tuple(
            np.asarray(self.case.draws[name](generator, batch))
            if name in self.case.draws
            else draw(form, generator, batch)
            for name, form in zip(self.info.data, self.array_specs, strict=True)
        )

    def options(self, batch: tuple[int, ...] = BATCH, seed: int = 1) -> dict[str, Any]:
        generator = np.random.default_rng(seed)
        return {
            n: v.draw(generator, batch) if isinstance(v, Batched) else v
            for n, v in self.given.items()
        }

    def floating(self) -> tuple[int, ...]:
        """Which data arguments have a gradient: labels that name a class have none."""
        return tuple(
            i
            for i, form in enumerate(self.array_specs)
            if form.kind in ("Real", "Float") and not form.domain.guard
        )

    @property
    def batched(self) -> frozenset[str]:
        """The arguments that have an entry an example; an option may be shared by all of them."""
        data = zip(self.info.data, self.array_specs, strict=True)
        of_options = (n for n, v in self.given.items() if isinstance(v, Batched))
        return frozenset({*(n for n, form in data if form.batched), *of_options})

    def examples(self, arrays: Mapping[str, Any], index: tuple[int, ...]) -> dict[str, Any]:
        """One example of each array that has one entry an example."""
        batched = self.batched
        return {n: a[index] if n in batched else a for n, a in arrays.items()}


def draw(form: ArraySpec, generator: np.random.Generator, batch: tuple[int, ...]) -> np.ndarray:
    """Values of a form's domain, away from its edges."""
    shape = form.shape(batch, SIZES)
    shape = tuple(n if isinstance(n, int) else OTHER_SIZE for n in shape)
    meaning = form.domain.meaning
    if meaning.startswith("class ids"):
        return generator.integers(0, SIZES[meaning.split()[-3]], shape).astype(np.int32)
    normal = generator.normal(size=shape)
    by_domain = {
        jl.domains.positive: lambda: np.exp(normal),
        jl.domains.nonnegative_number: lambda: np.abs(normal),
        jl.domains.unit_interval: lambda: generator.uniform(0.05, 0.95, shape),
        jl.domains.log_probability: lambda: -np.exp(normal),
        jl.domains.sign_label: lambda: np.where(normal > 0, 1.0, -1.0),
        jl.domains.decision_label: lambda: np.where(normal > 0, 1.0, -1.0),
        jl.domains.distribution: lambda: generator.dirichlet(np.ones(shape[-1]), shape[:-1]),
    }
    values = by_domain.get(form.domain, lambda: 1.5 * normal)()
    if form.kind == "Int":
        return generator.integers(0, 3, shape).astype(np.int32)
    if form.kind == "Bool":
        return normal > 0
    return values.astype(np.float32)


def draw_extreme(form: ArraySpec, generator: np.random.Generator, count: int) -> np.ndarray:
    """Values all over a form's domain: tiny and huge, of both signs, close to its edges."""
    usual = draw(form, generator, (count,))
    if usual.dtype != np.float32 or form.domain.guard:
        return usual
    sign = np.where(generator.random(usual.shape) < 0.5, -1, 1)
    if form.domain == jl.domains.extended:  # logits: rows from indifferent to certain
        scale = np.broadcast_to(10.0 ** generator.uniform(-4, 4, count), usual.T.shape).T
        return (scale * generator.normal(size=usual.shape)).astype(np.float32)
    magnitude = 10.0 ** generator.uniform(-30, 30, usual.shape)
    by_domain = {
        jl.domains.positive: magnitude,
        jl.domains.nonnegative_number: magnitude,
        jl.domains.unit_interval: np.where(
            sign > 0,
            10.0 ** generator.uniform(-30, 0, usual.shape),
            1 - 10.0 ** generator.uniform(-7, 0, usual.shape),
        ),
        jl.domains.log_probability: -(10.0 ** generator.uniform(-30, 4, usual.shape)),
        jl.domains.distribution: usual,
    }
    return by_domain.get(form.domain, sign * magnitude).astype(np.float32)


def losses() -> list[LossInfo]:
    """The losses that jaxloss offers."""
    return [info for info in jl.catalogue.losses() if info.family]


def rows() -> dict[str, Case]:
    """All rows by the name of their loss."""
    found = {}
    for path in sorted(pathlib.Path(__file__).parent.glob("*.py")):
        if path.stem != "__init__":
            module = importlib.import_module(f"cases.{path.stem}")
            found |= {f"{path.stem}.{name}": case for name, case in module.CASES.items()}
    return found


def settings() -> list[Setting]:
    """Every loss in every form and with every set of options that its row names."""
    by_name, found = rows(), []
    for info in losses():
        if info.name in by_name:
            forms = itertools.product(*(info.spec.array_specs[n] for n in info.data))
            choices = itertools.product(forms, by_name[info.name].options)
            found += [
                Setting(info, by_name[info.name], form, options, place == 0)
                for place, (form, options) in enumerate(choices)
            ]
    return found


@contextlib.contextmanager
def x64() -> Iterator[None]:
    """Double precision for a block; the context manager of JAX has a new name in every version."""
    jax.config.update("jax_enable_x64", True)
    try:
        yield
    finally:
        jax.config.update("jax_enable_x64", False)


def tree_to_jax(tree: Any) -> Any:
    """NumPy arrays as jax arrays."""
    return jax.tree.map(jax.numpy.asarray, tree)
