"""How a run's INT8 file is made, for every command: calibration and corrections."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from mobilenas.data import batches, stratified_subset
from mobilenas.onnx.int8 import quantize_static_qdq
from mobilenas.onnx.settings import BIAS, EQUALIZE, PER_CHANNEL
from mobilenas.pipeline.export_settings import CALIBRATION_IMAGES
from mobilenas.pipeline.run_folder import Run


def write_int8(run: Run, made: dict[str, Any], source: Path, path: Path) -> None:
    """Write `source`, a float file, in 8 bits to `path`, as `Int8Settings.describe` says."""
    quantize_static_qdq(
        source,
        path,
        calibration(run, made["calibration_images"]),
        per_channel=made["weights"] == PER_CHANNEL,
        method=made["calibration"],
        equalize=EQUALIZE in made["corrections"],
        correct_bias=BIAS in made["corrections"],
    )


def calibration(run: Run, images: int = CALIBRATION_IMAGES) -> Iterator[NDArray[Any]]:
    """Training images float32 [1, C, S, S], drawn by the run's seed; all where there are fewer."""
    drawn = stratified_subset(run.data.train, min(images, len(run.data.train)), run.settings.seed)
    for x, _ in batches(drawn, run.data, batch_size=CALIBRATION_IMAGES, seed=None):
        for image in x:
            yield image[None].numpy()
