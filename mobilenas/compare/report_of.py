"""report.html of what a folder holds: one run, or the runs of a sweep."""

from pathlib import Path

from mobilenas.compare.report import REPORT_FILE, write_report
from mobilenas.compare.sweep_page import sweep_page, swept_runs
from mobilenas.errors import FileError
from mobilenas.files import write_text


def report_of(folder: Path) -> Path:
    """Write the report of RUN, or of SWEEP: a folder whose folders are runs.

    FileError where it is neither.
    """
    path = folder / REPORT_FILE
    if (folder / "run.json").exists():
        write_report(folder, path)
    elif runs := swept_runs(folder, REPORT_FILE):
        write_text(path, sweep_page(folder, runs))
    else:
        raise FileError(f"{folder} holds no run: neither it nor a folder in it has a run.json")
    return path
