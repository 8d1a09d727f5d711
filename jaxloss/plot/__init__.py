"""Plots of losses and of training, computed from the function and its `jax.grad`.

`curve` and `compare` plot losses as functions of an error, `section` any function along a line,
`influence` the effect of one observation on a fit, `slider` the effect of an option; `landscape`,
`terms` and `calibration` show training. They return axes, accept `ax=`, and never call `plt.show`.
matplotlib (`pip install 'jaxloss[plot]'`) is imported when something is drawn; `slider` does not
need it.
"""

from jaxloss._core.namespace import public_names
from jaxloss.plot._curves import compare, curve, influence, section
from jaxloss.plot._interactive import Slider, slider
from jaxloss.plot._training import calibration, landscape, terms

__all__ = [
    "Slider",
    "calibration",
    "compare",
    "curve",
    "influence",
    "landscape",
    "section",
    "slider",
    "terms",
]

__getattr__, __dir__ = public_names(__name__, __all__)
