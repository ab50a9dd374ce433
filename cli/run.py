"""`mobilenas run`: runs all stages."""

import click

from mobilenas.pipeline.request import Request

from .command import Command
from .dry_run import dry_run_option, show_outlook
from .options import RULE, folder_options, options_of, output_options
from .tensorboard import tensorboard_option


@click.command(cls=Command, name="run", epilog=RULE)
@options_of(Request)
@folder_options
@dry_run_option
@tensorboard_option
@output_options
@click.pass_context
def command(ctx: click.Context, /, dry_run: bool, **_: object) -> int:
    """Search, train, export, compare and report in one go.

    mobilenas run --data ./photos --flops 5M --out RUN

    If interrupted, resume with: mobilenas run --out RUN --resume
    """
    if dry_run:
        return show_outlook(ctx)
    from .session import whole_job

    return whole_job(ctx, "run")
