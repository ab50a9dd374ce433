"""`mobilenas run`: the whole way."""

from pathlib import Path
from typing import Any

import click

from .options import RULE, folder_options, output_options, request_options


@click.command(name="run", epilog=RULE)
@request_options
@folder_options
@output_options
@click.pass_context
def command(ctx: click.Context, /, out: Path, quiet: bool, as_json: bool, **_: Any) -> int:
    """Search, train, export, compare and report in one go.

    Every stage is resumable: --out RUN --resume alone goes on with what RUN was asked for.
    """
    from .session import open_or_start, resume_command, working

    with working(resume_command("run", out), out, quiet=quiet) as reporter:
        from mobilenas.compare.table import read_networks
        from mobilenas.pipeline import COMPARE_FILE, ONNX_FILE, REPORT_FILE, RESULT_FILE, run_all

        result = run_all(open_or_start(ctx, reporter))
        networks = read_networks(out / COMPARE_FILE)
    from .render import show_file, show_result, status_of

    if as_json:
        show_file(out / RESULT_FILE)
    else:
        show_result(networks, result)
        click.echo(f"Report: {out / REPORT_FILE}")
        click.echo(f"Model: {out / ONNX_FILE}")
    return status_of(result["budgets"])
