"""An ablation in figures over seeds, and in sentences that claim no more than these."""

import re
from collections.abc import Mapping, Sequence

from mobilenas.baselines.paired import spread, told
from mobilenas.baselines.records import Spread
from mobilenas.core.settings import format_count
from mobilenas.report.records import ArmRecord


def over_seeds(figures: Sequence[Mapping[str, float]]) -> dict[str, Spread]:
    """Return mean and sample standard deviation of each figure that every seed has."""
    return {name: spread([own[name] for own in figures]) for name in figures[0]}


def parts_of(name: str) -> list[str]:
    """Return METHOD, :part=value, :part=value, ... of an arm's name, a line each where it is long.

    Joined they are the name.
    """
    # a value may have a colon, too: temperature=1:0.1
    return re.split(r"(?=:[^:=]*=)", name)


def sentences(arms: Sequence[ArmRecord], control: str) -> list[str]:
    """Return one sentence an arm: its paired difference to the control."""
    return [
        f"{arm.name} against {control}: {told(found)}: {found.verdict}."
        for arm in arms
        if (found := arm.difference) is not None
    ]


def costs_sentence(arms: Sequence[ArmRecord]) -> str:
    """Say from what to what the costs of the trained networks go."""
    every = [entry.costs for arm in arms for entry in arm.entries]
    ranges = []
    for values, label in (
        ([costs["flops"] for costs in every], "FLOPs"),
        ([costs["params"] for costs in every], "params"),
    ):
        ends = dict.fromkeys(format_count(end) for end in (min(values), max(values)))
        ranges.append(f"{' to '.join(ends)} {label}")
    return f"The trained networks have {' and '.join(ranges)}."
