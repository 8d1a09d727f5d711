r"""Generative: losses of diffusion, flows, autoencoders and adversarial pairs.

A noise level is given by $\lambda$, the log of the signal-to-noise ratio $\alpha^2 / \sigma^2$ of
$z = \alpha x + \sigma \epsilon$. All weights are functions of it, so that no square of a small
$\sigma$ is divided by.

Penalties on the slope of a discriminator take functions, and are no losses of arrays: `r1`, `r2`,
`wgan_gp`. They return one number an example, for `jaxloss.mean`.

MeanFlow (Geng et al., 2025) predicts the mean velocity $u(z, r, t)$ between two times, so that one
step samples. Its target holds the derivative of the network along the path, which is one `jvp`. Of
one example, with a time that runs from the sample, at 0, to noise, at 1:

```python
def mean_flow(network, sample, noise, r, t):
    z = (1 - t) * sample + t * noise
    velocity = jaxloss.generative.flow_to_noise(sample, noise)
    along = velocity, jnp.zeros_like(r), jnp.ones_like(t)
    u, change = jax.jvp(network, (z, r, t), along)
    target = jax.lax.stop_gradient(velocity - (t - r) * change)
    return jaxloss.generative.denoising(u, target)
```
"""

from jaxloss._core.namespace import public_names

# The catalogue lists the losses in this order, the order of teaching.
# isort: off
from jaxloss.generative._diffusion import (
    denoising,
    edm_weight,
    flow_to_noise,
    flow_to_sample,
    masked_diffusion,
    min_snr_weight,
    p2_weight,
    sigmoid_weight,
    velocity,
)
from jaxloss.generative._latents import gaussian_vae_kl, vector_quantization
from jaxloss.generative._adversarial import (
    hinge_discriminator,
    hinge_generator,
    least_squares_discriminator,
    least_squares_generator,
    lecam,
    non_saturating_discriminator,
    non_saturating_generator,
    wasserstein_discriminator,
    wasserstein_generator,
)
from jaxloss.generative._slopes import r1, r2, wgan_gp

HELPERS = [  # public, but not losses
    "edm_weight",
    "flow_to_noise",
    "flow_to_sample",
    "min_snr_weight",
    "p2_weight",
    "r1",
    "r2",
    "sigmoid_weight",
    "velocity",
    "wgan_gp",
]

__all__ = [
    "denoising",
    "edm_weight",
    "flow_to_noise",
    "flow_to_sample",
    "gaussian_vae_kl",
    "hinge_discriminator",
    "hinge_generator",
    "least_squares_discriminator",
    "least_squares_generator",
    "lecam",
    "masked_diffusion",
    "min_snr_weight",
    "non_saturating_discriminator",
    "non_saturating_generator",
    "p2_weight",
    "r1",
    "r2",
    "sigmoid_weight",
    "vector_quantization",
    "velocity",
    "wasserstein_discriminator",
    "wasserstein_generator",
    "wgan_gp",
]

__getattr__, __dir__ = public_names(__name__, __all__)
