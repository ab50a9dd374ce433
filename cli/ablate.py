"""`mobilenas ablate`: compares search methods."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from mobilenas.pipeline.request import Request
from mobilenas.pipeline.variants import NOT_ABLATED, AblationOptions

from .command import Command
from .options import RULE, folder_options, options_of, output_options, typed
from .terminal import echo

if TYPE_CHECKING:
    from mobilenas.core.progress import Reporter
    from mobilenas.pipeline.ablation import Ablation
    from mobilenas.report.records import AblationRecord, VariantRecord


@click.command(cls=Command, name="ablate", epilog=RULE)
@options_of(AblationOptions)
@options_of(Request, hidden=NOT_ABLATED)
@folder_options
@output_options
@click.pass_context
def command(
    ctx: click.Context, /, out: Path | None, quiet: bool, as_json: bool, **_: object
) -> None:
    """Compare search methods over seeds: same data, same training, same final cost.

    Every variant searches with every seed, trains the network, and evaluates it on the test images
    once. Cells get as many channels as --flops or --params allow.

    mobilenas ablate --methods darts,da2s,random --seeds 3 --flops 2M --out RUN
    """
    from .session import resume_command, working

    again = resume_command(ctx, "ablate")
    with working(again, out, quiet=quiet, record="ablation-request.json") as reporter:
        from mobilenas.pipeline.ablation import ABLATION_FILE, PAGE_FILE, run_ablation

        ablation = _open_or_start(ctx, reporter)
        record = run_ablation(ablation)
    from .render import show_file, show_rule

    if as_json:
        show_file(ablation.folder / ABLATION_FILE)
        return
    _show(record)
    show_rule()
    echo(f"Report: {ablation.folder / PAGE_FILE}")


def _open_or_start(ctx: click.Context, reporter: "Reporter") -> "Ablation":
    """Start the ablation with these options in --out, or resume it."""
    from mobilenas.pipeline.ablation import open_ablation, start_ablation
    from mobilenas.pipeline.resuming import resume_ablation
    from mobilenas.pipeline.run_folder import command_line

    from .session import requested_settings, states_a_request

    names = ("out", "resume", "overwrite", "methods", "control")
    out, resume, overwrite, methods, control = (ctx.params[name] for name in names)
    if resume and not states_a_request(ctx):
        return open_ablation(out, reporter)
    if resume and (
        ablation := resume_ablation(out, typed(ctx, Request), methods, control, reporter)
    ):
        return ablation
    if methods is None:
        raise click.UsageError("missing option --methods, such as --methods darts,pc-darts", ctx)
    return start_ablation(
        out,
        requested_settings(ctx),
        methods,
        control=control,
        command=command_line(),
        reporter=reporter,
        resume=resume,
        overwrite=overwrite,
    )


def _show(record: "AblationRecord") -> None:
    from mobilenas.report.ablation_table import costs_sentence, sentences

    from .render import show_table

    columns = ("variant", "top-1 %", "gap, points", "skips", "agreement", "search s")
    show_table("Ablation", columns, map(_row, record.variants))
    cells = "normal" in record.variants[0].skips
    counted = "skip connections, normal + reduction cell" if cells else "blocks left out"
    message = (
        "top-1: test images, ±: standard deviation over seeds. gap: validation points lost by "
        f"discretization, as published -> with batch norms estimated again. skips: {counted}. "
        "agreement: of the networks over seeds, 0 to 1."
    )
    for text in (message, costs_sentence(record.variants), f"Control: {record.control}."):
        echo(click.wrap_text(text, 80))
    for sentence in sentences(record.variants, record.control):
        echo(click.wrap_text(sentence, 80, subsequent_indent="  "))
    echo()


def _row(variant: "VariantRecord") -> tuple[str, ...]:
    from mobilenas.report.ablation_table import parts_of

    from .render import percent

    gap, agreement = variant.gap, variant.agreement
    return (
        "\n".join(parts_of(variant.name)),
        percent(variant.top1.mean, variant.top1.sd),
        f"{gap['points_before'].mean:.1f} -> {gap['points'].mean:.1f}" if gap else "-",
        " + ".join(f"{figures.mean:.1f}" for figures in variant.skips.values()),
        "-" if agreement is None else f"{agreement:.2f}",
        f"{variant.seconds['search'].mean:.0f}",
    )
