"""From an exported file to one in 8-bit integers, by onnxruntime's static quantization."""

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

from mobilenas.errors import DataError
from mobilenas.files import write_bytes
from mobilenas.profiling.session import session


def quantize(
    path: Path, out: Path, samples: Iterable[NDArray[Any]], *, per_channel: bool = True
) -> None:
    """Write `path` with weights and activations in 8 bits to `out`; its metadata is kept.

    `samples`: float32 inputs [1, C, S, S], from which the range of every activation comes. Weights
    are int8, with a scale for each output channel if `per_channel`; activations are uint8, the pair
    that x86 has instructions for. Batch norms are folded first. FileError names a file that does
    not load, DataError says which sample does not fit or that there is none.
    """
    runner = session(path)
    metadata = dict(runner.get_modelmeta().custom_metadata_map)
    (image,) = runner.get_inputs()
    feeds = _Feeds(image.name, image.shape, samples)
    with tempfile.TemporaryDirectory(prefix="mobilenas-quantize-") as folder:
        folded, quantized = Path(folder, "folded.onnx"), Path(folder, "quantized.onnx")
        # symbolic shape inference is for transformers
        quant_pre_process(str(path), str(folded), skip_symbolic_shape=True)
        quantize_static(
            str(folded),
            str(quantized),
            feeds,
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=per_channel,
        )
        model = onnx.load(str(quantized))
    _drop_notes(model)
    onnx.helper.set_model_props(model, metadata)
    onnx.checker.check_model(model, full_check=True)
    write_bytes(out, model.SerializeToString(deterministic=True))


class _Feeds(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime ships no types
    """One sample after another, checked against the input's shape; texts are free dimensions."""

    def __init__(self, name: str, shape: list[int | str], samples: Iterable[NDArray[Any]]) -> None:
        self._name, self._shape, self._samples = name, shape, iter(samples)
        self._given = 0

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        """Return the next sample by the input's name, None after the last."""
        sample = next(self._samples, None)
        if sample is None:
            if not self._given:
                raise DataError("there are no samples to quantize with; give at least one")
            return None
        if len(sample.shape) != len(self._shape) or any(
            isinstance(legal, int) and found != legal
            for found, legal in zip(sample.shape, self._shape, strict=True)
        ):
            raise DataError(
                f"sample {self._given} has the shape {list(sample.shape)}; "
                f"the model's input {self._name!r} has {self._shape}"
            )
        self._given += 1
        return {self._name: np.ascontiguousarray(sample, np.float32)}


def _drop_notes(model: onnx.ModelProto) -> None:
    """Remove what the passes noted for each other, and operator sets that no node uses."""
    del model.metadata_props[:]
    used = {node.domain for node in model.graph.node}
    kept = [item for item in model.opset_import if item.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)
