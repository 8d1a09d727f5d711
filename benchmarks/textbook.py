"""The textbook form of a loss: Optax's, else the formula in `jax.numpy` as one would write it first.

Each function takes the same data as the loss of this library and returns the same numbers, where
rounding and special cases do not matter. A loss without an entry has no form that one would
naturally write, or that form is the one in the library.
"""

import jax
import jax.numpy as jnp
import optax.losses as ol
from jax import nn
from jax.scipy import special


def one_hot(ids, like):
    return nn.one_hot(ids, like.shape[-1], dtype=like.dtype)


def unit(x):
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def take(x, ids):
    return jnp.take_along_axis(x, ids[..., None], -1)[..., 0]


def ndtr(x):  # which JAX has in float32 only
    return special.ndtr(x.astype(jnp.float32)).astype(x.dtype)


def cosines(x, y):
    return unit(x) @ unit(y).T


def with_ids(logits, ids):
    return ol.softmax_cross_entropy_with_integer_labels(logits, ids)


# ---- regression, robust, classification


def relative_error(x, t):
    return jnp.abs((x - t) / t)


def symmetric_error(x, t):
    return 2 * jnp.abs(x - t) / (jnp.abs(x) + jnp.abs(t))


def pinball(x, t, level=0.5):
    return jnp.maximum((1 - level) * (x - t), -level * (x - t))


def quantiles(x, t):
    levels = (jnp.arange(x.shape[-1]) + 0.5) / x.shape[-1]
    return jnp.mean(pinball(x, t[..., None], levels.astype(x.dtype)), -1)


def tukey(x, t):
    u = jnp.square(x - t)
    return jnp.where(u < 1, 1 - (1 - u) ** 3, 1) / 6


def barron(x, t):  # with alpha 1; Charbonnier
    return jnp.sqrt(jnp.square(x - t) + 1) - 1


def binary_cross_entropy(p, y):
    return -y * jnp.log(p) - (1 - y) * jnp.log(1 - p)


def multilabel_soft_margin(x, y):
    return jnp.mean(ol.sigmoid_binary_cross_entropy(x, y), -1)


def multi_margin(s, y):
    terms = nn.relu(1 - take(s, y)[..., None] + s)
    return jnp.mean(jnp.where(one_hot(y, s) > 0, 0, terms), -1)


def softmax_focal(x, y, gamma=2.0):
    p = nn.log_softmax(x)
    return -jnp.sum(one_hot(y, x) * (1 - jnp.exp(p)) ** gamma * p, -1)


def softmax_focal_dense(x, y, gamma=2.0):
    p = nn.log_softmax(x)
    return -jnp.sum(y * (1 - jnp.exp(p)) ** gamma * p, -1)


def poly1_ids(x, y):
    return ol.poly_loss_cross_entropy(x, one_hot(y, x), epsilon=2.0)


def poly1_distributions(x, y):
    return ol.poly_loss_cross_entropy(x, y, epsilon=2.0)


def generalized_cross_entropy(x, y, q=0.7):
    return (1 - take(nn.softmax(x), y) ** q) / q


def logit_adjusted(x, y, counts):
    return with_ids(x + jnp.log(counts / jnp.sum(counts)), y)


def fenchel_young(x, y):
    return nn.logsumexp(x, -1) - jnp.sum(x * y, -1)


def asymmetric(x, y):
    p = nn.sigmoid(x)
    shifted = nn.relu(p - 0.05)
    positive = y * (1 - p) * jnp.log(p)
    return -positive - (1 - y) * shifted**4 * jnp.log(1 - shifted)


def multilabel_margin(s, y):
    terms = nn.relu(1 - s[..., :, None] + s[..., None, :])
    return jnp.mean(jnp.sum(terms * y[..., :, None] * (1 - y[..., None, :]), -1), -1)


def generalized_dense(x, y, q=0.7):
    return jnp.sum(y * (1 - nn.softmax(x) ** q), -1) / q


def symmetric_ids(x, y):
    return 0.1 * with_ids(x, y) + 4 * (1 - take(nn.softmax(x), y))


def symmetric_dense(x, y):
    return 0.1 * ol.softmax_cross_entropy(x, y) + 4 * (1 - jnp.sum(y * nn.softmax(x), -1))


def logit_adjusted_dense(x, y, counts):
    return ol.softmax_cross_entropy(x + jnp.log(counts / jnp.sum(counts)), y)


def ldam(x, y, counts):
    margins = 0.5 * (jnp.min(counts) / counts) ** 0.25
    return with_ids(30 * (x - one_hot(y, x) * margins), y)


def sigmoid_sparsemax(x, y):
    p = jnp.clip((x + 1) / 2, 0, 1)
    return jnp.square(p - y) + y * nn.relu(-1 - x) + (1 - y) * nn.relu(x - 1)


# ---- divergences and likelihoods


def reverse_kl(x, q):
    return jnp.sum(jnp.exp(x) * (x - jnp.log(q)), -1)


def kl_logits(x, t):
    return ol.kl_divergence_with_log_targets(nn.log_softmax(x), nn.log_softmax(t))


def bernoulli_kl(p, q):
    return q * jnp.log(q / p) + (1 - q) * jnp.log((1 - q) / (1 - p))


def gaussian_kl(m, v):
    return 0.5 * jnp.sum(jnp.square(m) + jnp.exp(v) - 1 - v, -1)


def jensen_shannon(p, q):
    m = (p + q) / 2
    return jnp.sum(p * jnp.log(p / m) + q * jnp.log(q / m), -1) / 2


def total_variation(p, q):
    return 0.5 * jnp.sum(jnp.abs(p - q), -1)


def hellinger(p, q):
    return jnp.sqrt(0.5 * jnp.sum(jnp.square(jnp.sqrt(p) - jnp.sqrt(q)), -1))


def gaussian(m, y, v):
    return 0.5 * (jnp.square(y - m) / v + jnp.log(2 * jnp.pi * v))


def laplace(m, y, b):
    return jnp.abs(y - m) / b + jnp.log(2 * b)


def student_t(mean, target, scale, df):
    z = (target - mean) / scale
    return (
        special.gammaln(df / 2)
        - special.gammaln((df + 1) / 2)
        + 0.5 * jnp.log(df * jnp.pi)
        + jnp.log(scale)
        + (df + 1) / 2 * jnp.log1p(z * z / df)
    )


def von_mises(mean, target, concentration):
    normalizer = jnp.log(2 * jnp.pi * special.i0e(concentration))
    return -concentration * (jnp.cos(target - mean) - 1) + normalizer


def mixture(x, losses):
    return -nn.logsumexp(nn.log_softmax(x) - losses, -1)


def gaussian_mixture(m, y, v, x):
    return mixture(x, gaussian(m, y[..., None], v))


def renyi(x, q, order=0.5):
    return jnp.log(jnp.sum(q**order * jnp.exp((1 - order) * x), -1)) / (order - 1)


def alpha_divergence(x, q, order=0.5):
    p = jnp.exp(x)
    terms = q**order * p ** (1 - order) - order * q - (1 - order) * p
    return jnp.sum(terms, -1) / (order * (order - 1))


def beta_gaussian(m, y, v):
    return jax.lax.stop_gradient(jnp.sqrt(v)) * gaussian(m, y, v)


def negative_binomial(x, y, r):
    choices = special.gammaln(y + r) - special.gammaln(r) - special.gammaln(y + 1)
    return (r + y) * jnp.log(r + jnp.exp(x)) - r * jnp.log(r) - y * x - choices


def gamma(m, y, a):
    return a * (y / m - jnp.log(a * y / m)) + jnp.log(y) + special.gammaln(a)


def tweedie(m, y, p=1.5):
    terms = y ** (2 - p) / ((1 - p) * (2 - p)) - y * m ** (1 - p) / (1 - p) + m ** (2 - p) / (2 - p)
    return 2 * terms


def beta(a, y, b):
    normalizer = special.gammaln(a) + special.gammaln(b) - special.gammaln(a + b)
    return normalizer - (a - 1) * jnp.log(y) - (b - 1) * jnp.log1p(-y)


# ---- scoring


def crps_gaussian(m, y, s):
    z = (y - m) / s
    density = jnp.exp(-0.5 * z * z) / jnp.sqrt(2 * jnp.pi)
    return s * (z * (2 * ndtr(z) - 1) + 2 * density - 1 / jnp.sqrt(jnp.pi))


def crps_logistic(m, y, s):
    z = (y - m) / s
    return s * (z - 2 * nn.log_sigmoid(z) - 1)


def crps_laplace(m, y, b):
    error = jnp.abs(y - m)
    return error + b * (jnp.exp(-error / b) - 0.75)


def crps_student_t(m, y, s, n):
    z = (y - m) / s
    tail = special.betainc(n / 2, 0.5, n / (n + z * z))
    density = jnp.exp(-special.betaln(n / 2, 0.5)) / jnp.sqrt(n) * (1 + z * z / n) ** (-(n + 1) / 2)
    ratio = jnp.exp(special.betaln(0.5, n - 0.5) - 2 * special.betaln(0.5, n / 2))
    terms = 2 * density * (n + z * z) / (n - 1) - 2 * jnp.sqrt(n) / (n - 1) * ratio
    return s * (jnp.abs(z) * (1 - tail) + terms)


def dawid_sebastiani(m, y, s):
    return jnp.square((y - m) / s) + 2 * jnp.log(s)


def crps_ensemble(x, y):
    count = x.shape[-1]
    pairs = jnp.sum(jnp.abs(x[..., :, None] - x[..., None, :]), (-2, -1))
    return jnp.mean(jnp.abs(x - y[..., None]), -1) - pairs / (2 * count * (count - 1))


def energy_score(x, y):
    count = x.shape[-2]
    gaps = x[..., :, None, :] - x[..., None, :, :]
    pairs = jnp.sum(jnp.sqrt(jnp.sum(jnp.square(gaps), -1) + 1e-12), (-2, -1))
    first = jnp.mean(jnp.linalg.norm(x - y[..., None, :], axis=-1), -1)
    return first - pairs / (2 * count * (count - 1))


def crps_log_normal(m, y, s):
    z = (jnp.log(y) - m) / s
    tails = ndtr(z - s) - ndtr(-s / jnp.sqrt(2.0))
    return y * (2 * ndtr(z) - 1) - 2 * jnp.exp(m + s * s / 2) * tails


def variogram_score(x, y):
    def roots(z):
        return jnp.sqrt(jnp.abs(z[..., :, None] - z[..., None, :]) + 1e-12)

    return jnp.sum(jnp.square(roots(y) - jnp.mean(roots(x), -3)), (-2, -1))


def interval(low, high, y, alpha):
    return high - low + 2 / alpha * (nn.relu(low - y) + nn.relu(y - high))


def weighted_interval_score(m, low, high, y):
    count = low.shape[-1]
    alpha = (2 * (jnp.arange(count) + 1) / (2 * count + 1)).astype(m.dtype)
    terms = alpha / 2 * interval(low, high, y[..., None], alpha)
    return (0.5 * jnp.abs(y - m) + jnp.sum(terms, -1)) / (count + 0.5)


def brier(p, y):
    return jnp.sum(jnp.square(p - one_hot(y, p)), -1)


def ranked_probability(p, y):
    return jnp.sum(jnp.square(jnp.cumsum(p - one_hot(y, p), -1)[..., :-1]), -1)


# ---- ranking


def approx_ndcg(s, y):
    rank = 0.5 + jnp.sum(nn.sigmoid((s[..., None, :] - s[..., :, None]) / 0.1), -1)
    gain = 2**y - 1
    ideal = -jnp.sort(-gain, -1) / jnp.log2(2.0 + jnp.arange(y.shape[-1]))
    return 1 - jnp.sum(gain / jnp.log2(1 + rank), -1) / jnp.sum(ideal, -1)


def list_mle(s, y):
    s = jnp.take_along_axis(s, jnp.argsort(-y, -1), -1)
    return jnp.sum(jnp.flip(jax.lax.cumlogsumexp(jnp.flip(s, -1), s.ndim - 1), -1) - s, -1)


def plackett_luce(s, ranks):
    return list_mle(s, -ranks)


def pairwise(form):
    def loss(s, y):
        gaps = s[..., :, None] - s[..., None, :]
        counts = y[..., :, None] > y[..., None, :]
        total = jnp.sum(jnp.where(counts, form(gaps), 0), (-2, -1))
        return total / jnp.maximum(jnp.sum(counts, (-2, -1)), 1).astype(s.dtype)

    return loss


def poly1_softmax(s, y):
    p, share = nn.log_softmax(s), y / jnp.sum(y, -1, keepdims=True)
    return -jnp.sum(y * p, -1) + 1 - jnp.sum(share * jnp.exp(p), -1)


def unique_softmax(s, y):
    rivals = (y[..., :, None] > y[..., None, :]) | jnp.eye(s.shape[-1], dtype=bool)
    others = jnp.broadcast_to(s[..., None, :], rivals.shape)
    return jnp.sum((2**y - 1) * (nn.logsumexp(others, -1, where=rivals) - s), -1)


def pairwise_errors(s, y):
    e = s - y
    return e[..., :, None] - e[..., None, :]


def pairwise_squared_error(s, y):
    count = s.shape[-1]
    return jnp.sum(jnp.square(pairwise_errors(s, y)), (-2, -1)) / (count * (count - 1))


def pairwise_quantile(s, y):
    e, counts = pairwise_errors(s, y), y[..., :, None] > y[..., None, :]
    total = jnp.sum(jnp.where(counts, 0.5 * jnp.abs(e), 0), (-2, -1))
    return total / jnp.maximum(jnp.sum(counts, (-2, -1)), 1).astype(s.dtype)


# ---- contrastive and self-supervised


def clip(x, y):
    logits, ids = cosines(x, y) / 0.07, jnp.arange(len(x))
    return (with_ids(logits, ids) + with_ids(logits.T, ids)) / 2


def siglip(x, y):
    logits = cosines(x, y) / 0.1 - 10
    return -jnp.sum(nn.log_sigmoid((2 * jnp.eye(len(x)) - 1) * logits), -1)


def info_nce(x, y):
    return with_ids(cosines(x, y) / 0.1, jnp.arange(len(x)))


def binary_nce(x, y):
    return -jnp.mean(nn.log_sigmoid((2 * jnp.eye(len(x)) - 1) * (x @ y.T)), -1)


def supervised_contrastive(x, labels):
    scores = cosines(x, x) / 0.1
    others = ~jnp.eye(len(x), dtype=bool)
    same = (labels[:, None] == labels) & others
    log_p = scores - nn.logsumexp(scores, -1, where=others, keepdims=True)
    return -jnp.sum(jnp.where(same, log_p, 0), -1) / jnp.maximum(jnp.sum(same, -1), 1)


def cosine_embedding(x, y, labels):
    cosine = ol.cosine_similarity(x, y)
    return jnp.where(labels == 1, 1 - cosine, nn.relu(cosine))


def pair(x, y, labels):
    d = jnp.linalg.norm(x - y, axis=-1)
    return 0.5 * labels * d**2 + 0.5 * (1 - labels) * nn.relu(1 - d) ** 2


def cosface(x, y, w):
    return with_ids(64 * (cosines(x, w) - 0.35 * nn.one_hot(y, len(w), dtype=x.dtype)), y)


def arcface(x, y, w):
    cosine = cosines(x, w)
    moved = jnp.cos(jnp.arccos(jnp.clip(cosine, -1 + 1e-7, 1 - 1e-7)) + 0.5)
    return with_ids(64 * jnp.where(nn.one_hot(y, len(w)) > 0, moved, cosine), y)


def proxy_nca(x, y, w):
    return with_ids(2 * cosines(x, w) - 2, y)


def relations(labels):
    same = labels[:, None] == labels
    return same & ~jnp.eye(len(labels), dtype=bool), ~same


def circle(x, labels):
    s, (same, other) = cosines(x, x), relations(labels)
    stop = jax.lax.stop_gradient
    near = 80 * stop(nn.relu(1.4 - s)) * (0.6 - s)
    far = 80 * stop(nn.relu(s + 0.4)) * (s - 0.4)
    return nn.softplus(nn.logsumexp(near, -1, where=same) + nn.logsumexp(far, -1, where=other))


def multi_similarity(x, labels):
    s, (same, other) = cosines(x, x), relations(labels)
    near = jnp.log1p(jnp.sum(jnp.where(same, jnp.exp(-2 * (s - 0.5)), 0), -1)) / 2
    return near + jnp.log1p(jnp.sum(jnp.where(other, jnp.exp(50 * (s - 0.5)), 0), -1)) / 50


def batch_triplet(x, labels):
    squares = jnp.sum(jnp.square(x), -1)
    squares = squares[:, None] + squares - 2 * x @ x.T
    d, (same, other) = jnp.sqrt(jnp.maximum(squares, 1e-12)), relations(labels)
    farthest = jnp.max(jnp.where(same, d, 0), -1)
    return nn.relu(farthest - jnp.min(jnp.where(other, d, jnp.inf), -1) + 1)


def proxy_anchor(x, y, w):
    s, own = cosines(x, w), nn.one_hot(y, len(w), dtype=bool)
    near = jnp.log1p(jnp.sum(jnp.where(own, jnp.exp(-32 * (s - 0.1)), 0), 0))
    far = jnp.log1p(jnp.sum(jnp.where(own, 0, jnp.exp(32 * (s + 0.1))), 0))
    return jnp.sum(near) / jnp.sum(jnp.any(own, 0)) + jnp.mean(far)


def hard_negative_info_nce(x, y):
    s = cosines(x, y) / 0.1
    off = jnp.where(jnp.eye(len(x), dtype=bool), 0, 1).astype(s.dtype)
    tilt = off * jnp.exp(0.5 * s)
    weight = tilt / (jnp.sum(tilt, -1, keepdims=True) / (len(x) - 1))
    own = jnp.diagonal(s)
    return jnp.log(jnp.exp(own) + jnp.sum(weight * jnp.exp(s), -1)) - own


def cosent(cosine, similarity):
    gaps = (cosine[:, None] - cosine) / 0.05
    counts = similarity[:, None] < similarity
    gaps = jnp.append(jnp.ravel(jnp.where(counts, gaps, -jnp.inf)), 0)
    return nn.logsumexp(gaps)


def negative_cosine(p, z):
    return -ol.cosine_similarity(p, jax.lax.stop_gradient(z))


def alignment(x, y):
    return jnp.sum(jnp.square(unit(x) - unit(y)), -1)


def uniformity(x):
    x, count = unit(x), len(x)
    squares = jnp.where(jnp.eye(count, dtype=bool), jnp.inf, 2 - 2 * x @ x.T)
    return nn.logsumexp(-2 * squares) - jnp.log(count * (count - 1))


def koleo(x):
    x = unit(x)
    nearest = jnp.argmax(jnp.where(jnp.eye(len(x), dtype=bool), -2, x @ x.T), -1)
    return -jnp.log(jnp.linalg.norm(x - x[nearest], axis=-1) + 1e-8)


def dino(student, teacher):
    q = jax.lax.stop_gradient(nn.softmax(teacher / 0.04))
    terms = -jnp.einsum("btk,bvk->btv", q, nn.log_softmax(student / 0.1))
    views = jnp.arange(terms.shape[1])[:, None] != jnp.arange(terms.shape[2])
    return jnp.sum(terms * views, (-2, -1)) / jnp.sum(views)


def swav(logits, codes):
    terms = -jnp.einsum("btk,bvk->btv", codes, nn.log_softmax(logits / 0.1))
    views = jnp.arange(terms.shape[1])[:, None] != jnp.arange(terms.shape[2])
    return jnp.sum(terms * views, (-2, -1)) / jnp.sum(views)


def standardized(x):
    return (x - jnp.mean(x, 0)) / jnp.sqrt(jnp.var(x, 0) + 1e-5)


def barlow_twins(x, y):
    c = standardized(x).T @ standardized(y) / len(x)
    on = jnp.diagonal(c)
    return jnp.sum((1 - on) ** 2) + 0.005 * (jnp.sum(c**2) - jnp.sum(on**2))


def vicreg(x, y):
    def spread(x):
        x = x - jnp.mean(x, 0)
        c = x.T @ x / (len(x) - 1)
        on = jnp.diagonal(c)
        off = jnp.sum(c**2) - jnp.sum(on**2)
        return (25 * jnp.mean(nn.relu(1 - jnp.sqrt(on + 1e-4))) + 2 * off / len(c)) / 2

    return 25 * jnp.mean(jnp.square(x - y)) + spread(x) + spread(y)


def projected(x, directions):
    return x @ (directions / jnp.linalg.norm(directions, axis=0))


def sigreg(x, directions):
    t = jnp.linspace(0, 3, 17, dtype=x.dtype)
    angles, normal = projected(x, directions)[..., None] * t, jnp.exp(-0.5 * t**2)
    errors = (jnp.mean(jnp.cos(angles), 0) - normal) ** 2 + jnp.mean(jnp.sin(angles), 0) ** 2
    return 2 * len(x) * jnp.mean(jnp.trapezoid(errors * normal, t))


def visreg(x, directions):
    mean, deviation, count = jnp.mean(x, 0), jnp.std(x, 0), len(x)
    x = projected((x - mean) / (jax.lax.stop_gradient(deviation) + 1e-4), directions)
    quantiles = special.ndtri((jnp.arange(count) + 1) / (count + 1)).astype(x.dtype)
    apart = jnp.mean(jnp.square(jnp.sort(x, 0) - quantiles[:, None]))
    return jnp.mean(mean**2) + jnp.mean((1 - deviation) ** 2) + apart


# ---- segmentation, boxes, images


def overlap(loss):
    """A loss of the true positives and both sizes of each class."""

    def of(p, y):
        y, over = y if y.ndim == p.ndim else one_hot(y, p), (-3, -2)
        sums = jnp.sum(p * y, over), jnp.sum(p, over), jnp.sum(y, over)
        return jnp.mean(1 - loss(*sums), -1)

    return of


def generalized_dice(p, y):
    y, over = y if y.ndim == p.ndim else one_hot(y, p), (-3, -2)
    weight = 1 / jnp.maximum(jnp.sum(y, over), 1) ** 2
    both = jnp.sum(weight * jnp.sum(p * y, over), -1)
    return 1 - 2 * both / jnp.sum(weight * jnp.sum(p + y, over), -1)


def hausdorff(p, y, d, e):
    y = y if y.ndim == p.ndim else one_hot(y, p)
    return jnp.mean(jnp.square(p - y) * (d**2 + e**2), (-3, -2, -1))


def lovasz(errors, y):
    """The sorted errors times the steps of the Jaccard loss; pixels come last."""
    order = jnp.argsort(-errors, -1)
    errors, y = (jnp.take_along_axis(x, order, -1) for x in (errors, y))
    size = jnp.sum(y, -1, keepdims=True)
    jaccard = 1 - (size - jnp.cumsum(y, -1)) / (size + jnp.cumsum(1 - y, -1))
    first = jnp.zeros_like(jaccard[..., :1])
    return jnp.sum(nn.relu(errors) * jnp.diff(jaccard, prepend=first), -1)


def lovasz_softmax(p, y):
    y = one_hot(y, p)
    p, y = (jnp.moveaxis(x.reshape(len(x), -1, x.shape[-1]), -1, 1) for x in (p, y))
    present = jnp.any(y > 0, -1)
    total = jnp.sum(jnp.where(present, lovasz(jnp.abs(y - p), y), 0), -1)
    return total / jnp.sum(present, -1).astype(p.dtype)


def lovasz_hinge(x, y):
    x, y = (z.reshape(len(z), -1) for z in (x, y))
    return lovasz(1 - (2 * y - 1) * x, y)


def boundary(p, d):
    return jnp.mean(p * d, (-3, -2, -1))


def _boxes(a, b):
    area_a, area_b = ((x[..., 2] - x[..., 0]) * (x[..., 3] - x[..., 1]) for x in (a, b))
    inner = jnp.minimum(a[..., 2:], b[..., 2:]) - jnp.maximum(a[..., :2], b[..., :2])
    inner = jnp.prod(jnp.maximum(inner, 0), -1)
    hull = jnp.maximum(a[..., 2:], b[..., 2:]) - jnp.minimum(a[..., :2], b[..., :2])
    union = area_a + area_b - inner
    return inner / union, union, hull


def iou(a, b):
    return 1 - _boxes(a, b)[0]


def giou(a, b):
    overlap, union, hull = _boxes(a, b)
    hull = jnp.prod(hull, -1)
    return 1 - overlap + (hull - union) / hull


def diou(a, b):
    overlap, _, hull = _boxes(a, b)
    apart = (a[..., :2] + a[..., 2:] - b[..., :2] - b[..., 2:]) / 2
    return 1 - overlap + jnp.sum(apart**2, -1) / jnp.sum(hull**2, -1)


def ciou(a, b):
    overlap = _boxes(a, b)[0]
    first, second = (jnp.arctan((x[..., 2] - x[..., 0]) / (x[..., 3] - x[..., 1])) for x in (a, b))
    v = 4 / jnp.pi**2 * (second - first) ** 2
    return diou(a, b) + jax.lax.stop_gradient(v / (1 - overlap + v)) * v


def distribution_focal(x, y):
    low = jnp.floor(y).astype(jnp.int32)
    p, part = nn.log_softmax(x), y - jnp.floor(y)
    return -(1 - part) * take(p, low) - part * take(p, jnp.minimum(low + 1, x.shape[-1] - 1))


def psnr(p, t):
    return 10 * jnp.log10(jnp.mean(jnp.square(p - t), (-3, -2, -1)))


def image_total_variation(x):
    rows = jnp.abs(x[..., 1:, :, :] - x[..., :-1, :, :])
    columns = jnp.abs(x[..., :, 1:, :] - x[..., :, :-1, :])
    return jnp.sum(rows, (-3, -2, -1)) + jnp.sum(columns, (-3, -2, -1))


def planes(x):
    """Each channel as an image of its own, as convolutions take them."""
    return jnp.moveaxis(x, -1, 1).reshape(-1, 1, *x.shape[1:3])


def similarities(x, y):
    """The luminance term of each window, and the term of contrast and structure."""
    places = jnp.arange(11) - 5
    window = jnp.exp(-0.5 * (places / 1.5) ** 2)
    window = (window / jnp.sum(window)).astype(x.dtype)

    def blur(z):
        for shape in ((1, 1, 11, 1), (1, 1, 1, 11)):
            z = jax.lax.conv(z, window.reshape(shape), (1, 1), "VALID")
        return z

    mx, my = blur(x), blur(y)
    vx, vy, c = blur(x * x) - mx**2, blur(y * y) - my**2, blur(x * y) - mx * my
    luminance = (2 * mx * my + 1e-4) / (mx**2 + my**2 + 1e-4)
    return luminance, (2 * c + 9e-4) / (vx + vy + 9e-4)


def ssim(x, y):
    luminance, structure = similarities(planes(x), planes(y))
    return 1 - jnp.mean((luminance * structure).reshape(len(x), -1), -1)


def half(x):
    four = (1, 1, 2, 2)
    return jax.lax.reduce_window(x, 0.0, jax.lax.add, four, four, "VALID") / 4


def ms_ssim(x, y):
    batch, (x, y) = len(x), (planes(x), planes(y))
    product, powers = 1, (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
    for level, power in enumerate(powers):
        luminance, terms = similarities(x, y)
        terms = luminance * terms if level == len(powers) - 1 else terms
        product *= nn.relu(jnp.mean(terms, (-3, -2, -1))) ** power
        x, y = half(x), half(y)
    return 1 - jnp.mean(product.reshape(batch, -1), -1)


def ctc(x, y):
    return ol.ctc_loss(x, jnp.zeros(x.shape[:2]), y, jnp.zeros(y.shape))


# ---- policies, values, preferences, distillation, routers, generative models


def clipped(new, old, advantage):
    ratio = jnp.exp(new - old)
    return -jnp.minimum(ratio * advantage, jnp.clip(ratio, 0.8, 1.2) * advantage)


def cispo(new, old, advantage):
    weight = jax.lax.stop_gradient(jnp.clip(jnp.exp(new - old), 0, 5))
    return -weight * advantage * new


def soft_clipped(new, old, advantage):
    t = jnp.where(advantage > 0, 1.0, 1.05).astype(new.dtype)
    return -4 / t * nn.sigmoid(t * (jnp.exp(new - old) - 1)) * advantage


def clipped_sequence(new, old, advantage):
    ratio = jnp.exp(jnp.mean(new - old, -1))
    return -jnp.minimum(ratio * advantage, jnp.clip(ratio, 1 - 3e-4, 1 + 4e-4) * advantage)


def k3(x, reference):
    return jnp.exp(reference - x) - 1 - (reference - x)


def entropy(x):
    p = nn.log_softmax(x)
    return -jnp.sum(jnp.exp(p) * p, -1)


def clipped_value(v, old, y):
    near = old + jnp.clip(v - old, -0.2, 0.2)
    return 0.5 * jnp.maximum(jnp.square(v - y), jnp.square(near - y))


def quantile_huber(q, y):
    levels = (jnp.arange(q.shape[-1]) + 0.5) / q.shape[-1]
    u = y[..., None, :] - q[..., :, None]
    weight = jnp.abs(levels[:, None] - (u < 0))
    return jnp.sum(jnp.mean(weight * ol.huber_loss(u), -1), -1)


def gumbel(p, y):
    return jnp.exp(y - p) - 1 - (y - p)


def dpo(c, r, c0, r0):
    return -nn.log_sigmoid(0.1 * ((c - c0) - (r - r0)))


def ipo(c, r, c0, r0):
    return jnp.square((c - c0) - (r - r0) - 5)


def hinge_dpo(c, r, c0, r0):
    return nn.relu(1 - 0.1 * ((c - c0) - (r - r0)))


def log_odds(x):
    return x - jnp.log1p(-jnp.exp(x))


def kto(x, is_desirable):
    z = 0.1 * (x - 0.3)
    return 1 - nn.sigmoid(jnp.where(is_desirable, z, -z))


def mean_of_both(x, t):
    p, q = nn.softmax(x), nn.softmax(t)
    log_m = jnp.log((p + q) / 2)
    return jnp.sum(q * (jnp.log(q) - log_m) + p * (jnp.log(p) - log_m), -1) / 2


def top_k_kl(x, log_q, ids):
    log_p = jnp.take_along_axis(nn.log_softmax(x), ids, -1)
    q, p = jnp.exp(log_q), jnp.exp(log_p)
    rest_q, rest_p = (1 - jnp.sum(v, -1) for v in (q, p))
    return jnp.sum(q * (log_q - log_p), -1) + rest_q * jnp.log(rest_q / rest_p)


def acceptance(x, t):
    return 0.5 * jnp.sum(jnp.abs(nn.softmax(x) - nn.softmax(t)), -1)


def sampled_reverse_kl(x, t):
    ratio = x - t
    return ratio + jax.lax.stop_gradient(ratio) * (x - jax.lax.stop_gradient(x))


def load_balance(p, ids):
    experts = p.shape[-1]
    part = jnp.mean(nn.one_hot(ids, experts, dtype=p.dtype), (-3, -2))
    return experts * jnp.sum(part * jnp.mean(p, -2), -1)


def variation(x):
    return jnp.var(x, -1) / jnp.square(jnp.mean(x, -1))


def importance_cv(gates):
    return variation(jnp.sum(gates, -2))


def load_cv(x, noisy):
    top = jax.lax.top_k(noisy, 2)[0]
    is_top = noisy >= top[..., :1]
    threshold = jnp.where(is_top, top[..., 1:], top[..., :1])
    return variation(jnp.sum(ndtr(x - threshold), -2))


def indexer_kl(a, x):
    return jnp.sum(a * (jnp.log(a) - nn.log_softmax(x)), -1)


def masked_diffusion(x, y, masked):
    return jnp.sum(jnp.where(masked, with_ids(x, y), 0), -1)


def vector_quantization(z, e):
    stop = jax.lax.stop_gradient
    return jnp.mean(jnp.square(stop(z) - e) + 0.25 * jnp.square(z - stop(e)), -1)


def lecam(real, fake):
    return nn.relu(real - 0.1) ** 2 + nn.relu(0.2 - fake) ** 2


FORMS = {
    "regression.squared_error": ol.squared_error,
    "regression.absolute_error": lambda x, t: jnp.abs(x - t),
    "regression.huber": ol.huber_loss,
    "regression.smooth_l1": ol.huber_loss,
    "regression.pseudo_huber": lambda x, t: jnp.sqrt(1 + jnp.square(x - t)) - 1,
    "regression.log_cosh": ol.log_cosh,
    "regression.pinball": pinball,
    "regression.expectile": lambda x, t: jnp.abs(0.5 - (x >= t)) * jnp.square(x - t),
    "regression.epsilon_insensitive": lambda x, t: nn.relu(jnp.abs(x - t) - 0.1),
    "regression.squared_epsilon_insensitive": lambda x, t: nn.relu(jnp.abs(x - t) - 0.1) ** 2,
    "regression.squared_log_error": lambda x, t: jnp.square(jnp.log1p(x) - jnp.log1p(t)),
    "regression.absolute_percentage_error": relative_error,
    "regression.symmetric_absolute_percentage_error": symmetric_error,
    "regression.quantiles": quantiles,
    "regression.cosine_distance": ol.cosine_distance,
    "regression.mean_squared_error": ol.squared_error,
    "regression.mean_absolute_error": lambda x, t: jnp.abs(x - t),
    "robust.charbonnier": barron,
    "robust.cauchy": lambda x, t: jnp.log1p(0.5 * jnp.square(x - t)),
    "robust.geman_mcclure": lambda x, t: 2 * jnp.square(x - t) / (jnp.square(x - t) + 4),
    "robust.welsch": lambda x, t: 1 - jnp.exp(-0.5 * jnp.square(x - t)),
    "robust.tukey": tukey,
    "robust.barron": barron,
    "classification.softmax_cross_entropy ids": with_ids,
    "classification.softmax_cross_entropy distributions": ol.softmax_cross_entropy,
    "classification.sigmoid_cross_entropy": ol.sigmoid_binary_cross_entropy,
    "classification.multilabel_soft_margin": multilabel_soft_margin,
    "classification.z_loss": lambda x: jnp.square(nn.logsumexp(x, -1)),
    "classification.binary_cross_entropy": binary_cross_entropy,
    "classification.categorical_cross_entropy ids": lambda p, y: -jnp.log(take(p, y)),
    "classification.categorical_cross_entropy distributions": lambda p, y: (
        -jnp.sum(y * jnp.log(p), -1)
    ),
    "classification.negative_log_likelihood ids": lambda p, y: -take(p, y),
    "classification.negative_log_likelihood distributions": lambda p, y: -jnp.sum(y * p, -1),
    "classification.hinge": ol.hinge_loss,
    "classification.squared_hinge": lambda s, y: nn.relu(1 - s * y) ** 2,
    "classification.perceptron": ol.perceptron_loss,
    "classification.logistic": lambda s, y: nn.softplus(-s * y),
    "classification.hinge_embedding": lambda d, y: jnp.where(y == 1, d, nn.relu(1 - d)),
    "classification.multiclass_perceptron": ol.multiclass_perceptron_loss,
    "classification.multiclass_hinge": ol.multiclass_hinge_loss,
    "classification.multi_margin": multi_margin,
    "classification.sigmoid_focal": ol.sigmoid_focal_loss,
    "classification.asymmetric": asymmetric,
    "classification.multilabel_margin": multilabel_margin,
    "classification.softmax_focal ids": softmax_focal,
    "classification.softmax_focal distributions": softmax_focal_dense,
    "classification.poly1 ids": poly1_ids,
    "classification.poly1 distributions": poly1_distributions,
    "classification.generalized_cross_entropy ids": generalized_cross_entropy,
    "classification.generalized_cross_entropy distributions": generalized_dense,
    "classification.symmetric_cross_entropy ids": symmetric_ids,
    "classification.symmetric_cross_entropy distributions": symmetric_dense,
    "classification.logit_adjusted ids": logit_adjusted,
    "classification.logit_adjusted distributions": logit_adjusted_dense,
    "classification.ldam": ldam,
    "classification.sigmoid_sparsemax": sigmoid_sparsemax,
    "classification.sparsemax ids": ol.multiclass_sparsemax_loss,
    "classification.fenchel_young": fenchel_young,
    "divergence.kl": ol.kl_divergence,
    "divergence.kl_log": ol.kl_divergence_with_log_targets,
    "divergence.reverse_kl": reverse_kl,
    "divergence.kl_logits": kl_logits,
    "divergence.generalized_kl": ol.generalized_kl_divergence,
    "divergence.bernoulli_kl": bernoulli_kl,
    "divergence.gaussian_kl": gaussian_kl,
    "divergence.jensen_shannon": jensen_shannon,
    "divergence.total_variation": total_variation,
    "divergence.hellinger": hellinger,
    "divergence.renyi": renyi,
    "divergence.alpha_divergence": alpha_divergence,
    "nll.gaussian": gaussian,
    "nll.beta_gaussian": beta_gaussian,
    "nll.negative_binomial": negative_binomial,
    "nll.gamma": gamma,
    "nll.tweedie_deviance": tweedie,
    "nll.beta": beta,
    "nll.laplace": laplace,
    "nll.student_t": student_t,
    "nll.poisson": lambda x, y: jnp.exp(x) - y * x + special.gammaln(y + 1),
    "nll.von_mises": von_mises,
    "nll.mixture": mixture,
    "nll.gaussian_mixture": gaussian_mixture,
    "scoring.crps_gaussian": crps_gaussian,
    "scoring.crps_logistic": crps_logistic,
    "scoring.crps_laplace": crps_laplace,
    "scoring.crps_log_normal": crps_log_normal,
    "scoring.crps_student_t": crps_student_t,
    "scoring.variogram_score": variogram_score,
    "scoring.weighted_interval_score": weighted_interval_score,
    "scoring.dawid_sebastiani": dawid_sebastiani,
    "scoring.crps_ensemble": crps_ensemble,
    "scoring.energy_score": energy_score,
    "scoring.crps_quantiles": lambda x, t: 2 * quantiles(x, t),
    "scoring.interval_score": lambda a, b, y: b - a + 20 * (nn.relu(a - y) + nn.relu(y - b)),
    "scoring.brier ids": brier,
    "scoring.brier distributions": lambda p, y: jnp.sum(jnp.square(p - y), -1),
    "scoring.ranked_probability ids": ranked_probability,
    "scoring.ranked_probability distributions": lambda p, y: jnp.sum(
        jnp.square(jnp.cumsum(p - y, -1)[..., :-1]), -1
    ),
    "ranking.softmax": lambda s, y: ol.ranking_softmax_loss(s, y, reduce_fn=None),
    "ranking.list_mle": list_mle,
    "ranking.approx_ndcg": approx_ndcg,
    "ranking.poly1_softmax": poly1_softmax,
    "ranking.unique_softmax": unique_softmax,
    "ranking.pairwise_squared_error": pairwise_squared_error,
    "ranking.pairwise_quantile": pairwise_quantile,
    "ranking.pairwise_hinge": pairwise(lambda s: nn.relu(1 - s)),
    "ranking.pairwise_logistic": pairwise(lambda s: nn.softplus(-s)),
    "ranking.pairwise_soft_zero_one": pairwise(lambda s: nn.sigmoid(-s)),
    "ranking.margin": lambda s, r, y: nn.relu(-y * (s - r)),
    "contrastive.triplet": ol.triplet_margin_loss,
    "contrastive.cosine_embedding": cosine_embedding,
    "contrastive.pair": pair,
    "contrastive.info_nce": info_nce,
    "contrastive.circle": circle,
    "contrastive.multi_similarity": multi_similarity,
    "contrastive.batch_triplet": batch_triplet,
    "contrastive.proxy_anchor": proxy_anchor,
    "contrastive.hard_negative_info_nce": hard_negative_info_nce,
    "contrastive.clip": clip,
    "contrastive.siglip": siglip,
    "contrastive.nt_xent": ol.ntxent,
    "contrastive.supervised_contrastive": supervised_contrastive,
    "contrastive.arcface": arcface,
    "contrastive.cosface": cosface,
    "contrastive.proxy_nca": proxy_nca,
    "contrastive.binary_nce": binary_nce,
    "contrastive.cosent": cosent,
    "segmentation.dice ids": overlap(lambda both, p, y: (2 * both + 1) / (p + y + 1)),
    "segmentation.jaccard ids": overlap(lambda both, p, y: (both + 1) / (p + y - both + 1)),
    "segmentation.tversky ids": overlap(
        lambda both, p, y: (both + 1) / (both + 0.3 * (p - both) + 0.7 * (y - both) + 1)
    ),
    "segmentation.focal_tversky ids": overlap(
        lambda both, p, y: 1 - (1 - (both + 1) / (0.3 * p + 0.7 * y + 1)) ** 0.75
    ),
    "segmentation.hausdorff ids": hausdorff,
    "segmentation.generalized_dice ids": generalized_dice,
    "segmentation.lovasz_softmax": lovasz_softmax,
    "segmentation.lovasz_hinge": lovasz_hinge,
    "segmentation.boundary": boundary,
    "box.iou": iou,
    "box.giou": giou,
    "box.diou": diou,
    "box.ciou": ciou,
    "box.distribution_focal": distribution_focal,
    "image.ssim": ssim,
    "image.ms_ssim": ms_ssim,
    "image.psnr": psnr,
    "image.total_variation": image_total_variation,
    "sequence.ctc": ctc,
    "policy.clipped": clipped,
    "policy.reinforce": lambda x, a: -a * x,
    "policy.cispo": cispo,
    "policy.soft_clipped": soft_clipped,
    "policy.clipped_sequence": clipped_sequence,
    "policy.kl_estimate": k3,
    "policy.entropy": entropy,
    "value.clipped_value": clipped_value,
    "value.quantile_huber": quantile_huber,
    "value.temperature": lambda a, x: -jnp.exp(a) * jax.lax.stop_gradient(x - 2),
    "value.exponential_advantage": lambda x, a: -jnp.exp(a) * x,
    "value.gumbel": gumbel,
    "preference.dpo": dpo,
    "preference.ipo": ipo,
    "preference.hinge_dpo": hinge_dpo,
    "preference.apo_zero": lambda c, r: 1 - nn.sigmoid(0.1 * c) + nn.sigmoid(0.1 * r),
    "preference.apo_down": lambda c, r: nn.sigmoid(0.1 * c) + 1 - nn.sigmoid(0.1 * (c - r)),
    "preference.nca": lambda c, r: (
        -nn.log_sigmoid(0.1 * c) - 0.5 * (nn.log_sigmoid(-0.1 * c) + nn.log_sigmoid(-0.1 * r))
    ),
    "preference.simpo": lambda c, r: -nn.log_sigmoid(2 * (c - r) - 1),
    "preference.cpo": lambda c, r: -nn.log_sigmoid(0.1 * (c - r)),
    "preference.orpo": lambda c, r: -c - 0.1 * nn.log_sigmoid(log_odds(c) - log_odds(r)),
    "preference.kto": kto,
    "preference.bco": lambda c, r: -nn.log_sigmoid(0.1 * c) - nn.log_sigmoid(-0.1 * r),
    "preference.bradley_terry": lambda c, r: -nn.log_sigmoid(c - r),
    "preference.plackett_luce": plackett_luce,
    "distillation.temperature_kl": kl_logits,
    "distillation.generalized_jensen_shannon": mean_of_both,
    "distillation.top_k_kl": top_k_kl,
    "distillation.acceptance": acceptance,
    "distillation.sampled_reverse_kl": sampled_reverse_kl,
    "router.load_balance": load_balance,
    "router.importance_cv": importance_cv,
    "router.load_cv": load_cv,
    "router.indexer_kl": indexer_kl,
    "generative.denoising": lambda x, t: jnp.mean(jnp.square(x - t), -1),
    "generative.masked_diffusion": masked_diffusion,
    "generative.gaussian_vae_kl": gaussian_kl,
    "generative.vector_quantization": vector_quantization,
    "generative.non_saturating_generator": lambda x: nn.softplus(-x),
    "generative.non_saturating_discriminator": lambda x, z: nn.softplus(-x) + nn.softplus(z),
    "generative.hinge_generator": lambda x: -x,
    "generative.hinge_discriminator": lambda x, z: nn.relu(1 - x) + nn.relu(1 + z),
    "generative.least_squares_generator": lambda x: 0.5 * jnp.square(x - 1),
    "generative.least_squares_discriminator": lambda x, z: (
        0.5 * jnp.square(x - 1) + 0.5 * jnp.square(z)
    ),
    "generative.wasserstein_generator": lambda x: -x,
    "generative.wasserstein_discriminator": lambda x, z: z - x,
    "generative.lecam": lecam,
    "self_supervised.negative_cosine": negative_cosine,
    "self_supervised.dino": dino,
    "self_supervised.swav": swav,
    "self_supervised.barlow_twins": barlow_twins,
    "self_supervised.vicreg": vicreg,
    "self_supervised.sigreg": sigreg,
    "self_supervised.visreg": visreg,
    "self_supervised.koleo": koleo,
    "self_supervised.alignment": alignment,
    "self_supervised.uniformity": uniformity,
}
FORMS |= {
    name.replace(" ids", " distributions"): FORMS[name]
    for name in FORMS
    if name.startswith("segmentation.") and name.endswith(" ids")
}
"""The form of each loss, by its name; ` ids` or ` distributions` follows where both exist."""
