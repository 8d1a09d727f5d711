"""Loss functions of TRL, Liger and verl, without what their packages import around them.

Those of TRL are methods of trainers, those of verl stand in a module that imports Ray: each is
read from its file in the installed package and run alone, on the arrays of `tests/peers`.
"""

import ast
import collections
import importlib
import importlib.util
import math
import pathlib
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # as the functions call it


def functions(package: str, path: str, **around: Any) -> dict[str, Callable[..., Any]]:
    """All functions and methods of a file, without the rest of it."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ImportError(f"{package} is not installed")
    tree = ast.parse((pathlib.Path(spec.origin).parent / path).read_text())
    found = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    for node in found:
        node.decorator_list = []
    # Annotations name types that are not imported here: they are not evaluated.
    first = ast.parse("from __future__ import annotations").body
    module = ast.fix_missing_locations(ast.Module([*first, *found], type_ignores=[]))
    space = {"torch": torch, "F": F, "np": np, "math": math, **around}
    exec(compile(module, path, "exec"), space)
    return {node.name: space[node.name] for node in found}


LIGER = {
    "GRPO": "grpo", "DPO": "dpo", "KTO": "kto", "ORPO": "orpo", "SimPO": "simpo", "CPO": "cpo",
    "JSD": "jsd", "CosineSimilarity": "cosine_similarity",
}  # fmt: skip


class ActorConfig(types.SimpleNamespace):
    """The fields of verl's configuration that its losses read."""

    clip_ratio, clip_ratio_low, clip_ratio_high = 0.2, None, None

    @property
    def global_batch_info(self) -> dict[str, Any]:
        return {}

    def get(self, name: str, default: Any) -> Any:
        return getattr(self, name, default)


def core_algos() -> types.SimpleNamespace:
    """`verl.trainer.ppo.core_algos`."""
    of_torch = types.SimpleNamespace(**functions("verl", "utils/torch_functional.py"))
    found = functions(
        "verl", "trainer/ppo/core_algos.py", verl_F=of_torch, ActorConfig=ActorConfig,
        AlgoConfig=(), defaultdict=collections.defaultdict,
    )  # fmt: skip
    return types.SimpleNamespace(**found)


class _Running:
    """The running mean of rewards of TRL, after one update."""

    mean = 0.0

    def update(self, rewards: Any) -> None:
        self.mean = rewards.mean()


def trainer(file: str, **defaults: Any) -> Callable[..., Any]:
    """A trainer of TRL, made of the fields that its loss reads."""
    divergence = types.SimpleNamespace(
        **{n: types.SimpleNamespace(value=n.lower()) for n in ("ALPHA_DIVERGENCE", "JS_DIVERGENCE")}
    )
    constants = types.SimpleNamespace(
        ALPHA_DIVERGENCE_COEF_KEY="alpha_divergence_coef", ALPHA_DIVERGENCE_COEF_DEFAULT=1.0
    )
    found = functions(
        "trl", f"trainer/{file}", FDivergenceType=divergence, FDivergenceConstants=constants,
        cap_exp=torch.exp,
    )  # fmt: skip
    gather = types.SimpleNamespace(device="cpu", gather=lambda x: x)

    def make(**fields: Any) -> types.SimpleNamespace:
        known = {"accelerator": gather, "running": _Running(), "label_smoothing": 0.0} | defaults
        made = types.SimpleNamespace(**known | fields)
        for name, function in found.items():
            setattr(made, name, types.MethodType(function, made))
        return made

    return make


def names() -> dict[str, Any]:
    """What the rows of these peers name."""
    gkd = types.SimpleNamespace(**functions("trl", "trainer/gkd_trainer.py"))
    liger = {
        f"LigerFusedLinear{name}Function": getattr(
            importlib.import_module(f"liger_kernel.chunked_loss.{file}_loss"),
            f"LigerFusedLinear{name}Function",
        )
        for name, file in LIGER.items()
    }
    return liger | {
        "core_algos": core_algos(), "ActorConfig": ActorConfig, "np": np, "GKDTrainer": gkd,
        "SimpleNamespace": types.SimpleNamespace,
        "DPOTrainer": trainer(
            "dpo_trainer.py", reference_free=False, loss_type="sigmoid", f_divergence_params=None,
            f_divergence_type="reverse_kl",
        ),
        "CPOTrainer": trainer("cpo_trainer.py", loss_type="sigmoid"),
        "KTOTrainer": trainer(
            "kto_trainer.py", loss_type="kto", desirable_weight=1.0, undesirable_weight=1.0,
            calculate_KL=True,
        ),
        "BCOTrainer": trainer("bco_trainer.py", match_underlying_distribution=False),
        "ORPOTrainer": trainer("orpo_trainer.py"),
    }  # fmt: skip


def public_names() -> dict[str, list[str]]:
    """The losses of each trainer: functions of a module, or kinds that its code compares with."""
    of_verl = [n for n in vars(core_algos()) if n.startswith(("compute_", "agg_", "kl_penalty"))]
    kinds = lambda package, *paths: sorted(
        {kind for path in paths for kind in _kinds(package, path)}
    )
    trl = kinds("trl", *(f"trainer/{n}_trainer.py" for n in ("dpo", "cpo", "kto")))
    of_liger = kinds("liger_kernel", "chunked_loss/grpo_loss.py", "chunked_loss/dpo_loss.py")
    return {"verl": sorted(of_verl), "trl": trl, "liger-kernel": of_liger}


def _kinds(package: str, path: str) -> set[str]:
    """The strings with which a file compares its `loss_type`."""
    spec = importlib.util.find_spec(package)
    tree = ast.parse((pathlib.Path(spec.origin).parent / path).read_text())
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare) and "loss_type" in ast.dump(node.left):
            constants = [c for c in ast.walk(node) if isinstance(c, ast.Constant)]
            found |= {c.value for c in constants if isinstance(c.value, str)}
    return found
