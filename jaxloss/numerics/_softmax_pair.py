r"""Two softmaxes, class by class: what a divergence needs of each class and of each row.

The sums of a row are those of the exponentials of both logits, each without the 1 of one largest
logit, and the difference of the two sums, added up from the differences of the classes. From that
difference $\log(q / p)$ has all its digits where both logits are close, so that
$KL(q \| p) = \sum_k q_k (e^{-r_k} - 1 + r_k)$ with $r = \log(q / p)$ has them too: no term is
negative, and an error of all $r_k$ changes the sum by its square alone. All sums can be added up
over blocks of classes, and over devices, relative to the largest logit so far.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from jaxloss._memory.mesh import pcast_varying, vma
from jaxloss._xla import each_on_gpu
from jaxloss.numerics._double_double import DD, exp_dd, expm1, two_quotient, two_sum
from jaxloss.numerics._online_pair import pair_sums
from jaxloss.numerics._reductions import fused_sums, in_one_reduction
from jaxloss.numerics._special import expm1_minus_x


def top_of(logits: Array) -> Array:
    """The largest logit of each row, without derivative."""
    return lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True, initial=-jnp.inf))


def below(logits: Array, top: Array) -> DD:
    """Logits less the largest."""
    return two_sum(logits, -jnp.where(jnp.isfinite(top), top, 0))


def over(below: DD, logits: Array, temperature: Array | None, top: Array) -> DD:
    """Logits less the largest, over the temperature."""
    scaled = below
    if temperature is not None:
        finite = jnp.abs(below.hi) < jnp.inf  # an infinity does not depend on the temperature
        scaled = two_quotient(jnp.where(finite, below.hi, 0), temperature)
        hi = jnp.where(finite, scaled.hi, below.hi)
        scaled = DD(hi, scaled.lo + below.lo / temperature)
    with_infinity = jnp.where(logits < jnp.inf, -jnp.inf, jnp.where(logits == jnp.inf, 0, logits))
    return DD(jnp.where(top < jnp.inf, scaled.hi, with_infinity), scaled.lo)


class Elements(NamedTuple):
    """What is known of a class from both logits and the largest of their rows.

    Attributes:
        x: The exponent of p.
        z: The exponent of q.
        exp_x: exp(x).
        exp_z: exp(z).
        shift: z - x, from the logits; 0 where they are not close.
        impossible: Whether q is 0, because its logit is -inf.
        is_close: Whether |z - x| is below 1/2, or p is 0 too where q is.
    """

    x: DD
    z: DD
    exp_x: Array
    exp_z: Array
    shift: Array
    impossible: Array
    is_close: Array


def elements_of(
    logits: Array, target_logits: Array, temperature: Array | None, tops: tuple[Array, Array]
) -> Elements:
    """What is known of each class, relative to the largest logits of its row."""
    # All of it depends on the tops, so that each pass over the classes computes it again.
    below_x, below_z = (below(*each) for each in zip((logits, target_logits), tops, strict=True))
    x = over(below_x, logits, temperature, tops[0])
    z = over(below_z, target_logits, temperature, tops[1])
    finite = (jnp.abs(below_x.hi) < jnp.inf) & (jnp.abs(below_z.hi) < jnp.inf)
    below_x, below_z = (DD(jnp.where(finite, b.hi, 0), b.lo) for b in (below_x, below_z))
    shift = below_z - below_x
    shift = shift.hi + shift.lo
    if temperature is not None:
        shift = shift / temperature
    near = finite & (jnp.abs(shift) < 0.5)
    # Beside a logit of inf, a finite one has no chance, however close it is to the other's.
    near = near & (tops[0] < jnp.inf) & (tops[1] < jnp.inf)
    impossible = z.hi == -jnp.inf
    return Elements(
        x,
        z,
        exp_dd(x),
        exp_dd(z),
        jnp.where(near, shift, 0),
        impossible,
        near | impossible & (x.hi == -jnp.inf),
    )


def kl_terms(p: Array, q: Array, logs: Array, impossible: Array) -> Array:
    """The terms of the divergence, each with p - q more: not negative."""
    is_small = (jnp.abs(logs) < 1) & ~impossible
    near = q * expm1_minus_x(-jnp.where(is_small, logs, 0))
    return jnp.where(is_small, near, jnp.where(q == 0, 0, q * logs) + (p - q))


def difference_of(p: Array, q: Array, log_ratio: Array) -> Array:
    """p - q, where log_ratio is log(q / p)."""
    is_small = (jnp.abs(log_ratio) < 1) & (q > 0)
    return jnp.where(is_small, q * expm1(jnp.where(is_small, -log_ratio, 0)), p - q)


def difference_of_exps(e: Elements) -> Array:
    """exp(x) - exp(z), with all digits where they are close."""
    return jnp.where(e.is_close, e.exp_z * expm1(-e.shift), e.exp_x - e.exp_z)


class Normalizers(NamedTuple):
    """The sums of two rows of logits over some classes; each of shape (rows,).

    Attributes:
        top_x: The largest logit of p; not differentiated.
        top_z: That of q.
        rest_x: The sum of exp((x - top_x) / temperature), without the 1 of one largest logit.
        rest_z: That of q.
        excess: The sum of the exponentials of p less that of q.
        z_at_top: The logit of q at the largest of p, the largest of several; not differentiated.
        x_at_top: The logit of p at the largest of q.
        temperature: The temperature, or None for 1.
    """

    top_x: Array
    top_z: Array
    rest_x: Array
    rest_z: Array
    excess: Array
    z_at_top: Array
    x_at_top: Array
    temperature: Array | None

    def relative_to(self, top_x: Array, top_z: Array) -> "Normalizers":
        """The sums relative to tops that are not smaller; `rest` where these are not its own."""
        e = elements_of(self.top_x, self.top_z, self.temperature, (top_x, top_z))
        total_x, total_z = (
            jnp.where(top == -jnp.inf, 0, 1 + rest)
            for top, rest in ((self.top_x, self.rest_x), (self.top_z, self.rest_z))
        )
        near = e.exp_x * self.excess + difference_of_exps(e) * total_z
        # Not from the excess of the part, which is rounded, where its two scales differ.
        excess = jnp.where(e.is_close, near, e.exp_x * total_x - e.exp_z * total_z)
        rest_x = jnp.where(self.top_x == top_x, self.rest_x, e.exp_x * (1 + self.rest_x))
        rest_z = jnp.where(self.top_z == top_z, self.rest_z, e.exp_z * (1 + self.rest_z))
        return self._replace(
            top_x=top_x,
            top_z=top_z,
            rest_x=rest_x,
            rest_z=rest_z,
            excess=excess,
            z_at_top=jnp.where(self.top_x == top_x, self.z_at_top, -jnp.inf),
            x_at_top=jnp.where(self.top_z == top_z, self.x_at_top, -jnp.inf),
        )

    def merge(self, other: "Normalizers") -> "Normalizers":
        """The sums over the classes of both."""
        top_x, top_z = (jnp.maximum(*tops) for tops in zip(self[:2], other[:2], strict=True))
        a, b = self.relative_to(top_x, top_z), other.relative_to(top_x, top_z)
        # Of two largest logits one is left out.
        ties_x, ties_z = (
            ((one == another) & (one > -jnp.inf)).astype(one.dtype)
            for one, another in zip(self[:2], other[:2], strict=True)
        )
        return a._replace(
            rest_x=a.rest_x + b.rest_x + ties_x,
            rest_z=a.rest_z + b.rest_z + ties_z,
            excess=a.excess + b.excess,
            z_at_top=jnp.maximum(a.z_at_top, b.z_at_top),
            x_at_top=jnp.maximum(a.x_at_top, b.x_at_top),
        )

    def psum(self, axis_name: str | tuple[str, ...]) -> "Normalizers":
        """The sums over the classes of all devices."""
        top_x, top_z = lax.pmax(lax.stop_gradient((self.top_x, self.top_z)), axis_name)
        here = self.relative_to(*pcast_varying((top_x, top_z), vma(self.top_x)))
        z_at_top, x_at_top = lax.pmax(lax.stop_gradient((here.z_at_top, here.x_at_top)), axis_name)
        ties = [
            ((own == top) & (top > -jnp.inf)).astype(top.dtype)
            for own, top in ((self.top_x, here.top_x), (self.top_z, here.top_z))
        ]
        sums = here.rest_x, here.rest_z, here.excess, *ties
        rest_x, rest_z, excess, ties_x, ties_z = lax.psum(sums, axis_name)
        return Normalizers(
            top_x,
            top_z,
            rest_x + jnp.maximum(ties_x - 1, 0),  # of several largest logits one is left out
            rest_z + jnp.maximum(ties_z - 1, 0),
            excess,
            z_at_top,
            x_at_top,
            self.temperature,
        )

    def anchored(self) -> tuple[Array, Array]:
        """What the second pass needs: the tops."""
        return self.top_x, self.top_z

    def variables(self) -> "Normalizers":
        """The entries of which derivatives are taken."""
        return self._replace(top_x=None, top_z=None, z_at_top=None, x_at_top=None, temperature=None)

    def tangents(self, found: "Normalizers", zeros: "Normalizers") -> "Normalizers":
        """The tangents, from those of the variables."""
        return zeros._replace(rest_x=found.rest_x, rest_z=found.rest_z, excess=found.excess)


def normalizers_of(
    x: Array, z: Array, temperature: Array | None, tops: tuple[Array, Array] | None = None
) -> Normalizers:
    """The sums of some classes, relative to their own largest logits or to given ones."""
    if tops is None:
        tops = top_of(x)[..., 0], top_of(z)[..., 0]
    e = elements_of(x, z, temperature, (tops[0][..., None], tops[1][..., None]))

    def rest(exponent: DD, exp: Array) -> Array:
        # At the top, exp - 1 is 0 and has the derivative of exp.
        is_top = exponent.hi == 0
        ties = jnp.sum(is_top, axis=-1, dtype=exp.dtype)
        return jnp.sum(jnp.where(is_top, exp - 1, exp), axis=-1) + jnp.maximum(ties - 1, 0)

    def at_top(exponent: DD, other: Array) -> Array:
        return top_of(jnp.where(exponent.hi == 0, other, -jnp.inf))[..., 0]

    return Normalizers(
        *tops,
        rest(e.x, e.exp_x),
        rest(e.z, e.exp_z),
        jnp.sum(difference_of_exps(e), axis=-1),
        at_top(e.x, z),
        at_top(e.z, x),
        None if temperature is None else jnp.broadcast_to(temperature, tops[0].shape),
    )


def _normalizers_by_passes(
    logits: Array, target_logits: Array, temperature: Array | None
) -> Normalizers:
    """Both logits are read for the largest, and once more for the sums."""
    # Both at once: else XLA on GPU reads the second for its top with sums that need the first.
    *copies, tops = each_on_gpu((top_of(logits), top_of(target_logits)), 8)
    e = [elements_of(logits, target_logits, temperature, each) for each in copies]
    # The sum over all but one largest exponential keeps the tiny of 1 + tiny. At the top, exp - 1
    # is 0 and has the derivative of exp.
    below_x, ties_x, below_z, ties_z, excess = fused_sums(
        jnp.where(e[0].x.hi == 0, e[0].exp_x - 1, e[0].exp_x),
        (e[1].x.hi == 0).astype(logits.dtype),
        jnp.where(e[2].z.hi == 0, e[2].exp_z - 1, e[2].exp_z),
        (e[3].z.hi == 0).astype(logits.dtype),
        difference_of_exps(e[4]),
    )
    top_x, top_z = (top[..., 0] for top in tops)
    return Normalizers(
        top_x,
        top_z,
        below_x + jnp.maximum(ties_x - 1, 0),
        below_z + jnp.maximum(ties_z - 1, 0),
        excess,
        top_of(jnp.where(e[5].x.hi == 0, target_logits, -jnp.inf))[..., 0],
        top_of(jnp.where(e[6].z.hi == 0, logits, -jnp.inf))[..., 0],
        temperature,
    )


def _over(x: Array, temperature: Array) -> DD:
    """x over the temperature; an infinity does not depend on it.

    Of quotients beyond the largest number the low-order word is x, which has their order.
    """
    largest = float(jnp.finfo(x.dtype).max)
    is_finite = jnp.abs(x) < jnp.inf
    scaled = two_quotient(jnp.where(is_finite, x, 0), temperature)
    is_large = jnp.abs(scaled.hi) >= largest
    hi = jnp.where(is_finite, jnp.clip(scaled.hi, -largest, largest), x)
    return DD(hi, jnp.where(is_finite & is_large, lax.stop_gradient(x), scaled.lo))


def _normalizers_online(
    logits: Array, target_logits: Array, temperature: Array | None
) -> Normalizers:
    x, z, more = logits, target_logits, (target_logits, logits)
    if temperature is None:
        s = pair_sums(x, z, more)
        top_x, top_z = s.top_x, s.top_z
    else:
        s = pair_sums(_over(x, temperature), _over(z, temperature), more)
        top_x, top_z = top_of(x)[..., 0], top_of(z)[..., 0]
    z_at_top, x_at_top = s.more
    return Normalizers(top_x, top_z, s.rest_x, s.rest_z, s.excess, z_at_top, x_at_top, temperature)


def normalizers_of_rows(
    logits: Array, target_logits: Array, temperature: Array | None
) -> Normalizers:
    """The sums over all classes, one number a row each; those of `normalizers_of` for a matrix."""
    forms = _normalizers_by_passes, _normalizers_online
    return in_one_reduction(*forms, logits, target_logits, temperature)


class Probabilities(NamedTuple):
    """What is known of some classes from the sums over all.

    Attributes:
        p: Their probabilities.
        q: The other ones.
        log_ratio: log(q / p); 0 where the logit of q is -inf.
        p_minus_q: The difference.
        impossible: Whether q is 0, because its logit is -inf.
    """

    p: Array
    q: Array
    log_ratio: Array
    p_minus_q: Array
    impossible: Array


def probabilities_of(
    x: Array, z: Array, temperature: Array | None, sums: Normalizers
) -> Probabilities:
    """The probabilities of some classes, whose derivatives need no rule."""
    tops = sums.top_x[..., None], sums.top_z[..., None]
    e = elements_of(x, z, temperature, tops)
    return probabilities_from(e, *(row[..., None] for row in sums[2:5]))


def probabilities_from(e: Elements, rest_x: Array, rest_z: Array, excess: Array) -> Probabilities:
    """The same from their elements; the sums have a class axis of 1."""
    p, q = e.exp_x / (1 + rest_x), e.exp_z / (1 + rest_z)
    # The logarithm of the ratio of the two sums, 1 + rest_x and 1 + rest_z.
    ratio = excess / (1 + rest_z)
    near = jnp.abs(ratio) < 0.5
    log_x, log_z = jnp.log1p(rest_x), jnp.log1p(rest_z)
    change = jnp.where(near, jnp.log1p(jnp.where(near, ratio, 0)), log_x - log_z)
    log_p, log_q = (e.x.hi - log_x) + e.x.lo, (e.z.hi - log_z) + e.z.lo
    logs = jnp.where(e.impossible, 0, log_q) - jnp.where(e.impossible, 0, log_p)
    is_close = e.is_close & ~e.impossible
    log_ratio = jnp.where(is_close, e.shift + change, logs)
    return Probabilities(p, q, log_ratio, difference_of(p, q, log_ratio), e.impossible)
