"""`mobilenas search`: runs only the search."""

from pathlib import Path

import click

from mobilenas.core.settings import counted
from mobilenas.pipeline.request import Request

from .command import Command
from .dry_run import dry_run_option, show_outlook
from .options import RULE, folder_options, options_of, output_options
from .tensorboard import tensorboard_option
from .terminal import echo


@click.command(cls=Command, name="search", epilog=RULE)
@options_of(Request)
@folder_options
@dry_run_option
@tensorboard_option
@output_options
@click.pass_context
def command(
    ctx: click.Context, /, out: Path | None, dry_run: bool, quiet: bool, as_json: bool, **_: object
) -> int:
    """Search for a network that meets the budgets, and write RUN/arch.json.

    mobilenas search --data ./photos --flops 5M --out RUN
    """
    if dry_run:
        return show_outlook(ctx)
    from .session import check_options, open_or_start, opened, resume_command, working

    with working(resume_command(ctx, "search"), out, quiet=quiet, many=True) as reporter:
        check_options(ctx)
        from mobilenas.pipeline.baselines import ARCH_FILE
        from mobilenas.pipeline.stages import search_stage

        run = opened(lambda: open_or_start(ctx, reporter), ctx.params["out"], reporter)
        record = search_stage(run)
    from .render import show_arch, show_budget_check, show_file, show_rule, status_of

    if as_json:
        show_file(run.folder / ARCH_FILE)
    else:
        show_arch(record.arch)
        show_budget_check(record.budgets)
        show_rule()
        if (gap := record.discretization_gap) is not None:
            echo(f"Discretization gap: {gap.points:.1f} points")
        echo(f"Seconds: {record.search_seconds:.0f} for {counted(record.candidates, 'candidate')}")
        echo(f"Network: {run.folder / ARCH_FILE}")
    return status_of(record.budgets)
