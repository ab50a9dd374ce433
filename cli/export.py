"""`mobilenas export`: the ONNX file, and the other forms that phones take."""

import shlex
from pathlib import Path
from typing import Any

import click

from .options import FORMATS, INPUTS, TARGETS, output_options, run_argument


def names(text: str) -> tuple[str, ...]:
    """Read names with commas between them; the library says which are known."""
    return tuple(part.strip() for part in text.split(","))


@click.command(name="export")
@run_argument
@click.option(
    "--formats",
    type=names,
    metavar="NAMES",
    help=f"Files to write, of {', '.join(FORMATS)}, with commas between them; onnx unless said.",
)
@click.option(
    "--targets",
    type=names,
    metavar="NAMES",
    help=f"What to check the files for, of {', '.join(TARGETS)}, with commas between them.",
)
@click.option(
    "--input",
    "layout",
    type=click.Choice(INPUTS),
    help="What the files take; uint8-nhwc: pixels, the graph normalizes. float-nchw unless said.",
)
@click.option(
    "--max-drop",
    type=click.FloatRange(0, 100),
    metavar="POINTS",
    help="Most test top-1 that a file may lose against the float file; 1 unless said.",
)
@output_options
def command(folder: Path, quiet: bool, as_json: bool, **asked: Any) -> None:
    """Write RUN/export/model.onnx from the trained weights, and check it against them.

    With --formats, --targets or --input also write those files beside it, measure and check them.
    """
    from .session import working

    asked["input"] = asked.pop("layout")
    given = {name: value for name, value in asked.items() if value is not None}
    again = _again(folder, given)
    with working(again, folder, quiet=quiet) as reporter:
        from mobilenas.pipeline import EXPORT_FILE, export_stage
        from mobilenas.runs import open_run

        if given:
            from mobilenas.formats import FormatSettings, write_formats

            settings = FormatSettings(**given)
            record = write_formats(open_run(folder, reporter), settings)
        else:
            record = export_stage(open_run(folder, reporter))
    from .render import show_file

    if as_json:
        show_file(folder / EXPORT_FILE)
        return
    if given:
        from .render import show_formats

        show_formats(record["files"], ("onnx", *settings.names), settings.targets)
    else:
        _show(folder, record["files"])
    difference = record["parity"]["max_abs_difference"]
    click.echo(f"Largest difference from the PyTorch model's outputs: {difference:.1e}")


def _again(folder: Path, given: dict[str, Any]) -> str:
    words = ["mobilenas", "export", str(folder)]
    for name, value in given.items():
        said = ",".join(value) if isinstance(value, tuple) else str(value)
        words += [f"--{name.replace('_', '-')}", said]
    return shlex.join(words)


def _show(folder: Path, files: dict[str, Any]) -> None:
    from .render import show_table

    rows = (
        (
            str(folder / file["path"]),
            f"{file['size_bytes']:,}",
            f"{file['latency_ms']:.3g}",
            f"{file['top1']:.1f}",
        )
        for file in files.values()
    )
    show_table("Export", ("file", "bytes", "ms", "test top-1 %"), rows)
