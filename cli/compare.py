"""`mobilenas compare`: baselines and certificate."""

import shlex
from pathlib import Path

import click

from .options import RULE, output_options, run_argument


@click.command(name="compare", epilog=RULE)
@run_argument
@output_options
def command(folder: Path, quiet: bool, as_json: bool) -> int:
    """Train what the result is held against; write RUN/compare.json and RUN/result.json."""
    from .session import working

    again = f"mobilenas compare {shlex.quote(str(folder))}"
    with working(again, folder, quiet=quiet) as reporter:
        from mobilenas.compare import summarize
        from mobilenas.pipeline import COMPARE_FILE, compare_stage, write_result
        from mobilenas.runs import open_run

        run = open_run(folder, reporter)
        networks = compare_stage(run)
        result = write_result(run)
    from .render import show_certificate, show_file, show_networks, show_rule, status_of

    if as_json:
        show_file(folder / COMPARE_FILE)
    else:
        show_networks(summarize(networks))
        show_certificate(result["budgets"])
        show_rule()
    return status_of(result["budgets"])
