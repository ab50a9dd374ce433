"""Writes INT8 files, for all commands: calibration and corrections."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mobilenas.data import ImageData, batches, stratified_subset
from mobilenas.onnx.int8 import quantize_static_qdq
from mobilenas.onnx.record import Quantization
from mobilenas.onnx.settings import BIAS, EQUALIZE, PER_CHANNEL
from mobilenas.pipeline.export_settings import CALIBRATION_IMAGES


def write_int8(data: ImageData, made: Quantization, source: Path, path: Path) -> None:
    """Quantize the float file `source` to `path`, with the settings `made`."""
    quantize_static_qdq(
        source,
        path,
        calibration(data, made.seed, made.calibration_images),
        per_channel=made.weights == PER_CHANNEL,
        method=made.calibration,
        equalize=EQUALIZE in made.corrections,
        correct_bias=BIAS in made.corrections,
    )


def calibration(
    data: ImageData, seed: int, images: int = CALIBRATION_IMAGES
) -> Iterator[NDArray[np.float32]]:
    """Yield up to `images` training images, float32 [1, C, S, S], drawn by the seed."""
    drawn = stratified_subset(data.train, min(images, len(data.train)), seed)
    for x, _ in batches(drawn, data, batch_size=CALIBRATION_IMAGES, seed=None):
        for image in x:
            yield image[None].numpy()
