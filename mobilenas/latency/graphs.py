"""ONNX graphs of units and networks, built node by node, which is much faster than exporting.

They equal what onnxruntime makes of an exported file when loading it (batch norms folded), with
random weights, since latency does not depend on weights. INT8 graphs equal those that
`mobilenas.onnx.int8` makes of an exported file, with arbitrary scales.
"""

from collections.abc import Sequence

import numpy as np
import onnx
from numpy.typing import ArrayLike, DTypeLike, NDArray
from onnx import TensorProto

from mobilenas.core.settings import check_choice
from mobilenas.latency.units import Unit, arch_units
from mobilenas.nn.costs import output_side
from mobilenas.onnx import OPSET
from mobilenas.onnx.settings import PRECISIONS
from mobilenas.onnx.values import Attribute
from mobilenas.spaces.mobile.arch import MobileArch

_IR_VERSION = 10  # the one that the exporter writes for this opset
_STEP = 6 / 255  # scale of all INT8 activations: 0 to 6, or -3 to 3 with zero point 128
_OPERATORS = {"relu": "Relu", "hard_swish": "HardSwish"}
_CHANNELS_FIRST, _CHANNELS_LAST = (0, 3, 1, 2), (0, 2, 3, 1)


def unit_model(unit: Unit, precision: str = "fp32") -> bytes:
    """Return one unit as ONNX: `input` [1, C, S, S] (of linear layers [1, C]) -> `output`.

    INT8 units have uint8 inputs and outputs, so that a chain of them quantizes nothing twice. Their
    feature maps are channels last, as in onnxruntime's INT8 convolutions, so that units have no
    transposes that the network does not have. As in the network, the stem takes the float image and
    the classifier returns float logits.
    """
    graph, before, after = _Graph(precision), _shape(unit), _shape(unit, after=True)
    x = graph.input("input", before, image=unit.kind == "stem")
    y = _emit(graph, unit, x)
    return graph.model("output", y, after, logits=_is_classifier(unit))


def arch_model(arch: MobileArch, precision: str = "fp32") -> bytes:
    """Return a whole network as ONNX: float32 `image` [1, C, S, S] -> `logits` [1, classes]."""
    graph, units = _Graph(precision), arch_units(arch)
    x = graph.input("image", _shape(units[0]), image=True)
    for unit in units:
        x = _emit(graph, unit, x)
    return graph.model("logits", x, _shape(units[-1], after=True), logits=True)


class _Graph:
    """A graph under construction. With int8, tensors between layers are uint8."""

    def __init__(self, precision: str) -> None:
        check_choice("precision", precision, PRECISIONS)
        self._int8 = precision == "int8"
        self._random = np.random.default_rng(0)
        self._nodes: list[onnx.NodeProto] = []
        self._weights: dict[str, onnx.TensorProto] = {}
        self._inputs: list[onnx.ValueInfoProto] = []
        self._floats: dict[str, str] = {}

    def input(self, name: str, shape: tuple[int, ...], *, image: bool) -> str:
        """Declare the graph's input, float if it is the image; return the tensor to read."""
        quantized = self._int8 and not image
        turned = quantized and len(shape) == 4
        kind = TensorProto.UINT8 if quantized else TensorProto.FLOAT
        shape = _channels_last(shape) if turned else shape
        self._inputs = [onnx.helper.make_tensor_value_info(name, kind, shape)]
        if turned:
            return self.node("Transpose", [name], perm=_CHANNELS_FIRST)
        return name if quantized else self.write(name)

    def model(self, name: str, y: str, shape: tuple[int, ...], *, logits: bool) -> bytes:
        """Make `y` the graph's output, float if it is the logits; return the serialized model."""
        kind = TensorProto.UINT8 if self._int8 and not logits else TensorProto.FLOAT
        if logits:
            y = self.read(y)
        elif len(shape) == 4 and self._int8:
            y, shape = self.node("Transpose", [y], perm=_CHANNELS_LAST), _channels_last(shape)
        # nothing else reads the last node's output, so it can be renamed
        self._nodes[-1].output[0] = name
        output = onnx.helper.make_tensor_value_info(name, kind, shape)
        graph = onnx.helper.make_graph(
            self._nodes, "mobilenas", self._inputs, [output], list(self._weights.values())
        )
        model = onnx.helper.make_model(
            graph,
            ir_version=_IR_VERSION,
            opset_imports=[onnx.helper.make_opsetid("", OPSET)],
            producer_name="mobilenas",
        )
        content: bytes = model.SerializeToString(deterministic=True)
        return content

    def node(self, kind: str, inputs: Sequence[str], **attributes: Attribute) -> str:
        """Add a node; return the name of its output."""
        output = f"{kind.lower()}_{len(self._nodes)}"
        self._nodes.append(onnx.helper.make_node(kind, inputs, [output], output, **attributes))
        return output

    def constant(self, name: str, values: ArrayLike, dtype: DTypeLike) -> str:
        """Add a constant, unless there is one of this name."""
        if name not in self._weights:
            array = np.asarray(values, dtype)
            self._weights[name] = onnx.numpy_helper.from_array(array, name)
        return name

    def read(self, x: str) -> str:
        """Return a tensor as float: with int8, dequantized."""
        if not self._int8:
            return x
        if x not in self._floats:
            self._floats[x] = self.node("DequantizeLinear", [x, *self._grid()])
        return self._floats[x]

    def write(self, y: str) -> str:
        """Return a float tensor as layers pass it on: with int8, quantized."""
        return self.node("QuantizeLinear", [y, *self._grid()]) if self._int8 else y

    def weighted(self, kind: str, x: str, shape: tuple[int, ...], **attributes: Attribute) -> str:
        """Add a convolution or linear layer with bias; `shape`: [out, in / groups, ...]."""
        name = f"weight_{len(self._nodes)}"
        deviation = (2 / np.prod(shape[1:])) ** 0.5
        weight = self._random.standard_normal(shape, np.float32) * np.float32(deviation)
        bias = self._random.standard_normal(shape[0], np.float32) * np.float32(0.1)
        step = 3 * deviation / 127
        inputs = [
            self.read(x),
            self._weight(name, weight, np.int8, step),
            self._weight(f"{name}_bias", bias, np.int32, step * _STEP),
        ]
        return self.write(self.node(kind, inputs, **attributes))

    def _weight(self, name: str, values: NDArray[np.float32], dtype: DTypeLike, step: float) -> str:
        if not self._int8:
            return self.constant(name, values, np.float32)
        bound = 127 if dtype is np.int8 else 2**24
        integers = np.clip(np.rint(values / step), -bound, bound)
        channels = len(values)
        parts = [
            self.constant(name, integers, dtype),
            self.constant(f"{name}_step", np.full(channels, step), np.float32),
            self.constant(f"{name}_zero", np.zeros(channels), dtype),
        ]
        return self.node("DequantizeLinear", parts, axis=0)

    def _grid(self) -> tuple[str, str]:
        return self.constant("step", _STEP, np.float32), self.constant("middle", 128, np.uint8)

    def activate(self, x: str, name: str) -> str:
        """Add an activation, as exporter and quantizer write it."""
        if self._int8:
            # the quantized range clips, so the quantizer drops relu and relu6
            return self.multiply(x, self._hard_sigmoid(x)) if name == "hard_swish" else x
        if name == "relu6":
            limits = [self.constant(f"limit {value}", value, np.float32) for value in (0, 6)]
            return self.node("Clip", [x, *limits])
        return self.node(_OPERATORS[name], [x]) if name else x

    def gate(self, x: str) -> str:
        """Apply hard sigmoid after a convolution; with int8, the convolution includes it."""
        return x if self._int8 else self._hard_sigmoid(x)

    def _hard_sigmoid(self, x: str) -> str:
        return self.write(self.node("HardSigmoid", [self.read(x)], alpha=1 / 6, beta=0.5))

    def multiply(self, a: str, b: str) -> str:
        """Add an elementwise product, which broadcasts [C, 1, 1]."""
        return self.write(self.node("Mul", [self.read(a), self.read(b)]))

    def add(self, a: str, b: str) -> str:
        """Add an elementwise sum."""
        return self.write(self.node("Add", [self.read(a), self.read(b)]))

    def mean(self, x: str, *, keepdims: bool) -> str:
        """Add a mean over height and width; with int8 as `plain_operators` writes it."""
        axes = self.constant("axes", [2, 3], np.int64)
        if self._int8:
            pooled = self.write(self.node("GlobalAveragePool", [self.read(x)]))
            return (
                pooled if keepdims else self.write(self.node("Squeeze", [self.read(pooled), axes]))
            )
        return self.write(self.node("ReduceMean", [self.read(x), axes], keepdims=int(keepdims)))

    def conv(
        self,
        x: str,
        before: int,
        after: int,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        activation: str = "",
    ) -> str:
        """Add a convolution with folded norm, and an activation unless it is empty."""
        y = self.weighted(
            "Conv",
            x,
            (after, before // groups, kernel, kernel),
            group=groups,
            kernel_shape=[kernel, kernel],
            pads=[kernel // 2] * 4,
            strides=[stride, stride],
            dilations=[1, 1],
        )
        return self.activate(y, activation)


def _emit(graph: _Graph, unit: Unit, x: str) -> str:
    """Add a unit's nodes after the tensor `x`; return their output."""
    before, after, activation = unit.in_channels, unit.out_channels, unit.activation
    if unit.kind == "stem":
        return graph.conv(x, before, after, unit.kernel, unit.stride, 1, activation)
    if unit.kind == "features":
        return graph.mean(graph.conv(x, before, after, activation=activation), keepdims=False)
    if unit.kind == "linear":
        return graph.activate(graph.weighted("Gemm", x, (after, before), transB=1), activation)
    return _emit_block(graph, unit, x)


def _emit_block(graph: _Graph, unit: Unit, x: str) -> str:
    before, hidden, activation = unit.in_channels, unit.hidden, unit.activation
    y = x
    if unit.start_kernel:
        y = graph.conv(y, before, before, unit.start_kernel, groups=before)
    if hidden != before:
        y = graph.conv(y, before, hidden, activation=activation)
    y = graph.conv(y, hidden, hidden, unit.kernel, unit.stride, hidden, activation)
    if unit.squeeze:
        gate = graph.mean(y, keepdims=True)
        gate = graph.conv(gate, hidden, unit.squeeze, activation="relu")
        gate = graph.conv(gate, unit.squeeze, hidden)
        y = graph.multiply(y, graph.gate(gate))
    y = graph.conv(y, hidden, unit.out_channels)
    shortcut = unit.stride == 1 and before == unit.out_channels
    return graph.add(x, y) if shortcut else y


def _shape(unit: Unit, *, after: bool = False) -> tuple[int, ...]:
    channels = unit.out_channels if after else unit.in_channels
    flat = unit.kind == "linear" or (after and unit.kind == "features")
    side = output_side(unit.side, unit.stride) if after else unit.side
    return (1, channels) if flat else (1, channels, side, side)


def _is_classifier(unit: Unit) -> bool:
    return unit.kind == "linear" and not unit.activation


def _channels_last(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(shape[place] for place in _CHANNELS_LAST)
