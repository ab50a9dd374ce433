"""`--dry-run`: shows the possible costs of a job and its expected time."""

from typing import TYPE_CHECKING

import click

from .options import option
from .terminal import echo

if TYPE_CHECKING:
    from mobilenas.pipeline.dry_run import DryRun

dry_run_option = option(
    "--dry-run",
    is_flag=True,
    help="Show the range of every cost and how long a run takes, and exit.",
)


def show_outlook(ctx: click.Context) -> int:
    """Show the dry run of the options; return the exit status."""
    from .session import requested_settings, working

    with working("", None, quiet=ctx.params["quiet"]) as reporter:
        from mobilenas.pipeline.dry_run import Outlook, dry_run

        found = dry_run(requested_settings(ctx, Outlook), reporter)
    _show(found, as_json=ctx.params["as_json"])
    return 0


def _show(found: "DryRun", *, as_json: bool) -> None:
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
