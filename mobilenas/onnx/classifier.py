"""An ONNX file as an image classifier in onnxruntime; returns finite logits or raises.

Needs no torch, like prediction. Problems of files from outside become FileErrors here.
"""

import math
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from mobilenas.core.errors import DataError, FileError, first_line
from mobilenas.onnx.session import LOAD_ERRORS, session, time_limit
from mobilenas.onnx.values import Array

FLOAT, PIXELS = "tensor(float)", "tensor(uint8)"
"""Legal inputs: float32 [1, C, H, W] or uint8 [1, H, W, C]."""
LIMIT_S = 60.0
"""Time limit for one image with a file from outside, which may loop for ever."""

_DTYPES = {FLOAT: np.float32, PIXELS: np.uint8}
_LOGITS = ("tensor(float)", "tensor(float16)", "tensor(double)")
_FATAL = 4  # onnxruntime's log level; errors are raised anyway


class Classifier:
    """An open file. FileError names a file that is not a classifier, when opened or run."""

    def __init__(self, path: Path, threads: int = 1, *, limit_s: float | None = None) -> None:
        """Open `path`; `limit_s`: time limit in seconds per image, for a file from outside."""
        self.path = path
        self._limit_s = limit_s
        self._runner = session(path, threads, limit_s=limit_s)
        try:
            inputs, outputs = self._runner.get_inputs(), self._runner.get_outputs()
            self.metadata: dict[str, str] = dict(self._runner.get_modelmeta().custom_metadata_map)
            for entry in (*inputs, *outputs):
                _ = entry.name
        except LOAD_ERRORS as error:  # names are decoded on access
            raise FileError(f"{path} has names that cannot be read: {first_line(error)}") from error
        for kind, entries in (("input", inputs), ("output", outputs)):
            if len(entries) != 1:
                raise FileError(f"{path} has {len(entries)} {kind}s; it must have one")
        (self._entry,) = inputs
        self.type: str = self._entry.type
        self.shape: list[int | str] = list(self._entry.shape)
        if outputs[0].type not in _LOGITS:
            raise FileError(
                f"{path}: its output is {outputs[0].type}; it must be float numbers, the logits"
            )

    def takes(self, *shapes: tuple[str, list[int]]) -> bool:
        """Whether the input is one image of one of these (type, shape without batch)."""
        batch, *rest = self.shape or [0]
        return (self.type, rest) in shapes and (not isinstance(batch, int) or batch == 1)

    def logits(self, image: Array) -> NDArray[np.float32]:
        """Return logits [classes] of one image, which has the input's type and shape, batch 1.

        DataError for an image that does not fit; FileError for a file that fails, takes too long,
        or returns values that are not finite.
        """
        check_image(image, self._entry, self.path)
        options = onnxruntime.RunOptions()
        options.log_severity_level = _FATAL
        try:
            with time_limit(self._limit_s, lambda: _stop(options)) as expired:
                (found,) = self._runner.run(None, {self._entry.name: image}, options)
        except LOAD_ERRORS as error:
            if expired.is_set():
                raise FileError(
                    f"{self.path} gave no answer for one image in {self._limit_s:g} s"
                ) from error
            raise FileError(
                f"{self.path} does not run in onnxruntime: {first_line(error)}"
            ) from error
        if found.ndim != 2 or len(found) != 1 or not found.size:
            raise FileError(
                f"{self.path}: its output is {list(found.shape)}; for one image it must be "
                "[1, classes]"
            )
        if not np.isfinite(found).all():
            bad = next(str(value) for value in found[0] if not math.isfinite(value))
            raise FileError(
                f"{self.path} gives {bad} as a logit; its computation overflows or is undefined"
            )
        return np.asarray(found[0], np.float32)


def check_image(
    image: Array, entry: onnxruntime.NodeArg, path: Path, name: str = "an image"
) -> None:
    """Raise DataError unless an array fits `entry`, the input of the model at `path`."""
    fits = len(entry.shape) == image.ndim and all(
        not isinstance(legal, int) or legal == size
        for legal, size in zip(entry.shape, image.shape, strict=True)
    )
    if not fits or image.dtype != _DTYPES.get(entry.type):
        raise DataError(
            f"{name} is {image.dtype} {list(image.shape)}; the input {entry.name!r} of {path} is "
            f"{entry.type} {entry.shape}"
        )


def _stop(options: onnxruntime.RunOptions) -> None:
    options.terminate = True
