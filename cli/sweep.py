"""`mobilenas sweep`: a run for each of several budgets or penalty strengths, and methods."""

from functools import partial
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
    from mobilenas.pipeline.records import ResultRecord
    from mobilenas.pipeline.sweep import Sweep


@click.command(cls=Command, name="sweep", epilog=RULE)
@options_of(SweepOptions)
@options_of(Request, without=("flops", "strength"))
@folder_options
@output_options
@click.pass_context
def command(
    ctx: click.Context,
    /,
    out: Path | None,
    quiet: bool,
    as_json: bool,
    on: str,
    address: str | None,
    **_: object,
) -> int:
    """Run `mobilenas run` for each budget or strength, and method, and report on all.

    mobilenas sweep --data FOLDER --flops 500k,1M,2M --methods mobilenas,adarts --out SWEEP

    Song and Li 2020: networks of several sizes under one wide budget.

    mobilenas sweep --data FOLDER --flops 4M --strengths 0.1,0.3,1 --out SWEEP
    """
    from .session import quoted, resume_command, working

    again = resume_command(ctx, "sweep")
    if on == "ray":
        again += " --on ray" + (f" --address {quoted(address)}" if address else "")
    elif address is not None:
        raise click.UsageError("--address is for --on ray", ctx)
    with working(again, out, quiet=quiet, record="sweep.json") as reporter:
        from mobilenas.report.run_page import REPORT_FILE
        from mobilenas.report.sweep_page import swept_runs

        if on == "ray":
            sweep, results = _on_ray(ctx, reporter, again)
        else:
            from mobilenas.pipeline.sweep import run_sweep

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


def _on_ray(
    ctx: click.Context, reporter: "Reporter", again: str
) -> "tuple[Sweep, dict[str, ResultRecord]]":
    """Connect to Ray, open the sweep, and make its runs."""
    from mobilenas.pipeline.on_ray import RunsFailedError, connected, run_on_ray

    from .progress import make_reporter

    address, quiet = ctx.params["address"], ctx.params["quiet"]
    with connected(address, quiet=quiet):
        sweep = _open_or_start(ctx, reporter)
        try:
            return sweep, run_on_ray(sweep, address, partial(make_reporter, quiet))
        except RunsFailedError as error:
            raise click.ClickException(f"{error}; resume with: {again}") from error


def _open_or_start(ctx: click.Context, reporter: "Reporter") -> "Sweep":
    """Start the sweep with these options in --out, or resume it."""
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
