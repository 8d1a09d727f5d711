"""Traits: what is true of a loss for every input, declared once and tested for every loss.

A trait is a fact about the function, not advice. `@loss(convex, nonnegative)` puts it into the
catalogue; the suite tests it; `jaxloss.catalogue.choose` shows it.
"""

from typing import NamedTuple

__all__ = [
    "Trait",
    "all_traits",
    "bounded",
    "bounded_gradient",
    "convex",
    "nonnegative",
    "proper",
    "scale_invariant",
    "shift_invariant",
    "smooth",
    "symmetric",
    "translation_invariant",
    "zero_at_match",
]


class Trait(NamedTuple):
    """A fact that `@loss` may claim: its name and its meaning."""

    name: str
    meaning: str

    def __repr__(self) -> str:
        return self.name


convex = Trait("convex", "convex in its first argument")
nonnegative = Trait("nonnegative", "never below 0")
bounded = Trait("bounded", "has a finite upper bound")
symmetric = Trait("symmetric", "unchanged when its two data arguments are exchanged")
zero_at_match = Trait("zero_at_match", "0 when its two data arguments are equal")
translation_invariant = Trait(
    "translation_invariant", "unchanged when the same number is added to prediction and target"
)
shift_invariant = Trait("shift_invariant", "unchanged when a number is added to all the logits")
scale_invariant = Trait(
    "scale_invariant", "unchanged when its first argument is multiplied by a positive number"
)
bounded_gradient = Trait(
    "bounded_gradient", "its gradient is bounded, which bounds the influence of an outlier"
)
smooth = Trait("smooth", "its gradient is continuous: no kinks")
proper = Trait("proper", "smallest on average when the prediction is the true probability")


def all_traits() -> dict[str, Trait]:
    """Every trait by its name."""
    return {name: trait for name, trait in globals().items() if isinstance(trait, Trait)}
