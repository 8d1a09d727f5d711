"""Sequence losses: the targets have a length of their own, and the loss aligns them."""

from jaxloss._core.namespace import public_names
from jaxloss.sequence._ctc import ctc

__all__ = ["ctc"]

__getattr__, __dir__ = public_names(__name__, __all__)
