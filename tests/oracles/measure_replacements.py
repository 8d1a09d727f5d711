"""Measures what docs/replacements.md says is saved: replacements_measured.json.

`python tests/oracles/measure_replacements.py FOLDER`, with the folder and the packages that
`make_replacements.py` needs (TRL, which is of torch, is left out). Lines are those of the functions
that a value needs, without comments and docstrings, as `ast.unparse` writes them; ours are those of
the page. Temporaries are what XLA allocates beside arguments and results for the gradient, compiled
for CPU.
"""

import ast
import json
import pathlib
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import make_replacements as theirs

import jaxloss as jl

TOKENS, CLASSES, DIM, PAIRS = 2048, 32768, 256, 4096
MAKERS = (
    theirs.brax_compute_gae, theirs.brax_compute_ppo_loss, theirs.stoix_ppo_clip_loss,
    theirs.tunix_grpo_loss_fn, theirs.maxtext_load_balance_loss,
    theirs.t5x_compute_weighted_cross_entropy, theirs.big_vision_bidirectional_contrastive_loss,
    theirs.axlearn_cross_entropy, theirs.levanter_maybe_fused_next_token_loss,
)  # fmt: skip
PAGE = pathlib.Path(__file__).parents[2] / "docs" / "replacements.md"
LINES: dict[str, int] = {}
FOUND: dict[str, list[Callable[..., Any]]] = {}
load = theirs.functions


def counted(project: str, path: str, *names: str, **around: Any) -> list[Callable[..., Any]]:
    """`functions` that also counts lines."""
    documented = ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef
    for node in ast.walk(ast.parse(theirs.source(project, path))):
        if getattr(node, "name", None) in names:
            for part in ast.walk(node):
                if isinstance(part, documented) and ast.get_docstring(part):
                    part.body = part.body[1:] or [ast.Pass()]
            LINES[project] = LINES.get(project, 0) + len(ast.unparse(node).splitlines())
    FOUND[project] = load(project, path, *names, **around)
    return FOUND[project]


def shape(*size: int, dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(size, dtype)


def temporaries(loss: Callable[..., Any], argnums: Any, *arrays: Any) -> int:
    compiled = jax.jit(jax.grad(loss, argnums)).lower(*arrays).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def snippets(heading: str) -> list[str]:
    section = re.search(
        rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", PAGE.read_text(), re.S | re.M
    )
    return re.findall(r"```python\n(.*?)```", section[1], re.S)


def ours(heading: str, names: str) -> Callable[..., Any]:
    """The snippets of a section as a function of arrays."""

    def run(*arrays: Any) -> Any:
        space = {"jl": jl, "jax": jax, "jnp": jnp, "constant": 0.0}
        space |= dict(zip(names.split(), arrays, strict=True))
        for code in snippets(heading):
            exec(code, space)
        return space["loss"]

    return run


def of_large_arrays(name: str, heading: str) -> dict[str, int]:
    """The temporaries of theirs and ours, where arrays are large."""
    logits, labels = shape(1, TOKENS, CLASSES), shape(1, TOKENS, dtype=jnp.int32)
    hidden, weight = shape(1, TOKENS, DIM), shape(DIM, CLASSES)
    if name.startswith(("t5x", "axlearn")):
        loss = FOUND[name.split("_")[0]][-1]
        z_loss = {"z_loss" if name.startswith("t5x") else "z_loss_scale": 1e-4}
        rest = [labels, shape(1, TOKENS)] if name.startswith("t5x") else [labels]
        names = "logits targets weights" if name.startswith("t5x") else "logits labels"
        peer = lambda x, *rest: loss(x, *rest, label_smoothing=0.1, **z_loss)[0]
        fused = lambda x, w, y, *_: jl.linear.softmax_cross_entropy(
            x, w, y, label_smoothing=0.1, z_loss=1e-4, reduction="sum"
        )
        return {
            "theirs": temporaries(peer, 0, logits, *rest),
            "ours": temporaries(ours(heading, names), 0, logits, *rest),
            "theirs with the last layer": temporaries(
                lambda x, w, *rest: peer(x @ w, *rest), (0, 1), hidden, weight, *rest
            ),
            "ours with the last layer": temporaries(fused, (0, 1), hidden, weight, *rest),
        }
    if name.startswith("big_vision"):
        loss = FOUND["big_vision"][0]
        unit = lambda x: x / jnp.linalg.norm(x, axis=-1, keepdims=True)
        peer = lambda x, y: loss(unit(x), unit(y), 10.0, reduction=True)[0]
        chunked = lambda x, y: jl.contrastive.clip(
            x, y, temperature=0.1, chunk_size=256, reduction="mean"
        )
        functions = peer, ours(heading, "images texts"), chunked
        arrays = 2 * [shape(PAIRS, DIM)]
        found = [temporaries(f, (0, 1), *arrays) for f in functions]
        return dict(zip(("theirs", "ours", "ours with chunk_size=256"), found, strict=True))
    if name.startswith("levanter"):
        arrays = hidden, weight, labels, shape(1, TOKENS, dtype=bool)
        sizes = FOUND["levanter"][0], 1, TOKENS, DIM, CLASSES
        functions = (
            theirs.levanter_loss(*sizes), theirs.levanter_loss(*sizes, block_size=4096),
            ours(heading, "hidden weight tokens mask"),
        )  # fmt: skip
        found = [temporaries(f, (0, 1), *arrays) for f in functions]
        return dict(zip(("theirs", "theirs in blocks of 4096", "ours"), found, strict=True))
    return {}


def main() -> None:
    theirs.functions, found = counted, {}
    for maker in MAKERS:
        jax.config.update("jax_enable_x64", True)
        LINES.clear()
        theirs.RNG.bit_generator.state = theirs.BEGINNING
        maker()
        jax.config.update("jax_enable_x64", False)
        name = maker.__name__
        heading = next(
            h for h in re.findall(r"^## (.*)$", PAGE.read_text(), re.M)
            if re.sub(r"`(\w+)` of (\w+)", r"\2_\1", h).lower() == name
        )  # fmt: skip
        lines = sum(len(code.splitlines()) for code in snippets(heading))
        found[name] = {"lines": [sum(LINES.values()), lines]}
        found[name]["temporaries"] = of_large_arrays(name, heading)
        print(name, found[name], flush=True)
    target = pathlib.Path(__file__).with_name("replacements_measured.json")
    target.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
