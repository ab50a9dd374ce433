"""Sections of the report on exported files, and on predicted and measured latency."""

from collections.abc import Sequence
from pathlib import PurePath

from markupsafe import Markup

from mobilenas.baselines.records import NetworkRecord
from mobilenas.onnx.record import TargetReport
from mobilenas.report.files import RunFiles
from mobilenas.report.page import missing, render
from mobilenas.report.plots import against_plot

_LARGE_DROP = 1.0
"""A larger loss of top-1, in points, is shown prominently."""


def exported_files(files: RunFiles) -> Markup:
    """Show all files: accuracy, loss against the float file, size, latency, checks."""
    if files.export is None:
        return missing("export/export.json", "mobilenas export")
    written = files.export.files
    drops = {name: written["onnx"].top1 - file.top1 for name, file in written.items()}
    targets = [
        (PurePath(file.path).name, target, report, _refused(report))
        for file in written.values()
        for target, report in (file.targets or {}).items()
    ]
    return render(
        "exports.html",
        export=files.export,
        large_drops={name: drop for name, drop in drops.items() if drop > _LARGE_DROP},
        targets=targets,
        caveats=dict.fromkeys(report.caveat for *_, report, _ in targets if report.caveat),
        others=files.exports_of_others,
    )


def _refused(report: TargetReport) -> list[str]:
    return [f"{operator} ({count})" for operator, count in report.unsupported.items()]


def latencies(files: RunFiles) -> Markup:
    """Show predicted against measured latency, if a profile was used."""
    profile = files.profile
    if profile is None:
        return Markup()  # nothing was predicted
    precision = files.settings.precision
    timing = files.export.timing if files.export and files.entries else None
    here = timing is not None and timing.profile is not None
    pairs = [
        (entry, 100 * (entry.predicted_ms / entry.latency_ms - 1))
        for entry in files.entries
        if here and entry.predicted_ms is not None
    ]
    return render(
        "latencies.html",
        profile=profile,
        precision=precision,
        calibration=profile.calibration.get(precision),
        measured=timing is not None,
        here=here,
        pairs=pairs,
        plot=_predicted_against_measured([entry for entry, _ in pairs]) if pairs else "",
        rounds=files.candidates.measurements if here and files.candidates else (),
    )


def _predicted_against_measured(entries: Sequence[NetworkRecord]) -> Markup:
    return against_plot(
        [entry.predicted_ms or 0.0 for entry in entries],
        [entry.latency_ms for entry in entries],
        "latency",
        ("predicted latency, ms", "measured latency, ms"),
        equal=True,
    )
