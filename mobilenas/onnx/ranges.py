"""Measures statistics of values inside a network on images, in float32."""

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto

from mobilenas.core.errors import DataError, FileError, first_line
from mobilenas.onnx.classifier import check_image
from mobilenas.onnx.session import LOAD_ERRORS, session
from mobilenas.onnx.values import Array

Samples = Sequence[Array]
"""Inputs of a model, one image each."""


def samples_for(source: Path, images: Iterable[Array], what: str) -> Samples:
    """Return inputs for the model at `source`; DataError if one does not fit or there are none."""
    (entry,) = session(source).get_inputs()
    samples = []
    for number, image in enumerate(images):
        check_image(image, entry, source, f"image {number}")
        samples.append(np.ascontiguousarray(image))
    if not samples:
        raise DataError(f"there are no images to {what} {source} with; give at least one")
    return samples


class Probe:
    """A model that outputs statistics of watched tensors."""

    def __init__(self, model: ModelProto) -> None:
        self._model = ModelProto()
        self._model.CopyFrom(model)
        del self._model.graph.output[:]
        self._stored = {tensor.name for tensor in self._model.graph.initializer}
        self._added = 0
        self.store(
            onnx.numpy_helper.from_array(np.array(axes, np.int64), name)
            for name, axes in (("probe_image", (0, 2, 3)), ("probe_row", (0,)))
        )
        inferred = onnx.shape_inference.infer_shapes(self._model).graph
        self.types = {
            value.name: value.type.tensor_type
            for value in (*inferred.value_info, *model.graph.output)
        }
        self._flat = {name for name, kind in self.types.items() if len(kind.shape.dim) == 2}

    def store(self, tensors: Iterable[TensorProto]) -> None:
        """Add weights, unless they are stored already."""
        for tensor in tensors:
            if tensor.name not in self._stored:
                self._stored.add(tensor.name)
                self._model.graph.initializer.append(tensor)

    def node(self, kind: str, inputs: Sequence[str]) -> str:
        """Add a node; return its output."""
        return self.copy(onnx.helper.make_node(kind, inputs, [""]))

    def copy(self, node: NodeProto) -> str:
        """Add a copy of a node under a new name; return its output."""
        self._added += 1
        added = self._model.graph.node.add()
        added.CopyFrom(node)
        added.name = added.output[0] = f"probe_{self._added}"
        if not self._flat.isdisjoint(added.input):
            self._flat.add(added.output[0])
        return str(added.output[0])

    def watch(self, reduction: str, name: str) -> None:
        """Output a reduction for each channel of a tensor [1, C, H, W] or [1, C]."""
        axes = "probe_row" if name in self._flat else "probe_image"
        self._give(reduction, [name, axes], ["channels"])

    def watch_whole(self, reduction: str, name: str) -> None:
        """Output a reduction of a whole tensor."""
        self._give(reduction, [name], [])

    def _give(self, reduction: str, inputs: list[str], shape: list[str]) -> None:
        name = self.copy(onnx.helper.make_node(reduction, inputs, [""], keepdims=0))
        value = onnx.helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        self._model.graph.output.append(value)

    def run(self, samples: Samples) -> Iterator[list[Array]]:
        """Yield the statistics for each sample, in the order of the `watch` calls."""
        with tempfile.TemporaryDirectory(prefix="mobilenas-probe-") as folder:
            path = Path(folder, "probe.onnx")
            onnx.save(self._model, str(path))
            runner = session(path)
            (image,) = runner.get_inputs()
            for sample in samples:
                yield runner.run(None, {image.name: sample})


def largest_values(model: ModelProto, samples: Samples, source: Path) -> dict[str, float]:
    """Return the largest absolute value over samples of every float output of a node, by name.

    FileError if a value is not finite even in float32.
    """
    probe = Probe(model)
    made = {name for node in model.graph.node for name in node.output}
    names = [
        name
        for name, kind in probe.types.items()
        if kind.elem_type == TensorProto.FLOAT and name in made
    ]
    for name in names:
        probe.watch_whole("ReduceMax", probe.node("Abs", [name]))
    try:
        found = list(probe.run(samples))
    except LOAD_ERRORS as error:
        raise FileError(f"{source} does not run in onnxruntime: {first_line(error)}") from error
    largest = np.array(found, np.float64).max(axis=0)
    for name, value in zip(names, largest, strict=True):
        if not np.isfinite(value):
            raise FileError(f"{source}: {name!r} is not finite in float32 already")
    return dict(zip(names, largest.tolist(), strict=True))
