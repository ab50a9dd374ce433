"""Sections of the report on the exported files and on latency: predicted, measured, 8 bits."""

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from mobilenas.core.settings import UNSTEADY, counted, format_latency
from mobilenas.report import page as html
from mobilenas.report.files import RunFiles
from mobilenas.report.plots import against_plot

_NONE = "-"
_LARGE_DROP = 1.0
"""Points of top-1 that a reader should know of first."""


def exported_files(files: RunFiles) -> str:
    """Show every file: accuracy, what it loses against the float file, size, latency, checks."""
    if files.export is None:
        return html.missing("export/export.json", "mobilenas export")
    written: Mapping[str, Mapping[str, Any]] = files.export["files"]
    top1 = written["onnx"]["top1"]
    drops = {name: top1 - file["top1"] for name, file in written.items()}
    alarms = "".join(
        html.paragraph(f"{name} loses {drop:.2f} points against the float file.", "bad")
        for name, drop in drops.items()
        if drop > _LARGE_DROP
    )
    notes = [_parity(files.export["parity"])]
    if "int8" in written and "quantization" in files.export:
        notes.append(_quantized("8 bits", files.export["quantization"]))
    if any("checks" in file for file in written.values()):
        notes.append("Same class and largest difference: against model.onnx, validation images.")
    others = "".join(
        html.paragraph(f"The same files of {name}, in milliseconds of another measurement:")
        + _files_table(record["files"])
        for name, record in files.exports_of_others.items()
    )
    note = html.paragraph(" ".join(notes), "note")
    return alarms + _files_table(written) + note + _targets(written) + others


def _files_table(written: Mapping[str, Mapping[str, Any]]) -> str:
    header = (
        "file", "test top-1, %", "drop, points", "size, kB", "latency, ms", "same class, %",
        "largest difference of a logit"
    )  # fmt: skip
    top1 = written["onnx"]["top1"]
    unsteady = any(file.get("unsteady") for file in written.values())
    rows = [_file_cells(name, file, top1 - file["top1"]) for name, file in written.items()]
    made = [
        _quantized(PurePath(file["path"]).name, file["quantization"])
        for file in written.values()
        if "quantization" in file
    ]
    made += [f"{UNSTEADY}."] if unsteady else []
    return html.table(header, rows) + (html.paragraph(" ".join(made), "note") if made else "")


def _quantized(name: str, made: Mapping[str, Any]) -> str:
    """Say how a file in 8 bits was made."""
    parts = [
        f"{name}: {made['method']}",
        f"ranges from {counted(made['calibration_images'], 'image')}",
    ]
    if "weights" in made:  # what `mobilenas export` chose from
        corrections = " and ".join(made["corrections"]) or "no correction"
        parts += [f"by {made['calibration']}", f"weights {made['weights']}", corrections]
        if epochs := made["qat_epochs"]:
            parts.append(f"{counted(epochs, 'epoch')} with 8 bits simulated")
    return f"{', '.join(parts)}, seed {made['seed']}."


def _file_cells(name: str, file: Mapping[str, Any], drop: float) -> tuple[object, ...]:
    checks = file.get("checks") or {}
    agreement, difference = checks.get("top1_agreement"), checks.get("max_abs_difference")
    return (
        PurePath(file["path"]).name,
        f"{file['top1']:.2f}",
        _NONE if name == "onnx" else f"{round(drop, 2) + 0:.2f}",
        f"{file['size_bytes'] / 1000:.1f}",
        format_latency(file),
        _NONE if agreement is None else f"{agreement:.1f}",
        _NONE if difference is None else f"{difference:.1e}",
    )


def _parity(parity: Mapping[str, Any]) -> str:
    return (
        f"Against the trained module on {counted(parity['images'], 'image')}, model.onnx gives the "
        f"same class for {parity['top1_agreement']:.2f} %; largest difference of a logit "
        f"{parity['max_abs_difference']:.1e}."
    )


def _targets(written: Mapping[str, Mapping[str, Any]]) -> str:
    """Show what every target makes of every file, where that was asked for."""
    reports = [
        (PurePath(file["path"]).name, target, report)
        for file in written.values()
        for target, report in file.get("targets", {}).items()
    ]
    if not reports:
        return ""
    rows = [
        (
            name,
            target,
            report["verdict"],
            *(_NONE if report[key] is None else report[key] for key in ("supported", "nodes")),
            _NONE if report["partitions"] is None else report["partitions"],
            ", ".join(f"{op} ({n})" for op, n in report["unsupported"].items()) or _NONE,
        )
        for name, target, report in reports
    ]
    header = ("file", "target", "fits", "nodes it runs", "of", "in parts", "operators it refuses")
    caveats = dict.fromkeys(report["caveat"] for *_, report in reports if report["caveat"])
    notes = "".join(html.paragraph(f"{caveat}.", "note") for caveat in caveats)
    return html.table(header, rows, left=(1, 2, 6)) + notes


def latencies(files: RunFiles) -> str:
    """Show predicted against measured latency, where a profile was used."""
    if files.profile is None:
        return ""  # none was predicted: all were measured
    precision = files.settings.get("precision", "fp32")
    parts = [_calibration(files.profile, precision)]
    if not files.export or not files.entries:
        return parts[0] + html.missing("The measured latencies", "mobilenas compare")
    if files.export["timing"]["profile"] is None:
        told = (
            f"Profile {files.profile['name']} is of another device than the one that measured: "
            "what it predicts cannot be held against what was measured here."
        )
        return parts[0] + html.paragraph(told, "note")
    pairs = [entry for entry in files.entries if entry.get("predicted_ms") is not None]
    if pairs:
        parts.append(_pairs(pairs))
    if rounds := files.candidates.get("confirmations"):
        parts.append(_confirmations(rounds))
    return "".join(parts)


def _calibration(profile: Mapping[str, Any], precision: str) -> str:
    """Say what the profile knows of its own errors."""
    told = f"Profile {profile['name']}, {precision}, {profile['threads']} thread(s)"
    if (found := profile["calibration"].get(precision)) is None:
        return html.paragraph(f"{told}: not calibrated, its errors are not known.")
    tested = f"{counted(found['held_out'], 'network')} that the calibration did not see"
    if not found["held_out"]:
        tested = f"{found['networks']} networks, each predicted from the others"
    return html.paragraph(
        f"{told}: on {tested}, predictions were off by {found['mape_percent']:.1f} % on average "
        f"(FLOPs alone: {found['flops_mape_percent']:.1f} %), at most "
        f"{found['max_error_percent']:.1f} %; Kendall's tau {found['kendall_tau']:.2f}."
    )


def _pairs(pairs: Sequence[Mapping[str, Any]]) -> str:
    predicted = [float(entry["predicted_ms"]) for entry in pairs]
    measured = [float(entry["latency_ms"]) for entry in pairs]
    errors = [100 * (p / m - 1) for p, m in zip(predicted, measured, strict=True)]
    rows = [
        (entry["name"], f"{entry['predicted_ms']:.3f}", format_latency(entry), f"{error:+.1f}")
        for entry, error in zip(pairs, errors, strict=True)
    ]
    header = ("network", "predicted, ms", "measured, ms", "error, %")
    mean = sum(map(abs, errors)) / len(errors)
    told = f"The networks of this run: off by {mean:.1f} % on average. Dashes: no error."
    plot = against_plot(
        predicted,
        measured,
        "latency",
        ("predicted latency, ms", "measured latency, ms"),
        equal=True,
    )
    table = html.table(header, rows, sortable=True)
    figure = html.figure(plot, "Each mark is one network")
    return html.paragraph(told) + html.details(counted(len(rows), "network"), table) + figure


def _confirmations(rounds: Sequence[Mapping[str, Sequence[float]]]) -> str:
    rows = [
        (number, *(", ".join(f"{ms:.3f}" for ms in r[key]) for key in _MS))
        for number, r in enumerate(rounds, 1)
    ]
    told = "Candidates of the search, measured before any was trained:"
    return html.paragraph(told) + html.table(("round", "predicted, ms", "measured, ms"), rows)


_MS = ("predicted_ms", "measured_ms")
