"""Where each loss of the peers is here: rows that a test runs and that the documentation shows.

A row is two expressions with one value and one gradient. `tests/oracles/make_peers.py` evaluates
the peer's side, with the peer installed, and freezes it into `tests/oracles/peers.json`; the test
evaluates ours and compares. Run as a script, this module writes `docs/coming_from.md`.
"""

import ast
import dataclasses
import functools
import hashlib
import json
import math
import pathlib
import re

import numpy as np

FROZEN = pathlib.Path(__file__).parent / "oracles" / "peers.json"
PAGE = pathlib.Path(__file__).parents[1] / "docs" / "coming_from.md"


@dataclasses.dataclass(frozen=True)
class Row:
    """One expression of a peer, and ours.

    Attributes:
        theirs: What one writes there.
        ours: What one writes here: it has the same value and the same gradient, unless `truth`
            is given.
        note: What to know about the difference, for the reader of the table.
        truth: Where the two differ, what the value is by its definition, in NumPy: ours must have
            it, theirs must not.
        rtol: How close the two are, where the peer computes with a small constant of its own.
    """

    theirs: str
    ours: str
    note: str = ""
    truth: str = ""
    rtol: float = 1e-9

    @property
    def inputs(self) -> str:
        """Changes when a number does that the peer is given."""
        names = set(re.findall(r"\w+", self.theirs)) | {self.argument}
        used = {name: np.round(x * 1.0, 9).tolist() for name, x in INPUTS.items() if name in names}
        return hashlib.sha256(json.dumps(used).encode()).hexdigest()[:8]

    @functools.cached_property
    def argument(self) -> str:
        """The input to differentiate by: the first that our first loss is given."""
        of_ours = re.compile(r"jl\.|jax\.grad\(.*jl\.")
        for call in ast.walk(ast.parse(self.ours)):
            if isinstance(call, ast.Call) and of_ours.match(ast.unparse(call.func)):
                for node in (node for argument in call.args for node in ast.walk(argument)):
                    name = node.id if isinstance(node, ast.Name) else ""
                    if name in INPUTS and INPUTS[name].dtype == float:
                        return name
        raise ValueError(f"{self.ours!r} has no input to differentiate by")


def spread(seed, low, high, *shape):
    """Numbers spread over an interval: the same everywhere, since no generator draws them."""
    place = np.arange(1, 1 + math.prod(shape)) * math.sqrt(seed) % 1
    return np.round(low + (high - low) * place, 3).reshape(shape)


def array(values):
    """An array of the numbers in a text, rows parted by semicolons."""
    rows = [[float(x) for x in row.split()] for row in values.split(";")]
    return np.array(rows[0] if len(rows) == 1 else rows)


def ids(values):
    """An array of integers."""
    return array(values).astype(int)


# Small numbers that keep away from the kinks of the losses, and that text shows exactly.
INPUTS = {
    "prediction": spread(2, -3, 3, 4, 3),
    "target": spread(3, -3, 3, 4, 3),
    "weight": spread(5, 0.2, 2, 4, 3),
    "sample_weight": array("1 2 0.5 1.5"),
    "forecast": spread(7, 0.2, 5, 4, 3),
    "amount": spread(11, 0.3, 6, 4, 3),
    "share": spread(13, 0.05, 0.95, 4, 3),
    "angle": spread(14, -3, 3, 4, 3),
    "variance": spread(13, 0.1, 2, 4, 3),
    "scale": spread(17, 0.5, 2, 4, 3),
    "log_rate": spread(19, -1, 2, 4, 3),
    "rate": spread(23, 0.2, 5, 4, 3),
    "count": array("0 1 4; 2 0 3; 1 5 2; 7 1 0"),
    "vector": spread(29, -2, 2, 4, 5),
    "other": spread(31, -2, 2, 4, 5),
    "anchor": spread(29, -2, 2, 4, 5),
    "positive": spread(31, -2, 2, 4, 5),
    "negative": spread(37, -2, 2, 4, 5),
    "logits": spread(41, -3, 3, 4, 3),
    "teacher": spread(61, -3, 3, 4, 3),
    "labels": ids("2 0 1 1"),
    "padded_labels": ids("2 -100 1 -100"),
    "one_hot": array("0 0 1; 1 0 0; 0 1 0; 0 1 0"),
    "class_weight": array("0.5 1 2"),
    "probabilities": array("0.7 0.2 0.1; 0.25 0.5 0.25; 0.125 0.375 0.5; 0.05 0.15 0.8"),
    "distribution": array("0.5 0.25 0.25; 0.1 0.6 0.3; 0.3 0.3 0.4; 0.2 0.05 0.75"),
    "yes_no": array("1 0 1; 0 1 0; 1 0 1; 1 1 0"),
    "ids_of_yes": ids("0 2 -1; 1 -1 -1; 2 0 -1; 0 1 -1"),
    "signs": array("1 -1 1; -1 1 -1; 1 -1 1; 1 1 -1"),
    "sign": array("1 -1 -1 1"),
    "first": array("0.3 -1.2 0.8 1.6"),
    "second": array("0.7 -0.9 -0.2 0.9"),
    "image_logits": spread(43, -3, 3, 2, 3, 2, 2),
    "image_labels": np.array([[[0, 2], [1, 1]], [[2, 2], [0, 1]]]),
    "hidden": spread(47, -2, 2, 4, 5),
    "head": spread(53, -1, 1, 3, 5),
    "bias": array("0.1 -0.3 0.2"),
    "scores": spread(59, -2, 2, 3, 5),
    "relevance": array("2 0 1 0 1; 0 3 1 0 2; 1 1 0 0 0"),
    "ranks": array("5 3 1 2 4; 1 2 3 5 4; 2 4 1 5 3"),
    "kept": array("1 1 1 1 0; 1 1 1 1 1; 1 0 1 1 0").astype(bool),
    "segments": ids("0 0 1 1 1; 0 1 0 1 0; 0 0 0 1 1"),
    "item_weight": spread(67, 0.5, 2, 3, 5),
    "pixels": spread(71, -2, 2, 2, 3, 3, 4),
    "pixel_labels": np.eye(4)[np.arange(18).reshape(2, 3, 3) * 7 % 11 % 4],
    "pixel_weight": array("0.5 1 2 0.25"),
    "pixel_chance": spread(73, 0.05, 0.95, 2, 3, 3, 1),
    "pixel_on": spread(79, 0, 1, 2, 3, 3, 1).round(),
    "embeddings": spread(83, -2, 2, 6, 4),
    "groups": ids("0 0 1 1 2 0"),
    "frames": spread(89, -2, 2, 2, 7, 4),
    "words": ids("1 2 2; 3 1 0"),
    "word_count": ids("3 2"),
    "frame_count": ids("7 6"),
    "frame_padding": array("0 0 0 0 0 0 0; 0 0 0 0 0 0 1"),
    "word_padding": array("0 0 0; 0 0 1"),
}
INPUTS["log_probabilities"] = np.log(INPUTS["probabilities"])
INPUTS["log_distribution"] = np.log(INPUTS["distribution"])
INPUTS["pixel_shares"] = np.exp(INPUTS["pixels"])
INPUTS["pixel_shares"] /= INPUTS["pixel_shares"].sum(-1, keepdims=True)


def cotangent(value):
    """The gradient is that of a sum in which no two values weigh the same."""
    return np.arange(1.0, 1 + np.size(value)).reshape(np.shape(value))


ROWS: dict[str, list[Row]] = {}

ROWS["torch"] = [
    Row(
        "F.l1_loss(prediction, target)",
        'jl.regression.absolute_error(prediction, target, reduction="mean")',
    ),
    Row(
        'F.l1_loss(prediction, target, reduction="sum")',
        'jl.regression.absolute_error(prediction, target, reduction="sum")',
    ),
    Row(
        "F.l1_loss(prediction, target, weight=weight)",
        'jl.regression.absolute_error(prediction, target, weights=weight, reduction="mean")',
        "Both divide by the sum of the weights.",
    ),
    Row(
        "F.mse_loss(prediction, target)",
        'jl.regression.squared_error(prediction, target, reduction="mean")',
    ),
    Row(
        'F.mse_loss(prediction, target, reduction="none")',
        "jl.regression.squared_error(prediction, target)",
    ),
    Row(
        "F.mse_loss(prediction, target, weight=weight)",
        'jl.regression.squared_error(prediction, target, weights=weight, reduction="mean")',
    ),
    Row(
        "F.huber_loss(prediction, target, delta=0.5)",
        'jl.regression.huber(prediction, target, delta=0.5, reduction="mean")',
    ),
    Row(
        "F.huber_loss(prediction, target, weight=weight)",
        "jl.regression.huber(prediction, target, weights=weight).mean()",
        "Here torch divides by the number of values, in `l1_loss` and `mse_loss` by the sum of "
        "the weights.",
    ),
    Row(
        "F.smooth_l1_loss(prediction, target, beta=0.5)",
        'jl.regression.smooth_l1(prediction, target, beta=0.5, reduction="mean")',
    ),
    Row(
        "F.smooth_l1_loss(prediction, target, beta=0.0)",
        'jl.regression.smooth_l1(prediction, target, beta=0.0, reduction="mean")',
    ),
    Row(
        "1 - F.cosine_similarity(vector, other, dim=1)",
        "jl.regression.cosine_distance(vector, other)",
        "torch's default axis is 1, ours the last.",
    ),
    Row(
        "F.cross_entropy(logits, labels)",
        'jl.classification.softmax_cross_entropy(logits, labels, reduction="mean")',
    ),
    Row(
        "F.cross_entropy(logits, distribution)",
        'jl.classification.softmax_cross_entropy(logits, distribution, reduction="mean")',
    ),
    Row(
        "F.cross_entropy(logits, labels, label_smoothing=0.1)",
        "jl.classification.softmax_cross_entropy(logits, labels, label_smoothing=0.1, "
        'reduction="mean")',
    ),
    Row(
        "F.cross_entropy(logits, distribution, label_smoothing=0.1)",
        "jl.classification.softmax_cross_entropy(logits, distribution, label_smoothing=0.1, "
        'reduction="mean")',
    ),
    Row(
        "F.cross_entropy(logits, padded_labels, ignore_index=-100)",
        "jl.classification.softmax_cross_entropy(logits, padded_labels, "
        'where=padded_labels != -100, reduction="mean")',
        "No label is special here: without `where`, -100 gives NaN.",
    ),
    Row(
        "F.cross_entropy(logits, labels, weight=class_weight)",
        "jl.classification.softmax_cross_entropy(logits, labels, "
        'weights=class_weight[labels], reduction="mean")',
        "Divided by the sum of the labels' weights.",
    ),
    Row(
        'F.cross_entropy(logits, labels, weight=class_weight, reduction="none")',
        "jl.classification.softmax_cross_entropy(logits, labels, class_weights=class_weight)",
    ),
    Row(
        "F.cross_entropy(logits, distribution, weight=class_weight)",
        "jl.classification.softmax_cross_entropy(logits, distribution, "
        'class_weights=class_weight, reduction="mean")',
        "For distributions torch divides by the number of examples, weights or not.",
    ),
    Row(
        "F.cross_entropy(logits, padded_labels, weight=class_weight, ignore_index=-100)",
        "jl.classification.softmax_cross_entropy(logits, padded_labels, "
        "where=padded_labels != -100, weights=class_weight[padded_labels], "
        'reduction="mean")',
    ),
    Row(
        "F.cross_entropy(logits, labels, weight=class_weight, label_smoothing=0.1)",
        "jl.classification.softmax_cross_entropy(logits, labels, class_weights=class_weight, "
        'label_smoothing=0.1, reduction="sum") / class_weight[labels].sum()',
        "torch divides by the sum of the labels' weights, although the share of the smoothing "
        "is weighted by those of all classes.",
    ),
    Row(
        "F.cross_entropy(image_logits, image_labels)",
        "jl.classification.softmax_cross_entropy(image_logits, image_labels, axis=1, "
        'reduction="mean")',
        "Any axis can be that of the classes.",
    ),
    Row(
        "F.cross_entropy(logits, 0 * labels - 100)",
        "jl.classification.softmax_cross_entropy(logits, 0 * labels - 100, "
        'where=labels < 0, reduction="mean")',
        "A mean over nothing is NaN in torch, and 0, with gradient 0, here.",
        truth="0.0",
    ),
    Row(
        "F.nll_loss(log_probabilities, labels)",
        'jl.classification.negative_log_likelihood(log_probabilities, labels, reduction="mean")',
    ),
    Row(
        "F.nll_loss(log_probabilities, padded_labels, ignore_index=-100)",
        "jl.classification.negative_log_likelihood(log_probabilities, padded_labels, "
        'where=padded_labels != -100, reduction="mean")',
    ),
    Row(
        "F.nll_loss(log_probabilities, labels, weight=class_weight)",
        "jl.classification.negative_log_likelihood(log_probabilities, labels, "
        'weights=class_weight[labels], reduction="mean")',
    ),
    Row(
        "F.linear_cross_entropy(hidden, head, labels, linear_bias=bias)",
        'jl.classification.softmax_cross_entropy(hidden @ head.T + bias, labels, reduction="mean")',
    ),
    Row(
        "F.binary_cross_entropy(share, yes_no)",
        'jl.classification.binary_cross_entropy(share, yes_no, reduction="mean")',
    ),
    Row(
        "F.binary_cross_entropy(share, yes_no, weight=weight)",
        "jl.classification.binary_cross_entropy(share, yes_no, weights=weight).mean()",
        "torch divides by the number of values.",
    ),
    Row(
        'F.binary_cross_entropy(0 * share, yes_no, reduction="sum")',
        'jl.classification.binary_cross_entropy(0 * share, yes_no, reduction="sum")',
        "torch caps the loss of a value at 100; a probability of 0 for what happened costs "
        "infinity here.",
        truth="math.inf",
    ),
    Row(
        "F.binary_cross_entropy_with_logits(logits, yes_no)",
        'jl.classification.sigmoid_cross_entropy(logits, yes_no, reduction="mean")',
    ),
    Row(
        "F.binary_cross_entropy_with_logits(logits, yes_no, weight=weight)",
        "jl.classification.sigmoid_cross_entropy(logits, yes_no, weights=weight).mean()",
        "torch divides by the number of values.",
    ),
    Row(
        "F.binary_cross_entropy_with_logits(logits, yes_no, pos_weight=class_weight)",
        "jl.classification.sigmoid_cross_entropy(logits, yes_no, positive_weight=class_weight, "
        'reduction="mean")',
    ),
    Row(
        "F.binary_cross_entropy_with_logits(signs * math.inf, yes_no)",
        'jl.classification.sigmoid_cross_entropy(signs * math.inf, yes_no, reduction="mean")',
        "Sure and right: torch gives NaN.",
        truth="0.0",
    ),
    Row(
        'F.kl_div(log_probabilities, distribution, reduction="batchmean")',
        'jl.divergence.kl(log_probabilities, distribution, reduction="mean")',
    ),
    Row(
        "F.kl_div(log_probabilities, distribution)",
        'jl.divergence.kl(log_probabilities, distribution, reduction="mean") / 3',
        "torch's default divides by the number of classes, too.",
    ),
    Row(
        'F.kl_div(log_probabilities, log_distribution, log_target=True, reduction="batchmean")',
        'jl.divergence.kl_log(log_probabilities, log_distribution, reduction="mean")',
    ),
    Row(
        "F.gaussian_nll_loss(prediction, target, variance)",
        'jl.nll.gaussian(prediction, target, variance, full=False, reduction="mean")',
        "torch's `eps` raises variances below it to it; nothing is clipped here.",
    ),
    Row(
        "F.gaussian_nll_loss(prediction, target, variance, full=True)",
        'jl.nll.gaussian(prediction, target, variance, reduction="mean")',
    ),
    Row(
        "F.gaussian_nll_loss(prediction, prediction, variance * 1e-8)",
        'jl.nll.gaussian(prediction, prediction, variance * 1e-8, full=False, reduction="mean")',
        "torch computes with a variance of 1e-6 instead.",
        truth="np.mean(np.log(variance * 1e-8) / 2)",
    ),
    Row(
        "F.poisson_nll_loss(log_rate, count)",
        'jl.nll.poisson(log_rate, count, full=False, reduction="mean")',
    ),
    Row(
        "F.poisson_nll_loss(rate, count, log_input=False)",
        'jl.nll.poisson(rate, count, log_input=False, full=False, reduction="mean")',
        "torch adds `eps`, 1e-8, to the rate.",
        rtol=1e-6,
    ),
    Row(
        "F.poisson_nll_loss(log_rate, count, full=True)",
        'jl.nll.poisson(log_rate, count, reduction="mean")',
        "torch takes Stirling's approximation for the log of the factorial, and 0 for 0! and "
        "1!; here it is exact.",
        truth="np.mean(np.exp(log_rate) - count * log_rate + np.vectorize(math.lgamma)(count + 1))",
    ),
    Row(
        "F.soft_margin_loss(logits, signs)",
        'jl.classification.logistic(logits, signs, reduction="mean")',
    ),
    Row(
        "F.soft_margin_loss(0 * logits - 1000 * signs, signs)",
        'jl.classification.logistic(0 * logits - 1000 * signs, signs, reduction="mean")',
        "The exponential overflows in torch.",
        truth="1000.0",
    ),
    Row(
        "F.hinge_embedding_loss(forecast, signs, margin=2.0)",
        'jl.classification.hinge_embedding(forecast, signs, margin=2.0, reduction="mean")',
    ),
    Row(
        "F.margin_ranking_loss(first, second, sign, margin=0.5)",
        'jl.ranking.margin(first, second, sign, margin=0.5, reduction="mean")',
    ),
    Row(
        "F.multi_margin_loss(logits, labels)",
        'jl.classification.multi_margin(logits, labels, reduction="mean")',
    ),
    Row(
        "F.multi_margin_loss(logits, labels, p=2, margin=0.5, weight=class_weight)",
        "jl.classification.multi_margin(logits, labels, power=2, margin=0.5, "
        'class_weights=class_weight, reduction="mean")',
    ),
    Row(
        "F.multilabel_margin_loss(logits, ids_of_yes)",
        'jl.classification.multilabel_margin(logits, yes_no, reduction="mean")',
        "torch takes the ids of what is on, up to the first -1; here there is a 0 or 1 a class.",
    ),
    Row(
        "F.cosine_embedding_loss(vector, other, sign, margin=0.2)",
        'jl.contrastive.cosine_embedding(vector, other, sign, margin=0.2, reduction="mean")',
    ),
    Row(
        "F.triplet_margin_loss(anchor, positive, negative, margin=2.0)",
        'jl.contrastive.triplet(anchor, positive, negative, margin=2.0, reduction="mean")',
        "torch adds `eps`, 1e-6, to every difference.",
        rtol=1e-5,
    ),
    Row(
        "F.triplet_margin_loss(anchor, positive, negative, margin=2.0, p=1, eps=0.0, swap=True)",
        "jl.contrastive.triplet(anchor, positive, negative, margin=2.0, power=1.0, swap=True, "
        'reduction="mean")',
    ),
    Row(
        "F.triplet_margin_with_distance_loss(anchor, positive, negative, "
        "distance_function=lambda x, y: ((x - y) ** 2).sum(-1), margin=2.0, swap=True)",
        "jl.contrastive.triplet(anchor, positive, negative, "
        'distance="squared", margin=2.0, swap=True, reduction="mean")',
    ),
    Row(
        "F.triplet_margin_with_distance_loss(anchor, positive, negative, "
        "distance_function=lambda x, y: (x - y).abs().amax(-1))",
        "jl.contrastive.triplet(anchor, positive, negative, "
        'distance=lambda x, y: jnp.abs(x - y).max(-1), reduction="mean")',
    ),
    Row(
        "F.ctc_loss(frames.log_softmax(-1).transpose(0, 1), words, frame_count, word_count, "
        'reduction="none")',
        "jl.sequence.ctc(frames, words, logit_lengths=frame_count, label_lengths=word_count)",
        "Logits and examples first here. torch's gradient for log-probabilities is that for "
        "logits: it is right behind `log_softmax` alone.",
    ),
    Row(
        "F.ctc_loss(frames.log_softmax(-1).transpose(0, 1), words, frame_count, word_count)",
        "jl.mean(jl.sequence.ctc(frames, words, logit_lengths=frame_count, "
        "label_lengths=word_count) / word_count)",
        "torch divides by the number of labels before it takes the mean.",
    ),
    Row(
        "F.ctc_loss(frames.log_softmax(-1).transpose(0, 1), words, frame_count - 4, "
        'word_count, reduction="sum", zero_infinity=True)',
        "jl.sequence.ctc(frames, words, logit_lengths=frame_count - 4, "
        'label_lengths=word_count, infeasible="zero", reduction="sum")',
    ),
    Row(
        "F.ctc_loss(frames.log_softmax(-1).transpose(0, 1), words - 1, frame_count, word_count, "
        'blank=3, reduction="sum")',
        "jl.sequence.ctc(frames, words - 1, logit_lengths=frame_count, "
        'label_lengths=word_count, blank=3, reduction="sum")',
    ),
    Row(
        "F.multilabel_soft_margin_loss(logits, yes_no, weight=class_weight)",
        "jl.classification.multilabel_soft_margin(logits, yes_no, class_weights=class_weight, "
        'reduction="mean")',
    ),
]

ROWS["keras"] = [
    Row(
        "keras.losses.mean_squared_error(target, prediction)",
        "jl.regression.squared_error(prediction, target).mean(-1)",
        "The functions of keras average over the last axis.",
    ),
    Row(
        "keras.losses.MeanSquaredError()(target, prediction)",
        'jl.regression.squared_error(prediction, target, reduction="mean")',
    ),
    Row(
        "keras.losses.MeanSquaredError()(target, prediction, sample_weight=sample_weight)",
        "(sample_weight * jl.regression.squared_error(prediction, target).mean(-1)).mean()",
        "keras divides by the number of examples, whatever the weights sum to.",
    ),
    Row(
        'keras.losses.MeanSquaredError(reduction="mean_with_sample_weight")(target, prediction, '
        "sample_weight=sample_weight)",
        "jl.mean(jl.regression.squared_error(prediction, target).mean(-1), weights=sample_weight)",
    ),
    Row(
        'keras.losses.MeanSquaredError(reduction="sum")(target, prediction)',
        "jl.regression.squared_error(prediction, target).mean(-1).sum()",
    ),
    Row(
        "keras.losses.mean_absolute_error(target, prediction)",
        "jl.regression.absolute_error(prediction, target).mean(-1)",
    ),
    Row(
        "keras.losses.MeanAbsoluteError()(target, prediction)",
        'jl.regression.absolute_error(prediction, target, reduction="mean")',
    ),
    Row(
        "keras.losses.mean_absolute_percentage_error(amount, forecast)",
        "100 * jl.regression.absolute_percentage_error(forecast, amount).mean(-1)",
        "A fraction here, not percent.",
    ),
    Row(
        "keras.losses.MeanAbsolutePercentageError()(amount, forecast)",
        '100 * jl.regression.absolute_percentage_error(forecast, amount, reduction="mean")',
    ),
    Row(
        "keras.losses.mean_squared_logarithmic_error(amount, forecast)",
        "jl.regression.squared_log_error(forecast, amount).mean(-1)",
    ),
    Row(
        "keras.losses.MeanSquaredLogarithmicError()(amount, forecast)",
        'jl.regression.squared_log_error(forecast, amount, reduction="mean")',
    ),
    Row(
        "keras.losses.huber(target, prediction, delta=0.5)",
        "jl.regression.huber(prediction, target, delta=0.5).mean(-1)",
    ),
    Row(
        "keras.losses.Huber(delta=0.5)(target, prediction)",
        'jl.regression.huber(prediction, target, delta=0.5, reduction="mean")',
    ),
    Row(
        "keras.losses.log_cosh(target, prediction)",
        "jl.regression.log_cosh(prediction, target).mean(-1)",
    ),
    Row(
        "keras.losses.LogCosh()(target, prediction)",
        'jl.regression.log_cosh(prediction, target, reduction="mean")',
    ),
    Row(
        "keras.losses.cosine_similarity(other, vector)",
        "jl.regression.cosine_distance(vector, other) - 1",
        "Minus the cosine in keras.",
    ),
    Row(
        "keras.losses.CosineSimilarity()(other, vector)",
        'jl.regression.cosine_distance(vector, other, reduction="mean") - 1',
    ),
    Row(
        "keras.losses.poisson(count, rate)",
        "jl.nll.poisson(rate, count, log_input=False, full=False).mean(-1)",
        "keras adds 1e-7 to the rate.",
        rtol=1e-6,
    ),
    Row(
        "keras.losses.Poisson()(count, rate)",
        'jl.nll.poisson(rate, count, log_input=False, full=False, reduction="mean")',
        rtol=1e-6,
    ),
    Row(
        "keras.losses.binary_crossentropy(yes_no, share)",
        "jl.classification.binary_cross_entropy(share, yes_no).mean(-1)",
        "keras clips probabilities at 1e-7.",
    ),
    Row(
        "keras.losses.binary_crossentropy(yes_no, logits, from_logits=True)",
        "jl.classification.sigmoid_cross_entropy(logits, yes_no).mean(-1)",
    ),
    Row(
        "keras.losses.BinaryCrossentropy(from_logits=True, label_smoothing=0.1)(yes_no, logits)",
        "jl.classification.sigmoid_cross_entropy(logits, yes_no, label_smoothing=0.1, "
        'reduction="mean")',
    ),
    Row(
        "keras.losses.BinaryCrossentropy()(yes_no, 1 - yes_no + 0 * share)",
        'jl.classification.binary_cross_entropy(1 - yes_no + 0 * share, yes_no, reduction="mean")',
        "Sure and wrong: keras clips, so that it costs 16.1, with gradient 0.",
        truth="math.inf",
    ),
    Row(
        "keras.losses.binary_focal_crossentropy(yes_no, logits, from_logits=True, gamma=1.5)",
        "jl.classification.sigmoid_focal(logits, yes_no, gamma=1.5).mean(-1)",
    ),
    Row(
        "keras.losses.BinaryFocalCrossentropy(apply_class_balancing=True, alpha=0.3, "
        "from_logits=True)(yes_no, logits)",
        'jl.classification.sigmoid_focal(logits, yes_no, alpha=0.3, reduction="mean")',
    ),
    Row(
        "keras.losses.binary_focal_crossentropy(yes_no, logits, from_logits=True, "
        "label_smoothing=0.1)",
        "jl.classification.sigmoid_focal(logits, yes_no, label_smoothing=0.1).mean(-1)",
        "keras mixes the probabilities inside the power, here the losses of yes and no are mixed.",
        truth="np.mean((0.9 * yes_no + 0.05) * np.log1p(np.exp(-logits)) / (1 + np.exp(logits)) "
        "** 2 + (0.95 - 0.9 * yes_no) * np.log1p(np.exp(logits)) / (1 + np.exp(-logits)) ** 2, -1)",
    ),
    Row(
        "keras.losses.binary_focal_crossentropy(yes_no, -50 * signs + 0 * logits, "
        "from_logits=True)",
        "jl.classification.sigmoid_focal(-50 * signs + 0 * logits, yes_no).mean(-1)",
        "keras clips the probabilities even of logits: 16.1, where it is 50.",
        truth="np.full(4, 50.0)",
    ),
    Row(
        "keras.losses.categorical_crossentropy(distribution, probabilities)",
        "jl.classification.categorical_cross_entropy("
        "probabilities / probabilities.sum(-1, keepdims=True), distribution)",
        "keras divides probabilities by their sum and clips them at 1e-7.",
    ),
    Row(
        "keras.losses.categorical_crossentropy(distribution, logits, from_logits=True)",
        "jl.classification.softmax_cross_entropy(logits, distribution)",
    ),
    Row(
        "keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1)"
        "(one_hot, logits)",
        "jl.classification.softmax_cross_entropy(logits, one_hot, label_smoothing=0.1, "
        'reduction="mean")',
    ),
    Row(
        "keras.losses.categorical_crossentropy(one_hot, logits, from_logits=True, "
        "label_smoothing=0.1, axis=0)",
        "jl.classification.softmax_cross_entropy(logits, one_hot, label_smoothing=0.1, axis=0)",
        "keras divides the smoothing by the size of the last axis, whatever `axis` is.",
        truth="-np.sum((0.9 * one_hot + 0.1 / 4) "
        "* (logits - np.log(np.sum(np.exp(logits), 0))), 0)",
    ),
    Row(
        "keras.losses.sparse_categorical_crossentropy(labels, probabilities)",
        "jl.classification.categorical_cross_entropy("
        "probabilities / probabilities.sum(-1, keepdims=True), labels)",
    ),
    Row(
        "keras.losses.sparse_categorical_crossentropy(padded_labels, logits, from_logits=True, "
        "ignore_class=-100)",
        "jl.classification.softmax_cross_entropy(logits, padded_labels, "
        "where=padded_labels != -100)",
    ),
    Row(
        "keras.losses.SparseCategoricalCrossentropy(from_logits=True)(labels, logits)",
        'jl.classification.softmax_cross_entropy(logits, labels, reduction="mean")',
    ),
    Row(
        "keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-100)"
        "(padded_labels, logits)",
        "jl.classification.softmax_cross_entropy(logits, padded_labels, "
        'where=padded_labels != -100, reduction="mean")',
    ),
    Row(
        "keras.losses.categorical_focal_crossentropy(one_hot, logits, from_logits=True)",
        "0.25 * jl.classification.softmax_focal(logits, one_hot)",
        "keras multiplies everything by alpha, 0.25.",
    ),
    Row(
        "keras.losses.CategoricalFocalCrossentropy(from_logits=True, label_smoothing=0.1)"
        "(one_hot, logits)",
        "0.25 * jl.classification.softmax_focal(logits, one_hot, label_smoothing=0.1, "
        'reduction="mean")',
        "keras multiplies everything by alpha, 0.25.",
    ),
    Row(
        "keras.losses.CategoricalFocalCrossentropy(alpha=[0.5, 1.0, 2.0], gamma=1.5, "
        "from_logits=True)(one_hot, logits)",
        "jl.classification.softmax_focal(logits, labels, gamma=1.5, "
        'class_weights=class_weight, reduction="mean")',
    ),
    Row(
        "keras.losses.categorical_generalized_cross_entropy(labels, "
        "keras.ops.softmax(logits), q=0.5)",
        "jl.classification.generalized_cross_entropy(logits, labels, q=0.5)",
        "Logits here.",
    ),
    Row(
        "keras.losses.CategoricalGeneralizedCrossEntropy(q=0.5)(labels, keras.ops.softmax(logits))",
        'jl.classification.generalized_cross_entropy(logits, labels, q=0.5, reduction="mean")',
    ),
    Row("keras.losses.hinge(signs, logits)", "jl.classification.hinge(logits, signs).mean(-1)"),
    Row(
        "keras.losses.Hinge()(yes_no, logits)",
        'jl.classification.hinge(logits, yes_no, zero_one_labels=True, reduction="mean")',
        "keras converts labels if all of a batch are 0 or 1; here one says so.",
    ),
    Row(
        "keras.losses.squared_hinge(signs, logits)",
        "jl.classification.squared_hinge(logits, signs).mean(-1)",
    ),
    Row(
        "keras.losses.SquaredHinge()(signs, logits)",
        'jl.classification.squared_hinge(logits, signs, reduction="mean")',
    ),
    Row(
        "keras.losses.categorical_hinge(one_hot, forecast)",
        "jl.classification.multiclass_hinge(forecast, labels)",
    ),
    Row(
        "keras.losses.CategoricalHinge()(one_hot, forecast)",
        'jl.classification.multiclass_hinge(forecast, labels, reduction="mean")',
    ),
    Row(
        "keras.losses.categorical_hinge(one_hot, -forecast - 2 * (1 - one_hot))",
        "jl.classification.multiclass_hinge(-forecast - 2 * (1 - one_hot), labels)",
        "Only where some other score is above 0: keras puts a 0 among the rivals, so that "
        "negative scores cost although the right one leads by 1.",
        truth="np.maximum(0, 1 + np.max(np.where(one_hot, -np.inf, -forecast - 2), -1) "
        "+ np.sum(one_hot * forecast, -1))",
    ),
    Row(
        "keras.losses.kl_divergence(distribution, probabilities)",
        "jl.divergence.kl(jnp.log(probabilities), distribution)",
        "keras clips both at 1e-7.",
    ),
    Row(
        "keras.losses.KLDivergence()(distribution, probabilities)",
        'jl.divergence.kl(jnp.log(probabilities), distribution, reduction="mean")',
    ),
    Row(
        "keras.losses.kl_divergence(one_hot, probabilities)",
        "jl.divergence.kl(jnp.log(probabilities), one_hot)",
        "Off by 1e-6 for targets of 0, which keras lifts to 1e-7.",
        truth="-np.log(np.sum(one_hot * probabilities, -1))",
    ),
    Row(
        "keras.losses.dice(pixel_on, pixel_chance)",
        "jl.segmentation.dice(pixel_chance.reshape(1, 6, 3, 1), pixel_on.reshape(1, 6, 3, 1), "
        "smoothing=0.0)[0]",
        "By default keras sums over the batch, too, as if it were one image, and adds 1e-7 to "
        "the divisor.",
    ),
    Row(
        "keras.losses.Dice(axis=(1, 2, 3))(pixel_on, pixel_chance)",
        'jl.segmentation.dice(pixel_chance, pixel_on, smoothing=0.0, reduction="mean")',
    ),
    Row(
        "keras.losses.tversky(pixel_on, pixel_chance, alpha=0.2, beta=0.8, axis=(1, 2, 3))",
        "jl.segmentation.tversky(pixel_chance, pixel_on, alpha=0.8, beta=0.2, smoothing=0.0)",
        "keras has alpha and beta the other way round, also from what its documentation says.",
    ),
    Row(
        "keras.losses.Tversky(alpha=0.2, beta=0.8, axis=(1, 2, 3))(pixel_on, pixel_chance)",
        "jl.segmentation.tversky(pixel_chance, pixel_on, alpha=0.8, beta=0.2, smoothing=0.0, "
        'reduction="mean")',
    ),
    Row(
        "keras.losses.ctc(words, frames)",
        "jl.sequence.ctc(frames, words, label_mask=words != 0)",
        "keras reads a 0 as the blank and as the end of the labels.",
        rtol=1e-5,
    ),
    Row(
        "keras.losses.CTC()(words, frames)",
        'jl.sequence.ctc(frames, words, label_mask=words != 0, reduction="mean")',
        "keras computes it in float32.",
        rtol=1e-5,
    ),
    Row(
        "keras.losses.circle(groups, embeddings / jnp.linalg.norm(embeddings, axis=1, "
        "keepdims=True), gamma=64.0, margin=0.25)",
        "jl.contrastive.circle(embeddings, groups, gamma=64.0, margin=0.25)",
        "Vectors are brought to length 1 here.",
    ),
    Row(
        "keras.losses.circle(groups, embeddings / jnp.linalg.norm(embeddings, axis=1, "
        "keepdims=True), ref_labels=groups[::-1], ref_embeddings=-embeddings / "
        "jnp.linalg.norm(embeddings, axis=1, keepdims=True), remove_diagonal=False, gamma=8.0)",
        "jl.contrastive.circle(embeddings, groups, references=-embeddings, "
        "reference_labels=groups[::-1], gamma=8.0)",
    ),
    Row(
        "keras.losses.Circle()(groups, embeddings / jnp.linalg.norm(embeddings, axis=1, "
        "keepdims=True))",
        'jl.contrastive.circle(embeddings, groups, weights=groups != 2, reduction="mean")',
        "The mean of keras is over the losses above 0: an example without a match does not count.",
    ),
]

ROWS["optax"] = [
    Row(
        "optax.losses.squared_error(prediction, target)",
        "jl.regression.squared_error(prediction, target)",
    ),
    Row(
        "optax.losses.l2_loss(prediction, target)",
        "0.5 * jl.regression.squared_error(prediction, target)",
        "The factor 1/2 is in the name here: there is none.",
    ),
    Row(
        "optax.losses.huber_loss(prediction, target, delta=0.5)",
        "jl.regression.huber(prediction, target, delta=0.5)",
    ),
    Row(
        "jax.grad(lambda x: optax.losses.huber_loss(x, 0 * x).sum())(1e-17 * prediction)",
        "jax.grad(lambda x: jl.regression.huber(x, 0 * x).sum())(1e-17 * prediction)",
        "The gradient of a small error is rounded to the last place of delta in optax: 0 below "
        "3e-8 in float32.",
        truth="1e-17 * prediction",
    ),
    Row(
        "optax.losses.log_cosh(prediction, target)",
        "jl.regression.log_cosh(prediction, target)",
    ),
    Row(
        "optax.losses.log_cosh(1e-9 * prediction, 0 * target)",
        "jl.regression.log_cosh(1e-9 * prediction, 0 * target)",
        "Small errors cancel in optax (and in keras): from 1e-4 on it is 0 in float32.",
        truth="(1e-9 * prediction) ** 2 / 2",
    ),
    Row(
        "optax.losses.cosine_similarity(vector, other)",
        "1 - jl.regression.cosine_distance(vector, other)",
    ),
    Row(
        "optax.losses.cosine_distance(vector, other)",
        "jl.regression.cosine_distance(vector, other)",
    ),
    Row(
        "optax.losses.cosine_distance(vector, other, axis=0)",
        "jl.regression.cosine_distance(vector, other, axis=0)",
    ),
    Row(
        "optax.losses.cosine_distance(0 * vector, other)",
        "jl.regression.cosine_distance(0 * vector, other)",
        "A zero vector is NaN in optax, unless given an epsilon.",
        truth="np.ones(4)",
    ),
    Row(
        "optax.losses.sigmoid_binary_cross_entropy(logits, yes_no)",
        "jl.classification.sigmoid_cross_entropy(logits, yes_no)",
    ),
    Row(
        "optax.losses.sigmoid_binary_cross_entropy(logits, share)",
        "jl.classification.sigmoid_cross_entropy(logits, share)",
    ),
    Row(
        "optax.losses.sigmoid_focal_loss(logits, yes_no)",
        "jl.classification.sigmoid_focal(logits, yes_no)",
    ),
    Row(
        "optax.losses.sigmoid_focal_loss(logits, yes_no, alpha=0.3, gamma=1.5)",
        "jl.classification.sigmoid_focal(logits, yes_no, alpha=0.3, gamma=1.5)",
    ),
    Row(
        "optax.losses.sigmoid_focal_loss(logits, share)",
        "jl.classification.sigmoid_focal(logits, share)",
        "A label between 0 and 1: optax (keras and torchvision, too) mixes the probabilities "
        "inside the power, here the losses of yes and no are mixed.",
        truth="(lambda p: -share * (1 - p)**2 * np.log(p) - (1 - share) * p**2 * np.log1p(-p))"
        "(1 / (1 + np.exp(-logits)))",
    ),
    Row("optax.losses.hinge_loss(logits, signs)", "jl.classification.hinge(logits, signs)"),
    Row(
        "optax.losses.perceptron_loss(logits, signs)", "jl.classification.perceptron(logits, signs)"
    ),
    Row(
        "optax.losses.sparsemax_loss(logits, yes_no)",
        "jl.classification.sigmoid_sparsemax(logits, yes_no)",
    ),
    Row(
        "optax.losses.softmax_cross_entropy(logits, distribution)",
        "jl.classification.softmax_cross_entropy(logits, distribution)",
    ),
    Row(
        "optax.losses.softmax_cross_entropy(logits, distribution, axis=0)",
        "jl.classification.softmax_cross_entropy(logits, distribution, axis=0)",
    ),
    Row(
        "optax.losses.softmax_cross_entropy(logits, distribution * yes_no, where=yes_no > 0)",
        "jl.classification.softmax_cross_entropy(logits, distribution * yes_no, mask=yes_no > 0)",
        "A `where` of the logits' shape is `mask` here: it takes classes away. What a label "
        "gives to such a class costs infinity here, nothing in optax.",
    ),
    Row(
        "optax.losses.softmax_cross_entropy(logits, distribution, where=labels > 0)",
        "jl.classification.softmax_cross_entropy(logits, distribution, where=labels > 0)",
        "A `where` of the batch's shape is `where`: it takes examples away.",
    ),
    Row(
        "optax.losses.safe_softmax_cross_entropy(logits, distribution)",
        "jl.classification.softmax_cross_entropy(logits, distribution)",
        "Logits of -inf are safe here always.",
    ),
    Row(
        "optax.losses.softmax_cross_entropy(jnp.where(one_hot, logits, -jnp.inf), one_hot)",
        "jl.classification.softmax_cross_entropy(jnp.where(one_hot, logits, -jnp.inf), one_hot)",
        "The only class that is possible is right: optax gives NaN, but for the safe form.",
        truth="np.zeros(4)",
    ),
    Row(
        "optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels)",
        "jl.classification.softmax_cross_entropy(logits, labels)",
    ),
    Row(
        "optax.losses.softmax_cross_entropy_with_integer_labels(image_logits, image_labels, "
        "axis=1)",
        "jl.classification.softmax_cross_entropy(image_logits, image_labels, axis=1)",
    ),
    Row(
        "optax.losses.softmax_cross_entropy_with_integer_labels(0 * logits + 50 * one_hot, labels)",
        "jl.classification.softmax_cross_entropy(0 * logits + 50 * one_hot, labels)",
        "Sure and right: optax rounds the loss to 0, in float32 from 17 on.",
        truth="np.full(4, np.log1p(2 * np.exp(-50)))",
    ),
    Row(
        "optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels - 1)",
        "jl.classification.softmax_cross_entropy(logits, labels - 1)",
        "The label -1 is the last class in optax, and no class, so NaN, here.",
        truth="np.where(labels == 0, np.nan, np.log(np.sum(np.exp(logits), -1)) "
        "- logits[np.arange(4), labels - 1])",
    ),
    Row(
        "optax.losses.poly_loss_cross_entropy(logits, one_hot, epsilon=1.5)",
        "jl.classification.poly1(logits, labels, epsilon=1.5)",
    ),
    Row(
        "optax.losses.multiclass_hinge_loss(logits, labels)",
        "jl.classification.multiclass_hinge(logits, labels)",
    ),
    Row(
        "optax.losses.multiclass_perceptron_loss(logits, labels)",
        "jl.classification.multiclass_perceptron(logits, labels)",
    ),
    Row(
        "optax.losses.multiclass_sparsemax_loss(logits, labels)",
        "jl.classification.sparsemax(logits, labels)",
        rtol=1e-6,
    ),
    Row(
        "optax.losses.make_fenchel_young_loss(max_fun=jax.nn.logsumexp)(logits[0], one_hot[0])",
        "jl.classification.fenchel_young(logits[0], one_hot[0], max_fn=jax.nn.logsumexp)",
    ),
    Row(
        "optax.losses.smooth_labels(one_hot, 0.1)",
        "jl.classification.smooth_labels(one_hot, 0.1)",
        "Class ids, with `classes=3`, or distributions here.",
    ),
    Row(
        "optax.losses.smooth_labels(one_hot, 0.3, where=one_hot + one_hot[::-1] > 0)",
        "jl.classification.smooth_labels(one_hot, 0.3, mask=one_hot + one_hot[::-1] > 0)",
        "optax gives masked classes their share, too, so that rows sum to more than 1.",
        truth="0.7 * one_hot + 0.15 * (one_hot + one_hot[::-1])",
    ),
    Row(
        "optax.losses.kl_divergence(log_probabilities, distribution)",
        "jl.divergence.kl(log_probabilities, distribution)",
    ),
    Row(
        "optax.losses.kl_divergence(log_probabilities, distribution, where=yes_no > 0)",
        "jl.divergence.kl(log_probabilities, distribution, mask=yes_no > 0)",
    ),
    Row(
        "optax.losses.kl_divergence_with_log_targets(log_probabilities, log_distribution)",
        "jl.divergence.kl_log(log_probabilities, log_distribution)",
    ),
    Row(
        "optax.losses.generalized_kl_divergence(log_rate, amount)",
        "jl.divergence.generalized_kl(log_rate, amount)",
    ),
    Row(
        "optax.losses.convex_kl_divergence(log_rate, amount)",
        "jl.divergence.generalized_kl(log_rate, amount)",
        "Deprecated in optax.",
    ),
    Row(
        "optax.losses.dice_loss(pixels, pixel_labels)",
        "jl.segmentation.dice(jax.nn.softmax(pixels), pixel_labels, smoothing=2.0)",
        "Probabilities here. optax adds its `smooth` to half of either sum.",
    ),
    Row(
        "optax.losses.dice_loss(pixels, pixel_labels, class_weights=pixel_weight, "
        "ignore_background=True)",
        "jl.segmentation.dice(jax.nn.softmax(pixels), pixel_labels, smoothing=2.0, "
        "class_weights=pixel_weight, ignore_background=True) * pixel_weight[1:].mean()",
        "optax divides by the number of classes, ours by the sum of their weights.",
    ),
    Row(
        "optax.losses.dice_loss(pixels, pixel_labels, alpha=0.3, beta=0.7)",
        "jl.segmentation.tversky(jax.nn.softmax(pixels), pixel_labels, alpha=0.3, beta=0.7)",
    ),
    Row(
        "optax.losses.binary_dice_loss(jnp.log(pixel_chance / (1 - pixel_chance)), pixel_on)",
        "jl.segmentation.dice(pixel_chance, pixel_on, smoothing=2.0)",
    ),
    Row(
        "optax.losses.multiclass_generalized_dice_loss(jnp.log(pixel_shares), pixel_labels)",
        'jl.segmentation.generalized_dice(pixel_shares, pixel_labels, reduction="mean")',
        "optax weighs the Dice losses of the classes, by their sizes in the whole batch; the "
        "paper, and ours, take one ratio of weighted sums.",
        truth="(lambda v, both, sizes: 1 - np.mean(2 * np.sum(v * both, -1) "
        "/ np.sum(v * sizes, -1)))(pixel_labels.sum((1, 2)) ** -2.0, "
        "(pixel_shares * pixel_labels).sum((1, 2)), (pixel_shares + pixel_labels).sum((1, 2)))",
    ),
    Row(
        "optax.losses.ntxent(embeddings, groups, temperature=0.5)",
        "jl.contrastive.nt_xent(embeddings, groups, temperature=0.5, "
        'weights=(groups == groups[:, None]).sum(-1) - 1, reduction="mean")',
        "optax averages over the positive pairs, ours over the examples unless weighted by "
        "their number of positives.",
    ),
    Row(
        "optax.losses.triplet_margin_loss(anchor, positive, negative, margin=2.0)",
        "jl.contrastive.triplet(anchor, positive, negative, margin=2.0)",
        "optax adds `eps`, 1e-6, under the root.",
        rtol=1e-5,
    ),
    Row(
        "optax.losses.triplet_margin_loss(anchor, positive, negative, norm_degree=1)",
        "jl.contrastive.triplet(anchor, positive, negative, power=1.0)",
        "optax takes no absolute values: its distance of degree 1 is a signed sum, and of "
        "degree 3 often NaN.",
        truth="np.maximum(0, np.sum(np.abs(anchor - positive) - np.abs(anchor - negative), -1) "
        "+ 1)",
    ),
    Row(
        "optax.losses.ctc_loss(frames, frame_padding, words, word_padding)",
        "jl.sequence.ctc(frames, words, logit_mask=frame_padding == 0, "
        "label_mask=word_padding == 0)",
        "A padding of optax is 1 where nothing counts, a mask True where something does.",
    ),
    Row(
        "optax.losses.ctc_loss_with_forward_probs(frames, frame_padding, words, word_padding)[0]",
        "jl.sequence.ctc(frames, words, logit_mask=frame_padding == 0, "
        "label_mask=word_padding == 0)",
    ),
    Row(
        "optax.losses.ctc_loss(frames[:1, :3], frame_padding[:1, :3], words[:1], word_padding[:1])",
        "jl.sequence.ctc(frames[:1, :3], words[:1])",
        "Three frames cannot hold three labels of which two are equal: optax gives 1e5 and so "
        'on, ours infinity, or 0 with `infeasible="zero"`.',
        truth="np.array([np.inf])",
    ),
    Row(
        "optax.losses.ranking_softmax_loss(scores, relevance)",
        'jl.ranking.softmax(scores, relevance, reduction="mean")',
    ),
    Row(
        "optax.losses.ranking_softmax_loss(scores, relevance, where=kept, weights=item_weight, "
        "reduce_fn=None)",
        "jl.ranking.softmax(scores, relevance * item_weight, mask=kept)",
    ),
]

ROWS["rax"] = [
    Row(
        "rax.softmax_loss(scores, relevance)",
        'jl.ranking.softmax(scores, relevance, reduction="mean")',
    ),
    Row(
        "rax.softmax_loss(scores, relevance, where=kept, weights=item_weight, reduce_fn=None)",
        "jl.ranking.softmax(scores, relevance * item_weight, mask=kept)",
        "Weights of items multiply their relevance.",
    ),
    Row(
        "rax.softmax_loss(scores, relevance, label_fn=rax.utils.normalize_probabilities)",
        "jl.ranking.softmax(scores, relevance / relevance.sum(-1, keepdims=True), "
        'reduction="mean")',
    ),
    Row(
        "rax.softmax_loss(scores, relevance, segments=segments)",
        'jl.ranking.softmax(scores, relevance, segments=segments, reduction="mean")',
        "The same where all rows hold the same number of lists: here the mean is over rows.",
    ),
    Row(
        "rax.poly1_softmax_loss(scores, relevance, epsilon=0.5, reduce_fn=None)",
        "jl.ranking.poly1_softmax(scores, relevance, epsilon=0.5)",
    ),
    Row(
        "rax.poly1_softmax_loss(scores[0], 0 * relevance[0])",
        "jl.ranking.poly1_softmax(scores[0], 0 * relevance[0])",
        "A list without relevance costs epsilon, less a share, in rax, and 0 here.",
        truth="0.0",
    ),
    Row(
        "rax.unique_softmax_loss(scores, relevance)",
        'jl.ranking.unique_softmax(scores, relevance, reduction="mean")',
    ),
    Row(
        "rax.unique_softmax_loss(scores, relevance, gain_fn=lambda y: y)",
        'jl.ranking.unique_softmax(scores, relevance, gain="linear", reduction="mean")',
    ),
    Row(
        "rax.listmle_loss(scores, ranks, where=kept)",
        'jl.ranking.list_mle(scores, ranks, mask=kept, reduction="mean")',
    ),
    Row(
        "rax.pairwise_hinge_loss(scores, relevance)",
        "jl.ranking.pairwise_hinge(scores, relevance, "
        'weights=jl.ranking.pair_count(relevance), reduction="mean")',
        "rax takes one mean over the pairs of all lists, so that long lists decide.",
    ),
    Row(
        "rax.pairwise_hinge_loss(scores[0], relevance[0])",
        "jl.ranking.pairwise_hinge(scores[0], relevance[0])",
        "For one list the two means are one.",
    ),
    Row(
        "rax.pairwise_hinge_loss(scores, relevance, where=kept)",
        "jl.ranking.pairwise_hinge(scores, relevance, mask=kept, "
        'weights=jl.ranking.pair_count(relevance, mask=kept), reduction="mean")',
    ),
    Row(
        "rax.pairwise_logistic_loss(scores, relevance)",
        "jl.ranking.pairwise_logistic(scores, relevance, "
        'weights=jl.ranking.pair_count(relevance), reduction="mean")',
    ),
    Row(
        "rax.pairwise_logistic_loss(scores, relevance, weights=item_weight)",
        "jl.ranking.pairwise_logistic(scores, relevance, "
        "pair_weights=jnp.broadcast_to(item_weight[..., None], (3, 5, 5)), "
        'weights=jl.ranking.pair_count(relevance), reduction="mean")',
        "The weight of an item counts where it is the more relevant one.",
    ),
    Row(
        "rax.pairwise_logistic_loss(scores, relevance, lambdaweight_fn=rax.dcg_lambdaweight)",
        "5 * jl.ranking.pairwise_logistic(scores, relevance, "
        "pair_weights=jl.ranking.dcg_weights(scores, relevance), "
        'weights=jl.ranking.pair_count(relevance), reduction="mean")',
        "rax multiplies these weights by the length of the list.",
    ),
    Row(
        "rax.pairwise_logistic_loss(scores, relevance, "
        "lambdaweight_fn=partial(rax.dcg2_lambdaweight, normalize=True, topn=2))",
        "5 * jl.ranking.pairwise_logistic(scores, relevance, "
        "pair_weights=jl.ranking.dcg2_weights(scores, relevance, normalize=True, top=2), "
        'weights=jl.ranking.pair_count(relevance), reduction="mean")',
    ),
    Row(
        "rax.pairwise_logistic_loss(scores, relevance, lambdaweight_fn=rax.labeldiff_lambdaweight)",
        "jl.ranking.pairwise_logistic(scores, relevance, "
        "pair_weights=jl.ranking.relevance_weights(scores, relevance), "
        'weights=jl.ranking.pair_count(relevance), reduction="mean")',
    ),
    Row(
        "rax.pairwise_soft_zero_one_loss(scores, relevance)",
        "jl.ranking.pairwise_soft_zero_one(scores, relevance, "
        'weights=jl.ranking.pair_count(relevance), reduction="mean")',
    ),
    Row(
        "rax.pairwise_mse_loss(scores, relevance)",
        'jl.ranking.pairwise_squared_error(scores, relevance, reduction="mean") * 4 / 5',
        "rax counts the pairs of an item with itself: (n - 1) / n for lists of n.",
    ),
    Row(
        "rax.pairwise_qr_loss(scores, relevance, tau=0.3)",
        "jl.ranking.pairwise_quantile(scores, relevance, level=0.3, "
        'weights=jl.ranking.pair_count(relevance), reduction="mean")',
    ),
    Row(
        "rax.pairwise_qr_loss(scores, relevance, tau=0.3, squared=True)",
        "jl.ranking.pairwise_quantile(scores, relevance, level=0.3, squared=True, "
        'weights=jl.ranking.pair_count(relevance), reduction="mean")',
    ),
    Row(
        "rax.pointwise_sigmoid_loss(logits, yes_no, weights=weight)",
        "jl.classification.sigmoid_cross_entropy(logits, yes_no, weights=weight).mean()",
        "rax divides by the number of values, and cuts labels to 0 and 1.",
    ),
    Row(
        "rax.pointwise_mse_loss(scores, relevance, where=kept)",
        'jl.regression.squared_error(scores, relevance, where=kept, reduction="mean")',
    ),
]

ROWS["scikit-learn"] = [
    Row(
        "metrics.mean_squared_error(target, prediction)",
        "jl.regression.mean_squared_error(prediction, target)",
    ),
    Row(
        "metrics.mean_squared_error(target[:, 0], prediction[:, 0], sample_weight=sample_weight)",
        "jl.regression.mean_squared_error(prediction[:, 0], target[:, 0], weights=sample_weight)",
        "Both divide by the sum of the weights.",
    ),
    Row(
        "metrics.root_mean_squared_error(target[:, 0], prediction[:, 0])",
        "jnp.sqrt(jl.regression.mean_squared_error(prediction[:, 0], target[:, 0]))",
    ),
    Row(
        "metrics.mean_absolute_error(target, prediction)",
        "jl.regression.mean_absolute_error(prediction, target)",
    ),
    Row(
        "metrics.median_absolute_error(target[:, 0], prediction[:, 0])",
        "jnp.median(jl.regression.absolute_error(prediction[:, 0], target[:, 0]))",
    ),
    Row(
        "metrics.max_error(target[:, 0], prediction[:, 0])",
        "jnp.max(jl.regression.absolute_error(prediction[:, 0], target[:, 0]))",
    ),
    Row(
        "metrics.mean_absolute_percentage_error(amount, forecast)",
        'jl.regression.absolute_percentage_error(forecast, amount, reduction="mean")',
    ),
    Row(
        "metrics.mean_squared_log_error(amount, forecast)",
        'jl.regression.squared_log_error(forecast, amount, reduction="mean")',
    ),
    Row(
        "metrics.root_mean_squared_log_error(amount[:, 0], forecast[:, 0])",
        'jnp.sqrt(jl.regression.squared_log_error(forecast[:, 0], amount[:, 0], reduction="mean"))',
    ),
    Row(
        "metrics.mean_pinball_loss(target, prediction, alpha=0.3)",
        'jl.regression.pinball(prediction, target, level=0.3, reduction="mean")',
    ),
    Row(
        "metrics.d2_absolute_error_score(target[:, 0], prediction[:, 0])",
        "1 - jl.regression.mean_absolute_error(prediction[:, 0], target[:, 0]) "
        "/ jl.regression.mean_absolute_error(jnp.median(target[:, 0]), target[:, 0])",
        "A D2 score is 1 less the loss over that of the best constant.",
    ),
    Row(
        "metrics.d2_pinball_score(target[:, 0], prediction[:, 0], alpha=0.3)",
        "1 - jl.regression.pinball(prediction[:, 0], target[:, 0], level=0.3).mean() / "
        "jl.regression.pinball(jnp.percentile(target[:, 0], 30, method='higher'), target[:, 0], "
        "level=0.3).mean()",
    ),
    Row(
        "metrics.d2_tweedie_score(amount[:, 0], forecast[:, 0], power=1.5)",
        "1 - jl.nll.tweedie_deviance(forecast[:, 0], amount[:, 0], power=1.5).mean() / "
        "jl.nll.tweedie_deviance(amount[:, 0].mean(), amount[:, 0], power=1.5).mean()",
    ),
    Row(
        "metrics.d2_log_loss_score(labels, probabilities, labels=[0, 1, 2])",
        "1 - jl.classification.categorical_cross_entropy(probabilities, labels).mean() / "
        "jl.classification.categorical_cross_entropy(jnp.array([[0.25, 0.5, 0.25]] * 4), "
        "labels).mean()",
    ),
    Row(
        "metrics.d2_brier_score(yes_no[:, 0], share[:, 0])",
        "1 - jl.regression.mean_squared_error(share[:, 0], yes_no[:, 0]) "
        "/ jl.regression.mean_squared_error(yes_no[:, 0].mean(), yes_no[:, 0])",
    ),
    Row(
        "metrics.mean_poisson_deviance(count.ravel(), rate.ravel())",
        'jl.nll.tweedie_deviance(rate, count, power=1.0, reduction="mean")',
    ),
    Row(
        "metrics.mean_gamma_deviance(amount.ravel(), forecast.ravel())",
        'jl.nll.tweedie_deviance(forecast, amount, power=2.0, reduction="mean")',
    ),
    Row(
        "metrics.mean_tweedie_deviance(amount.ravel(), forecast.ravel(), power=1.5)",
        'jl.nll.tweedie_deviance(forecast, amount, power=1.5, reduction="mean")',
    ),
    Row(
        "metrics.log_loss(labels, probabilities, labels=[0, 1, 2])",
        'jl.classification.categorical_cross_entropy(probabilities, labels, reduction="mean")',
    ),
    Row(
        "metrics.log_loss(labels, probabilities, labels=[0, 1, 2], normalize=False, "
        "sample_weight=sample_weight)",
        "jl.classification.categorical_cross_entropy(probabilities, labels, "
        'weights=sample_weight, reduction="sum")',
    ),
    Row(
        "metrics.log_loss(yes_no[:, 0], share[:, 0])",
        'jl.classification.binary_cross_entropy(share[:, 0], yes_no[:, 0], reduction="mean")',
    ),
    Row(
        "metrics.brier_score_loss(yes_no[:, 0], share[:, 0])",
        "jl.regression.mean_squared_error(share[:, 0], yes_no[:, 0])",
    ),
    Row(
        "metrics.hinge_loss(signs[:, 0], logits[:, 0])",
        'jl.classification.hinge(logits[:, 0], signs[:, 0], reduction="mean")',
    ),
    Row(
        "metrics.hinge_loss(labels, logits, labels=[0, 1, 2], sample_weight=sample_weight)",
        "jl.classification.multiclass_hinge(logits, labels, weights=sample_weight, "
        'reduction="mean")',
        "Crammer and Singer's form for several classes.",
    ),
]

ROWS["scipy"] = [
    Row(
        "special.huber(0.5, prediction - target)",
        "jl.regression.huber(prediction, target, delta=0.5)",
    ),
    Row(
        "special.pseudo_huber(0.5, prediction - target)",
        "jl.regression.pseudo_huber(prediction, target, delta=0.5)",
    ),
    Row(
        "special.rel_entr(distribution, probabilities).sum(-1)",
        "jl.divergence.kl(jnp.log(probabilities), distribution)",
    ),
    Row(
        "special.kl_div(amount, forecast).sum(-1)",
        "jl.divergence.generalized_kl(jnp.log(forecast), amount)",
    ),
    Row(
        "stats.entropy(distribution, probabilities, axis=-1)",
        "jl.divergence.kl(jnp.log(probabilities), distribution)",
    ),
    Row(
        "spatial.distance.jensenshannon(probabilities, distribution, axis=-1) ** 2",
        "jl.divergence.jensen_shannon(probabilities, distribution)",
        "scipy gives the root, which is a metric.",
    ),
    Row(
        "spatial.distance.cosine(vector[0], other[0])",
        "jl.regression.cosine_distance(vector[0], other[0])",
    ),
    Row(
        "-stats.norm.logpdf(target, prediction, np.sqrt(variance))",
        "jl.nll.gaussian(prediction, target, variance)",
    ),
    Row(
        "-stats.norm.logpdf(target, prediction, np.exp(log_rate / 2))",
        "jl.nll.gaussian(prediction, target, log_variance=log_rate)",
    ),
    Row(
        "-stats.laplace.logpdf(target, prediction, scale)",
        "jl.nll.laplace(prediction, target, scale)",
    ),
    Row(
        "-stats.t.logpdf(target, 4.0, prediction, scale)",
        "jl.nll.student_t(prediction, target, scale, 4.0)",
    ),
    Row(
        "-stats.cauchy.logpdf(target, prediction, scale)",
        "jl.nll.student_t(prediction, target, scale, 1.0)",
    ),
    Row("-stats.poisson.logpmf(count, rate)", "jl.nll.poisson(rate, count, log_input=False)"),
    Row("-stats.poisson.logpmf(count, np.exp(log_rate))", "jl.nll.poisson(log_rate, count)"),
    Row(
        "-stats.nbinom.logpmf(count, amount, amount / (amount + rate))",
        "jl.nll.negative_binomial(rate, count, amount, log_input=False)",
        "By its mean here: n is the total count, p = n / (n + mean).",
    ),
    Row(
        "-stats.gamma.logpdf(amount, scale, scale=forecast / scale)",
        "jl.nll.gamma(forecast, amount, scale)",
        "By its mean here: concentration times scale.",
    ),
    Row("-stats.beta.logpdf(share, forecast, amount)", "jl.nll.beta(forecast, share, amount)"),
    Row(
        "-stats.vonmises.logpdf(angle, amount, prediction)",
        "jl.nll.von_mises(prediction, angle, amount)",
    ),
    Row(
        "-special.logsumexp(stats.norm.logpdf(target[:, :1], prediction, np.sqrt(variance)), "
        "b=special.softmax(logits, -1), axis=-1)",
        "jl.nll.gaussian_mixture(prediction, target[:, 0], variance, logits)",
    ),
    Row(
        "special.kl_div(yes_no, share) + special.kl_div(1 - yes_no, 1 - share)",
        "jl.divergence.bernoulli_kl(share, yes_no)",
    ),
]

# How close a peer can be: keras averages in float32, whatever it is given.
RTOL = {"keras": 1e-6}

# Public names, and options, that have no counterpart here, and why.
GAPS = {
    "torch": {
        "nn.AdaptiveLogSoftmaxWithLoss": "an approximation in clusters of classes, with weights of "
        "its own; `jl.linear.softmax_cross_entropy` is exact, in the memory of a chunk.",
        "LinearCrossEntropyOptions": "`chunk_size` and `policy` of `jl.linear.softmax_cross_entropy`.",
        'kl_div(reduction="none")': "one number a class; here classes are summed.",
        "size_average, reduce": "deprecated in favour of `reduction`.",
    },
    "keras": {
        "Loss": "the base class: `@jl.loss` makes a loss of a function.",
        "circle(ref_labels=..., remove_diagonal=True)": "references are all met here, also at an "
        "example's own place: leave it out of them.",
        "get": "finds a loss by its name: `jl.catalogue.losses()`.",
        "serialize": "losses are plain functions.",
        "deserialize": "losses are plain functions.",
    },
    "optax": {
        "softmax_cross_entropy(axis=(1, 2))": "several axes of classes: reshape them into one.",
        'dice_loss(reduction="none")': "one number a class; the mean over classes here.",
        "weighted_logsoftmax": "not public there: 0 times -inf is 0 everywhere here.",
    },
    "rax": {
        "approx_t12n": "`jl.ranking.approx_ndcg` is `approx_t12n(ndcg_metric)`, plus 1; "
        "rax 0.4.0 fails in it on current JAX.",
        "bound_t12n": "a pairwise hinge for the rank: `jl.ranking.approx_ndcg` has a sigmoid; "
        "rax 0.4.0 fails in it on current JAX.",
        "gumbel_t12n": "add Gumbel noise to the scores and take the mean over samples.",
        "segment_t12n": "losses take `segments`.",
        "ap_metric": "it counts: no gradient.",
        "dcg_metric": "it counts: no gradient.",
        "mrr_metric": "it counts: no gradient.",
        "ndcg_metric": "it counts: no gradient; `jl.ranking.approx_ndcg`.",
        "opa_metric": "it counts: no gradient.",
        "precision_metric": "it counts: no gradient.",
        "recall_metric": "it counts: no gradient.",
        "gain_fn, discount_fn": 'any gain: give it as the relevance, with `gain="linear"`; '
        "the discount is the usual one.",
        "light_discount": "a discount for `discount_fn`.",
    },
    "scikit-learn": {
        "coverage_error": "it counts: no gradient.",
        "hamming_loss": "it counts: no gradient.",
        "label_ranking_loss": "it counts: no gradient; `jl.ranking.pairwise_soft_zero_one`.",
        "zero_one_loss": "it counts: no gradient.",
    },
    "scipy": {},
}

WORDS = {
    "torch": """
`import torch.nn.functional as F`. The classes of `torch.nn` are these functions with their
options set: `nn.HuberLoss(delta=0.5)` is `F.huber_loss(..., delta=0.5)`. Predictions come first
there and here. torch takes the mean by default, here `reduction="mean"` says so; its mean with
weights divides by their sum in some losses and by the number of values in others, here always by
their sum. The axis of the classes is 1 there, the last one here.
""",
    "keras": """
Targets come first in keras, predictions first here. Its functions average over the last axis, its
classes over the batch as well; `sample_weight` multiplies, and the mean divides by the number of
examples. Probabilities are the default in keras, and it clips them at 1e-7; most losses here take
logits, and nothing is clipped.
""",
    "optax": """
The convention is nearly the same: predictions first, one number an example. Here every loss has
`where`, `weights` and `reduction`, and shapes must agree. What optax calls `where` with the
shape of the logits is `mask`.
""",
    "rax": """
Scores first, the list along the last axis, relevances not normalised: as here. `where` of items is
`mask`. rax takes the mean by default; for pairwise losses it is one mean over the pairs of all
lists, here it is one over lists, unless weighted by `jl.ranking.pair_count`.
""",
    "scikit-learn": """
`from sklearn import metrics`. Targets come first there, predictions here; all are means. Its
numbers have no gradients, so that values alone are compared.
""",
    "scipy": """
`from scipy import spatial, special, stats`. Likelihoods are negative log-likelihoods here. No
gradients there: values alone are compared.
""",
}

PREFIXES = {
    "torch": "F.",
    "keras": "keras.losses.",
    "optax": "optax.losses.",
    "rax": "rax.",
    "scikit-learn": "metrics.",
}


LEGEND = """
`yes_no`, `one_hot` and `pixel_on` hold 0 and 1, `sign` and `signs` -1 and 1; `padded_labels` are
`labels` of which some are -100, `ids_of_yes` lists what is 1 in `yes_no`, filled up with -1. Rows
of `probabilities`, `distribution` and `pixel_shares` sum to 1; `log_probabilities` and
`log_distribution` are their logarithms. `amount`, `forecast`, `rate`, `scale` and `variance` are
above 0, `share` and `pixel_chance` between 0 and 1.
"""


def legend(used):
    """What the names in the tables hold, those of one shape together."""
    kinds = {"f": "numbers", "i": "integers", "b": "booleans"}
    alike: dict[str, list[str]] = {}
    for name, x in INPUTS.items():
        if name in used:
            shape = ", ".join(map(str, x.shape))
            alike.setdefault(f"{kinds[x.dtype.kind]} [{shape}]", []).append(f"`{name}`")
    return [f"| {kind} | {', '.join(names)} |" for kind, names in alike.items()]


def page():
    """The documentation, from the rows."""
    frozen = json.loads(FROZEN.read_text())
    rows = [row for group in ROWS.values() for row in group]
    names = {
        peer: f"{peer} {version}" for peer, version in frozen["versions"].items() if ROWS[peer]
    }
    differing = sum(bool(row.truth) for row in rows)
    lines = [
        "# Coming from another library",
        "",
        "<!-- Written by tests/peers.py: change the rows there. -->",
        "",
        f"Find the line you would write there, and beside it the one to write here. Each of the "
        f"{len(rows)} rows is executed by a test: both sides have the same value and, where the "
        f"peer has gradients, the same gradient with respect to the predictions. In the "
        f"{differing} rows marked ≠ they differ, ours is the definition, and the test shows that, "
        f"too. Compared with {', '.join(names.values())}, in float64.",
        "",
        "`import jaxloss as jl`. Three words are the same in all losses: `where` leaves "
        'examples out, `weights` weighs them, and `reduction` is `"none"` unless you say '
        '`"mean"`, `"sum"` or `"parts"`. The other names in the tables are arrays, listed at the '
        "[end](#names-in-the-tables).",
    ]
    for peer, group in ROWS.items():
        lines += ["", f"## {peer}", "", WORDS[peer].strip(), ""]
        lines += [f"| {peer} | jaxloss | |", "|---|---|---|"]
        for row in group:
            note = f"≠ {row.note}" if row.truth else row.note
            lines.append(f"| `{row.theirs}` | `{row.ours}` | {note} |".replace("| |", "| |"))
        if GAPS[peer]:
            lines += ["", "Without a counterpart:", ""]
            reasons = {}
            for name, reason in GAPS[peer].items():
                reasons.setdefault(reason, []).append(f"`{name}`")
            lines += [f"- {', '.join(names)}: {reason}" for reason, names in reasons.items()]
    used = set(re.findall(r"\w+", " ".join(row.theirs + " " + row.ours for row in rows)))
    lines += ["", "## Names in the tables", "", LEGEND.strip(), "", "| shape | names |"]
    lines += ["|---|---|", *legend(used)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
