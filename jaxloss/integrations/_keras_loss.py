"""The class of Keras behind `integrations.keras`; importing this file imports Keras."""

import importlib
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxloss._core.registry import all_losses
from jaxloss.integrations._common import as_declared

keras = importlib.import_module("keras")  # not a dependency


@keras.saving.register_keras_serializable(package="jaxloss")
class JaxLoss(keras.losses.Loss):
    """A loss of jaxloss by name and options, which is how it is saved."""

    def __init__(
        self,
        loss: str,
        options: Mapping[str, Any],
        *,
        reduction: str = "sum_over_batch_size",
        name: str | None = None,
        dtype: Any = None,
    ):
        known = {info.name: info for info in all_losses()}
        if loss not in known:
            raise ValueError(
                f"jaxloss.integrations.keras: there is no loss {loss!r}. If it is your own, import "
                "the module that defines it before the model is loaded."
            )
        super().__init__(name=name or loss.split(".")[-1], reduction=reduction, dtype=dtype)
        self._info, self._options = known[loss], dict(options)

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """The reduced loss; with the mask beside the target, `call` sees it."""
        mask = getattr(y_pred, "_keras_mask", None)
        target = y_true if mask is None else (y_true, mask)
        return super().__call__(target, y_pred, sample_weight)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """One value for each example or position."""
        target, mask = y_true if isinstance(y_true, tuple) else (y_true, None)
        prediction, target = as_declared(self._info, y_pred, target)
        event = len(self._info.spec.array_specs[self._info.data[0]][0].event)
        where = None
        if mask is not None:
            shape = prediction.shape[: prediction.ndim - event]
            where = jnp.expand_dims(mask > 0, tuple(range(mask.ndim, len(shape))))
            where = jnp.broadcast_to(where, shape)
        values = self._info.function(
            prediction, target, **self._options, where=where, reduction="none"
        )
        return jnp.mean(values, axis=-1) if event == 0 and values.ndim > 1 else values

    def get_config(self) -> dict[str, Any]:
        """Name and options; arrays among them as lists."""
        plain = {
            n: v if isinstance(v, str | int | float | None) else np.asarray(v).tolist()
            for n, v in self._options.items()
        }
        config = {"loss": self._info.name, "options": plain, "dtype": self.dtype}
        return super().get_config() | config
