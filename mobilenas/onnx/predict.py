"""Classifies image files with an exported network; needs only onnxruntime, numpy and Pillow."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mobilenas.core.errors import FileError, MobileNASError
from mobilenas.core.images import decode
from mobilenas.onnx.classifier import FLOAT, LIMIT_S, PIXELS, Classifier
from mobilenas.onnx.metadata import ModelMetadata
from mobilenas.onnx.record import EXPORT_FILE, read_export


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The network's prediction for one image."""

    path: Path
    """Path of the image."""
    labels: tuple[tuple[str, float], ...]
    """Label and probability, the most probable first."""


def exported_model(run: Path) -> Path:
    """Return the file of a run folder meant for its device: INT8 if the run was for int8."""
    if run.name == Path(EXPORT_FILE).parent.name and not (run / EXPORT_FILE).exists():
        run = run.absolute().parent
    if not (run / EXPORT_FILE).exists():
        raise FileError(
            f"{run} has no {EXPORT_FILE}: it is not a run folder, or not exported yet (`mobilenas "
            "export RUN`); name a run folder or a .onnx file"
        )
    record = read_export(run)
    return run / record.files[record.deployed].path


def predict(model_path: Path, image_paths: Sequence[Path], top: int = 3) -> list[Prediction]:
    """Return the `top` labels of each image; errors name a file that cannot be used.

    The model is an exported file, or a run folder with one.
    """
    if top < 1:
        raise MobileNASError(f"top is {top}; it must be at least 1")
    if model_path.is_dir():
        model_path = exported_model(model_path)
    model = Classifier(model_path, limit_s=LIMIT_S)
    metadata = ModelMetadata.from_strings(model.metadata, str(model_path))
    size = metadata.image_size
    if len(metadata.mean) != 3 or not model.takes(
        (FLOAT, [3, size, size]), (PIXELS, [size, size, 3])
    ):
        raise FileError(
            f"{model_path}: the input is {model.type} {model.shape}; for its metadata it must be "
            f"float [1, 3, {size}, {size}] or uint8 [1, {size}, {size}, 3]"
        )
    predictions = []
    for path in image_paths:
        pixels = decode(path, size, metadata.pixel_range)
        # files with pixel input normalize them in the graph
        logits = model.logits(pixels[None] if model.type == PIXELS else prepare(pixels, metadata))
        if len(logits) != len(metadata.labels):
            raise FileError(
                f"{model_path}: the output is [1, {len(logits)}]; for its metadata it must be "
                f"[1, {len(metadata.labels)}]"
            )
        probabilities = softmax(logits)
        best = np.argsort(-probabilities, kind="stable")[:top]
        labels = tuple((metadata.labels[index], float(probabilities[index])) for index in best)
        predictions.append(Prediction(path=path, labels=labels))
    return predictions


def prepare(pixels: NDArray[np.uint8], metadata: ModelMetadata) -> NDArray[np.float32]:
    """Normalize, (pixels / 255 - mean) / std: uint8 [S, S, C] -> float32 [1, C, S, S]."""
    mean, std = np.array(metadata.mean), np.array(metadata.std)
    scale, shift = (1 / (255 * std)).astype(np.float32), (-mean / std).astype(np.float32)
    values = pixels.astype(np.float32) * scale + shift
    return np.ascontiguousarray(values.transpose(2, 0, 1)[None])


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return probabilities: logits [classes] -> [classes]."""
    exponentials = np.exp(logits.astype(np.float64) - logits.max())
    return np.asarray(exponentials / exponentials.sum())
