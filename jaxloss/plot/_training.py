"""Plots of training: the landscape around parameters, the terms of an objective, calibration."""

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from jaxloss.plot._style import BLUE, GREY, VERMILLION, axes, line_style, show_gaps

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_DISTINCT = 20  # at most so many distinct probabilities are a bin each


def landscape(
    loss_fn: Callable[..., Any],
    params: PyTree,
    *batch: Any,
    directions: tuple[Any, Any] | None = None,
    key: Any = 0,
    reach: float = 1.0,
    points: int = 41,
    ax: "Axes | None" = None,
) -> "Axes":
    """Plots the loss around parameters in two directions.

    Two random directions are drawn and filter-normalised: each column of a matrix (each filter of
    a convolution) has the length of that of the parameters, and biases do not change. Otherwise a
    network and the same network with rescaled layers would look different.

    Args:
        loss_fn: `loss_fn(params, *batch)`, a scalar.
        params: The tree of parameters at the centre.
        *batch: What else `loss_fn` takes.
        directions: Two trees like `params` instead of random ones; they are not normalised.
        key: A seed or a key for the directions.
        reach: How far to go each way, in lengths of the directions.
        points: Points along each side of the grid.
        ax: Where to draw; if None, on a new figure.

    Returns:
        The axes. Points that are NaN or infinite are hatched, and the title counts them.

    Raises:
        ValueError: If `loss_fn` does not return a scalar.
        ModuleNotFoundError: If matplotlib is not installed.

    Example:
        >>> import jax.numpy as jnp, jaxloss as jl
        >>> params = {"weight": jnp.ones((3, 2)), "bias": jnp.zeros(2)}
        >>> jl.plot.landscape(lambda p: jnp.sum(p["weight"] ** 2), params).get_xlabel()
        'first direction'

    References:
        Li et al., *Visualizing the Loss Landscape of Neural Nets*, 2018.
    """
    fun_name = "plot.landscape"
    shape = jax.eval_shape(loss_fn, params, *batch).shape
    if shape != ():
        message = f"{fun_name}: `loss_fn` returns an array of shape {shape}, expected a scalar."
        raise ValueError(message + ' Give its losses `reduction="mean"`.')
    if directions is None:
        keys = jax.random.split(jax.random.key(key) if isinstance(key, int) else key)
        directions = (normalised(keys[0], params), normalised(keys[1], params))
    steps = jnp.linspace(-reach, reach, points)

    def at(place: Any) -> Any:
        moved = jax.tree.map(lambda p, a, b: p + place[0] * a + place[1] * b, params, *directions)
        return loss_fn(moved, *batch)

    grid = jnp.stack(jnp.meshgrid(steps, steps), axis=-1)
    # A row at a time: memory is that of one row, whatever the grid.
    height = np.asarray(jax.jit(lambda rows: jax.lax.map(jax.vmap(at), rows))(grid), float)
    with axes(fun_name, ax) as drawn:
        _contours(drawn, np.asarray(steps), height)
        drawn.set(xlabel="first direction", ylabel="second direction", aspect="equal")
    return drawn


def normalised(key: Any, params: PyTree) -> Any:
    """A random direction whose filters have the lengths of those of the parameters."""
    leaves, tree = jax.tree.flatten(params)

    def like(key: Any, leaf: Any) -> Any:
        leaf = jnp.asarray(leaf)
        if leaf.ndim < 2:
            return jnp.zeros_like(leaf)
        drawn = jax.random.normal(key, leaf.shape)
        inner = tuple(range(leaf.ndim - 1))  # a filter is all that feeds one output

        def length(array: Any) -> Any:
            return jnp.sqrt(jnp.sum(jnp.square(array), axis=inner, keepdims=True))

        return drawn * length(leaf) / length(drawn)

    return tree.unflatten(map(like, jax.random.split(key, len(leaves)), leaves))


def _contours(ax: "Axes", steps: np.ndarray, height: np.ndarray) -> None:
    """Filled contours, finer towards the minimum, with a mark at the centre."""
    finite = np.isfinite(height)
    shown = np.ma.masked_where(~finite, height)
    if finite.any():
        low, high = shown.min(), shown.max()
        span = (high - low) or 1.0
        levels = low + span * np.linspace(0, 1, 15) ** 2
        filled = ax.contourf(steps, steps, shown, levels=levels, cmap="cividis", extend="max")
        ax.contour(steps, steps, shown, levels=levels, colors="white", linewidths=0.4)
        bar = ax.figure.colorbar(filled, ax=ax, label="loss", format="%.3g")
        bar.outline.set_visible(False)
    if not finite.all():
        ax.patch.set(hatch="///", edgecolor=VERMILLION, linewidth=0, alpha=None)
        count = int((~finite).sum())
        ax.set_title(f"hatched: {count} of {height.size} points are NaN or infinite")
    ax.plot(0, 0, "+", color="white", markersize=12, markeredgewidth=2)


def terms(
    history: Iterable[Mapping[str, Any]] | Mapping[str, Any],
    *,
    log: bool | None = None,
    ax: "Axes | None" = None,
) -> "Axes":
    """Plots the terms of an objective over training.

    Args:
        history: The dicts of terms that `jaxloss.total` returns, one a step; or a dict of arrays.
        log: Whether the axis is logarithmic; if None, when the terms differ by a factor of 100
            and all are positive.
        ax: Where to draw; if None, on a new figure.

    Returns:
        The axes. Steps at which a term is NaN or infinite are hatched.

    Raises:
        ValueError: If there are no steps, or the steps do not have the same terms.
        ModuleNotFoundError: If matplotlib is not installed.

    Example:
        >>> import jaxloss as jl
        >>> history = [{"fit": 2.0, "penalty": 0.1}, {"fit": 1.0, "penalty": 0.2}]
        >>> jl.plot.terms(history).get_xlabel()
        'step'
    """
    fun_name = "plot.terms"
    if not isinstance(history, Mapping):
        rows = list(history)
        names = list(rows[0]) if rows else []
        odd = next((i for i, row in enumerate(rows) if set(row) != set(names)), None)
        if odd is not None:
            message = f"{fun_name}: step {odd} has the terms {list(rows[odd])}, step 0 has {names}."
            raise ValueError(message)
        history = {name: [row[name] for row in rows] for name in names}
    series = {name: np.asarray(values, float).reshape(-1) for name, values in history.items()}
    if not series or not all(map(len, series.values())):
        raise ValueError(f"{fun_name}: `history` is empty, expected a dict of terms for each step.")
    known = np.concatenate([values[np.isfinite(values)] for values in series.values()])
    if log is None:
        log = bool(known.size and known.min() > 0 and known.max() > 100 * known.min())
    with axes(fun_name, ax) as drawn:
        for place, (name, values) in enumerate(series.items()):
            drawn.plot(values, label=name, **line_style(place))
        longest = max(series.values(), key=len)
        broken = np.zeros(len(longest))
        for values in series.values():
            broken[: len(values)] += np.where(np.isfinite(values), 0, np.nan)
        show_gaps(drawn, np.arange(len(longest)), broken)
        drawn.set(xlabel="step", ylabel="term, unweighted", yscale="log" if log else "linear")
        drawn.legend()
    return drawn


def calibration(
    probabilities: Any, outcomes: Any, *, bins: int = 10, ax: "Axes | None" = None
) -> "Axes":
    r"""Plots observed frequencies against predicted probabilities.

    Points on the diagonal are calibrated; below it the predicted probabilities are too high. The
    bars are Wilson's 95 % intervals of the frequencies, which are wide for bins of few examples.

    Args:
        probabilities: Predicted probabilities of any shape, with outcomes of that shape; or, with
            class ids as outcomes, those of the classes along the last axis, of which the
            largest is used. At most 20 distinct values, such as the levels of predicted
            quantiles, are a bin each.
        outcomes: The outcomes: booleans, 0 or 1; or class ids.
        bins: How many bins of equal counts there are.
        ax: Where to draw; if None, on a new figure.

    Returns:
        The axes. NaN is left out of the bins, and the title counts it.

    Raises:
        ValueError: If the shapes do not fit, or a probability is not between 0 and 1.
        ModuleNotFoundError: If matplotlib is not installed.

    Example:
        >>> import jaxloss as jl
        >>> jl.plot.calibration([0.2, 0.2, 0.9, 0.9], [0, 0, 1, 1]).get_xlabel()
        'predicted probability'

    References:
        Murphy and Winkler, *Reliability of Subjective Probability Forecasts*, 1977.
        Wilson, *Probable Inference, the Law of Succession, and Statistical Inference*, 1927.
    """
    fun_name = "plot.calibration"
    predicted, observed = np.asarray(probabilities, float), np.asarray(outcomes)
    if predicted.ndim == observed.ndim + 1 and predicted.shape[:-1] == observed.shape:
        observed = predicted.argmax(-1) == observed
        predicted = predicted.max(-1)
    if predicted.shape != observed.shape:
        message = (
            f"{fun_name}: `probabilities` has shape {predicted.shape}, `outcomes` {observed.shape}."
        )
        raise ValueError(
            f"{message} They must agree, or probabilities have a last axis of classes."
        )
    predicted, observed = predicted.ravel(), observed.ravel().astype(float)
    known = np.isfinite(predicted) & np.isfinite(observed)
    predicted, observed, missing = predicted[known], observed[known], int((~known).sum())
    if predicted.size and (predicted.min() < 0 or predicted.max() > 1):
        message = (
            f"{fun_name}: `probabilities` go from {predicted.min():.3g} to {predicted.max():.3g}, "
        )
        raise ValueError(message + "expected 0 to 1. Of logits, give jax.nn.sigmoid or softmax.")
    groups = _bins(predicted, bins)
    centre = np.array([predicted[g].mean() for g in groups])
    share = np.array([observed[g].mean() for g in groups])
    low, high = wilson(share, np.array([len(g) for g in groups]))
    with axes(fun_name, ax) as drawn:
        drawn.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, label="calibrated")
        drawn.errorbar(
            centre,
            share,
            yerr=[np.maximum(share - low, 0), np.maximum(high - share, 0)],
            fmt="o",
            color=BLUE,
            markersize=5,
            linewidth=1.2,
            label="observed, 95 % interval",
        )
        drawn.set(xlabel="predicted probability", ylabel="observed frequency", aspect="equal")
        drawn.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
        if missing:
            drawn.set_title(f"{missing} of {missing + predicted.size} are NaN and not in it")
        drawn.legend()
    return drawn


def _bins(predicted: np.ndarray, count: int) -> list[np.ndarray]:
    """The indices of each bin: those of one value where there are few, else equally many."""
    values, which = np.unique(predicted, return_inverse=True)
    if len(values) <= _DISTINCT:
        return [np.flatnonzero(which == i) for i in range(len(values))]
    return [g for g in np.array_split(np.argsort(predicted, kind="stable"), count) if len(g)]


def wilson(share: np.ndarray, count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The 95 % interval of a frequency observed in `count` trials."""
    z = 1.959964
    middle = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    width = z / (1 + z**2 / count) * np.sqrt(share * (1 - share) / count + (z / (2 * count)) ** 2)
    return middle - width, middle + width
