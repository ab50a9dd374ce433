"""`mobilenas report`: writes only the report."""

from pathlib import Path

import click

from .command import Command
from .options import PATH, allow_model_option, output_options
from .terminal import echo


@click.command(cls=Command, name="report")
@click.argument("folder", metavar="RUN|SWEEP", type=PATH)
@allow_model_option
@output_options
def command(folder: Path, as_json: bool, **_: bool) -> None:
    """Write report.html of a run, or of a folder of runs."""
    from mobilenas.report.of_folder import report_of

    path = report_of(folder)
    from .render import show_json

    if as_json:
        show_json({"report": str(path)})
    else:
        echo(f"Report: {path}")
