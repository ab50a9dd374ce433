"""Tests whether an accuracy is better than chance."""

from scipy.stats import binom
from torch import Tensor

from mobilenas.core.settings import counted

SIGNIFICANCE = 0.05
"""Significance level of the one-sided binomial test."""


def chance_top1(labels: Tensor, classes: int) -> float:
    """Return the percentage right by guessing: the largest class's share, at least 1 / classes."""
    return 100 * max(1 / classes, int(labels.bincount().max()) / len(labels))


def beats_chance(top1: float, labels: Tensor, classes: int) -> bool:
    """Whether `top1`, a percentage of `labels` [N], is significantly better than chance.

    One-sided binomial test: guessing reaches this accuracy with a probability under 5 %.
    """
    right = round(top1 * len(labels) / 100)
    chance = chance_top1(labels, classes) / 100
    return bool(binom.sf(right - 1, len(labels), chance) < SIGNIFICANCE)


def chance_remark(top1: float, labels: Tensor, classes: int) -> str | None:
    """Return a remark that `top1` % of `labels` is no better than chance; None if it is better."""
    if beats_chance(top1, labels, classes):
        return None
    return (
        f"no better than chance: {top1:.1f} % of {counted(len(labels), 'image')}, where guessing "
        "gets "
        f"{chance_top1(labels, classes):.1f} %"
    )
