"""`mobilenas run`: the whole way."""

from typing import Any

import click

from .options import RULE, folder_options, output_options, request_options


@click.command(name="run", epilog=RULE)
@request_options
@folder_options
@output_options
@click.pass_context
def command(ctx: click.Context, /, **_: Any) -> int:
    """Search, train, export, compare and report in one go.

    Every stage is resumable: --out RUN --resume alone goes on with what RUN was asked for.
    """
    from .session import whole_job

    return whole_job(ctx, "run")
