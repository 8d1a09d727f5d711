"""Sequences: losses of outputs that have a length of their own, aligned by the loss itself."""

from jaxloss.sequence._ctc import ctc

__all__ = ["ctc"]
