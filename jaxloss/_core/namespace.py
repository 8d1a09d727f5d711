"""What a public module shows: its names, old names with a warning, and answers to wrong ones.

A public module ends with

    __getattr__, __dir__ = public_names(__name__, __all__)

so that `dir` and completion list `__all__` only, and a name from another library, such as `mse`,
is answered with the loss to write.
"""

import difflib
import importlib
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from jaxloss._core.peer_names import LOSSES
from jaxloss._core.registry import all_losses

__all__ = ["Renamed", "public_names"]


class Renamed(NamedTuple):
    """An old name of something public.

    Attributes:
        new: Its path below `jaxloss`, such as `regression.pinball`.
        removal: The version in which the old name ends.
    """

    new: str
    removal: str


def public_names(
    module: str,
    names: Iterable[str],
    *,
    lazy: Mapping[str, Callable[[], Any]] | None = None,
    renamed: Mapping[str, Renamed] | None = None,
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """The `__getattr__` and `__dir__` of a public module.

    Args:
        module: Its `__name__`.
        names: Its `__all__`.
        lazy: What is made on first use, by name.
        renamed: Old names: each gives what its new name does, with a `DeprecationWarning`.

    Returns:
        The two functions.

    Example:
        >>> getattr_, dir_ = public_names("jaxloss.regression", ["huber"])
        >>> getattr_("mse")
        Traceback (most recent call last):
        AttributeError: module 'jaxloss.regression' has no attribute 'mse': write \
jaxloss.regression.squared_error.
    """
    public, lazy, renamed = sorted(names), lazy or {}, renamed or {}

    def __getattr__(name: str) -> Any:
        if name in lazy:
            return lazy[name]()
        message = f"module {module!r} has no attribute {name!r}"
        if name.startswith("_"):
            raise AttributeError(message)
        if name in renamed:
            new, removal = renamed[name]
            warnings.warn(
                f"{module}.{name} is deprecated and will be removed in jaxloss {removal}: write "
                f"jaxloss.{new}.",
                DeprecationWarning,
                stacklevel=2,
            )
            return _at(new)
        path = _path(module, name, public)
        raise AttributeError(f"{message}: write jaxloss.{path}." if path else message)

    def __dir__() -> list[str]:
        return public

    return __getattr__, __dir__


def _at(path: str) -> Any:
    family, _, name = path.rpartition(".")
    return getattr(importlib.import_module(f"jaxloss.{family}" if family else "jaxloss"), name)


def _path(module: str, name: str, public: list[str]) -> str:
    """Where the thing that was meant is: a loss of this name, of a peer's name, or a near one."""
    if name in LOSSES:
        return LOSSES[name]
    for info in all_losses():
        if info.family and info.function.__name__ == name:
            return info.name
    near = difflib.get_close_matches(name, public, n=1, cutoff=0.75)
    below = module.removeprefix("jaxloss").lstrip(".")
    return ".".join(filter(None, (below, *near[:1]))) if near else ""
