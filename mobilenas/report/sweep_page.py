"""The page of a sweep: searched networks of all runs, their baselines, and the Pareto front."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup
from msgspec import structs

from mobilenas.baselines.records import NetworkRecord
from mobilenas.core.errors import FileError
from mobilenas.core.settings import counted, format_count
from mobilenas.cost.budget import PENALTY
from mobilenas.report.comparison import limit_text
from mobilenas.report.files import RunFiles
from mobilenas.report.page import render
from mobilenas.report.plots import front_plot
from mobilenas.report.records import DataPart, ParetoNetwork, ParetoRecord
from mobilenas.report.table import Row, network_name, summarize


@dataclass(frozen=True, kw_only=True)
class SweptRun:
    """One run of a sweep."""

    name: str
    """Name of its folder."""
    report: str
    """Path of its report from the sweep's folder; empty if there is none."""
    requested: str
    """Its budgets, and the strength of the penalty if there was one."""
    command: str
    """The command that started it."""
    method: str
    """Search method."""
    data: DataPart
    """The images, from run.json."""
    entries: Sequence[NetworkRecord]
    """All networks of its comparison; empty if that has not run."""

    @property
    def rows(self) -> list[Row]:
        """Rows of its networks over seeds."""
        return summarize(self.entries)

    def best(self, kind: str) -> Row | None:
        """Return the row of a kind with the highest mean top-1."""
        rows = (row for row in self.rows if row.kind == kind)
        return max(rows, key=lambda row: row.top1_mean, default=None)


def swept_runs(folder: Path, report: str) -> list[SweptRun]:
    """Read the runs in subfolders of `folder`, cheapest first, unfinished ones last.

    FileError if two have different images, because their accuracies cannot be compared.
    """
    runs = [_read(path, report) for path in sorted(folder.glob("*/run.json"))]
    for run in runs:
        if run.data.fingerprint != runs[0].data.fingerprint:
            raise FileError(
                f"{folder}: {runs[0].name} and {run.name} are runs on different images; a sweep's "
                "are of the same"
            )
    return sorted(runs, key=lambda run: (not run.entries, _flops(run), run.name))


def _read(path: Path, report: str) -> SweptRun:
    files = RunFiles(folder=path.parent)
    run, search = files.run, files.settings.search
    assert run is not None  # its file exists
    requested = [limit_text(budget) for budget in run.budgets] or ["no budget"]
    if search.constraint == PENALTY:
        requested.append(f"{PENALTY} {search.strength:g}")
    return SweptRun(
        name=path.parent.name,
        report=f"{path.parent.name}/{report}" if path.with_name(report).exists() else "",
        requested=", ".join(requested),
        command=run.command,
        method=files.settings.method,
        data=run.data,
        entries=files.entries,
    )


def _flops(run: SweptRun) -> float:
    found = run.best("searched")
    return found.flops if found and found.flops is not None else float("inf")


def sweep_page(folder: Path, runs: Sequence[SweptRun]) -> str:
    """Return the page of the sweep."""
    entries = _entries(runs)
    return render(
        "sweep.html",
        title=f"mobilenas sweep: {folder.resolve().name}",
        summary=summary(runs),
        runs=runs,
        several_methods=len({run.method for run in runs}) > 1,
        plots=_plots(entries) if entries else [],
        front=[(network_name([entry]), entry) for entry in front(entries)],
        commands="\n".join(dict.fromkeys(run.command for run in runs)),
        data=runs[0].data,
    )


def pareto(runs: Sequence[SweptRun]) -> ParetoRecord:
    """Return pareto.json."""
    methods = {run.name: run.method for run in runs}

    def points(entries: Sequence[NetworkRecord]) -> list[ParetoNetwork]:
        return [
            ParetoNetwork(
                run=entry.run or "",
                name=entry.name,
                kind=entry.kind,
                method=methods[entry.run or ""] if entry.kind == "searched" else None,
                seed=entry.seed,
                flops=entry.flops,
                params=entry.params,
                top1=entry.top1,
                onnx=f"{entry.run}/{entry.onnx}",
            )
            for entry in front(entries)
        ]

    entries = _entries(runs)
    return ParetoRecord(
        front=points(entries),
        searched=points(_of_kind(entries, "searched")),
        mobilenets=points(_of_kind(entries, "mobilenet")),
    )


def _entries(runs: Sequence[SweptRun]) -> list[NetworkRecord]:
    return [structs.replace(entry, run=run.name) for run in runs for entry in run.entries]


def _of_kind(entries: Sequence[NetworkRecord], kind: str) -> list[NetworkRecord]:
    return [entry for entry in entries if entry.kind == kind]


def front(entries: Sequence[NetworkRecord], cost: str = "flops") -> list[NetworkRecord]:
    """Return the Pareto front: networks that none beats with at most their cost, cheapest first."""
    ahead: list[NetworkRecord] = []
    for entry in sorted(entries, key=lambda entry: (entry.cost(cost), -entry.top1)):
        if not ahead or entry.top1 > ahead[-1].top1:
            ahead.append(entry)
    return ahead


def summary(runs: Sequence[SweptRun]) -> str:
    """Return the result in one sentence, which counts but makes no claims about differences."""
    done = [(run.best("searched"), run.best("mobilenet")) for run in runs]
    found = [ours for ours, _ in done if ours is not None]
    if not found:
        return f"{counted(len(runs), 'run')}, none of which has been compared yet."
    costs = dict.fromkeys(format_count(row.flops) for row in (found[0], found[-1]))
    top1 = dict.fromkeys(f"{row.top1_mean:.2f}" for row in (found[0], found[-1]))
    summary = (
        f"The searched networks ({len(found)}) have {' to '.join(costs)} FLOPs and reach "
        f"{' to '.join(top1)} % top-1 on the test images"
    )
    pairs = [(ours, best) for ours, best in done if ours is not None and best is not None]
    if not pairs:
        return f"{summary}; no MobileNet was compared with them."
    above = sum(ours.top1_mean > best.top1_mean for ours, best in pairs)
    return f"{summary}; {above} of {len(pairs)} are above the best MobileNet of their run."


def _plots(entries: Sequence[NetworkRecord]) -> list[tuple[str, Markup]]:
    def plot(cost: str) -> Markup:
        fronts = {
            "front": front(entries, cost),
            "front of the MobileNets": front(_of_kind(entries, "mobilenet"), cost),
        }
        return front_plot(entries, fronts, cost)

    return [
        ("Accuracy against FLOPs", plot("flops")),
        ("Accuracy against latency", plot("latency")),
    ]
