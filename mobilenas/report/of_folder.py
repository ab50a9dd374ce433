"""Writes report.html for a run folder or a sweep."""

from pathlib import Path

from mobilenas.core.errors import FileError
from mobilenas.core.files import write_text
from mobilenas.core.records import write_record
from mobilenas.report.run_page import REPORT_FILE, write_report
from mobilenas.report.sweep_page import pareto, sweep_page, swept_runs

PARETO_FILE = "pareto.json"


def report_of(folder: Path) -> Path:
    """Write the report of a run, or of a sweep, whose subfolders are runs.

    FileError if the folder is neither.
    """
    path = folder / REPORT_FILE
    if (folder / "run.json").exists():
        write_report(folder, path)
    elif runs := swept_runs(folder, REPORT_FILE):
        write_text(path, sweep_page(folder, runs))
    else:
        raise FileError(f"{folder} holds no run: neither it nor a folder in it has a run.json")
    return path


def write_pareto(folder: Path) -> None:
    """Write SWEEP/pareto.json."""
    write_record(folder / PARETO_FILE, pareto(swept_runs(folder, REPORT_FILE)))
