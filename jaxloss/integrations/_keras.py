"""A loss as a loss of Keras."""

import importlib
from collections.abc import Callable
from typing import Any

from jaxloss.integrations._common import entry, imported

__all__ = ["keras", "keras_objects"]


def keras(
    loss: Callable[..., Any],
    *,
    reduction: str = "sum_over_batch_size",
    name: str | None = None,
    dtype: Any = None,
    **options: Any,
) -> Any:
    """Loss for `model.compile` of Keras 3 on JAX: any loss of one prediction and one target.

    Keras calls a loss with the target first, carries class ids as floats, and gives weights and
    masks of its own; the returned object translates all of it. A masked entry has value and
    gradient 0 whatever the prediction holds there. Losses of several numbers an example (an image,
    a vector) are averaged over the last axis first, as the losses of Keras are. The object is
    saved with the model by name and options; `keras_objects` is what loading the model needs.

    When to use: A model in Keras whose loss Keras does not have, or has inexactly.

    Args:
        loss: A loss of the catalogue, or one's own under `@jaxloss.loss`.
        reduction: That of Keras: "sum_over_batch_size" divides by the number of values, as its own
            losses do; "mean_with_sample_weight" by the sum of the weights, as jaxloss does.
        name: Its name in logs; by default that of the loss.
        dtype: What the inputs are cast to first; by default float32, also under a policy of mixed
            precision.
        **options: Options of the loss.

    Returns:
        A `keras.losses.Loss`.

    Raises:
        ModuleNotFoundError: If Keras 3 is not installed.
        RuntimeError: If Keras runs on another backend than JAX.
        TypeError: If `loss` is no loss of one prediction and one target, or has no such option.

    Example:
        >>> loss = jl.integrations.keras(jl.robust.welsch, scale=2.0)  # doctest: +SKIP
        >>> model.compile("adam", loss=loss)  # doctest: +SKIP
    """
    _check_keras()
    info = entry(loss, options, of="keras")
    return _class_of_keras()(info.name, options, reduction=reduction, name=name, dtype=dtype)


def keras_objects() -> dict[str, Any]:
    """Custom objects with which `keras.models.load_model` reads a model with a loss of jaxloss.

    Returns:
        What `load_model(path, custom_objects=jaxloss.integrations.keras_objects())` takes.

    Raises:
        ModuleNotFoundError: If Keras 3 is not installed.
        RuntimeError: If Keras runs on another backend than JAX.

    Example:
        >>> objects = jl.integrations.keras_objects()  # doctest: +SKIP
        >>> model = keras.models.load_model(path, custom_objects=objects)  # doctest: +SKIP
    """
    _check_keras()
    return {"jaxloss>JaxLoss": _class_of_keras()}


def _class_of_keras() -> Any:
    """The subclass of `keras.losses.Loss`; the file that defines it imports Keras."""
    return importlib.import_module("jaxloss.integrations._keras_loss").JaxLoss


def _check_keras() -> None:
    """Raises unless Keras is here, on JAX."""
    backend = imported("keras", of="keras", package="keras").backend.backend()
    if backend != "jax":
        raise RuntimeError(
            f"jaxloss.integrations.keras: Keras runs on {backend!r}, expected 'jax': set the "
            'environment variable KERAS_BACKEND="jax" before keras is imported.'
        )
