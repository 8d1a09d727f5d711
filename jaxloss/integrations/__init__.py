"""Integrations: any loss in the tools that people train with.

`keras` makes a loss for `model.compile`, `boosting` the objective and the metric of XGBoost,
LightGBM and CatBoost, `scorer` a score for the model selection of scikit-learn, and `scipy` an
objective for `scipy.optimize.minimize`. Each takes a loss of the catalogue, or one's own under
`@jaxloss.loss`, and its options. The other library is imported when the function is called.
"""

from jaxloss._core.namespace import public_names
from jaxloss.integrations._boosting import Boosting, boosting
from jaxloss.integrations._keras import keras, keras_objects
from jaxloss.integrations._scipy import Objective, scipy
from jaxloss.integrations._sklearn import scorer

__all__ = ["Boosting", "Objective", "boosting", "keras", "keras_objects", "scipy", "scorer"]

__getattr__, __dir__ = public_names(__name__, __all__)
