"""`mobilenas export`: the ONNX file, and the other forms that phones take."""

import shlex
from pathlib import Path
from typing import Any

import click

from .options import (
    CALIBRATIONS,
    CORRECTIONS,
    FORMATS,
    INPUTS,
    INT8_WEIGHTS,
    OTHER_FORMATS,
    TARGETS,
    listed,
    output_options,
    run_argument,
)
from .terminal import echo

_INT8 = {
    "int8_weights": "weights",
    "calibration": "calibration",
    "calibration_images": "calibration_images",
    "corrections": "corrections",
    "qat_epochs": "qat_epochs",
}
"""Options by the field of Int8Settings that they are."""


@click.command(name="export")
@run_argument
@click.option(
    "--network",
    metavar="NAME",
    help="Another network of the comparison, such as mobilenet_v2: written to its own folder.",
)
@click.option(
    "--formats",
    type=listed,
    metavar="NAMES",
    help=f"Files to write, of {', '.join(FORMATS + OTHER_FORMATS)}; onnx unless said.",
)
@click.option(
    "--targets",
    type=listed,
    metavar="NAMES",
    help=f"What to check the files for, of {', '.join(TARGETS)}, with commas between them. qnn: "
    "Qualcomm. nnapi: deprecated by Android.",
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
@click.option(
    "--max-parts",
    type=click.IntRange(min=1),
    metavar="N",
    help="Exit with an error where a target would run the network in more parts. Without it, more "
    "than one is a warning.",
)
@click.option(
    "--int8-weights",
    type=click.Choice(INT8_WEIGHTS),
    help="What shares a scale in 8 bits; per-channel unless said.",
)
@click.option(
    "--calibration",
    type=click.Choice(CALIBRATIONS),
    help="How ranges are taken from the calibration images; minmax unless said.",
)
@click.option(
    "--calibration-images",
    type=click.IntRange(min=1),
    metavar="N",
    help="Training images for that; 128 unless said.",
)
@click.option(
    "--corrections",
    type=listed,
    metavar="NAMES",
    help=f"Of {', '.join(CORRECTIONS)}, or none; equalize unless said.",
)
@click.option(
    "--qat-epochs",
    type=click.IntRange(0, 1000),
    metavar="N",
    help="Epochs of fine-tuning with 8 bits simulated; 0 unless said.",
)
@output_options
def command(folder: Path, network: str | None, quiet: bool, as_json: bool, **asked: Any) -> None:
    """Write RUN/export/model.onnx from the trained weights, and check it against them.

    With --formats, --targets or --input also write those files beside it, measure and check them.
    One that loses more than --max-drop is an error and not kept.
    """
    from .session import working

    asked["input"] = asked.pop("layout")
    given = {name: value for name, value in asked.items() if value is not None}
    again = _again(folder, given if network is None else {"network": network, **given})
    with working(again, folder, quiet=quiet) as reporter:
        from mobilenas.onnx.record import EXPORT_FILE
        from mobilenas.pipeline.deployment import renew_times
        from mobilenas.pipeline.run_folder import open_run
        from mobilenas.pipeline.stages import compared_run, export_stage, renew_report

        if given:
            from mobilenas.pipeline.formats import FormatSettings, write_formats

            settings = FormatSettings(**_settings(given))  # wrong ones open no run
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

        show_formats(record["files"], ("onnx", *settings.names), settings.targets)
    else:
        _show(run.folder, record["files"])
    difference = record["parity"]["max_abs_difference"]
    echo(f"Largest difference from the PyTorch model's outputs: {difference:.1e}")


def _settings(given: dict[str, Any]) -> dict[str, Any]:
    """Put the options of int8 together."""
    from mobilenas.pipeline.quantization import Int8Settings

    int8 = {_INT8[name]: value for name, value in given.items() if name in _INT8}
    if int8.get("corrections") == ("none",):
        int8["corrections"] = ()
    others = {name: value for name, value in given.items() if name not in _INT8}
    return others | ({"int8": Int8Settings(**int8)} if int8 else {})


def _again(folder: Path, given: dict[str, Any]) -> str:
    words = ["mobilenas", "export", str(folder)]
    for name, value in given.items():
        said = ",".join(value) if isinstance(value, tuple) else str(value)
        words += [f"--{name.replace('_', '-')}", said]
    return shlex.join(words)


def _show(folder: Path, files: dict[str, Any]) -> None:
    from mobilenas.core.settings import UNSTEADY, format_latency

    from .render import show_table

    rows = (
        (
            str(folder / file["path"]),
            f"{file['size_bytes']:,}",
            format_latency(file),
            f"{file['top1']:.1f}",
        )
        for file in files.values()
    )
    show_table("Export", ("file", "bytes", "ms", "test top-1 %"), rows)
    if any(file.get("unsteady") for file in files.values()):
        echo(click.wrap_text(f"{UNSTEADY}.", 80))
