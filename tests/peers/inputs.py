"""The arrays that the rows of the peers name: small numbers, away from the kinks of the losses."""

import math

import numpy as np


def spread(seed, low, high, *shape):
    """Numbers spread over an interval: the same everywhere, since no generator draws them."""
    place = np.arange(1, 1 + math.prod(shape)) * math.sqrt(seed) % 1
    return np.round(low + (high - low) * place, 3).reshape(shape)


def array(values):
    """An array of the numbers in a text, rows separated by semicolons."""
    rows = [[float(x) for x in row.split()] for row in values.split(";")]
    return np.array(rows[0] if len(rows) == 1 else rows)


def ids(values):
    """An array of integers."""
    return array(values).astype(int)


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
INPUTS |= {  # four trajectories of three steps
    "log_prob": array("-0.4 -1.1 -0.7 -2.0"),
    "old_log_prob": array("-0.5 -0.7 -1.2 -1.9"),
    "advantage": array("1.2 -0.7 0.4 -1.5"),
    "rewards": spread(97, -1, 1, 4, 3),
    "every_value": spread(101, -2, 2, 4, 4),
    "over": array("0 0 1; 0 1 0; 0 0 0; 0 0 0"),
    "log_probs": spread(103, -2, -0.2, 4, 3),
    "old_log_probs": spread(107, -2, -0.2, 4, 3),
    "reference_log_probs": spread(109, -2, -0.2, 4, 3),
    "tokens": array("1 1 1; 1 1 0; 1 0 0; 1 1 1"),
    "every_logits": spread(113, -3, 3, 4, 3, 5),
    "chosen": spread(127, -20, -5, 4),
    "rejected": spread(131, -20, -5, 4),
    "reference_chosen": spread(137, -20, -5, 4),
    "reference_rejected": spread(139, -20, -5, 4),
    "liked": array("1 0 0 1"),
    "pairs": np.zeros(8),
}
INPUTS["token_advantage"] = np.repeat(INPUTS["advantage"][:, None], 3, axis=1)
INPUTS["log_probabilities"] = np.log(INPUTS["probabilities"])
INPUTS["log_distribution"] = np.log(INPUTS["distribution"])
INPUTS["pixel_shares"] = np.exp(INPUTS["pixels"])
INPUTS["pixel_shares"] /= INPUTS["pixel_shares"].sum(-1, keepdims=True)
