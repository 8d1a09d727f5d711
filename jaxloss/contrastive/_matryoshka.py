"""Matryoshka: a loss of the first entries of embeddings, for several numbers of entries."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp

from jaxloss._core.parameters import check_count
from jaxloss._core.reduction import Mean
from jaxloss._core.registry import info_of

_NAME = "jaxloss.contrastive.matryoshka"


def matryoshka(
    loss: Callable[..., Any],
    sizes: Sequence[int],
    weights: Sequence[float] | None = None,
) -> Callable[..., Any]:
    r"""A loss of embeddings as one that holds for their first entries too.

    $$\ell = \sum_k w_k\, \ell_0\bigl(x_{1 \dots m_k},\, z_{1 \dots m_k},\, \dots\bigr)$$

    Embeddings can then be cut to one of the sizes, where memory or time is short. Every argument
    whose last axis is `dim` is cut: queries and keys, negatives, prototypes. The whole embedding
    is one of the sizes only if it is named. A loss that normalizes does so after the cut.

    Args:
        loss: A loss of `jaxloss.contrastive`, or one of your own with an axis named `dim`.
        sizes: How many entries to keep, in any order.
        weights: The weight of each size; None for 1 each, as in sentence-transformers.

    Returns:
        A function with the arguments of the loss, and with its reductions.

    Raises:
        TypeError: If the loss has no argument whose last axis is `dim`.
        ValueError: If a size is below 1 or, when called, above the dimension; or if the weights
            are not as many as the sizes.

    Example:
        >>> from jaxloss.contrastive import info_nce
        >>> nested = matryoshka(info_nce, [1, 2])
        >>> nested([[1.0, 0.0], [0.0, 2.0]], [[1.0, 0.0], [0.0, 1.0]], temperature=1.0)
        Array([0.6265234, 1.0064089], dtype=float32)

    References:
        Kusupati et al., *Matryoshka Representation Learning*, 2022.
    """
    info = info_of(loss)
    specs = {} if info is None else info.spec.array_specs
    names = [n for n, forms in specs.items() if all(f.event[-1:] == ("dim",) for f in forms)]
    if info is None or not names:
        given = getattr(loss, "__name__", repr(loss))
        message = f"{_NAME}: {given} has no argument whose last axis is `dim`, as embeddings have."
        raise TypeError(message)
    sizes = [check_count(_NAME, "sizes", size) for size in sizes]
    factors = [1.0] * len(sizes) if weights is None else [*weights]
    if not sizes or len(factors) != len(sizes):
        message = f"{_NAME}: `weights` has {len(factors)} entries, expected one for each size"
        raise ValueError(f"{message} of `sizes`, of which there are {len(sizes)}.")

    def cut(name: str, x: Any, size: int) -> Any:
        if name not in names or x is None:
            return x
        array = jnp.asarray(x)
        if array.shape[-1:] < (size,):
            message = f"{_NAME}: `{name}` has shape {array.shape}, but `sizes` holds {size}."
            raise ValueError(message)
        return array[..., :size]

    @functools.wraps(loss)
    def nested(*args: Any, **kwargs: Any) -> Any:
        total = None
        for size, factor in zip(sizes, factors, strict=True):
            of_data = [cut(n, x, size) for n, x in zip(info.data, args, strict=False)]
            of_data += args[len(info.data) :]
            value = loss(*of_data, **{n: cut(n, x, size) for n, x in kwargs.items()})
            if isinstance(value, Mean):
                before = 0 if total is None else total.total
                total = Mean(before + factor * value.total, value.weight)
            else:
                total = factor * value if total is None else total + factor * value
        return total

    return nested
