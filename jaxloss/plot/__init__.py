"""Pictures, each drawn from the function and its `jax.grad`: nothing is drawn from a formula.

`curve` and `compare` show what a loss does to an error, `section` any function along a line,
`influence` what an outlier does to a fit, `slider` an option under one's thumb; `landscape`,
`terms` and `calibration` show training. They return axes, accept `ax=`, and never call `plt.show`.
matplotlib (`pip install 'jaxloss[plot]'`) is imported when something is drawn; `slider` does
without.
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
