"""`mobilenas report`: the page alone."""

import shlex
from pathlib import Path

import click

from .options import output_options, run_argument


@click.command(name="report")
@run_argument
@output_options
def command(folder: Path, quiet: bool, as_json: bool) -> None:
    """Write RUN/report.html from the files of RUN."""
    from .session import working

    again = f"mobilenas report {shlex.quote(str(folder))}"
    with working(again, folder, quiet=quiet) as reporter:
        from mobilenas.pipeline import report_stage
        from mobilenas.runs import open_run

        path = report_stage(open_run(folder, reporter))
    from .render import show_json

    if as_json:
        show_json({"report": str(path)})
    else:
        click.echo(f"Report: {path}")
