"""Sequence losses: the targets have a length of their own, and the loss aligns them."""

from jaxloss.sequence._ctc import ctc

__all__ = ["ctc"]
