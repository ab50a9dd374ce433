"""`mobilenas sweep`: a run for each of several budgets or strengths of the penalty, and methods."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from mobilenas.pipeline.request import Request
from mobilenas.pipeline.variants import SweepOptions

from .command import Command
from .options import RULE, folder_options, options_of, output_options, typed
from .terminal import echo

if TYPE_CHECKING:
    from mobilenas.core.progress import Reporter
    from mobilenas.pipeline.sweep import Sweep


@click.command(cls=Command, name="sweep", epilog=RULE)
@options_of(SweepOptions)
@options_of(Request, without=("flops", "strength"))
@folder_options
@output_options
@click.pass_context
def command(
    ctx: click.Context, /, out: Path | None, quiet: bool, as_json: bool, **_: object
) -> int:
    """Run `mobilenas run` for each budget or strength, and method, and report on all.

    mobilenas sweep --data FOLDER --flops 500k,1M,2M --methods mobilenas,adarts --out SWEEP

    Song and Li 2020: networks of several sizes under one wide budget.

    mobilenas sweep --data FOLDER --flops 4M --strengths 0.1,0.3,1 --out SWEEP
    """
    from .session import resume_command, working

    again = resume_command(ctx, "sweep")
    with working(again, out, quiet=quiet, record="sweep.json") as reporter:
        from mobilenas.pipeline.sweep import run_sweep
        from mobilenas.report.run_page import REPORT_FILE
        from mobilenas.report.sweep_page import swept_runs

        sweep = _open_or_start(ctx, reporter)
        results = run_sweep(sweep)
        runs = swept_runs(sweep.folder, REPORT_FILE)
    from .render import show_json, show_rule, show_sweep, status_of

    if as_json:
        show_json(results)
    else:
        show_sweep(runs)
        show_rule()
        echo(f"Report: {sweep.folder / REPORT_FILE}")
    return max(status_of(result.budgets) for result in results.values())


def _open_or_start(ctx: click.Context, reporter: "Reporter") -> "Sweep":
    """Start the sweep of these options in --out, or resume it."""
    from mobilenas.pipeline.resuming import resume_sweep
    from mobilenas.pipeline.run_folder import command_line
    from mobilenas.pipeline.sweep import SWEEP_FILE, open_sweep, start_sweep

    from .session import beginning, given_fields, states_a_request

    out, resume, overwrite = (ctx.params[name] for name in ("out", "resume", "overwrite"))
    flops, strengths, methods = (ctx.params[name] for name in ("flops", "strengths", "methods"))
    if resume and not states_a_request(ctx):
        return open_sweep(out, reporter)
    if resume:
        stated = typed(ctx, Request)
        stated.pop("flops", None)
        if sweep := resume_sweep(out, stated, flops, strengths, methods, reporter):
            return sweep
    requested = given_fields(ctx)
    requested.pop("flops", None)
    with beginning(out / SWEEP_FILE, resume=resume):
        return start_sweep(
            out,
            requested,
            flops=flops,
            strengths=strengths,
            methods=methods,
            command=command_line(),
            reporter=reporter,
            resume=resume,
            overwrite=overwrite,
        )
