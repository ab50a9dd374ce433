"""`mobilenas predict`: classifies image files; needs no torch."""

from pathlib import Path

import click

from .command import Command
from .options import PATH, json_option, option


@click.command(cls=Command, name="predict")
@click.argument("model", metavar="MODEL", type=PATH)
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True, type=PATH)
@option(
    "--top",
    type=click.IntRange(min=1),
    default=3,
    metavar="N",
    default_text="3",
    help="Labels shown for each image.",
)
@json_option
def command(model: Path, images: tuple[Path, ...], top: int, as_json: bool) -> None:
    """Classify images with an exported network: a .onnx or .ort file, or a run folder with one."""
    from mobilenas.onnx.predict import predict

    from .render import show_json, show_table

    predictions = predict(model, images, top)
    if as_json:
        found = [
            {
                "path": str(prediction.path),
                "labels": [
                    {"label": label, "probability": share} for label, share in prediction.labels
                ],
            }
            for prediction in predictions
        ]
        show_json({"predictions": found})
        return
    rows = (
        ("" if place else str(prediction.path), label, f"{100 * share:.1f}")
        for prediction in predictions
        for place, (label, share) in enumerate(prediction.labels)
    )
    show_table("", ("image", "label", "%"), rows, words=("label",))
