r"""Robust losses: regression where outliers must not decide the fit, and may be ignored.

They are elementwise functions of $z = e / s$, the error `prediction - target` over `scale`. Near 0
each is $\frac12 z^2$: at the same scale one can replace another, and only the tails differ.
`charbonnier` grows linearly and `cauchy` logarithmically; `geman_mcclure`, `welsch` and `tukey` are
bounded, and the gradient of an error far beyond the scale vanishes. `barron` has a parameter alpha
for the tail, which may be learned; the others except `tukey` are special cases of it.

The more an outlier is downweighted, the less convex is the problem: start from the fit of a convex
loss, or lower alpha slowly. If the scale is learned too, add the normalizer of the likelihood: the
loss alone is smallest at an infinite scale.
"""

from jaxloss._core.namespace import public_names

# The catalogue lists the losses in this order, in which they are taught.
# isort: off
from jaxloss.robust._named import charbonnier, cauchy, geman_mcclure, welsch, tukey
from jaxloss.robust._barron import barron

__all__ = ["barron", "cauchy", "charbonnier", "geman_mcclure", "tukey", "welsch"]

__getattr__, __dir__ = public_names(__name__, __all__)
