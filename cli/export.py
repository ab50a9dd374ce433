"""`mobilenas export`: the ONNX file alone."""

import shlex
from pathlib import Path

import click

from .options import output_options, run_argument


@click.command(name="export")
@run_argument
@output_options
def command(folder: Path, quiet: bool, as_json: bool) -> None:
    """Write RUN/export/model.onnx from the trained weights, and check it against them."""
    from .session import working

    again = f"mobilenas export {shlex.quote(str(folder))}"
    with working(again, folder, quiet=quiet) as reporter:
        from mobilenas.pipeline import EXPORT_FILE, export_stage
        from mobilenas.runs import open_run

        record = export_stage(open_run(folder, reporter))
    from .render import show_file, show_table

    if as_json:
        show_file(folder / EXPORT_FILE)
        return
    rows = (
        (
            str(folder / file["path"]),
            f"{file['size_bytes']:,}",
            f"{file['latency_ms']:.3g}",
            f"{file['top1']:.1f}",
        )
        for file in record["files"].values()
    )
    show_table("Export", ("file", "bytes", "ms", "test top-1 %"), rows)
    difference = record["parity"]["max_abs_difference"]
    click.echo(f"Largest difference from the PyTorch model's outputs: {difference:.1e}")
