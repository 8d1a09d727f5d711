"""What the scripts that freeze losses of other libraries share: their imports, and the file."""

import importlib
import importlib.metadata
import json
import pathlib
import sys
import types
import warnings
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import torch

torch.set_default_dtype(torch.float64)
jax.config.update("jax_enable_x64", True)


def import_alone(package, name):
    """A module of a package without the `__init__` of its parents."""
    path = pathlib.Path(importlib.metadata.distribution(package).locate_file(""))
    *parents, _ = name.split(".")
    for place in range(1, len(parents) + 1):
        parent = ".".join(parents[:place])
        sys.modules[parent] = types.ModuleType(parent)
        sys.modules[parent].__path__ = [str(path.joinpath(*parents[:place]))]
    return importlib.import_module(name)


def mock_modules(*names):
    """Modules that are imported and not used."""
    for name in names:
        sys.modules[name] = mock.MagicMock(__spec__=None)


def of_torch(function, first, *others):
    """Value, and gradient in the first argument."""
    x = torch.from_numpy(first.copy()).requires_grad_()
    # Some convert to single precision.
    with mock.patch.object(torch.Tensor, "float", lambda x: x.double()):
        value = function(x, *(torch.from_numpy(other.copy()) for other in others))
    return value.item(), torch.autograd.grad(value, x)[0].numpy()


def of_jax(function, first, *others):
    """As of torch."""
    arguments = [jnp.asarray(other) for other in others]
    value, gradient = jax.value_and_grad(lambda x: function(x, *arguments))(jnp.asarray(first))
    return float(value), np.asarray(gradient)


def of_numpy(function, *arguments):
    """Of a library without gradients, or one that returns them behind the value."""
    found = function(*arguments)
    return found if isinstance(found, tuple) else (float(found), None)


def shortened(x, digits):
    return float(f"{x:.{digits}g}")


def freeze(name, packages, inputs, losses):
    """Writes values and gradients beside this file, into `<name>.json`.

    Args:
        name: The name of the file.
        packages: What is evaluated; the versions are written, too.
        inputs: Arrays of few digits, so that the file stays small.
        losses: For `of_torch`, `of_jax` and `of_numpy`, the losses by name: a function that returns
            a scalar, and the names of its arguments, the one with a gradient first.
    """
    found = {}
    for evaluate, each in losses.items():
        for loss, (function, *names) in each.items():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                value, gradient = evaluate(function, *(inputs[n] for n in names))
            if gradient is not None:  # one that is NaN says nothing
                is_known = not np.isnan(gradient).any()
                gradient = [shortened(g, 10) for g in gradient.ravel()] if is_known else None
            found[loss] = {"value": shortened(value, 12), "gradient": gradient}
    content = {
        "versions": {package: importlib.metadata.version(package) for package in packages},
        "inputs": {name: x.tolist() for name, x in inputs.items()},
        "losses": found,
    }
    text = json.dumps(content, separators=(",", ":")).replace('},"', '},\n"')
    pathlib.Path(__file__).with_name(f"{name}.json").write_text(text + "\n")
