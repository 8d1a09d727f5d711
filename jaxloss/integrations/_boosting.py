"""A loss as objective and metric of gradient boosting."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxloss import traits
from jaxloss._core.registry import LossInfo
from jaxloss.integrations._common import as_declared, entry

__all__ = ["Boosting", "boosting"]


class Derivatives(NamedTuple):
    """Of each example: the gradient, and the diagonal of the Hessian, in the raw prediction."""

    gradient: np.ndarray
    curvature: np.ndarray


def _diagonal(gradient: Callable[[Array], Array], x: Array, *, event: bool) -> Array:
    """The diagonal of the Hessian of a sum over examples: with classes, one product for each."""

    def product(direction):
        return jax.jvp(gradient, (x,), (direction,))[1]

    def of_class(k):
        return product(jnp.zeros_like(x).at[..., k].set(1))[..., k]

    if not event:
        return product(jnp.ones_like(x))
    return jnp.moveaxis(jax.lax.map(of_class, jnp.arange(x.shape[-1])), 0, -1)


class Boosting:
    """Objectives and metrics of one loss, in the form that each library calls; made by `boosting`.

    Attributes:
        name: The name of the loss.
    """

    def __init__(
        self, info: LossInfo, options: dict[str, Any], floor: float, constant: float | None
    ):
        self.name = info.name
        self._info, self._loss = info, functools.partial(info.function, **options)
        self._event = bool(info.spec.array_specs[info.data[0]][0].event)
        self._floor, self._constant = floor, constant
        self._derivatives = jax.jit(self._of_arrays)
        self._mean = jax.jit(
            lambda prediction, target, weights: self._loss(
                *as_declared(info, prediction, target), weights=weights, reduction="mean"
            )
        )

    def _of_arrays(self, prediction: Array, target: Array, weights: Array) -> tuple[Array, Array]:
        x, target = as_declared(self._info, prediction, target)
        gradient = jax.grad(lambda x: jnp.sum(self._loss(x, target, reduction="none")))
        if self._constant is None:
            curvature = jnp.maximum(_diagonal(gradient, x, event=self._event), self._floor)
        else:
            curvature = jnp.full_like(x, self._constant)
        weights = weights[:, None] if self._event else weights
        shape = prediction.shape
        return (weights * gradient(x)).reshape(shape), (weights * curvature).reshape(shape)

    def _arrays(self, prediction: Any, target: Any, weights: Any) -> tuple[np.ndarray, ...]:
        prediction = np.asarray(prediction)
        if prediction.dtype.kind != "f":
            prediction = prediction.astype(np.float32)
        if self._event and prediction.ndim == 1:
            raise ValueError(
                f"jaxloss.integrations.boosting: {self.name} has a class axis, but the model "
                "has one output: set the number of classes (num_class, classes_count)."
            )
        if weights is None or np.size(weights) == 0:
            weights = np.ones(len(prediction), np.float32)
        return prediction, np.asarray(target), np.asarray(weights, np.float32)

    def derivatives(self, prediction: Any, target: Any, weights: Any = None) -> Derivatives:
        """Gradient and second derivative of each example, times its weight, as NumPy arrays."""
        both = self._derivatives(*self._arrays(prediction, target, weights))
        return Derivatives(*map(np.asarray, both))

    def mean(self, prediction: Any, target: Any, weights: Any = None) -> float:
        """The weighted mean of the loss."""
        return float(self._mean(*self._arrays(prediction, target, weights)))

    def sklearn(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Derivatives:
        """The objective of `XGBRegressor(objective=...)` and `LGBMRegressor(objective=...)`."""
        return self.derivatives(y_pred, y_true, sample_weight)

    def dataset(self, preds: np.ndarray, data: Any) -> Derivatives:
        """The objective of `xgboost.train(obj=...)`, and of LightGBM's `params["objective"]`."""
        return self.derivatives(preds, data.get_label(), data.get_weight())

    def xgboost_metric(self, preds: np.ndarray, data: Any) -> tuple[str, float]:
        """`custom_metric` of `xgboost.train`."""
        return self.name, self.mean(preds, data.get_label(), data.get_weight())

    def lightgbm_metric(self, preds: np.ndarray, data: Any) -> tuple[str, float, bool]:
        """`feval` of `lightgbm.train`; a smaller value is better."""
        return self.name, self.mean(preds, data.get_label(), data.get_weight()), False

    @property
    def catboost(self) -> "CatBoostObjective":
        """`loss_function` and `eval_metric` of CatBoost."""
        return CatBoostObjective(self)


class CatBoostObjective:
    """What CatBoost asks of an objective and of a metric; its derivatives are those of minus it."""

    def __init__(self, objective: Boosting):
        self._objective = objective

    def calc_ders_range(
        self, approxes: Any, targets: Any, weights: Any
    ) -> list[tuple[float, float]]:
        """Minus first and second derivative of each example."""
        weights = None if weights is None else np.asarray(weights)
        got = self._objective.derivatives(np.asarray(approxes), np.asarray(targets), weights)
        return list(zip((-got.gradient).tolist(), (-got.curvature).tolist(), strict=True))

    def calc_ders_multi(
        self, approxes: Any, target: float, weight: float
    ) -> tuple[list[float], list[list[float]]]:
        """Minus the gradient and the diagonal of the Hessian, of one example with classes."""
        got = self._objective.derivatives(np.asarray(approxes)[None], [target], [weight])
        return (-got.gradient[0]).tolist(), np.diag(-got.curvature[0]).tolist()

    def is_max_optimal(self) -> bool:
        """A smaller value is better."""
        return False

    def evaluate(self, approxes: Any, target: Any, weight: Any) -> tuple[float, float]:
        """The weighted sum of the loss, and the sum of the weights."""
        scores = np.stack([np.asarray(x) for x in approxes], axis=-1)
        scores = scores[:, 0] if scores.shape[-1] == 1 else scores
        weight = np.ones(len(scores)) if weight is None else np.asarray(weight)
        total = float(np.sum(weight))
        return self._objective.mean(scores, np.asarray(target), weight) * total, total

    def get_final_error(self, error: float, weight: float) -> float:
        """The mean."""
        return error / weight if weight else 0.0


def boosting(
    loss: Callable[..., Any],
    *,
    floor: float = 1e-6,
    curvature: float | None = None,
    **options: Any,
) -> Boosting:
    """Objective and metric for gradient boosting: exact derivatives of any loss, compiled once.

    XGBoost, LightGBM and CatBoost take a Newton step in each leaf, minus the sum of gradients over
    the sum of second derivatives. Both are those of the loss by automatic differentiation, of each
    example, times its weight; with classes the second derivative is the diagonal of the Hessian.
    Arrays of NumPy go in and out.

    Where a loss is not convex a second derivative can be negative, and the step would go uphill: it
    is raised to `floor`. Where a loss is piecewise linear (`pinball`, `absolute_error`, `hinge`) it
    is 0 everywhere, and Newton's step does not exist. For a loss that does not claim to be smooth
    a constant of 1 takes its place, and boosting is gradient descent.
    A smooth loss can be linear in part, as `huber` is beyond delta: the step of a leaf that holds
    such examples alone is its gradient over `floor`. Give `curvature=`, or a least sum of second
    derivatives to the library (`min_child_weight`, `min_sum_hessian_in_leaf`).

    When to use: A boosted model whose loss the library does not have. Predictions are raw: logits,
    not probabilities. A custom objective starts from 0 and has no link function: set `base_score=0`
    in XGBoost, and apply the sigmoid or softmax to what `predict` returns.

    Args:
        loss: A loss of one prediction and one target, elementwise or with one class axis.
        floor: The least second derivative.
        curvature: A constant in place of the second derivative; None for the exact one, or 1 if
            the loss does not claim to be smooth.
        **options: Options of the loss.

    Returns:
        A `Boosting`: `.sklearn(y_true, y_pred, sample_weight)` and `.dataset(preds, data)` are the
        objectives of XGBoost and LightGBM in their two interfaces, `.xgboost_metric` and
        `.lightgbm_metric` the metrics, `.catboost` both for CatBoost.

    Raises:
        TypeError: If `loss` is no loss of one prediction and one target, or has no such option.

    Example:
        >>> import jaxloss as jl
        >>> objective = jl.integrations.boosting(jl.classification.sigmoid_focal, gamma=2.0)
        >>> gradient, curvature = objective.sklearn([0, 1], [0.0, 3.0])
        >>> gradient.round(3), curvature.round(3)
        (array([ 0.298, -0.   ], dtype=float32), array([0.399, 0.001], dtype=float32))
    """
    info = entry(loss, options, of="boosting")
    if floor < 0 or (curvature is not None and curvature <= 0):
        raise ValueError(
            f"jaxloss.integrations.boosting: `floor` is {floor} and `curvature` is {curvature}, "
            "expected numbers of at least 0 and above 0."
        )
    if curvature is None and info.family and traits.smooth not in info.traits:
        curvature = 1.0
    return Boosting(info, options, floor, curvature)
