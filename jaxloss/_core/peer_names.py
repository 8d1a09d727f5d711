"""Names of torch, Keras, Optax and scikit-learn, and what to write here instead.

Errors read these tables: an argument that another library has, and a loss under another name, are
answered with the line to write.
"""

from jaxloss._core.spec import LossSpec

__all__ = ["LOSSES", "keyword_advice", "reduction_advice"]

LOSSES = {
    "mse": "regression.squared_error",
    "mse_loss": "regression.squared_error",
    "MSELoss": "regression.squared_error",
    "mean_squared_error": "regression.mean_squared_error",
    "MeanSquaredError": "regression.squared_error",
    "l2_loss": "regression.squared_error",
    "mae": "regression.absolute_error",
    "l1_loss": "regression.absolute_error",
    "L1Loss": "regression.absolute_error",
    "mean_absolute_error": "regression.absolute_error",
    "MeanAbsoluteError": "regression.absolute_error",
    "mape": "regression.absolute_percentage_error",
    "mean_absolute_percentage_error": "regression.absolute_percentage_error",
    "msle": "regression.squared_log_error",
    "mean_squared_logarithmic_error": "regression.squared_log_error",
    "huber_loss": "regression.huber",
    "HuberLoss": "regression.huber",
    "Huber": "regression.huber",
    "smooth_l1_loss": "regression.smooth_l1",
    "SmoothL1Loss": "regression.smooth_l1",
    "LogCosh": "regression.log_cosh",
    "quantile": "regression.pinball",
    "quantile_loss": "regression.pinball",
    "pinball_loss": "regression.pinball",
    "mean_pinball_loss": "regression.pinball",
    "cosine_similarity": "regression.cosine_distance",
    "cross_entropy": "classification.softmax_cross_entropy",
    "crossentropy": "classification.softmax_cross_entropy",
    "CrossEntropyLoss": "classification.softmax_cross_entropy",
    "log_loss": "classification.categorical_cross_entropy",
    "softmax_cross_entropy_with_integer_labels": "classification.softmax_cross_entropy",
    "safe_softmax_cross_entropy": "classification.softmax_cross_entropy",
    "sparse_categorical_crossentropy": "classification.categorical_cross_entropy",
    "SparseCategoricalCrossentropy": "classification.categorical_cross_entropy",
    "categorical_crossentropy": "classification.categorical_cross_entropy",
    "CategoricalCrossentropy": "classification.categorical_cross_entropy",
    "bce": "classification.binary_cross_entropy",
    "binary_crossentropy": "classification.binary_cross_entropy",
    "BinaryCrossentropy": "classification.binary_cross_entropy",
    "BCELoss": "classification.binary_cross_entropy",
    "bce_with_logits": "classification.sigmoid_cross_entropy",
    "binary_cross_entropy_with_logits": "classification.sigmoid_cross_entropy",
    "BCEWithLogitsLoss": "classification.sigmoid_cross_entropy",
    "sigmoid_binary_cross_entropy": "classification.sigmoid_cross_entropy",
    "nll_loss": "classification.negative_log_likelihood",
    "NLLLoss": "classification.negative_log_likelihood",
    "focal": "classification.softmax_focal",
    "focal_loss": "classification.softmax_focal",
    "sigmoid_focal_loss": "classification.sigmoid_focal",
    "hinge_loss": "classification.hinge",
    "multi_margin_loss": "classification.multi_margin",
    "multilabel_soft_margin_loss": "classification.multilabel_soft_margin",
    "poly_loss_cross_entropy": "classification.poly1",
    "kl_div": "divergence.kl",
    "kl_divergence": "divergence.kl",
    "KLDivLoss": "divergence.kl",
    "KLDivergence": "divergence.kl",
    "convex_kl_divergence": "divergence.generalized_kl",
    "js": "divergence.jensen_shannon",
    "gaussian_nll_loss": "nll.gaussian",
    "GaussianNLLLoss": "nll.gaussian",
    "poisson_nll_loss": "nll.poisson",
    "PoissonNLLLoss": "nll.poisson",
    "triplet_margin_loss": "contrastive.triplet",
    "TripletMarginLoss": "contrastive.triplet",
    "cosine_embedding_loss": "contrastive.cosine_embedding",
    "ntxent": "contrastive.nt_xent",
    "margin_ranking_loss": "ranking.margin",
    "dice_loss": "segmentation.dice",
    "ctc_loss": "sequence.ctc",
    "CTCLoss": "sequence.ctc",
}
"""Losses by the names they have elsewhere, with their paths below `jaxloss`."""

# For an argument of another library, those here in its place: the first entry that a loss takes. An
# entry of two names is for one argument that is two here.
_ARGUMENTS = {
    "sample_weight": ("weights",),
    "sample_weights": ("weights",),
    "weight": ("class_weights", "weights"),
    "class_weight": ("class_weights",),
    "pos_weight": ("positive_weight", "class_weights"),
    "eps": ("low high", "clip", "smooth", "epsilon"),
    "epsilon": ("low high", "clip", "smooth"),
    "clip_eps": ("low high", "clip"),
    "clip_range": ("low high", "clip"),
    "clip_ratio": ("low high", "clip"),
    "dim": ("axis",),
    "axes": ("axis",),
    "size_average": ("reduction",),
    "reduce": ("reduction",),
    "smoothing": ("label_smoothing", "smooth"),
    "log_var": ("log_variance",),
    "var": ("variance",),
    "sigma": ("scale",),
    "p": ("power", "level", "distance"),
    "q": ("level",),
    "tau": ("level", "temperature"),
    "quantile": ("level",),
    "T": ("temperature",),
    "delta": ("beta", "scale"),
    "beta": ("delta", "scale"),
    "threshold": ("delta", "beta"),
}
_FIRST = ("y_pred", "input", "inputs", "pred", "preds", "prediction", "predictions", "output")
_FIRST += ("outputs", "logits", "log_probs", "scores", "x", "x1", "input1", "anchor")
_SECOND = ("y_true", "target", "targets", "label", "labels", "y", "x2", "input2", "positive")
_CLIPPING = "Nothing is clipped or shifted here: leave it out."
_SENTENCES = {
    "eps": _CLIPPING,
    "epsilon": _CLIPPING,
    "mask": "`where`, of the result's shape, leaves examples out.",
    "name": "Leave it out.",
    "log_target": "`jaxloss.divergence.kl_log` takes the logarithms of both.",
}
_REDUCTIONS = {
    "avg": "mean",
    "average": "mean",
    "auto": "mean",
    "batchmean": "mean",
    "elementwise_mean": "mean",
    "sum_over_batch_size": "mean",
    "mean_with_sample_weight": "mean",
    "None": "none",
    "no": "none",
    "total": "sum",
}


def reduction_advice(given: object) -> str | None:
    """The reduction meant by the name that another library has for it."""
    return _REDUCTIONS.get(str(given))


def keyword_advice(spec: LossSpec, word: str, value: object) -> str:
    """What to write for an argument that another library has; empty if it is not known."""
    taken = spec.signature.parameters
    for names in _ARGUMENTS.get(word, ()):
        if all(name in taken for name in names.split()):
            return f"Write {' and '.join(f'`{name}=`' for name in names.split())}."
    for place, words in enumerate((_FIRST, _SECOND)):
        if word in words and place < len(spec.data):
            return f"Write `{spec.data[place]}`, which comes {('first', 'second')[place]}."
    if word in ("ignore_index", "ignore_class") and len(spec.data) > 1:
        return f"Write `where={spec.data[1]} != {value!r}`."
    if word == "from_logits":
        return _from_logits(spec, value)
    return _SENTENCES.get(word, "")


def _from_logits(spec: LossSpec, value: object) -> str:
    """The loss of the same labels that takes logits, or the one that takes probabilities."""
    first = spec.data[0]
    if first not in ("logits", "probabilities", "log_probabilities"):
        return ""
    if (first == "logits") == bool(value):
        return f"Its first argument is `{first}`: leave it out."
    kind = "softmax_" if "axis" in spec.common_kwargs else "sigmoid_"
    if not value:
        kind = "categorical_" if "axis" in spec.common_kwargs else "binary_"
    takes = "logits" if value else "probabilities"
    return f"`jaxloss.classification.{kind}cross_entropy` takes {takes}."
