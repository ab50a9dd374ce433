"""The comparison in rows, and in one sentence that claims no more than its numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from mobilenas.config import check_choice, format_count

KINDS = ("found", "uniform", "constant", "rival", "random", "mobilenet")
"""Kinds of networks in compare.json, in the order of the table."""

Entry = Mapping[str, Any]
"""One network of compare.json."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the comparison: a network over seeds, or all random networks together."""

    name: str
    """As in compare.json; `random (N networks)` for those together."""
    kind: str
    """found, rival, random or mobilenet."""
    networks: int
    """Trainings behind the row."""
    flops: int
    """Multiply-adds of the first network; of rival and random the mean."""
    params: int
    """Trainable numbers, likewise."""
    size_bytes: int
    """Size of the ONNX file, likewise."""
    latency_ms: float
    """Median milliseconds, likewise."""
    top1_mean: float
    """Percent of the test images."""
    top1_spread: float | None
    """Sample standard deviation in points; None for a single network."""
    top1_best: float
    """Percent, of the best network of the row."""


def summarize(entries: Sequence[Entry]) -> list[Row]:
    """Return one row a group: found, rival, random, then the MobileNets from best to worst."""
    groups: dict[tuple[str, str], list[Entry]] = {}
    for entry in entries:
        check_choice("kind", entry["kind"], KINDS)
        name = entry["name"] if entry["kind"] == "mobilenet" else ""
        groups.setdefault((entry["kind"], name), []).append(entry)
    rows = [_row(kind, group) for (kind, _), group in groups.items()]
    return sorted(rows, key=lambda row: (KINDS.index(row.kind), -row.top1_mean))


def _row(kind: str, group: Sequence[Entry]) -> Row:
    several = kind in ("random", "rival")
    costed = group if several else group[:1]
    top1 = [float(entry["top1"]) for entry in group]
    count = len(group)
    together = f"random ({count} network{'s' if count > 1 else ''})"
    return Row(
        name=together if kind == "random" else group[0]["name"],
        kind=kind,
        networks=count,
        flops=round(fmean(entry["flops"] for entry in costed)),
        params=round(fmean(entry["params"] for entry in costed)),
        size_bytes=round(fmean(entry["size_bytes"] for entry in costed)),
        latency_ms=fmean(entry["latency_ms"] for entry in costed),
        top1_mean=fmean(top1),
        top1_spread=_spread(top1),
        top1_best=max(top1),
    )


def _spread(values: Sequence[float]) -> float | None:
    return stdev(values) if len(values) > 1 else None


def verdict(entries: Sequence[Entry]) -> str:
    """Return one sentence: the found network against the best MobileNet, random ones, the rival.

    It says "better" only where the found network leads in every seed by more than the spread: the
    larger of the two standard deviations over seeds. From one seed it reports points and no more.
    """
    found = {seed: max(top1) for seed, top1 in _by_seed(entries, "found").items()}
    if not found:
        return "The comparison holds no found network."
    flops = sorted(entry["flops"] for entry in entries if entry["kind"] == "found")
    ends = dict.fromkeys(format_count(number) for number in (flops[0], flops[-1]))
    cost = f"{' to '.join(ends)} FLOPs"
    spread = _spread(list(found.values()))
    if spread is None:
        subject = f"The found network ({cost}) reaches {fmean(found.values()):.2f} % top-1"
    else:
        reached = f"{fmean(found.values()):.2f} ± {spread:.2f} % top-1 over {len(found)} seeds"
        subject = f"The found networks ({cost}) reach {reached}"
    parts = [_against(found, *opponent) for opponent in _opponents(entries)]
    return f"{subject}: {'; '.join(parts) or 'there is nothing to hold it against'}."


def _by_seed(entries: Sequence[Entry], kind: str) -> dict[int, list[float]]:
    groups: dict[int, list[float]] = {}
    for entry in entries:
        if entry["kind"] == kind:
            groups.setdefault(entry["seed"], []).append(float(entry["top1"]))
    return groups


def _opponents(entries: Sequence[Entry]) -> list[tuple[str, dict[int, float]]]:
    """Return in words whom the found network is held against, with their top-1 by seed."""
    opponents = []
    if best := {seed: max(top1) for seed, top1 in _by_seed(entries, "mobilenet").items()}:
        names = dict.fromkeys(
            entry["name"]
            for entry in entries
            if entry["kind"] == "mobilenet" and float(entry["top1"]) == best[entry["seed"]]
        )
        named = f" ({next(iter(names))})" if len(names) == 1 else ""
        opponents.append((f"the best MobileNet{named}", best))
    if mean := {seed: fmean(top1) for seed, top1 in _by_seed(entries, "random").items()}:
        count = sum(entry["kind"] == "random" for entry in entries)
        whom = f"the mean of {count} random networks" if count > 1 else "one random network"
        opponents.append((whom, mean))
    if rival := {seed: max(top1) for seed, top1 in _by_seed(entries, "rival").items()}:
        opponents.append(("the rival given the search's time", rival))
    return opponents


def _against(found: Mapping[int, float], whom: str, others: Mapping[int, float]) -> str:
    seeds = [seed for seed in found if seed in others]
    leads = [found[seed] - others[seed] for seed in seeds]
    if not leads:
        return f"not compared with {whom}, which shares no seed with it"
    if len(leads) == 1:
        return _one_seed(leads[0], whom)
    spread = max(stdev(found[seed] for seed in seeds), stdev(others[seed] for seed in seeds))
    within = f"(spread {spread:.2f})"
    if len(seeds) == len(found) and min(leads) > spread:
        return f"better than {whom} in every seed, by {_range(leads)} points {within}"
    if len(seeds) == len(found) and max(leads) < -spread:
        behind = [-lead for lead in leads]
        return f"worse than {whom} in every seed, by {_range(behind)} points {within}"
    of = "" if len(seeds) == len(found) else f" of the {len(found)}"
    points = f"{_range(leads, '+')} points over {len(seeds)}{of} seeds"
    return f"not clearly apart from {whom}: {points} {within}"


def _one_seed(lead: float, whom: str) -> str:
    points = f"{abs(lead):.2f}"
    if points == "0.00":
        return f"level with {whom}, one seed"
    place = "ahead of" if lead > 0 else "behind"
    return f"{place} {whom} by {points} points, one seed"


def _range(values: Sequence[float], sign: str = "") -> str:
    return " to ".join(dict.fromkeys(f"{value:{sign}.2f}" for value in (min(values), max(values))))
