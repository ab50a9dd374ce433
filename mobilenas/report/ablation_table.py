"""Statistics of an ablation over seeds, and sentences that state no more than they show."""

import re
from collections.abc import Mapping, Sequence

from mobilenas.baselines.paired import format_difference, mean_std
from mobilenas.baselines.records import MeanStd
from mobilenas.core.settings import format_count
from mobilenas.report.records import VariantRecord


def over_seeds(figures: Sequence[Mapping[str, float]]) -> dict[str, MeanStd]:
    """Return mean and sample standard deviation of each figure that every seed has."""
    return {name: mean_std([own[name] for own in figures]) for name in figures[0]}


def parts_of(name: str) -> list[str]:
    """Split a variant's name into METHOD, :part=value, :part=value, ..., for line breaks.

    Joined, they are the name.
    """
    # a value may contain a colon: temperature=1:0.1
    return re.split(r"(?=:[^:=]*=)", name)


def sentences(variants: Sequence[VariantRecord], control: str) -> list[str]:
    """Return a sentence per variant: its paired difference from the control."""
    return [
        f"{variant.name} against {control}: {format_difference(found)}: {found.verdict}."
        for variant in variants
        if (found := variant.difference) is not None
    ]


def costs_sentence(variants: Sequence[VariantRecord]) -> str:
    """Return a sentence with the ranges of the trained networks' costs."""
    every = [entry.costs for variant in variants for entry in variant.entries]
    ranges = []
    for values, label in (
        ([costs["flops"] for costs in every], "FLOPs"),
        ([costs["params"] for costs in every], "params"),
    ):
        ends = dict.fromkeys(format_count(end) for end in (min(values), max(values)))
        ranges.append(f"{' to '.join(ends)} {label}")
    return f"The trained networks have {' and '.join(ranges)}."
