"""`mobilenas run`: the whole way."""

import click

from mobilenas.pipeline.request import Request

from .command import Command
from .options import RULE, folder_options, options_of, output_options


@click.command(cls=Command, name="run", epilog=RULE)
@options_of(Request)
@folder_options
@output_options
@click.pass_context
def command(ctx: click.Context, /, **_: object) -> int:
    """Search, train, export, compare and report in one go.

    mobilenas run --data ./photos --flops 5M --out RUN

    Every stage is resumable: mobilenas run --out RUN --resume
    """
    from .session import whole_job

    return whole_job(ctx, "run")
