"""Independent counts of costs, from ONNX files or by fvcore, without reading archs."""

import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch
from google.protobuf.message import DecodeError
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto
from onnx.inliner import inline_local_functions
from torch import nn

from mobilenas.core.errors import FileError, first_line

_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16)
_PLAIN_DOMAINS = ("", "ai.onnx")
# Operators with multiply-adds but without a counting rule; ignoring them would be too low.
_UNCOUNTED = (
    *("Attention", "ConvInteger", "ConvTranspose", "DeformConv", "Einsum", "GRU", "LSTM"),
    *("MatMulInteger", "QLinearConv", "QLinearMatMul", "RNN"),
)
CONSTANT, PARAMETER = "constant", "parameter"
"""Doc strings by which `export_onnx` marks tensors that are not, or are, trained."""

_NORM_STATISTICS = (3, 4)  # input indices of a batch norm's running mean and variance


@dataclass(frozen=True, kw_only=True)
class OnnxLayer:
    """A node with multiply-adds or weights."""

    name: str
    """The node's name, or that of its output if it has none."""
    op: str
    """Operator, such as Conv."""
    flops: int
    """Multiply-adds for one image."""
    params: int
    """Parameters, without those of earlier nodes."""
    out_shape: tuple[int, ...]
    """Shape of the output without the batch."""


@dataclass(frozen=True, kw_only=True)
class OnnxCount:
    """Costs of an ONNX file for one image."""

    flops: int
    """Multiply-adds of Conv, Gemm and MatMul."""
    params: int
    """Trained parameters, by the rule of `count_onnx`."""
    layers: tuple[OnnxLayer, ...]
    """Nodes in the file's order; they add up to the totals."""


def count_onnx(path: Path) -> OnnxCount:
    """Count a float ONNX file from its nodes and inferred shapes; FileError if that is impossible.

    FLOPs: multiply-adds of Conv, Gemm and MatMul for one image (a symbolic batch is 1), except
    nodes that depend on stored tensors alone, which a runtime computes once, at loading. Params:
    the elements of all stored float tensors that a node uses, each tensor once, without scalars
    (rank 0, such as a clip's limits), integers (axes, shapes), and the running mean and variance of
    a BatchNormalization; the doc strings `CONSTANT` and `PARAMETER` take precedence. For a file of
    `export_onnx`, which writes them and folds no parameters, this equals the number of parameters
    that the module uses. With folded batch norms it is smaller (C instead of 2C for each).
    """
    model = _infer_shapes(_read(path), path)
    shapes = {value.name: _shape(value) for value in _values(model)}
    stored = {tensor.name: tensor for tensor in _stored_tensors(model)}
    shapes |= {name: tuple(tensor.dims) for name, tensor in stored.items()}
    counted: set[str] = set()
    given = {value.name for value in model.graph.input} - stored.keys()
    layers = []
    for node in model.graph.node:
        _check_countable(node, path)
        params = 0
        for name in _weight_names(node):
            if name in stored and name not in counted:
                counted.add(name)
                params += _trained_numbers(stored[name])
        flops = 0
        if not given.isdisjoint(node.input):
            given.update(filter(None, node.output))
            flops = _node_flops(node, shapes, path)
        if flops or params:
            shape = _known(shapes, node.output[0], node, path)
            layers.append(
                OnnxLayer(
                    name=node.name or node.output[0],
                    op=node.op_type,
                    flops=flops,
                    params=params,
                    out_shape=shape[1:],
                )
            )
    return OnnxCount(
        flops=sum(layer.flops for layer in layers),
        params=sum(layer.params for layer in layers),
        layers=tuple(layers),
    )


def count_fvcore(module: nn.Module, image_size: int, channels: int) -> dict[str, int]:
    """Return fvcore's multiply-adds for one image, by name of convolution or linear module."""
    with warnings.catch_warnings():
        # on import, fvcore compiles a loss with torch.jit.script
        warnings.filterwarnings("ignore", r"`torch\.jit\.\w+` is deprecated", DeprecationWarning)
        from fvcore.nn import FlopCountAnalysis, jit_handles

        parameter = next(module.parameters())
        image = torch.zeros(1, channels, image_size, image_size, device=parameter.device)
        analysis = FlopCountAnalysis(module, image.to(parameter.dtype))
        # fvcore still counts operators whose handle is None, so name those that count
        analysis.clear_op_handles().set_op_handle(
            **{
                "aten::_convolution": jit_handles.conv_flop_jit,
                "aten::_convolution_mode": _named_padding_flops,
                "aten::linear": jit_handles.linear_flop_jit,
                "aten::addmm": jit_handles.addmm_flop_jit,
                "aten::mm": jit_handles.matmul_flop_jit,
                "aten::matmul": jit_handles.matmul_flop_jit,
            }
        )
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        training = module.training
        module.eval()
        try:
            by_module = dict(analysis.by_module())
        finally:
            module.train(training)
    own = dict(by_module)
    for name, flops in by_module.items():
        if name:
            # a module's count includes its children's; keep only its own
            own[name.rpartition(".")[0]] -= flops
    return {name: int(flops) for name, flops in own.items() if flops}


def _named_padding_flops(inputs: list[Any], outputs: list[Any]) -> int:
    """Count a convolution with padding="same" or "valid", for which fvcore has no handle."""
    kernel: list[int] = inputs[1].type().sizes()
    result: list[int] = outputs[0].type().sizes()
    return math.prod(result) * math.prod(kernel[1:])


def _read(path: Path) -> ModelProto:
    try:
        model = onnx.load(str(path))
        onnx.checker.check_model(model)
        return inline_local_functions(model)
    except FileNotFoundError as error:
        raise FileError(f"{path} does not exist") from error
    except OSError as error:
        raise FileError(f"cannot read {path}: {error.strerror or error}") from error
    except (DecodeError, onnx.checker.ValidationError, UnicodeDecodeError) as error:
        raise FileError(f"{path} is not an ONNX file: {first_line(error)}") from error


def _infer_shapes(model: ModelProto, path: Path) -> ModelProto:
    """Infer shapes of all values for a batch of 1, from the operators alone."""
    weights = {tensor.name for tensor in model.graph.initializer}
    for value in model.graph.input:
        if value.name in weights or not value.type.tensor_type.shape.dim:
            continue
        batch, *rest = value.type.tensor_type.shape.dim
        if not batch.HasField("dim_value"):
            batch.dim_value = 1
        sizes = [dim.dim_value for dim in rest]
        if batch.dim_value != 1 or not all(size > 0 for size in sizes):
            raise FileError(
                f"{path}: input {value.name!r} has a shape that cannot be counted; "
                "the batch must be 1 or symbolic and all other sizes fixed"
            )
    # do not trust the exporter's shapes
    del model.graph.value_info[:]
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    try:
        return onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    except (onnx.shape_inference.InferenceError, UnicodeDecodeError) as error:
        raise FileError(f"{path}: shapes cannot be inferred: {first_line(error)}") from error


def _values(model: ModelProto) -> Iterator[ValueInfoProto]:
    yield from model.graph.input
    yield from model.graph.value_info
    yield from model.graph.output


def _shape(value: ValueInfoProto) -> tuple[int | None, ...] | None:
    """Return the sizes of a value, None for unknown ones."""
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return None
    return tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim)


def _stored_tensors(model: ModelProto) -> Iterator[TensorProto]:
    """Yield initializers, and Constant nodes' tensors under the name of their output."""
    yield from model.graph.initializer
    for node in model.graph.node:
        for attribute in node.attribute if node.op_type == "Constant" else ():
            if attribute.name == "value":
                named = TensorProto()
                named.CopyFrom(attribute.t)
                named.name = node.output[0]
                yield named


def _check_countable(node: NodeProto, path: Path) -> None:
    inner = any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute)
    quantized = "QuantizeLinear" in node.op_type or node.op_type == "DequantizeLinear"
    if quantized or inner or node.op_type in _UNCOUNTED or node.domain not in _PLAIN_DOMAINS:
        domain = f"{node.domain}." if node.domain not in _PLAIN_DOMAINS else ""
        raise FileError(
            f"{path}: the operator {domain}{node.op_type} of node {node.name!r} cannot be counted; "
            "count the float model before quantization or runtime optimization"
        )


def _weight_names(node: NodeProto) -> list[str]:
    skipped = _NORM_STATISTICS if node.op_type == "BatchNormalization" else ()
    return [name for place, name in enumerate(node.input) if place not in skipped]


def _trained_numbers(tensor: TensorProto) -> int:
    trained = tensor.data_type in _FLOATS and tensor.doc_string != CONSTANT
    looks = bool(tensor.dims) or tensor.doc_string == PARAMETER
    return math.prod(tensor.dims) if trained and looks else 0


def _node_flops(
    node: NodeProto, shapes: dict[str, tuple[int | None, ...] | None], path: Path
) -> int:
    if node.op_type == "Conv":
        weight = _known(shapes, node.input[1], node, path)  # [Cout, Cin/groups, k, k]
        out = _known(shapes, node.output[0], node, path)  # [1, Cout, H, W]
        return math.prod(out) * math.prod(weight[1:])
    if node.op_type in ("Gemm", "MatMul"):
        left = _known(shapes, node.input[0], node, path)
        out = _known(shapes, node.output[0], node, path)
        transposed = any(item.name == "transA" and item.i for item in node.attribute)
        return math.prod(out) * left[-2 if transposed else -1]
    return 0


def _known(
    shapes: dict[str, tuple[int | None, ...] | None], name: str, node: NodeProto, path: Path
) -> tuple[int, ...]:
    shape = shapes.get(name)
    sizes = tuple(size for size in shape or () if size is not None)
    if shape is None or len(sizes) != len(shape):
        raise FileError(
            f"{path}: the shape of {name!r} at node {node.name!r} is dynamic; "
            "only fixed shapes can be counted"
        )
    return sizes
