"""The comparison as a table, and as one sentence that claims only what the numbers show."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from msgspec import structs

from mobilenas.baselines import equal_time
from mobilenas.baselines.paired import OPEN, difference, format_difference, mean_std
from mobilenas.baselines.records import Difference, NetworkRecord, Trained
from mobilenas.core.errors import FileError
from mobilenas.core.files import inside
from mobilenas.core.records import read_records
from mobilenas.core.settings import check_choice, counted, format_count
from mobilenas.report.records import DifferenceTo

SCRATCH = "scratch"
"""Kind and name of the searched network trained from scratch, if it starts from weights."""
UNCHANGED = "unchanged"
"""Kind and name of the model at its own sizes, in a search for channel sizes."""
PRETRAINED = "pretrained"
"""Kind of fine-tuned pretrained networks, whole or narrowed."""
KINDS = (
    *("searched", SCRATCH, UNCHANGED, "uniform", "constant", "random-search", "random", PRETRAINED),
    *(equal_time.KIND, "mobilenet", "external"),
)
"""Kinds of networks in compare.json, in the order of the table."""
MEANS = ("random-search", "random", equal_time.KIND)
"""Kinds whose networks differ from each other, so that their costs are means."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of the comparison: a network over seeds, or all random networks."""

    name: str
    """Name as in compare.json; `random (N networks)` for all; with epochs if they differ."""
    kind: str
    """One of `KINDS`."""
    networks: int
    """Number of trainings."""
    flops: int | None
    """Multiply-adds of the first network, or mean for kinds in `MEANS`; None: not countable."""
    params: int | None
    """Trainable parameters, likewise."""
    size_bytes: int
    """Size of the ONNX file, likewise."""
    latency_ms: float
    """Median latency, likewise."""
    latency_interval_ms: float | None
    """Half the width of its 95 % interval; None in runs of older releases."""
    unsteady: bool
    """Whether other programs disturbed a measurement."""
    top1_mean: float
    """Mean top-1 on test images, in percent."""
    top1_std: float | None
    """Sample standard deviation in points; None for a single network."""
    top1_best: float
    """Top-1 of the best network of the row."""
    chance: bool = False
    """Whether a network is known to be no better than chance."""
    run: str | None = None
    """Run folder, in a comparison of several runs; None for external files."""
    exported: bool = False
    """Whether an external file was exported by mobilenas."""
    note: str = ""
    """A remark on the row."""


def read_networks(path: Path) -> list[NetworkRecord]:
    """Read compare.json of a run, whose files must be in its folder; FileError if it is invalid."""
    entries = read_compared(path)
    for entry in entries:
        inside(path.parent, entry.onnx, path)
    return entries


def read_compared(path: Path) -> list[NetworkRecord]:
    """Read compare.json of a run or of a comparison of several."""
    entries = read_records(path, NetworkRecord)
    for number, entry in enumerate(entries):
        place = f"{path}: networks[{number}]"
        if not entry.name.strip():
            raise FileError(f"{place}.name is {entry.name!r}; it must have a letter")
        if entry.kind not in KINDS:
            legal = ", ".join(KINDS)
            raise FileError(f"{place}.kind is {entry.kind!r}; it must be one of {legal}")
        needed = ["seed", "flops", "params"] if entry.kind != "external" else []
        needed += ["network", "epochs", "recipe_epochs"] if entry.kind == equal_time.KIND else []
        if empty := [name for name in needed if getattr(entry, name) is None]:
            raise FileError(f"{place}.{empty[0]} is None; a {entry.kind} network has it")
    if entries and all(entry.kind != "searched" for entry in entries):
        raise FileError(f"{path} holds no searched network, which a comparison needs")
    return entries


def check_given(entries: Sequence[Trained], names: Sequence[str], path: Path) -> None:
    """Raise unless all `entries` of compare.json (`path`) have these fields."""
    for entry in entries:
        for name in names:
            if getattr(entry, name) is None:
                raise FileError(f"{path}: a network named {entry.name!r} lacks {name!r}")


def summarize(entries: Sequence[NetworkRecord]) -> list[Row]:
    """Return a row per group in the order of `KINDS`, MobileNets from best to worst.

    With several runs, rows are grouped by run; external files are last.
    """
    groups: dict[tuple[str | None, str, str], list[NetworkRecord]] = {}
    for entry in entries:
        check_choice("kind", entry.kind, KINDS)
        name = entry.name if entry.kind in ("mobilenet", PRETRAINED, "external") else ""
        groups.setdefault((entry.run, entry.kind, name), []).append(entry)
    runs = list(dict.fromkeys(run for run, kind, _ in groups if kind != "external"))
    rows = [_row(kind, group) for (_, kind, _), group in groups.items()]
    return sorted(
        rows,
        key=lambda row: (
            len(runs) if row.kind == "external" else runs.index(row.run),
            KINDS.index(row.kind),
            -row.top1_mean,
        ),
    )


def _row(kind: str, group: Sequence[NetworkRecord]) -> Row:
    costed = group if kind in MEANS else group[:1]
    top1 = [entry.top1 for entry in group]
    count = len(group)
    name = f"random ({counted(count, 'network')})" if kind == "random" else network_name(group)
    return Row(
        name=name,
        kind=kind,
        networks=count,
        flops=_mean_count([entry.flops for entry in costed]),
        params=_mean_count([entry.params for entry in costed]),
        size_bytes=round(fmean(entry.size_bytes for entry in costed)),
        latency_ms=fmean(entry.latency_ms for entry in costed),
        latency_interval_ms=_mean_interval(costed),
        unsteady=any(entry.unsteady for entry in costed),
        top1_mean=fmean(top1),
        top1_std=mean_std(top1).sd,
        top1_best=max(top1),
        chance=any(entry.better_than_chance is False for entry in group),
        run=group[0].run,
        exported=bool(group[0].exported),
        note=_note(kind, name, group),
    )


def _note(kind: str, name: str, group: Sequence[NetworkRecord]) -> str:
    if kind == equal_time.KIND:
        return f"{name} is {equal_time.about(group)}"
    if kind == SCRATCH:
        return (
            f"{name} is the searched network from scratch; searched starts from the supernet's "
            "weights."
        )
    if kind == UNCHANGED:
        return f"{name} is the model at its own sizes, whatever the budgets."
    if elsewhere := [entry.trained_in for entry in group if entry.trained_in]:
        some = "" if len(elsewhere) == len(group) else f"{len(elsewhere)} of {len(group)} "
        return f"{name}: {some}trained in {' and '.join(sorted(set(elsewhere)))}."
    return ""


def network_name(group: Sequence[NetworkRecord]) -> str:
    """Return the common name of networks, with their epochs if these are not the recipe's."""
    name = group[0].name
    if group[0].kind != equal_time.KIND:
        return name
    return f"{name} ({equal_time.epochs_text(group)})"


def _mean_interval(group: Sequence[NetworkRecord]) -> float | None:
    """Return the interval of the mean of independent measurements."""
    known = [ms for entry in group if (ms := entry.latency_interval_ms) is not None]
    return math.hypot(*known) / len(known) if len(known) == len(group) else None


def _mean_count(counts: Sequence[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return round(fmean(known)) if len(known) == len(counts) else None


def verdict(entries: Sequence[NetworkRecord]) -> str:
    """Return one sentence: the searched network compared with all baselines.

    "better" and "worse" are used only if the paired test over seeds shows it, with the number of
    seeds and p. With one seed there are only points, and if the searched network is no better than
    chance, there is no comparison.
    """
    found = searched_top1(entries)
    if not found:
        return "The comparison holds no searched network."
    flops = sorted(entry.flops or 0 for entry in entries if entry.kind == "searched")
    ends = dict.fromkeys(format_count(number) for number in (flops[0], flops[-1]))
    cost = f"{' to '.join(ends)} FLOPs"
    reached = mean_std(list(found.values()))
    if reached.sd is None:
        subject = f"The searched network ({cost}) reaches {reached.mean:.2f} % top-1"
    else:
        seeds = f"{reached.mean:.2f} ± {reached.sd:.2f} % top-1 over {len(found)} seeds"
        subject = f"The searched networks ({cost}) reach {seeds}"
    if any(e.kind == "searched" and e.better_than_chance is False for e in entries):
        return f"{subject}, no better than chance: train for more epochs, or on more images."
    parts = [_against(baseline, paired(found, others)) for baseline, others in _baselines(entries)]
    return f"{subject}: {'; '.join(parts) or 'there is nothing to compare it with'}."


def differences(entries: Sequence[NetworkRecord]) -> list[DifferenceTo]:
    """Return the paired differences behind `verdict`, with the baseline in `against`.

    Baselines that share no seed with the searched network are omitted.
    """
    found = searched_top1(entries)
    compared = ((baseline, paired(found, others)) for baseline, others in _baselines(entries))
    return [
        DifferenceTo(**structs.asdict(figures), against=baseline)
        for baseline, figures in compared
        if figures
    ]


def searched_top1(entries: Sequence[NetworkRecord]) -> dict[int, float]:
    """Return the top-1 of the searched networks by seed."""
    return {seed: max(top1) for seed, top1 in _by_seed(entries, "searched").items()}


def _by_seed(entries: Sequence[NetworkRecord], kind: str) -> dict[int, list[float]]:
    groups: dict[int, list[float]] = {}
    for entry in entries:
        if entry.kind == kind and entry.seed is not None:
            groups.setdefault(entry.seed, []).append(entry.top1)
    return groups


_CONTROLS = (
    (SCRATCH, "the same network from scratch"),
    (UNCHANGED, "the model at its own sizes"),
    ("uniform", "uniform sizes"),
    ("constant", "sizes by a constant metric"),
)
"""Kinds with one network per seed, and their names in sentences."""


def _baselines(entries: Sequence[NetworkRecord]) -> list[tuple[str, dict[int, float]]]:
    """Return the names of the baselines of the searched network, with their top-1 by seed."""
    named = (_best_of(entries, kind) for kind in (PRETRAINED, "mobilenet"))
    baselines = [best for best in named if best is not None]
    for kind, baseline in _CONTROLS:
        if alone := {seed: max(top1) for seed, top1 in _by_seed(entries, kind).items()}:
            baselines.append((baseline, alone))
    if mean := {seed: fmean(top1) for seed, top1 in _by_seed(entries, "random").items()}:
        count = sum(entry.kind == "random" for entry in entries)
        baseline = f"the mean of {count} random networks" if count > 1 else "one random network"
        baselines.append((baseline, mean))
    if drawn := {seed: max(top1) for seed, top1 in _by_seed(entries, "random-search").items()}:
        baselines.append(("the random search given the search's time", drawn))
    if longer := {seed: max(top1) for seed, top1 in _by_seed(entries, equal_time.KIND).items()}:
        baselines.append(("the best MobileNet given the search's time", longer))
    return baselines


def _best_of(entries: Sequence[NetworkRecord], kind: str) -> tuple[str, dict[int, float]] | None:
    """Return the network with the best mean on test images, a choice that favours the baseline."""
    by_name: dict[str, dict[int, float]] = {}
    for entry in entries:
        if entry.kind == kind and entry.seed is not None:
            by_name.setdefault(entry.name, {})[entry.seed] = entry.top1
    if not by_name:
        return None
    # one with fewer seeds could be the best by luck
    max_seeds = max(map(len, by_name.values()))
    whole = [name for name, own in by_name.items() if len(own) == max_seeds]
    best = max(whole, key=lambda name: fmean(by_name[name].values()))
    what = "MobileNet" if best.startswith("mobilenet") else "baseline"
    if kind == PRETRAINED:
        what = "fine-tuned pretrained network"
    return f"the best {what} ({best})", by_name[best]


def paired(own: Mapping[int, float], others: Mapping[int, float]) -> Difference | None:
    """Return the paired difference over common seeds; None if there are none."""
    seeds = [seed for seed in own if seed in others]
    if not seeds:
        return None
    return difference([own[seed] for seed in seeds], [others[seed] for seed in seeds])


def _against(baseline: str, figures: Difference | None) -> str:
    if figures is None:
        return f"not compared with {baseline}, which shares no seed with it"
    if figures.seeds == 1:
        return _one_seed(figures.mean, baseline)
    than = {OPEN: f"{OPEN} to"}.get(figures.verdict, f"{figures.verdict} than")
    return f"{than} {baseline}, {format_difference(figures)}"


def _one_seed(lead: float, baseline: str) -> str:
    points = f"{abs(lead):.2f}"
    if points == "0.00":
        return f"level with {baseline}, one seed"
    place = "ahead of" if lead > 0 else "behind"
    return f"{place} {baseline} by {points} points, one seed"
