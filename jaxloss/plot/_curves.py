"""Plots of one loss or several: value, gradient, and the influence of one observation."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxloss._core.registry import info_of
from jaxloss.plot import _sections
from jaxloss.plot._lines import Subject, elementwise, title, unwrap, visible
from jaxloss.plot._style import BLUE, DASHES, GREY, VERMILLION, axes, line_style, show_gaps

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Losses = Sequence[Callable[..., Any]] | Mapping[str, Callable[..., Any]]


def curve(
    loss: Callable[..., Any],
    *,
    over: tuple[float, float] | None = None,
    ax: "Axes | None" = None,
    **given: Any,
) -> "Axes":
    """Plots an elementwise loss and its gradient, which is computed by `jax.grad`.

    Where either is NaN or infinite the plot is hatched.

    Args:
        loss: A loss, a `functools.partial` of one, or any function of two numbers.
        over: The range of its first argument; if None, one that its domain suggests.
        ax: Where to draw; if None, on a new figure.
        **given: Options, and values for its other arguments: `delta=0.5`, `target=1.0`.

    Returns:
        The axes.

    Raises:
        ValueError: If the loss is not elementwise; the message says what to write instead.
        TypeError: If it does not take what was given.
        ModuleNotFoundError: If matplotlib is not installed.

    Example:
        >>> import jaxloss as jl
        >>> jl.plot.curve(jl.regression.huber, delta=0.5).get_xlabel()
        'prediction - target'
    """
    subject = elementwise("plot.curve", loss, given)
    return _draw("plot.curve", subject, over, ax)


def section(
    function: Callable[..., Any],
    start: Any = None,
    end: Any = None,
    *,
    ax: "Axes | None" = None,
) -> "Axes":
    """Plots any function of arrays, and its slope, along a line through its inputs.

    Args:
        function: A loss of the catalogue, for which a line is known; or, with `start` and `end`,
            a function of one array or tree of arrays that returns a scalar, such as an objective
            as a function of the parameters.
        start: Where the line begins.
        end: Where it ends, of the same shape.
        ax: Where to draw; if None, on a new figure.

    Returns:
        The axes.

    Raises:
        ValueError: If only one end is given, or none and no line is known.
        ModuleNotFoundError: If matplotlib is not installed.

    Example:
        >>> import jaxloss as jl
        >>> jl.plot.section(jl.classification.softmax_cross_entropy).get_xlabel()
        'logit of the right class, others 0'
    """
    fun_name = "plot.section"
    if (start is None) != (end is None):
        raise ValueError(f"{fun_name}: the line needs both ends, `start` and `end`, or neither.")
    if start is None:
        info = info_of(unwrap(function)[0])
        subject = info and _sections.of(info)
        if subject is None:
            message = f"{fun_name}: no line is known for {title(function)}: give `start` and `end`."
            raise ValueError(message)
        return _draw(fun_name, subject, None, ax)

    def along(share: Any) -> Any:
        point = jax.tree.map(lambda a, b: (1 - share) * jnp.asarray(a) + share * b, start, end)
        return function(point)

    return _draw(
        fun_name, Subject(along, title(function), "from start (0) to end (1)", (0, 1)), None, ax
    )


def _draw(fun_name: str, subject: Subject, over: tuple[float, float] | None, ax: Any) -> "Axes":
    with axes(fun_name, ax) as drawn:
        line = subject.sample(over)
        drawn.axhline(0, color=GREY, linewidth=0.6)
        drawn.plot(line.x, line.value, color=BLUE, label="value")
        drawn.plot(line.x, line.slope, color=VERMILLION, linestyle=DASHES[1], label="gradient")
        drawn.set_ylim(visible([line.value, line.slope], margin=0.05))
        show_gaps(drawn, line.x, np.where(np.isfinite(line.slope), line.value, np.nan))
        drawn.set(title=subject.name, xlabel=subject.variable)
        drawn.legend()
    return drawn


def named(fun_name: str, losses: Losses) -> dict[str, Callable[..., Any]]:
    """Several losses by their names in a legend."""
    if callable(losses):
        raise TypeError(
            f"{fun_name}: expected a list of losses or a dict of them; write [{title(losses)}]."
        )
    if isinstance(losses, Mapping):
        return dict(losses)
    names = [title(loss) for loss in losses]
    if len(set(names)) < len(names):
        message = f"{fun_name}: two losses have one name ({', '.join(names)}): give a dict of them."
        raise ValueError(message)
    return dict(zip(names, losses, strict=True))


def compare(
    losses: Losses,
    *,
    over: tuple[float, float] | None = None,
    ax: Any = None,
    **given: Any,
) -> np.ndarray:
    """Plots several elementwise losses: values on the left, gradients on the right.

    Args:
        losses: A list of losses, or a dict that names them; set options by `functools.partial`.
        over: The range of their first argument; if None, that of the first loss.
        ax: Two axes to draw on; if None, on a new figure.
        **given: Values for arguments that all of them take: `target=1.0`.

    Returns:
        The two axes.

    Raises:
        ValueError: If a loss is not elementwise, or two have one name.
        TypeError: If a loss does not take what was given.
        ModuleNotFoundError: If matplotlib is not installed.

    Example:
        >>> import jaxloss as jl
        >>> left, right = jl.plot.compare([jl.regression.huber, jl.regression.log_cosh])
        >>> right.get_title(loc="left")
        'gradient'
    """
    fun_name = "plot.compare"
    subjects = [
        elementwise(fun_name, loss, given)._replace(name=name)
        for name, loss in named(fun_name, losses).items()
    ]
    with axes(fun_name, ax, 2) as drawn:
        lines = [subject.sample(over or subjects[0].over) for subject in subjects]
        for panel, what in zip(drawn, ("value", "slope"), strict=True):
            panel.axhline(0, color=GREY, linewidth=0.6)
            for place, line in enumerate(lines):
                y = getattr(line, what)
                panel.plot(line.x, y, label=line.name, **line_style(place))
                show_gaps(panel, line.x, y)
            panel.set_ylim(visible([getattr(line, what) for line in lines], margin=0.05))
            panel.set_xlabel(lines[0].variable)
        drawn[0].set_title("value")
        drawn[1].set_title("gradient")
        drawn[0].legend()
    return drawn


def influence(
    losses: Losses | Callable[..., Any],
    sample: Any = None,
    *,
    over: tuple[float, float] | None = None,
    ax: "Axes | None" = None,
    **given: Any,
) -> "Axes":
    r"""Plots how far one more observation moves a fit: the effect of an outlier.

    $$(n + 1) \left( \hat\theta(x_1, \dots, x_n, x) - \hat\theta(x_1, \dots, x_n) \right)$$

    The fit is the number that has the smallest mean loss to the sample. It is computed for each
    position of the observation, on successively finer grids, without an approximation by
    derivatives.

    Args:
        losses: A loss of predictions and targets, a list of them, or a dict that names them.
        sample: The other observations; if None, 19 quantiles of the normal distribution.
        over: Where the observation moves; if None, from -8 to 8.
        ax: Where to draw; if None, on a new figure.
        **given: Options that all the losses take.

    Returns:
        The axes.

    Raises:
        ValueError: If a loss is not elementwise, or the sample is empty or not finite.
        ModuleNotFoundError: If matplotlib is not installed.

    Example:
        >>> import jaxloss as jl
        >>> jl.plot.influence([jl.regression.squared_error, jl.robust.tukey]).get_xlabel()
        'where the observation is'

    References:
        Tukey, *Exploratory Data Analysis*, 1977: the sensitivity curve.
        Hampel, *The Influence Curve and Its Role in Robust Estimation*, 1974.
    """
    fun_name = "plot.influence"
    several = named(fun_name, [losses] if callable(losses) else losses)
    if sample is None:
        sample = jax.scipy.stats.norm.ppf(jnp.arange(1, 20) / 20)
    sample = np.ravel(np.asarray(sample, float))
    if not sample.size or not np.isfinite(sample).all():
        bad = int((~np.isfinite(sample)).sum())
        raise ValueError(
            f"{fun_name}: `sample` has {sample.size} values, {bad} of them not finite: leave those "
            f"out, and give at least one."
        )
    x = np.linspace(*(over or (-8.0, 8.0)), 161)
    with axes(fun_name, ax) as drawn:
        drawn.axhline(0, color=GREY, linewidth=0.6)
        for place, (name, loss) in enumerate(several.items()):
            elementwise(fun_name, loss, given)
            shift = sensitivity(functools.partial(loss, **given), sample, x)
            drawn.plot(x, shift, label=name, **line_style(place))
        drawn.plot(sample, np.zeros_like(sample), "|", color=GREY, markersize=8, label="the sample")
        drawn.set(xlabel="where the observation is", ylabel="shift of the fit, times n + 1")
        drawn.legend()
    return drawn


def sensitivity(loss: Callable[..., Any], sample: np.ndarray, x: np.ndarray) -> np.ndarray:
    """How far an observation at each x moves the fit to the sample, times their number."""
    lowest, highest = min(sample.min(), x.min()), max(sample.max(), x.max())

    def fit(observed: Any, weights: Any) -> Any:
        def cost(guess: Any) -> Any:
            return jnp.sum(weights * jax.vmap(lambda t: loss(guess, t))(observed))

        def best(side: int) -> Any:
            """The first of the best guesses, or the last: a median may be an interval."""
            centre, width = (lowest + highest) / 2, (highest - lowest) / 2
            for _ in range(5):  # each grid is 25 times as fine as the one before
                grid = centre + width * jnp.linspace(-side, side, 101)
                costs = jax.vmap(cost)(grid)
                centre = grid[jnp.argmax(costs <= jnp.min(costs) * (1 + 1e-6))]
                width /= 25
            return centre

        return (best(1) + best(-1)) / 2

    weights = jnp.ones(len(sample) + 1)
    alone = fit(jnp.append(sample, 0.0), weights.at[-1].set(0.0))
    moved = jax.jit(jax.vmap(lambda one: fit(jnp.append(sample, one), weights)))(jnp.asarray(x))
    return np.asarray((len(sample) + 1) * (moved - alone))
