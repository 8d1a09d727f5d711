"""DPO and GRPO from hidden states: memory, time and values beside Liger's and TRL's fused forms.

Run it with `python benchmarks/fused_policies.py`; it prints the table of `benchmarks/fused.md`. Forms
of libraries that are not installed are left out: `liger-kernel` and `trl` run on CPU as they are
written in torch. Each form runs twice in a fresh process, on the same arrays from NumPy. Of the second
call: the peak memory above what the process held before, and the time of the CPU. The errors are those
of the value, and of the gradient of the hidden states in norm, from all logits in float64.
"""

import argparse
import ctypes
import functools
import gc
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import jax
import numpy as np
from fused import _status

from jaxloss import linear, policy, preference

SEQUENCES, LENGTH, DIM, CLASSES = 8, 128, 256, 32768
BETA = 0.1


def data():
    """Hidden states of chosen sequences, then of rejected ones; and those of a reference."""
    generator = np.random.default_rng(0)
    normal = lambda *shape: generator.normal(size=shape).astype(np.float32)
    hidden, old = normal(SEQUENCES, LENGTH, DIM), normal(SEQUENCES, LENGTH, DIM)
    weight, old_weight = normal(DIM, CLASSES) / DIM**0.5, normal(DIM, CLASSES) / DIM**0.5
    tokens = generator.integers(0, CLASSES, (SEQUENCES, LENGTH))
    mask = np.arange(LENGTH) < generator.integers(LENGTH // 2, LENGTH + 1, (SEQUENCES, 1))
    advantage = normal(SEQUENCES)
    old_log_prob = -10.8 + 0.5 * normal(SEQUENCES, LENGTH)
    return hidden, weight, tokens, mask, old, old_weight, advantage, old_log_prob


# --- ours ----------------------------------------------------------------------------------------


def log_probabilities_of_all_logits(hidden, weight, tokens, where):  # as below
    log_p = jax.nn.log_softmax(hidden @ weight)
    return jax.numpy.take_along_axis(log_p, tokens[..., None], axis=-1)[..., 0]


def ours(loss, log_probabilities):
    """A function that computes value and gradients once, and returns them."""

    def dpo(
        hidden, weight, tokens, mask, old, old_weight, advantage, old_log_prob
    ):  # one signature
        total = functools.partial(preference.sequence_log_probability, mask=mask)
        log_prob = total(log_probabilities(hidden, weight, tokens, where=mask))
        reference = total(log_probabilities(old, old_weight, tokens, where=mask))
        halves = (x for y in (log_prob, reference) for x in jax.numpy.split(y, 2))
        return preference.dpo(*halves, beta=BETA, reduction="mean")

    def grpo(
        hidden, weight, tokens, mask, old, old_weight, advantage, old_log_prob
    ):  # one signature
        log_prob = log_probabilities(hidden, weight, tokens, where=mask)
        advantage = jax.numpy.broadcast_to(advantage[:, None], mask.shape)
        return policy.token_mean(policy.clipped(log_prob, old_log_prob, advantage), mask).value

    given = jax.tree.map(jax.numpy.asarray, data())
    function = jax.value_and_grad({"dpo": dpo, "grpo": grpo}[loss], (0, 1))
    program = jax.jit(function).lower(*given).compile()

    def run():
        value, (to_hidden, _) = jax.block_until_ready(program(*given))
        return float(value), np.asarray(to_hidden)

    return run


def ours_fused(loss, **options):
    return ours(loss, functools.partial(linear.log_probabilities, **options))


# --- theirs --------------------------------------------------------------------------------------


def _of_torch(loss_of):
    """Runs a loss of torch's tensors; the weight is (vocabulary, dim)."""
    import torch  # optional

    hidden, weight, tokens, mask, old, old_weight, advantage, old_log_prob = (
        torch.from_numpy(np.ascontiguousarray(x.T if x.shape == (DIM, CLASSES) else x))
        for x in data()
    )
    hidden, weight = (torch.nn.Parameter(x) for x in (hidden, weight))

    def run():
        hidden.grad = weight.grad = None
        value = loss_of(hidden, weight, tokens, mask, old, old_weight, advantage, old_log_prob)
        value.backward()
        return value.item(), hidden.grad.numpy()

    return run


def liger_dpo(hidden, weight, tokens, mask, old, old_weight, *_):
    from liger_kernel.chunked_loss import LigerFusedLinearDPOLoss  # optional

    loss = LigerFusedLinearDPOLoss(beta=BETA, compiled=False)
    return loss(weight, hidden, tokens.masked_fill(~mask, -100), None, old, old_weight)[0]


def liger_grpo(hidden, weight, tokens, mask, _old, _old_weight, advantage, old_log_prob):
    from liger_kernel.chunked_loss import LigerFusedLinearGRPOLoss  # optional

    loss = LigerFusedLinearGRPOLoss(beta=0.0, compiled=False, use_ref_model=False, loss_type="bnpo")
    old = {"old_per_token_logps": old_log_prob}
    return loss(hidden, weight, tokens, mask.to(hidden.dtype), advantage, **old)[0]


def _trl_log_probabilities(hidden, weight, tokens):
    from trl.kernels.chunked_logprob import ChunkedLogProbFunction  # optional

    flat = hidden.reshape(-1, hidden.shape[-1]), weight, None, tokens.reshape(-1)
    return ChunkedLogProbFunction.apply(*flat, 1.0, 4096, None, 1.0, ())[0].reshape(tokens.shape)


def trl_dpo(hidden, weight, tokens, mask, old, old_weight, *_):
    import torch  # optional

    log_prob = (_trl_log_probabilities(hidden, weight, tokens) * mask).sum(-1)
    with torch.no_grad():
        reference = (_trl_log_probabilities(old, old_weight, tokens) * mask).sum(-1)
    chosen, rejected = (log_prob - reference).chunk(2)
    return -torch.nn.functional.logsigmoid(BETA * (chosen - rejected)).mean()


def trl_grpo(hidden, weight, tokens, mask, _old, _old_weight, advantage, old_log_prob):
    import torch  # optional

    ratio = torch.exp(_trl_log_probabilities(hidden, weight, tokens) - old_log_prob)
    advantage = advantage[:, None]
    loss = -torch.min(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)
    return (loss * mask).sum() / mask.sum()


FORMS = {
    "all logits, float32": lambda loss: ours(loss, log_probabilities_of_all_logits),
    "`linear.log_probabilities`": ours_fused,
    "`linear.log_probabilities`, least memory": functools.partial(
        ours_fused, policy="least_memory"
    ),
    "Liger": lambda loss: _of_torch({"dpo": liger_dpo, "grpo": liger_grpo}[loss]),
    "TRL": lambda loss: _of_torch({"dpo": trl_dpo, "grpo": trl_grpo}[loss]),
}
# Memory that is freed goes back to the system, and counts again when it is taken again.
AT_ONCE = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}
NEEDS = {"Liger": "liger_kernel", "TRL": "trl"}


def exact(loss):
    """Value and gradient of the hidden states in NumPy's float64."""
    hidden, weight, tokens, mask, old, old_weight, advantage, old_log_prob = data()

    def of_model(hidden, weight):
        logits = hidden.astype(np.float64) @ weight.astype(np.float64)
        logits -= logits.max(-1, keepdims=True)
        p = np.exp(logits)
        total = p.sum(-1, keepdims=True)
        log_prob = np.take_along_axis(logits, tokens[..., None], -1)[..., 0]
        return p / total, log_prob - np.log(total[..., 0])

    p, log_prob = of_model(hidden, weight)
    if loss == "dpo":
        reference = of_model(old, old_weight)[1]
        gain = ((log_prob - reference) * mask).sum(-1)
        chosen, rejected = np.split(gain, 2)
        margin = BETA * (chosen - rejected)
        value = np.mean(np.logaddexp(0, -margin))
        slope = -BETA / (1 + np.exp(margin)) / len(margin)
        to_log_prob = np.concatenate([slope, -slope])[:, None] * mask
    else:
        ratio, advantage = np.exp(log_prob - old_log_prob), advantage[:, None].astype(np.float64)
        inside = np.clip(ratio, 0.8, 1.2)
        value = -(np.minimum(ratio * advantage, inside * advantage) * mask).sum() / mask.sum()
        moves = ratio * advantage <= inside * advantage
        to_log_prob = -(ratio * advantage * moves) * mask / mask.sum()
    to_logits = -p * to_log_prob[..., None]
    at = np.take_along_axis(to_logits, tokens[..., None], -1) + to_log_prob[..., None]
    np.put_along_axis(to_logits, tokens[..., None], at, -1)
    return value, to_logits @ weight.T.astype(np.float64)


def measure(name, loss, folder):
    """One form, in this process."""
    run = FORMS[name](loss)
    run()  # what libraries allocate once is not counted
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
    before, start = _status("VmRSS"), time.process_time()
    value, to_hidden = run()
    seconds, peak = time.process_time() - start, (_status("VmHWM") - before) / 1024
    np.save(folder / "gradient.npy", to_hidden)
    (folder / "found.json").write_text(json.dumps([value, peak, seconds]))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--measure", nargs=3)
    given = parser.parse_args().measure
    if given:
        return measure(*given[:2], pathlib.Path(given[2]))
    for loss in ("dpo", "grpo"):
        true_value, true_gradient = exact(loss)
        for name in FORMS:
            if name in NEEDS and not importlib.util.find_spec(NEEDS[name]):
                continue
            with tempfile.TemporaryDirectory() as folder:
                command = [sys.executable, __file__, "--measure", name, loss, folder]
                subprocess.run(command, check=True, env=os.environ | AT_ONCE)
                value, peak, seconds = json.loads(pathlib.Path(folder, "found.json").read_text())
                gradient = np.load(pathlib.Path(folder, "gradient.npy"))
            error = np.linalg.norm(gradient - true_gradient) / np.linalg.norm(true_gradient)
            cells = [f"{peak:.0f}", f"{seconds:.1f}", f"{abs(value - true_value):.0e}; {error:.0e}"]
            print("", loss.upper(), name, *cells, "", sep=" | ", flush=True)
    return None


if __name__ == "__main__":
    main()
