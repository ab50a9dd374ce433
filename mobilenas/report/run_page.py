"""report.html: what a run found, how it compares, how to make it again; read from the folder."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mobilenas.baselines.published import PUBLISHED
from mobilenas.core.errors import FileError
from mobilenas.core.files import write_text
from mobilenas.core.settings import COUNTING_RULE, format_count
from mobilenas.report import page as html
from mobilenas.report.comparison import comparison, result
from mobilenas.report.exports import exported_files, latencies
from mobilenas.report.files import RunFiles
from mobilenas.report.mistakes import mistakes
from mobilenas.report.network_drawing import found_network, layer_table
from mobilenas.report.search import (
    discretization_gap,
    finalists,
    ranking_quality,
    search_over_time,
)

REPORT_FILE = "report.html"
_MOST_CLASSES = 50
_NONE = "-"


def write_report(folder: Path, path: Path) -> None:
    """Write the report of the run in `folder` to `path`: one file that needs no network.

    Sections without anything to show are left out; those whose stage is not done are one section,
    which names the commands. FileError where a file of the folder is not what the stages write.
    """
    files = RunFiles(folder=folder)
    if not files.run and not files.found:
        raise FileError(f"{folder} holds no run: there is neither run.json nor arch.json")
    parts, undone = [], list[str]()
    for title, show in SECTIONS:
        body = section(files, title, show)
        if isinstance(body, html.Missing):
            undone.append(body)
        elif body:
            parts.append(html.section(title, body) if title != _TOP else body)
    if undone:
        parts.insert(1, html.section(_UNDONE, "".join(dict.fromkeys(undone))))
    source = files.run.get("data", {}).get("source", folder.name)
    write_text(path, html.page(f"mobilenas report: {source}", "\n".join(parts)))


def section(files: RunFiles, title: str, show: Callable[[RunFiles], str]) -> str:
    """Return one section; FileError where the files lack what it shows, or do not agree."""
    try:
        return show(files)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        what = f"{type(error).__name__}: {error}"
        raise FileError(f"{files.folder}: cannot show {title.lower()!r} ({what:.200})") from error


def _reproduce(files: RunFiles) -> str:
    if not files.run:
        return html.missing("run.json", "mobilenas run")
    run, settings = files.run, files.settings
    data: Mapping[str, Any] = run["data"]
    seeds = range(run["seed"], run["seed"] + settings.get("seeds", 1))
    classes, more = data["classes"][:_MOST_CLASSES], len(data["classes"]) - _MOST_CLASSES
    named = ", ".join(classes) + (f" and {more} more" if more > 0 else "")
    counts = ", ".join(f"{count:,} {split}" for split, count in data["counts"].items())
    pairs = [
        ("seeds", ", ".join(map(str, seeds))),
        ("data", data["source"]),
        ("images", f"{counts}; {data['image_size']} x {data['image_size']} pixels"),
        ("split rule", data["split_rule"]),
        ("fingerprint", data["fingerprint"]),
        ("classes", f"{len(data['classes'])}: {named}"),
        ("machine", ", ".join(str(value) for value in run["machine"].values() if value)),
        ("versions", ", ".join(f"{name} {version}" for name, version in run["versions"].items())),
    ]
    every = html.text(json.dumps(settings, indent=1, ensure_ascii=False))
    return (
        f"<pre>{html.text(run['command'])}</pre>"
        + html.definitions(pairs)
        + html.details("All settings", f"<pre>{every}</pre>")
    )


def _published(_: RunFiles) -> str:
    rows = [
        (
            network.name,
            f"{network.top1:.1f}",
            format_count(network.flops),
            _NONE if network.params is None else format_count(network.params),
            network.image_size or _NONE,
            network.source,
        )
        for network in PUBLISHED
    ]
    header = ("network", "ImageNet top-1, %", "FLOPs", "params", "side, pixels", "source")
    told = (
        "For reference, from papers: other images, other recipes, other classes. Nothing here was "
        "measured by this run, and nothing above can be held against it."
    )
    return html.paragraph(told) + html.table(header, rows, left=(5,), sortable=True)


def _counting(_: RunFiles) -> str:
    return html.paragraph(f"{COUNTING_RULE[0].upper()}{COUNTING_RULE[1:]}.")


_TOP, _UNDONE = "Verdict", "Not done yet"
SECTIONS: tuple[tuple[str, Callable[[RunFiles], str]], ...] = (
    (_TOP, result),
    ("Comparison", comparison),
    ("The found network", found_network),
    ("Exported files", exported_files),
    ("Latency, predicted and measured", latencies),
    ("What it gets wrong", mistakes),
    ("The search over time", search_over_time),
    ("Finalists", finalists),
    ("Discretization gap", discretization_gap),
    ("Ranking quality", ranking_quality),
    ("Cost of each layer", layer_table),
    ("How to reproduce", _reproduce),
    ("Published on ImageNet", _published),
    ("How FLOPs are counted", _counting),
)
