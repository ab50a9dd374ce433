"""An ablation in figures over seeds, and in sentences that claim no more than these."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from mobilenas.baselines.paired import spread, told
from mobilenas.core.settings import format_count
from mobilenas.search.diagnostics import agreement
from mobilenas.spaces.base import AnyChoice


def over_seeds(
    entries: Sequence[Mapping[str, Any]], choices: Sequence[AnyChoice]
) -> dict[str, Any]:
    """Return mean and sample standard deviation of an arm's figures, and the agreement."""

    def each(field: str) -> dict[str, Any]:
        return {name: spread([e[field][name] for e in entries]) for name in entries[0][field]}

    return {
        "top1": spread([entry["top1"] for entry in entries]),
        "gap": each("gap") if entries[0]["gap"] else None,
        "skips": each("skips"),
        "seconds": each("seconds"),
        "agreement": agreement(choices) if len(choices) > 1 else None,
    }


def parts_of(name: str) -> list[str]:
    """Return METHOD, :part=value, :part=value, ... of an arm's name, a line each where it is long.

    Joined they are the name.
    """
    # a value may have a colon, too: temperature=1:0.1
    return re.split(r"(?=:[^:=]*=)", name)


def sentences(record: Mapping[str, Any]) -> list[str]:
    """Return one sentence an arm of ablation.json: its paired difference to the control."""
    return [
        f"{arm['name']} against {record['control']}: {told(found)}: {found['verdict']}."
        for arm in record["arms"]
        if (found := arm["difference"]) is not None
    ]


def costs_sentence(record: Mapping[str, Any]) -> str:
    """Say from what to what the costs of the trained networks go."""
    every = [entry["costs"] for arm in record["arms"] for entry in arm["entries"]]
    ranges = []
    for name, label in (("flops", "FLOPs"), ("params", "params")):
        values = [costs[name] for costs in every]
        ends = dict.fromkeys(format_count(end) for end in (min(values), max(values)))
        ranges.append(f"{' to '.join(ends)} {label}")
    return f"The trained networks have {' and '.join(ranges)}."
