"""`mobilenas export`: writes the ONNX file, and other formats for phones."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mobilenas.core.setting import settings_of
from mobilenas.core.settings import Fields
from mobilenas.pipeline.export_settings import FormatSettings, Int8Settings

from .command import Command
from .options import option, options_of, output_options, run_argument, typed
from .terminal import echo

if TYPE_CHECKING:
    from mobilenas.onnx.record import FileRecord


@click.command(cls=Command, name="export")
@run_argument
@option(
    "--network",
    metavar="NAME",
    help="Export another network of the comparison, such as mobilenet_v2, to its own folder.",
)
@options_of(FormatSettings)
@options_of(Int8Settings)
@output_options
@click.pass_context
def command(
    ctx: click.Context,
    /,
    folder: Path,
    network: str | None,
    quiet: bool,
    as_json: bool,
    **_: object,
) -> None:
    """Write RUN/export/model.onnx from the trained weights, and check it against them.

    With --formats, --targets or --input also write these files beside it, measure and check them.
    A file that loses more than --max-drop is an error and is not kept.
    """
    from .session import working

    given = typed(ctx, FormatSettings) | typed(ctx, Int8Settings)
    again = _again(folder, given if network is None else {"network": network, **given})
    with working(again, folder, quiet=quiet) as reporter:
        from mobilenas.onnx.record import EXPORT_FILE
        from mobilenas.pipeline.deployment import renew_times
        from mobilenas.pipeline.run_folder import open_run
        from mobilenas.pipeline.stages import compared_run, export_stage, renew_report

        if given:
            from mobilenas.pipeline.formats import write_formats

            settings = _settings(given)  # before opening the run, in case they are wrong
        whole = open_run(folder, reporter)
        run = whole if network is None else compared_run(whole, network)
        renew_times(run)
        record = write_formats(run, settings) if given else export_stage(run)
        renew_report(whole, run.folder / EXPORT_FILE)
    from .render import show_file

    if as_json:
        show_file(run.folder / EXPORT_FILE)
        return
    if given:
        from .render import show_formats

        show_formats(record.files, ("onnx", *settings.names), settings.targets)
    else:
        _show(run.folder, record.files)
    difference = record.parity.max_abs_difference
    echo(f"Largest difference from the PyTorch model's outputs: {difference:.1e}")


def _settings(given: Fields) -> FormatSettings:
    """Return the settings from the given options."""
    int8 = {one.name: given[one.name] for one in settings_of(Int8Settings) if one.name in given}
    others = {name: value for name, value in given.items() if name not in int8}
    return FormatSettings(**others, int8=Int8Settings(**int8) if int8 else None)


def _again(folder: Path, given: Mapping[str, object]) -> str:
    kinds = (FormatSettings, Int8Settings)
    flags = {one.name: one.option for kind in kinds for one in settings_of(kind)}
    words = ["mobilenas", "export", str(folder)]
    for name, value in given.items():
        said = ",".join(value) or "none" if isinstance(value, tuple) else str(value)
        words += [flags.get(name, f"--{name}"), said]
    return shlex.join(words)


def _show(folder: Path, files: "Mapping[str, FileRecord]") -> None:
    from mobilenas.core.settings import UNSTEADY, format_latency

    from .render import show_table

    rows = (
        (
            str(folder / file.path),
            f"{file.size_bytes:,}",
            format_latency(file),
            f"{file.top1:.1f}",
        )
        for file in files.values()
    )
    show_table("Export", ("file", "bytes", "ms", "test top-1 %"), rows)
    if any(file.unsteady for file in files.values()):
        echo(click.wrap_text(f"{UNSTEADY}.", 80))
