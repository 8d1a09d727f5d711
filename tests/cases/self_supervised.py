"""Rows of the self-supervised family: oracles in plain Python on one example, or one set."""

import mpmath
import numpy as np
import scipy.special
from arithmetic import cos, exp, is_exact, log, sin, sqrt

from cases import Batched, Case, with_feature_mask


def _unit(x):
    return x / sqrt(sum(x * x))


def negative_cosine(prediction, target, mask=None, *, fixed=None):
    target = target if fixed is None else fixed["target"]
    if mask is not None:
        prediction, target = prediction[mask], target[mask]
    return -sum(_unit(prediction) * _unit(target))


def _nll(logits, temperature):
    scaled = [x / temperature for x in logits]
    total = log(sum(exp(x) for x in scaled))
    return [total - x for x in scaled]


def _across_views(targets, logits, temperature, mask):
    if mask is not None:
        logits = [row[mask] for row in logits]
        targets = [np.array(row)[mask] for row in targets]
    pairs = [(i, v) for i in range(len(targets)) for v in range(len(logits)) if i != v]
    nll = [_nll(x, temperature) for x in logits]
    return sum(q * n for i, v in pairs for q, n in zip(targets[i], nll[v], strict=True)) / len(
        pairs
    )


def dino(
    student,
    teacher,
    center=None,
    temperature=0.1,
    teacher_temperature=0.04,
    mask=None,
    *,
    fixed=None,
):
    still = {"teacher": teacher, "center": center, "teacher_temperature": teacher_temperature}
    still |= fixed or {}
    center = 0 * still["teacher"][0] if still.get("center") is None else still["center"]
    targets = []
    for row in still["teacher"]:
        kept = np.ones(len(row), bool) if mask is None else mask
        of_row = np.array([0 * x for x in row])
        of_row[kept] = [exp(-x) for x in _nll((row - center)[kept], still["teacher_temperature"])]
        targets.append(of_row)
    return _across_views(targets, student, temperature, mask)


def swav(logits, codes, temperature=0.1, mask=None, *, fixed=None):
    return _across_views(codes if fixed is None else fixed["codes"], logits, temperature, mask)


def _kept(x, mask):
    return np.array([row for i, row in enumerate(x) if mask is None or mask[i]])


def _centred(x):
    return x - sum(x) / len(x)


def _standardized(x, epsilon):
    centred = _centred(x)
    variance = sum(centred**2) / len(x)
    return centred / np.array([sqrt(v + epsilon) for v in variance])


def barlow_twins(left, right, redundancy=5e-3, epsilon=1e-5, chunk_size=None, mask=None):
    x, z = (_standardized(_kept(u, mask), epsilon) for u in (left, right))
    dim, total = x.shape[1], 0
    for i in range(dim):
        for j in range(dim):
            c = sum(x[:, i] * z[:, j]) / len(x)
            total += (1 - c) ** 2 if i == j else redundancy * c**2
    return total


def vicreg(
    left, right, invariance=25, variance=25, covariance=1, epsilon=1e-4, chunk_size=None, mask=None
):
    left, right = _kept(left, mask), _kept(right, mask)
    count, dim = left.shape
    total = invariance * sum(((left - right) ** 2).ravel()) / (count * dim)
    for u in (left, right):
        centred = _centred(u)
        for i in range(dim):
            for j in range(dim):
                c = sum(centred[:, i] * centred[:, j]) / (count - 1)
                if i == j:
                    total += variance * max(0, 1 - sqrt(c + epsilon)) / (2 * dim)
                else:
                    total += covariance * c**2 / dim
    return total


def sigreg(embeddings, directions=None, knots=17, upper=3, mask=None):
    x, total = _kept(embeddings, mask), 0
    step = upper / (knots - 1)
    for direction in directions.T:
        projections = [sum(row * _unit(direction)) for row in x]
        for k in range(knots):
            t = k * step
            phi = exp(-t * t / 2)
            cosine = sum(cos(t * p) for p in projections) / len(x) - phi
            sine = sum(sin(t * p) for p in projections) / len(x)
            weight = step if k in (0, knots - 1) else 2 * step
            total += weight * phi * (cosine**2 + sine**2)
    return len(x) * total / directions.shape[1]


def _quantile(share, like):
    if is_exact(like):
        return mpmath.sqrt(2) * mpmath.erfinv(
            2 * mpmath.mpf(share.numerator) / share.denominator - 1
        )
    return scipy.special.ndtri(float(share))


def visreg(
    embeddings,
    directions=None,
    centre=1,
    scale=1,
    shape=1,
    epsilon=1e-4,
    mask=None,
    *,
    fixed=None,
):
    import fractions

    x = _kept(embeddings, mask)
    count, dim = x.shape
    mean, centred = sum(x) / count, _centred(x)
    deviation = np.array([sqrt(v) for v in sum(centred**2) / count])
    still = deviation
    if fixed is not None:
        others = _centred(_kept(fixed["embeddings"], mask))
        still = np.array([sqrt(v) for v in sum(others**2) / count])
    total = centre * sum(mean**2) / dim + scale * sum((1 - deviation) ** 2) / dim
    for direction in directions.T:
        projections = sorted(sum(row / (still + epsilon) * _unit(direction)) for row in centred)
        for b, p in enumerate(projections):
            quantile = _quantile(fractions.Fraction(b + 1, count + 1), p)
            total += shape * (p - quantile) ** 2 / (count * directions.shape[1])
    return total


@with_feature_mask
def koleo(embeddings, epsilon=1e-8, chunk_size=None, where=None):
    inside = [i for i in range(len(embeddings)) if where is None or where[i]]
    losses = np.array([0 * x[0] for x in embeddings])
    for i in inside:
        apart = [_unit(embeddings[i]) - _unit(embeddings[j]) for j in inside if j != i]
        if apart:
            losses[i] = -log(min(sqrt(sum(d * d)) for d in apart) + epsilon)
    return losses


def alignment(left, right, power=2, mask=None):
    if mask is not None:
        left, right = left[mask], right[mask]
    apart = _unit(left) - _unit(right)
    return sum(apart * apart) ** (power / 2)


def uniformity(embeddings, sharpness=2, chunk_size=None, mask=None):
    x = [_unit(row) for row in _kept(embeddings, mask)]
    pairs = [(a, b) for i, a in enumerate(x) for j, b in enumerate(x) if i != j]
    return log(sum(exp(-sharpness * sum((a - b) ** 2)) for a, b in pairs) / len(pairs))


def of_scale(*shape):
    """Vectors of unit scale, of which a whole example is then made tiny or huge."""

    def draw(generator, count):
        scale = 10.0 ** generator.uniform(-8, 8, (count, *[1] * len(shape)))
        return scale * generator.normal(size=(count, *shape))

    return draw


def of_unit(*shape):
    return lambda generator, count: generator.normal(size=(count, *shape))


def close(generator, count):
    """Sets of directions from evenly spread to nearly equal."""
    apart = 10.0 ** generator.uniform(-2, 1, (count, 1, 1))
    return generator.normal(size=(count, 1, 5)) + apart * generator.normal(size=(count, 5, 5))


def of_views(views):
    return lambda generator, batch: generator.normal(size=(*batch, views, 4)).astype(np.float32)


def codes(generator, batch):
    return generator.dirichlet(np.ones(4), (*batch, 2)).astype(np.float32)


def extreme(draw):
    return lambda generator, count: draw(generator, (count,))


GENERATOR = np.random.default_rng(7)
DIRECTIONS = GENERATOR.normal(size=(5, 3)).astype(np.float32)
CENTER = GENERATOR.normal(size=4).astype(np.float32)
PAIR = dict.fromkeys(("left", "right"), of_unit(5, 5))
KEEP = Batched(
    lambda g, batch: np.broadcast_to([True, True, False, True, True], (*batch, 5)).copy()
)
IN_SET = Batched(lambda g, batch: g.random((*batch, 5)) < 0.7)

CLASSES = Batched(lambda g, batch: g.random((*batch, 4)) < np.array([1, 0.6, 1, 0.6]))
OUT = np.array([True, True, False, True, True])

CASES = {
    "negative_cosine": Case(
        negative_cosine,
        options=({}, {"mask": OUT}),
        extremes={"prediction": of_scale(5), "target": of_scale(5)},
        by_component=False,
        conditioned=True,
    ),
    "dino": Case(
        dino,
        options=(
            {"temperature": 0.5, "teacher_temperature": 0.4},
            {"temperature": 0.5, "teacher_temperature": 0.4, "center": CENTER, "mask": CLASSES},
        ),
        draws={"student": of_views(3), "teacher": of_views(2)},
        extremes={"student": extreme(of_views(3)), "teacher": extreme(of_views(2))},
        by_component=False,
        conditioned=True,
    ),
    "swav": Case(
        swav,
        options=({"temperature": 0.5}, {"temperature": 0.2, "mask": CLASSES}),
        draws={"logits": of_views(3), "codes": codes},
        extremes={"logits": extreme(of_views(3)), "codes": extreme(codes)},
        by_component=False,
        conditioned=True,
    ),
    "barlow_twins": Case(
        barlow_twins,
        options=(
            {},
            {"redundancy": 0.3, "epsilon": 0.1, "chunk_size": 2},
            {"redundancy": 0.3, "mask": KEEP},
        ),
        extremes=PAIR,
        by_component=False,
        conditioned=True,
    ),
    "vicreg": Case(
        vicreg,
        options=(
            {},
            {"invariance": 2.0, "variance": 3.0, "covariance": 4.0, "chunk_size": 2},
            {"covariance": 9.0, "mask": KEEP},
        ),
        extremes=PAIR,
        by_component=False,
        conditioned=True,
    ),
    "sigreg": Case(
        sigreg,
        options=(
            {"directions": DIRECTIONS, "knots": 5},
            {"directions": DIRECTIONS, "knots": 4, "upper": 2.0, "mask": KEEP},
        ),
        extremes={"embeddings": of_unit(5, 5)},
        by_component=False,
        conditioned=True,
    ),
    "visreg": Case(
        visreg,
        options=(
            {"directions": DIRECTIONS},
            {"directions": DIRECTIONS, "centre": 2.0, "scale": 3.0, "shape": 0.5, "mask": KEEP},
        ),
        extremes={"embeddings": of_unit(5, 5)},
        by_component=False,
        conditioned=True,
    ),
    "alignment": Case(
        alignment,
        options=({}, {"power": 3.0, "mask": OUT}),
        extremes={"left": of_scale(5), "right": of_scale(5)},
        ulp=(6, 4),
        by_component=False,
    ),
    "koleo": Case(
        koleo,
        options=({}, {"epsilon": 0.1, "chunk_size": 2}, {"where": IN_SET, "mask": OUT}),
        extremes={"embeddings": close},
        by_component=False,
        conditioned=True,
    ),
    "uniformity": Case(
        uniformity,
        options=({}, {"sharpness": 0.5, "chunk_size": 2}, {"mask": KEEP}),
        extremes={"embeddings": close},
        by_component=False,
        conditioned=True,
    ),
}
