"""INT8 files: static QDQ quantization, range equalization, bias correction.

Weights are int8 and activations uint8, for which x86 has instructions. Norms that cannot be folded
stay float.
"""

import contextlib
import io
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.quant_utils import add_pre_process_metadata

from mobilenas.core.settings import check_choice
from mobilenas.onnx.checks import write_model
from mobilenas.onnx.fp16 import describe, prepared
from mobilenas.onnx.ranges import Probe, Samples, samples_for
from mobilenas.onnx.settings import CALIBRATIONS
from mobilenas.onnx.targets import constants
from mobilenas.onnx.values import Array

_CALIBRATION = {
    "minmax": CalibrationMethod.MinMax,
    "entropy": CalibrationMethod.Entropy,
    "percentile": CalibrationMethod.Percentile,
}
_PERCENTILE = 99.99  # of the values; half of the others is cut off on each side
_AT_ONCE = 8  # images whose activations are in memory at a time
_ROUNDS = 20  # of equalization; even long chains converge within ten
_CONVERGED = 1e-3
_TINY = 1e-30
_WEIGHTED = ("Conv", "Gemm")
_INPUTS = ("x", "weight", "bias")  # of a weighted layer
_HOMOGENEOUS = ("AveragePool", "GlobalAveragePool", "MaxPool", "Relu", "Squeeze")
Reader = tuple[NodeProto, int]
"""A layer, and the axis of its weight for input channels."""


def quantize_static_qdq(
    source: Path,
    path: Path,
    images: Iterable[Array],
    *,
    per_channel: bool,
    method: str = "minmax",
    equalize: bool = False,
    correct_bias: bool = False,
) -> None:
    """Write `source` with INT8 weights and activations to `path`, with its metadata.

    `images`: inputs of the model, one image each, that determine ranges and bias corrections.
    First, batch norms are folded and operators replaced (`plain_operators`). `equalize`: see
    `equalize_ranges`; `correct_bias`: see `correct_biases`. FileError names a file that does not
    load; DataError an image that does not fit, or says that there is none.
    """
    check_choice("method", method, CALIBRATIONS)
    samples = samples_for(source, images, "quantize")
    model = prepared(source)  # nodes have names, by which they are found again after quantization
    if equalize:
        equalize_ranges(model, samples)
    quantized = _quantize(model, samples, per_channel=per_channel, method=method)
    if correct_bias:
        correct_biases(model, quantized, samples)
    write_model(quantized, path)


def equalize_ranges(model: ModelProto, samples: Samples = ()) -> int:
    """Equalize the ranges of weights across layers, in place; return the number of scaled layers.

    Output channel i of a layer is divided by s_i = sqrt(r1_i / r2_i), and the input weights of its
    readers multiplied. r1 and r2 are the largest absolute weights of the channel on both sides
    (Nagel et al. 2019, arXiv 1906.04721, eq. 11). Repeats until convergence. The function must not
    change, so between the layers there may be only ReLU, pools and squeeze-excite's product, not
    ReLU6, hard-swish or a shortcut. With `samples`, no channel's activations may exceed the largest
    of their tensor. Else a channel with tiny weights and a large bias could take the whole range.
    """
    graph = _Weights(model)
    pairs = [
        (node, readers)
        for node in model.graph.node
        if node.op_type == "Conv" and graph.scalable(node) and (readers := graph.readers(node))
    ]
    limits = _largest_activations(model, [node for node, _ in pairs], samples)
    totals = {node.output[0]: np.ones(len(graph.values[node.input[1]])) for node, _ in pairs}
    for _ in range(_ROUNDS):
        moved = 0.0
        for node, readers in pairs:
            scale = graph.balance(node, readers)
            total = totals[node.output[0]]
            if limits:
                scale = np.maximum(scale, limits[node.output[0]] / total)
            total *= scale
            graph.scale(node, readers, scale)
            moved = max(moved, float(np.abs(np.log(scale)).max()))
        if moved < _CONVERGED:
            break
    graph.store()
    return len(pairs)


class _Weights:
    """Weights of a graph as float64, and the readers of each tensor."""

    def __init__(self, model: ModelProto) -> None:
        self._graph = model.graph
        self.values = {name: v.astype(np.float64) for name, v in constants(model).items()}
        self._uses: dict[str, list[NodeProto]] = {}
        for node in model.graph.node:
            for name in node.input:
                self._uses.setdefault(name, []).append(node)
        self._outputs = {value.name for value in model.graph.output}
        self._changed: set[str] = set()

    def scalable(self, node: NodeProto) -> bool:
        """Whether all weights of a layer are stored and used by it alone."""
        return all(name in self.values and len(self._uses[name]) == 1 for name in node.input[1:])

    def readers(self, node: NodeProto) -> list[Reader]:
        """Return the layers that can absorb a scale of this one's output; empty if one cannot."""
        channels = len(self.values[node.input[1]])
        found = self._takers(node.output[0], set()) or []
        fit = all(self.values[r.input[1]].shape[axis] == channels for r, axis in found)
        return found if fit else []

    def _takers(self, name: str, scaled: set[str]) -> list[Reader] | None:
        if name in self._outputs:
            return None
        scaled.add(name)
        found: list[Reader] = []
        for node in self._uses.get(name, []):
            if node.op_type in _WEIGHTED:
                axis = self._input_axis(node)
                if axis is None or node.input[0] != name or not self.scalable(node):
                    return None
                found.append((node, axis))
                continue
            # only one factor of a product may be scaled
            sides = sum(given in scaled for given in node.input)
            passes = node.op_type in _HOMOGENEOUS or (node.op_type == "Mul" and sides == 1)
            more = self._takers(node.output[0], scaled) if passes else None
            if more is None:
                return None
            found.extend(more)
        return found

    def _input_axis(self, node: NodeProto) -> int | None:
        shape = self.values[node.input[1]].shape if node.input[1] in self.values else ()
        if node.op_type == "Gemm":
            plain = not _attribute(node, "transA", 0)
            return (1 if _attribute(node, "transB", 0) else 0) if plain else None
        groups = _attribute(node, "group", 1)
        if groups == 1:
            return 1
        return 0 if shape and shape[0] == groups and shape[1] == 1 else None

    def balance(self, node: NodeProto, readers: list[Reader]) -> Array:
        """Return s of `equalize_ranges`; 1 for channels with zero weights."""
        first = _largest(self.values[node.input[1]], 0)
        second = np.max([_largest(self.values[r.input[1]], axis) for r, axis in readers], axis=0)
        live = (first > 0) & (second > 0)
        scale = np.ones(len(first))
        scale[live] = np.sqrt(first[live] / second[live])
        return scale

    def scale(self, node: NodeProto, readers: list[Reader], scale: Array) -> None:
        """Divide a layer's output by `scale`, and multiply its readers' input weights by it."""
        for name in node.input[1:]:
            self._multiply(name, 1 / scale, 0)
        for reader, axis in readers:
            self._multiply(reader.input[1], scale, axis)

    def _multiply(self, name: str, factors: Array, axis: int) -> None:
        values = self.values[name]
        shape = [1] * values.ndim
        shape[axis] = -1
        self.values[name] = values * factors.reshape(shape)
        self._changed.add(name)

    def store(self) -> None:
        """Write changed weights to the graph."""
        for tensor in self._graph.initializer:
            if tensor.name in self._changed:
                values = self.values[tensor.name].astype(np.float32)
                tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))


def _largest(values: Array, axis: int) -> Array:
    """Return the largest absolute value at each index of an axis."""
    others = tuple(place for place in range(values.ndim) if place != axis)
    return np.asarray(np.abs(values).max(axis=others))


def _largest_activations(
    model: ModelProto, nodes: Sequence[NodeProto], samples: Samples
) -> dict[str, Array]:
    """Return each output channel's largest activation, relative to that of the tensor, by layer."""
    if not samples or not nodes:
        return {}
    rectified = {
        node.input[0]: node.output[0] for node in model.graph.node if node.op_type == "Relu"
    }
    probe = Probe(model)
    for node in nodes:
        absolute = probe.node("Abs", [rectified.get(node.output[0], node.output[0])])
        probe.watch("ReduceMax", absolute)
    shares = {}
    for node, values in zip(nodes, zip(*probe.run(samples), strict=True), strict=True):
        largest = np.max(values, axis=0).astype(np.float64)
        shares[node.output[0]] = largest / max(float(largest.max()), _TINY)
    return shares


def correct_biases(model: ModelProto, quantized: ModelProto, samples: Samples) -> int:
    """Correct biases by each layer's mean error, in place; return the number of layers.

    The error of an output channel is the mean over images and positions of W x - Wq q(x), where x
    is the float model's activation (Nagel et al. 2019, arXiv 1906.04721, section 4.2, with the
    measured mean). As each layer is corrected independently, one pass over `samples` is enough.
    """
    floats = {node.name: node for node in model.graph.node}
    makers = {node.output[0]: node for node in quantized.graph.node}
    stored = {tensor.name: tensor for tensor in quantized.graph.initializer}
    probe, biases = Probe(model), []
    for node in quantized.graph.node:
        read = [makers[name] for name in node.input if name in makers]
        integers = all(maker.op_type == "DequantizeLinear" for maker in read)
        if node.op_type in _WEIGHTED and len(read) == len(_INPUTS) and integers:
            x, weight, bias = read
            biases.append(bias)
            _compare(probe, floats[node.name], x, weight, stored)
    if not biases:
        return 0
    errors = [np.mean(values, axis=0) for values in zip(*probe.run(samples), strict=True)]
    for bias, error in zip(biases, errors, strict=True):
        tensor = stored[bias.input[0]]
        scale = onnx.numpy_helper.to_array(stored[bias.input[1]])
        steps = onnx.numpy_helper.to_array(tensor) + np.rint(error / scale)
        limits = np.iinfo(np.int32)
        kept = np.clip(steps, limits.min, limits.max).astype(np.int32)
        tensor.CopyFrom(onnx.numpy_helper.from_array(kept, tensor.name))
    return len(biases)


def _compare(
    probe: Probe,
    layer: NodeProto,
    x: NodeProto,
    weight: NodeProto,
    stored: dict[str, TensorProto],
) -> None:
    """Watch the mean difference between a layer and its INT8 twin on the same float input."""
    probe.store([stored[name] for name in (*x.input[1:], *weight.input)])
    grid = list(x.input[1:])
    rounded = probe.node("QuantizeLinear", [layer.input[0], *grid])
    rounded = probe.node("DequantizeLinear", [rounded, *grid])
    twin = NodeProto()
    twin.CopyFrom(layer)
    twin.input[0], twin.input[1] = rounded, probe.copy(weight)
    probe.watch("ReduceMean", probe.node("Sub", [layer.output[0], probe.copy(twin)]))


def _quantize(model: ModelProto, samples: Samples, *, per_channel: bool, method: str) -> ModelProto:
    metadata = {item.key: item.value for item in model.metadata_props}
    with tempfile.TemporaryDirectory(prefix="mobilenas-quantize-") as folder:
        plain, path = Path(folder, "float.onnx"), Path(folder, "quantized.onnx")
        add_pre_process_metadata(model)  # else the quantizer warns
        onnx.save(model, str(plain))
        # the histograms' collector prints
        with contextlib.redirect_stdout(io.StringIO()):
            quantize_static(
                str(plain),
                str(path),
                _Feeds(model.graph.input[0].name, samples),
                quant_format=QuantFormat.QDQ,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                per_channel=per_channel,
                calibrate_method=_CALIBRATION[method],
                nodes_to_exclude=[node.name for node in model.graph.node if _is_norm(node)],
                extra_options={"CalibStridedMinMax": _AT_ONCE, "CalibPercentile": _PERCENTILE},
            )
        quantized = onnx.load(str(path))
    for item in (model, quantized):
        describe(item, metadata)
    return quantized


def _is_norm(node: NodeProto) -> bool:
    return node.op_type.endswith("Normalization")


class _Feeds(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime ships no types
    """Feeds samples in strides: the quantizer holds all activations of a stride in memory."""

    def __init__(self, name: str, samples: Samples) -> None:
        self._name, self._samples = name, samples
        self.set_range(0, len(samples))

    def __len__(self) -> int:
        """Return the number of samples, rounded up to whole strides, as the quantizer requires."""
        return -(-len(self._samples) // _AT_ONCE) * _AT_ONCE

    def set_range(self, start_index: int, end_index: int) -> None:
        """Select the samples to feed next."""
        self._next = iter(self._samples[start_index:end_index])

    def get_next(self) -> dict[str, Array] | None:
        """Return the next sample, keyed by the input's name; None after the last."""
        sample = next(self._next, None)
        return None if sample is None else {self._name: sample}


def _attribute(node: NodeProto, name: str, default: int) -> int:
    return next((item.i for item in node.attribute if item.name == name), default)
