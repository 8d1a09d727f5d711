"""A loss as a score of scikit-learn."""

from collections.abc import Callable
from typing import Any

import numpy as np

from jaxloss.integrations._common import as_declared, entry, imported

__all__ = ["scorer"]


def scorer(loss: Callable[..., Any], *, response: str = "predict", **options: Any) -> Any:
    """Scorer of scikit-learn: minus the mean of a loss, so that a greater score is better.

    Sample weights are those of the mean, `sum(w * l) / sum(w)`, and reach the scorer as
    scikit-learn routes them.

    When to use: To select or compare models of scikit-learn by the loss that matters, in
    `cross_val_score`, `GridSearchCV` and their kin.

    Args:
        loss: A loss of one prediction and one target.
        response: What of the model is the prediction: "predict", "predict_proba" (of two classes
            the probability of the second) or "decision_function".
        **options: Options of the loss.

    Returns:
        A callable `(estimator, X, y, sample_weight=None) -> float`.

    Raises:
        ModuleNotFoundError: If scikit-learn is not installed.
        TypeError: If `loss` is no loss of one prediction and one target, or has no such option.

    Example:
        >>> import numpy as np
        >>> from sklearn.linear_model import QuantileRegressor
        >>> from sklearn.model_selection import cross_val_score
        >>> import jaxloss as jl
        >>> x = np.linspace(0, 1, 60)[:, None]
        >>> score = jl.integrations.scorer(jl.regression.pinball, level=0.9)
        >>> model = QuantileRegressor(quantile=0.9, alpha=0)
        >>> scores = cross_val_score(model, x, 3 * x[:, 0], scoring=score)
        >>> bool(scores.max() < 1e-6)
        True
    """
    metrics = imported("sklearn.metrics", of="scorer", package="scikit-learn")
    info = entry(loss, options, of="scorer")

    def mean_loss(y_true: Any, y_pred: Any, sample_weight: Any = None) -> float:
        prediction, target = as_declared(info, np.asarray(y_pred), np.asarray(y_true))
        mean = loss(prediction, target, **options, weights=sample_weight, reduction="mean")
        return float(mean)

    mean_loss.__name__ = info.name
    return metrics.make_scorer(mean_loss, greater_is_better=False, response_method=response)
