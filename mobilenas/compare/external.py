"""ONNX files of other tools: whether they fit a run's images, and how many of them they get right.

Nothing here knows how a file was trained: it stands beside the networks of a run as `external`.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from mobilenas.cost.recount import count_onnx
from mobilenas.data import ImageData
from mobilenas.errors import FileError
from mobilenas.export.metadata import ModelMetadata
from mobilenas.export.predict import prepare
from mobilenas.profiling.session import LOAD_ERRORS, session

_FLOAT, _PIXELS = "tensor(float)", "tensor(uint8)"
_AT_ONCE = 256


@dataclass(frozen=True, kw_only=True)
class External:
    """A file that fits the images of a run."""

    path: Path
    """The file."""
    runner: Any
    """Its onnxruntime session."""
    input: str
    """Name of its input."""
    pixels: bool
    """Whether it takes uint8 [1, S, S, 3], else float32 [1, 3, S, S]."""
    metadata: ModelMetadata
    """What floats are normalized by: the file's own metadata, else the images' moments."""

    def logits(self, image: NDArray[np.uint8]) -> NDArray[Any]:
        """Run one image, uint8 [S, S, 3]; FileError where the file does not run."""
        value = image[None] if self.pixels else prepare(image, self.metadata)
        try:
            (found,) = self.runner.run(None, {self.input: value})
        except LOAD_ERRORS as error:
            reason = str(error).partition("\n")[0]
            raise FileError(f"{self.path} does not run in onnxruntime: {reason}") from error
        return np.asarray(found)


def open_external(path: Path, data: ImageData) -> External:
    """Open a file; FileError says whether its input, its outputs or its labels do not fit."""
    runner = session(path)
    side, classes = data.image_size, len(data.classes)
    inputs, outputs = runner.get_inputs(), runner.get_outputs()
    for name, entries in (("input", inputs), ("output", outputs)):
        if len(entries) != 1:
            raise FileError(f"{path} has {len(entries)} {name}s; it must have one")
    (entry,) = inputs
    shapes = {_FLOAT: [3, side, side], _PIXELS: [side, side, 3]}
    batch, *rest = entry.shape or [0]
    if rest != shapes.get(entry.type) or (isinstance(batch, int) and batch != 1):
        raise FileError(
            f"{path}: its input is {entry.type} {entry.shape}; for the images of {data.name} it "
            f"must be float [1, 3, {side}, {side}] or uint8 [1, {side}, {side}, 3]"
        )
    external = External(
        path=path,
        runner=runner,
        input=entry.name,
        pixels=entry.type == _PIXELS,
        metadata=_metadata(path, runner.get_modelmeta().custom_metadata_map, data),
    )
    shape = external.logits(np.zeros((side, side, 3), np.uint8)).shape
    if shape != (1, classes):
        raise FileError(
            f"{path}: its output is {list(shape)}; {data.name} has {classes} classes, so that it "
            f"must be [1, {classes}]"
        )
    return external


def _metadata(path: Path, strings: dict[str, str], data: ImageData) -> ModelMetadata:
    """The file's own, where it has labels: they must be the classes in their order."""
    if "labels" not in strings:
        return ModelMetadata(
            labels=data.classes, mean=data.mean, std=data.std, image_size=data.image_size
        )
    own = ModelMetadata.from_strings(strings, str(path))
    if own.labels != data.classes:
        wrong = [name for name in own.labels if name not in data.classes]
        told = f"{wrong[0]!r} is none of them" if wrong else f"it has {json.dumps(own.labels)}"
        raise FileError(f"{path}: its labels are not the classes of {data.name}: {told}")
    return own


def describe(external: External, data: ImageData) -> dict[str, Any]:
    """Return its entry for compare.json, but for its latency: costs, size, top-1 on the test split.

    FLOPs and params of a file that cannot be counted, such as an 8-bit one, are None, and
    `uncounted` says why.
    """
    counted, reason = None, None
    try:
        counted = count_onnx(external.path)
    except FileError as error:
        reason = str(error)
    right = sum(
        int(external.logits(image)[0].argmax() == label) for image, label in _test_images(data)
    )
    return {
        "name": str(external.path),
        "kind": "external",
        "seed": None,
        "flops": counted and counted.flops,
        "params": counted and counted.params,
        "uncounted": reason,
        "memory": None,
        "predicted_ms": None,
        "top1": 100 * right / len(data.test),
        "top1_fp32": None,
        "val_top1": None,
        "train_seconds": None,
        "size_bytes": size_bytes(external.path),
        "onnx": str(external.path),
        "arch": None,
    }


def size_bytes(path: Path) -> int:
    """Size of a file with the weights that it keeps in files beside it."""
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
    """Each test image, uint8 [S, S, 3], and its label."""
    chunks = torch.arange(len(data.test)).split(_AT_ONCE)
    for chunk, images in zip(chunks, data.test.stream(chunks), strict=True):
        pixels = images.permute(0, 2, 3, 1).contiguous().numpy()
        yield from zip(pixels, data.test.labels[chunk].tolist(), strict=True)
