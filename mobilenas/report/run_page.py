"""report.html: result, comparison and reproduction of a run, read from its folder."""

import json
from collections.abc import Callable
from pathlib import Path

from jinja2 import UndefinedError
from markupsafe import Markup

from mobilenas.baselines.published import LATENCIES, PUBLISHED
from mobilenas.core.errors import FileError
from mobilenas.core.files import write_text
from mobilenas.report.comparison import comparison, result
from mobilenas.report.exports import exported_files, latencies
from mobilenas.report.files import RunFiles
from mobilenas.report.misclassified import misclassified
from mobilenas.report.network_drawing import layer_table, searched_network
from mobilenas.report.page import Missing, missing, render
from mobilenas.report.search import (
    discretization_gap,
    finalists,
    image_size,
    ranking_quality,
    search_over_time,
)

REPORT_FILE = "report.html"


def write_report(folder: Path, path: Path) -> None:
    """Write the report of the run in `folder` to `path`: one self-contained file.

    Sections without content are omitted. Those whose stage has not run are combined to one section
    that names the commands. FileError if a file of the folder is not as the stages write it.
    """
    files = RunFiles(folder=folder)
    if not files.run and not files.searched:
        raise FileError(f"{folder} holds no run: there is neither run.json nor arch.json")
    shown = {title: section(files, title, show) for title, show in SECTIONS}
    undone = dict.fromkeys(body for body in shown.values() if isinstance(body, Missing))
    page = render(
        "run.html",
        title=f"mobilenas report: {files.run.data.source if files.run else folder.name}",
        verdict=shown.pop(_TOP),
        undone=list(undone),
        sections={title: body for title, body in shown.items() if body and body not in undone},
        published=PUBLISHED,
        latencies=LATENCIES,
    )
    write_text(path, page)


def section(files: RunFiles, title: str, show: Callable[[RunFiles], Markup]) -> Markup:
    """Return one section; FileError if the files lack its content or contradict each other."""
    try:
        return show(files)
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        TypeError,
        UndefinedError,
        ValueError,
    ) as error:
        what = f"{type(error).__name__}: {error}"
        raise FileError(f"{files.folder}: cannot show {title.lower()!r} ({what:.200})") from error


def _reproduce(files: RunFiles) -> Markup:
    if not files.run:
        return missing("run.json", "mobilenas run")
    first = files.run.seed
    return render(
        "reproduce.html",
        run=files.run,
        seeds=range(first, first + files.settings.seeds),
        settings=json.dumps(files.all_settings, indent=1, ensure_ascii=False),
    )


_TOP = "Verdict"
SECTIONS: tuple[tuple[str, Callable[[RunFiles], Markup]], ...] = (
    (_TOP, result),
    ("Comparison", comparison),
    ("The searched network", searched_network),
    ("Exported files", exported_files),
    ("Latency, predicted and measured", latencies),
    ("What it gets wrong", misclassified),
    ("Image size", image_size),
    ("The search over time", search_over_time),
    ("Finalists", finalists),
    ("Discretization gap", discretization_gap),
    ("Ranking quality", ranking_quality),
    ("Cost of each layer", layer_table),
    ("How to reproduce", _reproduce),
)
"""The sections of the page, from top to bottom."""
