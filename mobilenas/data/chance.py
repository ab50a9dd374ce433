"""Whether an accuracy is more than guessing gives."""

from scipy.stats import binom
from torch import Tensor

from mobilenas.core.settings import counted

SIGNIFICANCE = 0.05
"""Of the one-sided binomial test."""


def chance_top1(labels: Tensor, classes: int) -> float:
    """Percent that guessing gets right: naming the most frequent class, 1 / classes at least."""
    return 100 * max(1 / classes, int(labels.bincount().max()) / len(labels))


def beats_chance(top1: float, labels: Tensor, classes: int) -> bool:
    """Whether `top1` percent of `labels` [N] are significantly more than guessing gets right.

    One-sided binomial test: so many right answers or more, guessing, have a probability under 5 %.
    """
    right = round(top1 * len(labels) / 100)
    chance = chance_top1(labels, classes) / 100
    return bool(binom.sf(right - 1, len(labels), chance) < SIGNIFICANCE)


def chance_remark(top1: float, labels: Tensor, classes: int) -> str | None:
    """Say with figures that `top1` percent of `labels` is no better than chance; None if it is."""
    if beats_chance(top1, labels, classes):
        return None
    return (
        f"no better than chance: {top1:.1f} % of {counted(len(labels), 'image')}, where guessing "
        "gets "
        f"{chance_top1(labels, classes):.1f} %"
    )
