# /// script
# requires-python = ">=3.11"
# dependencies = [
#   "jax==0.10.2",
#   "keras==3.15.1",
#   "numpy==2.4.6",
#   "optax==0.2.8",
#   "rax==0.4.0",
#   "rlax==0.1.9",
#   "scikit-learn==1.9.1",
#   "scipy==1.17.1",
#   "torch==2.13.0",
# ]
# ///
"""Evaluates the peers' side of every row of `tests/peers` and freezes it into `peers.json`.

Run it where the versions above are installed: with the
interpreter of an environment into which pip has installed them, and then
`pip install --no-deps liger-kernel==0.8.5 trl==0.11.4 verl==0.9.1`, of which only files are used.
Nothing of ours is imported.
Frozen rows are kept while versions and inputs are the same; `--all` evaluates them, too.
"""

import functools
import importlib.metadata
import inspect
import json
import math
import os
import pathlib
import sys
import warnings

os.environ |= {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import jax
import jax.numpy as jnp
import keras
import numpy as np
import optax
import peers
import rax
import rlax
import torch
import trainers
from scipy import spatial, special, stats
from sklearn import metrics

DECIMALS = 15  # significant ones: what is compared is coarser, and the file stays small


def names_of(module):
    """The public functions and classes of a module."""
    return sorted(
        name for name in dir(module) if name[0] != "_" and callable(getattr(module, name))
    )


def is_loss(name):
    """Whether a name of a mixed module is that of a loss, or of a score made of one."""
    endings = ("_loss", "_entropy", "_error", "_deviance")
    return name.endswith(endings) or name.startswith(("kl_div", "d2_", "binary_cross_entropy"))


def of_torch(code, argument):
    """Value and gradient, in float64."""
    tensors = {name: torch.from_numpy(x.copy()) for name, x in peers.INPUTS.items()}
    x = tensors[argument].requires_grad_()
    names = {"F": torch.nn.functional, "torch": torch, "math": math, **tensors}
    value = eval(code, names)
    seed = torch.from_numpy(np.asarray(peers.cotangent(value.detach().numpy()))).reshape(
        value.shape
    )
    (gradient,) = torch.autograd.grad(value, x, seed, allow_unused=True)
    return value.detach().numpy(), np.zeros(x.shape) if gradient is None else gradient.numpy()


def of_trainer(code, argument):
    """As of torch; advantages have no gradient."""
    tensors = {name: torch.from_numpy(x.copy()) for name, x in peers.INPUTS.items()}
    x = tensors[argument].requires_grad_()
    value = eval(code, trainers.names() | tensors)
    if not value.requires_grad:
        return value.numpy(), None
    seed = torch.from_numpy(np.asarray(peers.cotangent(value.detach().numpy())))
    (gradient,) = torch.autograd.grad(value, x, seed.reshape(value.shape))
    return value.detach().numpy(), gradient.numpy()


def of_jax(code, argument):
    """Value and gradient, in float64, of a peer that runs on JAX."""
    names = {"jax": jax, "jnp": jnp, "optax": optax, "rax": rax, "rlax": rlax, "keras": keras}
    names |= {"partial": functools.partial, "math": math}
    arrays = {name: jnp.asarray(x) for name, x in peers.INPUTS.items()}
    x = arrays.pop(argument)
    f = lambda x: eval(code, names | arrays | {argument: x})
    value, vjp_fn = jax.vjp(f, x)
    (gradient,) = vjp_fn(jnp.asarray(peers.cotangent(value), value.dtype))
    return value, gradient


def of_numpy(code, argument):
    """Value alone: these peers have no gradients."""
    names = {"metrics": metrics, "stats": stats, "special": special, "spatial": spatial, "np": np}
    return eval(code, names | peers.INPUTS), None


EVALUATE = {
    "torch": of_torch,
    "trl": of_trainer,
    "verl": of_trainer,
    "liger-kernel": of_trainer,
    "keras": of_jax,
    "optax": of_jax,
    "rax": of_jax,
    "rlax": of_jax,
    "scikit-learn": of_numpy,
    "scipy": of_numpy,
}
NAMES = {
    "torch": [n for n in dir(torch.nn.functional) if is_loss(n)],
    "keras": names_of(keras.losses),
    "optax": names_of(optax.losses),
    "rax": [n for n in names_of(rax) if inspect.isfunction(getattr(rax, n))],
    "rlax": [n for n in names_of(rlax) if is_loss(n)],
    "scikit-learn": [n for n in dir(metrics) if is_loss(n)],
    "scipy": [],
    **trainers.public_names(),
}


def plain(array):
    """Nested lists of numbers, rounded."""
    if array is None:
        return None
    shorten = lambda x: float(f"{x:.{DECIMALS}g}")
    array = np.asarray(array, np.float64)
    return np.vectorize(shorten, otypes=[object])(array).tolist() if array.size else []


def main():
    """Writes the file."""
    jax.config.update("jax_enable_x64", True)
    keras.config.set_floatx("float64")
    warnings.simplefilter("ignore")
    versions = {peer: importlib.metadata.version(peer) for peer in peers.PEERS}
    versions["torch"] = versions["torch"].partition("+")[0]
    known = {"versions": versions, "names": NAMES}
    frozen = json.loads(peers.FROZEN.read_text()) if peers.FROZEN.exists() else {}
    same = "--all" not in sys.argv and versions == frozen.get("versions")
    values, failed = {}, 0
    for peer in peers.PEERS:
        values[peer] = {}
        for row in peers.PEERS[peer].rows:
            old = frozen["values"].get(peer, {}).get(row.theirs) if same else None
            if old and (old["argument"], old["inputs"]) == (row.argument, row.inputs):
                values[peer][row.theirs] = old
                continue
            try:
                value, gradient = EVALUATE[peer](row.theirs, row.argument)
            except Exception as error:  # reported with its row
                failed += 1
                print(f"{peer}: {row.theirs}\n    {type(error).__name__}: {error}", file=sys.stderr)
                continue
            values[peer][row.theirs] = {
                "argument": row.argument,
                "inputs": row.inputs,
                "value": plain(value),
                "gradient": plain(gradient),
            }
    text = (
        json.dumps(known | {"values": values}, separators=(",", ":"))
        .replace('},"', '},\n"')
        .replace('],"', '],\n"')
    )
    peers.FROZEN.write_text(text + "\n")
    print(f"{sum(map(len, values.values()))} rows, {failed} failed, {len(text)} bytes")
    return failed


if __name__ == "__main__":
    sys.exit(main())
