"""An ablation in figures over seeds, and in sentences that claim no more than these."""

import re
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from mobilenas.config import format_count
from mobilenas.search.diagnostics import agreement
from mobilenas.spaces.cell_space import CellChoice
from mobilenas.spaces.mobile import Choice

BETTER, WORSE, OPEN = "better", "worse", "no difference shown"
LEVEL = 0.05
"""A smaller p value is a difference; the arms are not corrected for their number."""

_LEAST_SEEDS = 3
# differences of percentages that are equal but for rounding
_NO_SPREAD = 1e-9


def over_seeds(
    entries: Sequence[Mapping[str, Any]], choices: Sequence[CellChoice] | Sequence[Choice]
) -> dict[str, Any]:
    """Return mean and sample standard deviation of an arm's figures, and the agreement."""

    def each(field: str) -> dict[str, Any]:
        return {name: _spread([e[field][name] for e in entries]) for name in entries[0][field]}

    return {
        "top1": _spread([entry["top1"] for entry in entries]),
        "gap": each("gap") if entries[0]["gap"] else None,
        "skips": each("skips"),
        "seconds": each("seconds"),
        "agreement": agreement(choices) if len(choices) > 1 else None,
    }


def difference(own: Sequence[float], control: Sequence[float]) -> dict[str, Any]:
    """Return how two arms differ over the same seeds: mean, sd, and a paired t-test's p value.

    From fewer than three seeds, or where every seed differs by the same, there is no p value.
    """
    points = [a - b for a, b in zip(own, control, strict=True)]
    figures: dict[str, Any] = _spread(points)
    p = None
    if len(points) >= _LEAST_SEEDS and figures["sd"] > _NO_SPREAD:
        from scipy.stats import ttest_rel

        p = float(ttest_rel(own, control).pvalue)
    shown = p is not None and p < LEVEL
    verdict = (BETTER if figures["mean"] > 0 else WORSE) if shown else OPEN
    return figures | {"seeds": len(points), "p": p, "verdict": verdict}


def _spread(values: Sequence[float]) -> dict[str, float | None]:
    return {"mean": fmean(values), "sd": stdev(values) if len(values) > 1 else None}


def parts_of(name: str) -> list[str]:
    """Return METHOD, :part=value, :part=value, ... of an arm's name, a line each where it is long.

    Joined they are the name.
    """
    # a value may have a colon, too: temperature=1:0.1
    return re.split(r"(?=:[^:=]*=)", name)


def sentences(record: Mapping[str, Any]) -> list[str]:
    """Return one sentence an arm of ablation.json: its paired difference to the control."""
    return [
        f"{arm['name']}: {_difference(arm['difference'], record['control'])}"
        for arm in record["arms"]
        if arm["difference"] is not None
    ]


def _difference(found: Mapping[str, Any], control: str) -> str:
    points = f"{found['mean']:+.2f}"
    if found["seeds"] == 1:
        return f"{points} points against {control}, one seed: {found['verdict']}."
    told = f"{points} ± {found['sd']:.2f} points against {control} over {found['seeds']} seeds"
    if found["seeds"] < _LEAST_SEEDS:
        return f"{told}: {found['verdict']} (a test needs {_LEAST_SEEDS} seeds)."
    p = found["p"]
    tested = "no spread to test" if p is None else f"p = {p:.2g}"
    return f"{told} ({tested}): {found['verdict']}."


def costs_sentence(record: Mapping[str, Any]) -> str:
    """Say from what to what the costs of the trained networks go."""
    every = [entry["costs"] for arm in record["arms"] for entry in arm["entries"]]
    ranges = []
    for name, label in (("flops", "FLOPs"), ("params", "params")):
        values = [costs[name] for costs in every]
        ends = dict.fromkeys(format_count(end) for end in (min(values), max(values)))
        ranges.append(f"{' to '.join(ends)} {label}")
    return f"The trained networks have {' and '.join(ranges)}."
