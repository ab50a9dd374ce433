"""`mobilenas search`: the first stage alone."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from mobilenas.core.settings import counted
from mobilenas.pipeline.request import Request

from .command import Command
from .options import RULE, folder_options, option, options_of, output_options
from .terminal import echo

if TYPE_CHECKING:
    from mobilenas.pipeline.dry_run import DryRun


@click.command(cls=Command, name="search", epilog=RULE)
@options_of(Request)
@folder_options
@option(
    "--dry-run",
    is_flag=True,
    help="Show what every cost can be and how long a run takes, and exit.",
)
@output_options
@click.pass_context
def command(
    ctx: click.Context, /, out: Path | None, dry_run: bool, quiet: bool, as_json: bool, **_: object
) -> int:
    """Search for a network that meets the budgets, and write RUN/arch.json.

    mobilenas search --data ./photos --flops 5M --out RUN
    """
    from .session import open_or_start, requested_settings, resume_command, working

    if dry_run:
        with working("", None, quiet=quiet) as reporter:
            from mobilenas.pipeline.dry_run import Outlook
            from mobilenas.pipeline.dry_run import dry_run as look

            found = look(requested_settings(ctx, Outlook), reporter)
        _show_dry_run(found, as_json)
        return 0
    with working(resume_command(ctx, "search"), out, quiet=quiet) as reporter:
        from mobilenas.pipeline.baselines import ARCH_FILE
        from mobilenas.pipeline.stages import search_stage

        run = open_or_start(ctx, reporter)
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


def _show_dry_run(found: "DryRun", as_json: bool) -> None:
    from .render import show_json, show_rule, show_table

    if as_json:
        show_json(found.to_dict())
        return
    from mobilenas.cost.budget import format_cost
    from mobilenas.pipeline.estimate import format_durations

    if found.sides:
        sides = (
            (
                f"{side}{' (yours)' * (side == found.image_size)}",
                *(
                    " to ".join(format_cost(cost, end) for end in ends.values())
                    for cost, ends in costs.items()
                ),
            )
            for side, costs in found.sides.items()
        )
        show_table("Reachable costs by side", ("side", *found.costs), sides)
    else:
        columns = ("smallest", "largest", "budget")
        rows = (
            (cost, *(format_cost(cost, row[name]) if name in row else "-" for name in columns))
            for cost, row in found.costs.items()
        )
        show_table("Reachable costs", ("cost", *columns), rows)
    for remark in found.remarks:
        echo(click.wrap_text(f"{remark}.", 80))
    if found.seconds:
        durations = format_durations(found.seconds)
        echo(click.wrap_text(f"`mobilenas run` takes about {durations}.", 80))
    show_rule()
