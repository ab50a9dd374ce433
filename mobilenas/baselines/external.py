"""ONNX files of other tools: whether they fit a run's images, and their figures.

How a file was trained is unknown, so its kind in the comparison is `external`.
"""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from mobilenas.baselines.chance import beats_chance_on_test
from mobilenas.baselines.records import ExternalRecord
from mobilenas.core.errors import FileError
from mobilenas.core.files import parse_json
from mobilenas.data import ImageData
from mobilenas.latency.measured import Measured
from mobilenas.onnx.classifier import FLOAT, LIMIT_S, PIXELS, Classifier
from mobilenas.onnx.metadata import OWN_KEY, ModelMetadata
from mobilenas.onnx.predict import prepare
from mobilenas.onnx.recount import count_onnx

_AT_ONCE = 256


@dataclass(frozen=True, kw_only=True)
class External:
    """A file that fits the images of a run."""

    path: Path
    """Path of the file."""
    model: Classifier
    """Its session; takes uint8 [1, S, S, 3] or float32 [1, 3, S, S]."""
    metadata: ModelMetadata
    """Normalization of float inputs: from the file's metadata, else of the training images."""

    @property
    def exported(self) -> bool:
        """Whether mobilenas exported it, according to its metadata, which do not cover training."""
        return OWN_KEY in self.model.metadata

    def logits(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return logits [classes] of an image, uint8 [S, S, 3]; FileError if that fails."""
        pixels = self.model.type == PIXELS
        return self.model.logits(image[None] if pixels else prepare(image, self.metadata))


def open_external(path: Path, data: ImageData) -> External:
    """Open a file; FileError if its input, output or labels do not fit the images."""
    model = Classifier(path, limit_s=LIMIT_S)
    side, classes = data.image_size, len(data.classes)
    if not model.takes((FLOAT, [3, side, side]), (PIXELS, [side, side, 3])):
        raise FileError(
            f"{path}: its input is {model.type} {model.shape}; for the images of {data.name} it "
            f"must be float [1, 3, {side}, {side}] or uint8 [1, {side}, {side}, 3]"
        )
    external = External(path=path, model=model, metadata=_metadata(path, model.metadata, data))
    found = len(external.logits(np.zeros((side, side, 3), np.uint8)))
    if found != classes:
        raise FileError(
            f"{path}: its output is [1, {found}]; {data.name} has {classes} classes, so that it "
            f"must be [1, {classes}]"
        )
    return external


def _metadata(path: Path, strings: dict[str, str], data: ImageData) -> ModelMetadata:
    """Return the file's own metadata, if it has ours; its labels must equal the classes, in order.

    `labels` of another tool may have any form and is ignored, unless it is a permutation of the
    classes, which then gives their order.
    """
    try:
        own = ModelMetadata.from_strings(strings, str(path))
    except FileError:
        if OWN_KEY in strings:
            raise
        own = ModelMetadata(
            labels=_named(strings, data.classes),
            mean=data.mean,
            std=data.std,
            image_size=data.image_size,
        )
    if own.labels != data.classes:
        wrong = [name for name in own.labels if name not in data.classes]
        reason = f"{wrong[0]!r} is none of them" if wrong else f"it has {json.dumps(own.labels)}"
        raise FileError(f"{path}: its labels are not the classes of {data.name}: {reason}")
    return own


def _named(strings: dict[str, str], classes: tuple[str, ...]) -> tuple[str, ...]:
    """Return another tool's labels if they are a permutation of the classes, else the classes."""
    labels = _listed(strings.get("labels", ""))
    return tuple(labels) if Counter(labels) == Counter(classes) else classes


def _listed(text: str) -> list[str]:
    """Parse labels in logit order: a JSON list or numbered object, or split by lines or commas."""
    try:
        labels = parse_json(text, "labels")
    except FileError:
        labels = text.strip().split("\n" if "\n" in text.strip() else ",")
    if isinstance(labels, dict):
        if all(type(value) is int for value in labels.values()):
            labels = {str(number): label for label, number in labels.items()}
        numbered = all(key.isdecimal() and len(key) < 10 for key in labels)
        labels = [labels[key] for key in (sorted(labels, key=int) if numbered else labels)]
    return [str(label).strip() for label in labels] if isinstance(labels, list) else []


def describe(external: External, data: ImageData, time: Measured) -> ExternalRecord:
    """Return its record for compare.json: costs, size, latency, top-1 on the test split.

    If a file cannot be counted, such as an 8-bit one, FLOPs and params are None, and `uncounted`
    gives the reason.
    """
    counted, reason = None, None
    try:
        counted = count_onnx(external.path)
    except FileError as error:
        reason = str(error)
    right = sum(
        int(external.logits(image).argmax() == label) for image, label in _test_images(data)
    )
    top1 = 100 * right / len(data.test)
    return ExternalRecord(
        name=str(external.path),
        kind="external",
        seed=None,
        flops=counted.flops if counted else None,
        params=counted.params if counted else None,
        uncounted=reason,
        memory=None,
        predicted_ms=None,
        top1=top1,
        better_than_chance=beats_chance_on_test(top1, data),
        top1_fp32=None,
        val_top1=None,
        train_seconds=None,
        size_bytes=size_bytes(external.path),
        onnx=str(external.path),
        arch=None,
        latency_ms=time.median_ms,
        latency_interval_ms=time.interval_ms,
        latency_iqr_ms=time.iqr_ms,
        unsteady=time.unsteady,
        run=None,
        exported=external.exported,
    )


def size_bytes(path: Path) -> int:
    """Return the size of a file, including external weight files."""
    beside: set[str] = set()
    if path.suffix != ".ort":
        model = onnx.load(str(path), load_external_data=False)
        beside = {
            item.value
            for tensor in model.graph.initializer
            if tensor.data_location == onnx.TensorProto.EXTERNAL
            for item in tensor.external_data
            if item.key == "location"
        }
    return sum(file.stat().st_size for file in (path, *map(path.parent.joinpath, beside)))


def _test_images(data: ImageData) -> Iterator[tuple[NDArray[np.uint8], int]]:
    """Yield each test image, uint8 [S, S, 3], and its label."""
    chunks = torch.arange(len(data.test)).split(_AT_ONCE)
    for chunk, images in zip(chunks, data.test.stream(chunks), strict=True):
        pixels = images.permute(0, 2, 3, 1).contiguous().numpy()
        yield from zip(pixels, data.test.labels[chunk].tolist(), strict=True)
