"""The rows of the sequence family."""

import numpy as np
from arithmetic import exp, log

import jaxloss.sequence  # noqa: F401 (files its losses)
from cases import Batched, Case


def ctc(logits, labels, logit_mask=None, label_mask=None, mask=None, blank=0, infeasible="inf"):
    """The forward recursion of the paper, over the labels with a blank around each."""
    if mask is not None:
        logits = logits[:, mask]  # of the classes behind the labels
    if logit_mask is not None:
        logits = logits[logit_mask]
    if label_mask is not None:
        labels = labels[label_mask]
    states = [blank]
    for label in labels:
        states += [int(label), blank]
    mass = [1] + [0] * len(states)  # the first is before the start
    total = 1
    for frame in logits:
        weights = [exp(x) for x in frame]
        total = total * sum(weights)
        arriving = []
        for s, state in enumerate(states):
            skips = s >= 2 and state not in (blank, states[s - 2])
            start = mass[0] if s < 2 else 0
            before = mass[s + 1] + (mass[s] if s else 0) + (mass[s - 1] if skips else 0) + start
            arriving.append(weights[state] * before)
        mass = [0, *arriving]
    right = mass[0] + mass[-1] + (mass[-2] if len(states) > 1 else 0)
    if right == 0:
        return np.inf if infeasible == "inf" else 0
    return log(total / right)


CASES = {
    "ctc": Case(
        ctc,
        options=(
            {},
            {"blank": 3},
            {"logit_mask": Batched(lambda g, batch: g.integers(0, 6, (*batch, 1)) != np.arange(6))},
            {
                "label_mask": Batched(lambda g, batch: g.random((*batch, 3)) < 0.6),
                "mask": np.arange(4) < 3,
            },
        ),
        draws={"labels": lambda g, batch: g.integers(1, 3, (*batch, 3)).astype(np.int32)},
        extremes={"labels": lambda g, count: g.integers(1, 3, (count, 3)).astype(np.int32)},
        ulp=(3, 5),
        by_component=False,
    ),
}
