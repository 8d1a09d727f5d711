"""Micro-batches in one step: the memory of one, the gradient of all."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import PyTree

from jaxloss._combine import total
from jaxloss._core.reduction import Mean
from jaxloss._memory.mesh import check_summed_gradients, pcast_varying, vma, vma_of
from jaxloss.gradients._common import check_scalar, rows, split

_NAME = "jaxloss.gradients.accumulate_value_and_grad"


def accumulate_value_and_grad(  # noqa: C901  # one step for each form of a loss
    loss: Callable[..., Any],
    num_micro: int,
    *,
    weights: Mapping[str, Any] | None = None,
    has_aux: bool = False,
    axis_name: str | tuple[str, ...] | None = None,
    scale: Any = 1.0,
) -> Callable[..., tuple[Any, Any]]:
    r"""Trains on a batch too large for memory: micro-batch by micro-batch, and still exactly.

    $$\nabla \sum_k w_k \frac{\sum_b T_{kb}}{\sum_b W_{kb}}
      = \sum_b \sum_k \frac{w_k}{\sum_{b'} W_{kb'}} \nabla T_{kb}$$

    The mean of the gradients of micro-batches is the gradient of the batch only where all count
    equally many examples. A loss that gives its means undivided, `reduction="parts"`, has no such
    condition: here a first pass adds up the weights alone, and a second divides every micro-batch
    by that sum. Terms with different denominators (tokens, sequences, boxes) share one buffer of
    gradients, in float32. Masks, and so the weights, do not depend on parameters, so that the
    compiler removes the rest of the first pass. (Where they do, it is a second forward pass, and
    a weight is still taken for a constant.) A sum over the batch is `Mean(total, 1 / num_micro)`
    of each micro-batch, since their weights add up to 1; of several devices, divided by their
    number as well.

    Args:
        loss: `loss(params, *batch, **shared)` gives a `Mean`, or a dict of them, one a term; with
            `has_aux`, a pair of that and anything else.
        num_micro: How many micro-batches; it must divide the number of rows.
        weights: The weights of the terms, as in `jaxloss.total`: numbers, traced arrays or
            schedules. A term that is not named weighs 1.
        has_aux: Whether the loss gives a pair.
        axis_name: Under `shard_map` or `pmap`, the mapped axes that rows lie across: the result is
            the gradient of the batch of all devices, whatever each of them counts.
        scale: The loss scale of half precision, a number or a traced scalar: gradients are
            multiplied by it, values are not. See `scaled_value_and_grad`.

    Returns:
        A function `(params, *batch, step=None, **shared)` that gives `(value, grads)`; for a dict
        `((value, terms), grads)`, terms before weighting. With `has_aux` the value becomes a pair
        of that and the aux of each micro-batch, stacked. Every leaf of the batch has its rows
        along the first axis; micro-batches are consecutive rows. `step` is what schedules are
        given, `shared` goes to the loss unsplit.

    Raises:
        TypeError: If the loss gives something else than `Mean`s, or a pair without `has_aux`.
        ValueError: If `num_micro` does not divide the rows, their number differs between leaves,
            a `Mean` holds more than one mean, a weight names no term, or `scale` is not a scalar.

    Example:
        >>> from jaxloss import regression
        >>> def loss(p, x, where): return regression.squared_error(p * x, x, where=where,
        ...                                                        reduction="parts")
        >>> accumulate_value_and_grad(loss, 2)(3.0, jnp.ones(4), jnp.array([1, 1, 1, 0]) > 0)
        (Array(4., dtype=float32), Array(4., dtype=float32))
    """
    if not isinstance(num_micro, int) or num_micro < 1:
        raise ValueError(
            f"{_NAME}: `num_micro` is {num_micro!r}, expected an integer of at least 1."
        )

    check_scalar(_NAME, "scale", scale)

    def value_and_grad(params: PyTree, *batch: PyTree, step: Any = None, **shared: Any) -> Any:
        micro = _divided(batch, num_micro)
        params = jax.tree.map(jnp.asarray, params)
        if axis_name is not None:
            params = _local(params, axis_name)

        def give(params: PyTree, *rows: Any) -> tuple[Any, Any]:
            return split(_NAME, loss(params, *rows, **shared), has_aux)

        def evaluate(params: PyTree, *rows: Any) -> tuple[dict[str, Mean], Any]:
            result, aux = give(params, *rows)
            return _named(result), aux

        first = jax.tree.map(lambda x: x[0], micro)
        alone = isinstance(jax.eval_shape(give, params, *first)[0], Mean)
        names, _ = jax.eval_shape(evaluate, params, *first)
        _check_weights(weights, names)
        check_summed_gradients(_NAME, "the loss", names, params, "Write `axis_name={axes}`.")
        zeros = {
            name: pcast_varying(jnp.zeros((), mean.total.dtype), vma_of(mean, micro, params))
            for name, mean in names.items()
        }
        gradients = jax.tree.map(
            lambda p: pcast_varying(
                jnp.zeros(p.shape, jnp.promote_types(p.dtype, jnp.float32)), vma(p)
            ),
            params,
        )
        if axis_name is not None:
            zeros, gradients = _local((zeros, gradients), axis_name)

        def add_weights(sums: Any, rows: Any) -> tuple[Any, None]:
            means, _ = evaluate(params, *rows)
            return {k: sums[k] + m.weight.astype(sums[k].dtype) for k, m in means.items()}, None

        denominators, _ = jax.lax.scan(add_weights, zeros, micro)
        if axis_name is not None:
            denominators = jax.lax.psum(denominators, axis_name)
        denominators = jax.lax.stop_gradient(denominators)

        def objective(totals: dict[str, Array]) -> tuple[Array, dict[str, Array]]:
            pairs = {k: Mean(totals[k], denominators[k]) for k in totals}
            return total({k: (m, (weights or {}).get(k, 1.0)) for k, m in pairs.items()}, step)

        # Linear in the totals: its slopes, w / W, are those of every micro-batch.
        slopes = jax.grad(lambda totals: objective(totals)[0])(jax.tree.map(jnp.zeros_like, zeros))

        def add_gradients(carry: PyTree, rows: Any) -> tuple[Any, Any]:
            totals, gradients = carry
            own, vjp_fn, aux = jax.vjp(lambda p: _totals(evaluate(p, *rows)), params, has_aux=True)
            (gradient,) = vjp_fn({k: (scale * slopes[k]).astype(own[k].dtype) for k in own})
            gradients = jax.tree.map(lambda a, g: a + g.astype(a.dtype), gradients, gradient)
            return (jax.tree.map(jnp.add, totals, own), gradients), aux

        (totals, gradients), aux = jax.lax.scan(add_gradients, (zeros, gradients), micro)
        if axis_name is not None:
            totals, gradients = jax.lax.psum((totals, gradients), axis_name)
        value, terms = objective(totals)
        gradients = jax.tree.map(lambda g, p: g.astype(p.dtype), gradients, params)
        value = value if alone else (value, terms)
        return (value, aux) if has_aux else value, gradients

    return value_and_grad


def _divided(batch: tuple[Any, ...], num_micro: int) -> tuple[Any, ...]:
    count = rows(_NAME, batch)
    if count % num_micro:
        message = (
            f"{_NAME}: {count} rows do not divide into {num_micro} micro-batches. Pad them to "
            f"{count + num_micro - count % num_micro}, and leave the padding out with `where`."
        )
        raise ValueError(message)
    size = count // num_micro
    return jax.tree.map(lambda x: jnp.reshape(x, (num_micro, size, *jnp.shape(x)[1:])), batch)


def _named(result: Any) -> dict[str, Mean]:
    """The terms of a loss, checked: undivided means of one number each."""
    named = result if isinstance(result, Mapping) else {"loss": result}
    for name, mean in named.items():
        what = f"the term {name!r}" if isinstance(result, Mapping) else "the loss"
        if not isinstance(mean, Mean):
            message = (
                f"{_NAME}: {what} is a {type(mean).__name__}, expected a `Mean`: once divided, "
                f'means cannot be merged. Write `reduction="parts"` in the loss.'
            )
            raise TypeError(message)
        shape = jnp.shape(mean.total), jnp.shape(mean.weight)
        if shape != ((), ()):
            message = (
                f"{_NAME}: {what} holds means of shape {shape[0]}, expected one mean. Merge them "
                f"exactly: write `jax.tree.map(jnp.sum, mean)`."
            )
            raise ValueError(message)
    return {name: jax.tree.map(_wide, mean) for name, mean in named.items()}


def _wide(x: Any) -> Array:
    """Half precision is added up in float32, as everywhere."""
    return jnp.asarray(x).astype(jnp.promote_types(jnp.result_type(x), jnp.float32))


def _totals(evaluated: tuple[dict[str, Mean], Any]) -> tuple[dict[str, Array], Any]:
    means, rest = evaluated
    return {name: mean.total for name, mean in means.items()}, rest


def _check_weights(weights: Mapping[str, Any] | None, names: Mapping[str, Any]) -> None:
    unknown = sorted(set(weights or {}) - set(names))
    if unknown:
        raise ValueError(f"{_NAME}: `weights` names {unknown}, expected some of {sorted(names)}.")


def _local(tree: PyTree, axis_name: str | tuple[str, ...]) -> Any:
    """The same numbers, as values that differ between devices as far as JAX knows.

    Otherwise the transpose inside `shard_map` would add up gradients over devices after every
    micro-batch. Minus zero is the neutral element of the sum.
    """
    zero = 0 * jax.lax.axis_index(axis_name)
    return jax.tree.map(lambda x: x + (-zero.astype(x.dtype)), tree)
