"""How far the numbers inside a network reach, measured on images in float32."""

import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto

from mobilenas.core.errors import DataError, FileError, first_line
from mobilenas.onnx.classifier import check_image
from mobilenas.onnx.session import LOAD_ERRORS, session

Samples = Sequence[NDArray[Any]]
"""Inputs of a model, one image each."""


def samples_for(source: Path, images: Iterable[NDArray[Any]], what: str) -> Samples:
    """Inputs that fit the model at `source`; DataError where one does not or there is none."""
    (entry,) = session(source).get_inputs()
    samples = []
    for number, image in enumerate(images):
        check_image(image, entry, source, f"image {number}")
        samples.append(np.ascontiguousarray(image))
    if not samples:
        raise DataError(f"there are no images to {what} {source} with; give at least one")
    return samples


def largest_values(model: ModelProto, samples: Samples, source: Path) -> dict[str, float]:
    """Largest absolute value of every float tensor that a node gives, over all samples.

    FileError where one is not finite in float32 already.
    """
    probe = ModelProto()
    probe.CopyFrom(model)
    inferred = onnx.shape_inference.infer_shapes(probe).graph
    made = {name for node in probe.graph.node for name in node.output}
    names = [
        value.name
        for value in (*inferred.value_info, *inferred.output)
        if value.type.tensor_type.elem_type == TensorProto.FLOAT and value.name in made
    ]
    del probe.graph.output[:]
    for place, name in enumerate(names):
        absolute, most = f"probe_absolute_{place}", f"probe_most_{place}"
        probe.graph.node.append(onnx.helper.make_node("Abs", [name], [absolute]))
        probe.graph.node.append(onnx.helper.make_node("ReduceMax", [absolute], [most], keepdims=0))
        probe.graph.output.append(onnx.helper.make_tensor_value_info(most, TensorProto.FLOAT, []))
    with tempfile.TemporaryDirectory(prefix="mobilenas-ranges-") as folder:
        path = Path(folder, "probe.onnx")
        onnx.save(probe, str(path))
        runner = session(path)
        (image,) = runner.get_inputs()
        try:
            found = [runner.run(None, {image.name: sample}) for sample in samples]
        except LOAD_ERRORS as error:
            raise FileError(f"{source} does not run in onnxruntime: {first_line(error)}") from error
    largest = np.array(found, np.float64).max(axis=0)
    for name, value in zip(names, largest, strict=True):
        if not np.isfinite(value):
            raise FileError(f"{source}: {name!r} is not finite in float32 already")
    return dict(zip(names, largest.tolist(), strict=True))
