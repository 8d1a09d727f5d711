# /// script
# requires-python = ">=3.11"
# dependencies = [
#   "clarabel==0.11.1",
#   "cvxpy==1.9.3",
#   "ecos==2.0.14",
#   "numpy==2.4.6",
#   "qpsolvers==4.13.0",
#   "quadprog==0.1.14",
#   "scipy==1.17.1",
#   "torch==2.13.0",
#   "torchjd==0.18.0",
# ]
# ///
"""Freezes what TorchJD makes of matrices of every difficulty, into `torchjd.json`.

Run it where the versions above are installed: `uv run tests/oracles/make_torchjd.py`, or with the
interpreter of an environment into which pip has installed them. Nothing of ours is imported.
"""

import importlib.metadata
import json
import pathlib

import numpy as np
import torch
from torchjd import aggregation, scalarization

VERSIONS = ("torchjd", "torch", "numpy", "qpsolvers", "quadprog", "cvxpy", "clarabel", "ecos")
torch.set_default_dtype(torch.float64)


def matrices():
    """Named stacks of gradients, few digits each, so that the file stays small."""
    rng = np.random.default_rng(0)
    found = {}
    for rows in range(1, 9):
        found[f"normal {rows}"] = rng.normal(size=(rows, 10))
    found["wide range"] = rng.normal(size=(4, 6)) * np.array([[1.0], [10.0], [0.1], [1000.0]])
    found["conflict"] = np.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
    found["three in two"] = rng.normal(size=(3, 2))
    found["rank two of five"] = rng.normal(size=(5, 2)) @ rng.normal(size=(2, 7))
    found["zero row"] = np.concatenate([rng.normal(size=(2, 5)), np.zeros((1, 5))])
    found["opposite"] = np.array([[1.0, 2.0], [-1.0, -2.0]])
    found["identical"] = np.ones((3, 4))
    found["no conflict"] = np.abs(rng.normal(size=(4, 5)))
    return {name: np.round(x, 3) for name, x in found.items()}


MADE = {
    "upgrad": lambda m: aggregation.UPGrad(),
    "dual_projection": lambda m: aggregation.DualProj(),
    "mgda": lambda m: aggregation.MGDA(epsilon=1e-12, max_iters=20_000),
    "cagrad 0.5": lambda m: aggregation.CAGrad(c=0.5),
    "aligned_mtl": lambda m: aggregation.AlignedMTL(),
    "imtl_g": lambda m: aggregation.IMTLG(),
    "config": lambda m: aggregation.ConFIG(),
    "fair_grad 1": lambda m: aggregation.FairGrad(alpha=1.0),
    "fair_grad 2": lambda m: aggregation.FairGrad(alpha=2.0),
    "nash": lambda m: aggregation.NashMTL(n_tasks=m, max_norm=0.0, optim_niter=100),
    "krum 1 2": lambda m: aggregation.Krum(1, 2) if m >= 4 else None,
    "trimmed_mean 1": lambda m: aggregation.TrimmedMean(1) if m >= 3 else None,
    "pcgrad": lambda m: aggregation.PCGrad() if m <= 2 else None,
    "grad_drop": lambda m: aggregation.GradDrop(f=torch.round),  # 0 or 1: nothing is random
}


def directions(stacks):
    found = {}
    for name, make in MADE.items():
        found[name] = {}
        for stack, matrix in stacks.items():
            rule = make(len(matrix))
            if rule is None:
                continue
            try:
                result = rule(torch.tensor(matrix)).detach().numpy()
            except Exception as error:  # printed with its matrix
                print(f"{name} of {stack}: {type(error).__name__}: {error}"[:120])
                continue
            found[name][stack] = [float(f"{x:.15g}") for x in result]
    return found


def with_memory():
    """A course of losses, and what each weighting that remembers says at every step."""
    rng = np.random.default_rng(1)
    losses = np.round(rng.uniform(0.2, 3.0, size=(12, 3)), 3)
    pairs = np.round(rng.normal(size=(6, 2, 4)), 3)

    def weights(scalarizer, values):
        values = torch.tensor(values, requires_grad=True)
        (gradient,) = torch.autograd.grad(scalarizer(values), values)
        return gradient.tolist()

    dwa, famo, vaccine = scalarization.DWA(), scalarization.FAMO(3), aggregation.GradVac(eps=0.0)
    found = {"losses": losses.tolist(), "pairs": pairs.tolist(), "dwa": [], "famo": []}
    for i, values in enumerate(losses):
        found["dwa"].append(weights(dwa, values))
        if i % 2:
            dwa.step()
        if i:
            famo.update(torch.tensor(values))
        found["famo"].append(weights(famo, values))
    found["grad_vac"] = [vaccine(torch.tensor(pair)).tolist() for pair in pairs]
    return found


def of_losses():
    """Value and gradients of the numbers that are differentiated."""
    values = [0.5, 2.0, 1.25]
    scales = [0.3, -0.7, 0.1]
    made = {
        "uncertainty": scalarization.UW(3),
        "imtl_l": scalarization.IMTLL(3),
        "geometric_mean": scalarization.GeometricMean(),
        "smooth_tchebycheff": scalarization.STCH(
            0.3, torch.tensor([0.2, 0.5, 0.3]), torch.tensor([0.1, 0.2, 0.0])
        ),
    }
    found = {"values": values, "scales": scales}
    for name, scalarizer in made.items():
        learned = list(scalarizer.parameters())
        for parameter in learned:
            parameter.data = torch.tensor(scales)
        x = torch.tensor(values, requires_grad=True)
        result = scalarizer(x)
        gradients = torch.autograd.grad(result, [x, *learned])
        found[name] = [result.item(), *(g.tolist() for g in gradients)]
    return found


if __name__ == "__main__":
    stacks = matrices()
    document = {
        "versions": {name: importlib.metadata.version(name) for name in VERSIONS},
        "stacks": {name: x.tolist() for name, x in stacks.items()},
        "directions": directions(stacks),
        "memory": with_memory(),
        "losses": of_losses(),
    }
    target = pathlib.Path(__file__).with_name("torchjd.json")
    target.write_text(json.dumps(document, indent=1) + "\n")
    print(f"{target.name}: {target.stat().st_size} bytes")
