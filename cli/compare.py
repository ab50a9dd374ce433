"""`mobilenas compare`: trains baselines; compares runs, files of other tools, and papers."""

import shlex
from pathlib import Path
from typing import get_args

import click

from mobilenas.core.settings import check_choice
from mobilenas.spaces.mobile.settings import MobileNet

from .command import Command
from .options import PATH, RULE, Reading, allow_model_option, names, option, output_options
from .tensorboard import tensorboard_option
from .terminal import echo

RANDOM = "random"
SUFFIXES = (".onnx", ".ort")
MOBILENETS = get_args(MobileNet)


def read_baselines(text: str) -> tuple[str, ...]:
    """Parse comma-separated names of baselines."""
    for name in (found := names(text)):
        check_choice("baseline", name, (*MOBILENETS, RANDOM, "none"))
    return found


@click.command(cls=Command, name="compare", epilog=RULE)
@click.argument("paths", metavar="[RUN|FILE.onnx]...", nargs=-1, type=PATH)
@option(
    "--baselines",
    "names",
    type=Reading(read_baselines, "baselines"),
    group="Comparison",
    metavar="NAMES",
    default_text="those of RUN",
    help=f"{', '.join((*MOBILENETS, RANDOM))}, separated by commas, or none; those that "
    "compare.json lacks are added.",
)
@option(
    "--random",
    type=click.IntRange(0, 10_000),
    group="Comparison",
    metavar="N",
    default_text="as many as RUN's",
    help="Random networks to compare with.",
)
@option(
    "--published",
    is_flag=True,
    group="Comparison",
    help="Only show what papers report on ImageNet, and latencies on phones.",
)
@option(
    "--out",
    metavar="DIR",
    type=PATH,
    help="Folder to write a comparison of several results to.",
)
@option("--overwrite", is_flag=True, help="Replace the comparison in --out.")
@allow_model_option
@tensorboard_option
@output_options
@click.pass_context
def command(
    ctx: click.Context, /, paths: tuple[Path, ...], quiet: bool, as_json: bool, **_: object
) -> int:
    """Train the baselines of a run, or compare several results.

    With one RUN, compare its networks and write RUN/compare.json and RUN/result.json. With several
    RUNs that share images and recipe, or ONNX files of other tools for the same images and
    classes, show all in one table, which --out saves.
    """
    if ctx.params["published"]:
        if paths:
            raise click.UsageError("--published takes no RUN: its figures are from papers", ctx)
        return _published(as_json)
    folders = [path for path in paths if path.suffix not in SUFFIXES and not path.is_file()]
    if not folders:
        measured = ": files are measured on its test images" if paths else ""
        raise click.UsageError(f"missing argument RUN{measured}", ctx)
    if len(paths) > 1:
        return _several(ctx, folders, quiet=quiet, as_json=as_json)
    if ctx.params["out"] or ctx.params["overwrite"]:
        raise click.UsageError("--out and --overwrite are for several; one RUN has its own", ctx)
    return _one(ctx, *folders, quiet=quiet, as_json=as_json)


def _one(ctx: click.Context, folder: Path, *, quiet: bool, as_json: bool) -> int:
    from .session import working

    with working(_again(ctx), folder, quiet=quiet) as reporter:
        from mobilenas.pipeline.comparison import compare
        from mobilenas.pipeline.run_folder import COMPARE_FILE, open_run
        from mobilenas.pipeline.stages import renew_report

        requested = (ctx.params["names"], ctx.params["random"])
        run = open_run(folder, reporter)
        networks, result = compare(run, *requested)
        renew_report(run, folder / COMPARE_FILE)
    from .render import show_file, show_result, status_of

    if as_json:
        show_file(folder / COMPARE_FILE)
    else:
        show_result(networks, result)
    return status_of(result.budgets)


def _several(ctx: click.Context, folders: list[Path], *, quiet: bool, as_json: bool) -> int:
    from .session import working

    files = [path for path in ctx.params["paths"] if path not in folders]
    out: Path | None = ctx.params["out"]
    with working(_again(ctx), folders[0], quiet=quiet) as reporter:
        from mobilenas.pipeline.comparison import check_out, side_by_side, write_comparison
        from mobilenas.pipeline.run_folder import open_run

        if out is not None:
            check_out(out, overwrite=ctx.params["overwrite"])
        runs = [open_run(folder, reporter) for folder in folders]
        found = side_by_side(runs, files, ctx.params["names"], ctx.params["random"])
        if out is not None:
            write_comparison(found, out, overwrite=ctx.params["overwrite"])
    from .render import show_comparison, show_json, status_of

    if as_json:
        show_json(found.to_dict())
    else:
        show_comparison(found)
        if out is not None:
            echo(f"Comparison: {out}")
    return status_of(found.budgets)


def _again(ctx: click.Context) -> str:
    words = ["mobilenas", "compare", *map(str, ctx.params["paths"])]
    if ctx.params["names"] is not None:
        words += ["--baselines", ",".join(ctx.params["names"]) or "none"]
    for name in ("random", "out"):
        if ctx.params[name] is not None:
            words += [f"--{name}", str(ctx.params[name])]
    return shlex.join(words + ["--overwrite"] * ctx.params["overwrite"])


def _published(as_json: bool) -> int:
    from dataclasses import asdict

    from mobilenas.baselines.published import LATENCIES, PUBLISHED
    from mobilenas.core.settings import COUNTING_RULE, format_count

    from .render import show_json, show_rule, show_table

    if as_json:
        published = {
            "published": [asdict(network) for network in PUBLISHED],
            "latencies": [asdict(latency) for latency in LATENCIES],
        }
        show_json({**published, "data": "ImageNet", "counting_rule": COUNTING_RULE})
        return 0
    rows = (
        (
            network.name,
            f"{network.top1:.1f}",
            format_count(network.flops),
            format_count(network.params),
            str(network.image_size or "-"),
            network.source,
        )
        for network in PUBLISHED
    )
    columns = ("network", "top-1 %", "FLOPs", "params", "side", "source")
    show_table("ImageNet, as published", columns, rows, words=("source",))
    times = (
        (one.network, one.device, one.runtime, one.precision, f"{one.latency_ms:.3f}")
        for one in LATENCIES
    )
    words = ("network", "device", "runtime", "precision")
    show_table("Latency on phones, as published", (*words, "ms"), times, words=words)
    for source in dict.fromkeys(one.source for one in LATENCIES):
        echo(f"Source: {source}")
    message = (
        "top-1: validation images of ImageNet, each network trained by its paper's own recipe. "
        "Nothing here was measured by mobilenas, and nothing of it stands beside what was."
    )
    echo(click.wrap_text(message, 80))
    show_rule()
    return 0
