"""Files in float16: half the size, computed in float16 where device and value ranges allow it."""

import math
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto
from onnxruntime.quantization.onnx_model import ONNXModel
from onnxruntime.quantization.shape_inference import quant_pre_process
from onnxruntime.transformers.float16 import convert_float_to_float16

from mobilenas.core.errors import FileError
from mobilenas.onnx.checks import read_model, write_model
from mobilenas.onnx.export import read_props
from mobilenas.onnx.ranges import largest_values, samples_for
from mobilenas.onnx.record import Fp16Report
from mobilenas.onnx.targets import plain_operators
from mobilenas.onnx.values import Array

LARGEST, SMALLEST = float(np.finfo(np.float16).max), float(np.finfo(np.float16).tiny)
"""Largest float16, and smallest normal one, below which precision is lost."""
MARGIN = 2.0
"""Safety factor for values on images other than those of calibration."""
CANCELLED = 64.0
"""A sum this many times smaller than its terms has lost 6 of the 11 bits of float16."""

_CONVERTED = ("DequantizeLinear", "QuantizeLinear")
_WEIGHTED = ("Conv", "Gemm")
_LAYERS = (*_WEIGHTED, "ConvTranspose", "MatMul")
# as in torch.autocast: their squares, quotients and exponentials leave float16's range first
_FLOAT32 = frozenset(
    {
        *("Div", "Exp", "Log", "LogSoftmax", "Pow", "Reciprocal", "ReduceL2", "ReduceLogSumExp"),
        *("ReduceSumSquare", "Softmax", "Softplus", "Sqrt"),
    }
)
_SUMS = frozenset({"AveragePool", "GlobalAveragePool", "ReduceMean", "ReduceSum"})


def to_fp16(source: Path, path: Path, images: Iterable[Array]) -> Fp16Report:
    """Write `source` with float16 weights and computation to `path`, with its metadata.

    Input and output stay float32, so that apps use the same buffers for all files; the casts take
    negligible time. First, batch norms are folded in float32, because small variances vanish in
    float16, and operators are replaced (`plain_operators`). `images` are inputs of the model, on
    which the range of every tensor is measured in float32. A node stays in float32 if its weights,
    activations or sums come within `MARGIN` of float16's largest number or are too small for
    float16, if large terms cancel, or if its operator overflows internally. Running the file cannot
    show these problems on processors without float16 kernels, such as x86, which compute in
    float32. FileError names a file that does not load, or one with more than half of its layers in
    float32.
    """
    samples = samples_for(source, images, "measure ranges of")
    model = prepared(source)
    largest = largest_values(model, samples, source)
    kept = _out_of_range(model, largest)
    _refuse_overflow(model, kept, largest, source)
    _separate_weights(model, {node.name for node in kept})
    half = convert_float_to_float16(
        model, keep_io_types=True, node_block_list=[node.name for node in kept]
    )
    _join_casts(half, {node.name for node in model.graph.node})
    # the converter puts the input's cast after the nodes that read it
    ONNXModel(half).topological_sort()
    write_model(half, path)
    return Fp16Report(
        largest_activation=max(largest.values(), default=0.0),
        float32_nodes=tuple(f"{node.op_type} {node.output[0]}" for node in kept),
        nodes=len(model.graph.node),
    )


def _out_of_range(model: ModelProto, activations: Mapping[str, float]) -> list[NodeProto]:
    """Return the nodes that would be inaccurate in float16."""
    stored = {
        tensor.name: onnx.numpy_helper.to_array(tensor)
        for tensor in model.graph.initializer
        if tensor.data_type == TensorProto.FLOAT
    }
    weights = {name: float(np.abs(values).max(initial=0)) for name, values in stored.items()}
    # a weight may vanish when it is added to a larger number, but not an epsilon
    factors = {
        name
        for node in model.graph.node
        for name in node.input[: 2 if node.op_type in (*_LAYERS, "Mul") else 0]
    }
    factors |= {name for name, values in stored.items() if values.size == 1} | activations.keys()
    sizes = _sizes(model)

    def is_out(node: NodeProto) -> bool:
        if node.op_type in _FLOAT32 or node.op_type.endswith("Normalization"):
            return True
        names = (*node.input, *node.output)
        large = [activations.get(name, weights.get(name, 0.0)) for name in names]
        small = [activations.get(name, weights.get(name, 0.0)) for name in names if name in factors]
        if node.op_type in _SUMS:
            # the sum is larger than its mean
            summed = sizes.get(node.input[0], 1) / max(1, sizes.get(node.output[0], 1))
            large.append(activations.get(node.output[0], 0.0) * max(1.0, summed))
        return max(large) > LARGEST / MARGIN or any(0 < value < SMALLEST for value in small)

    lost = _cancelling(model, weights | dict(activations))
    return [node for node in model.graph.node if is_out(node) or node.output[0] in lost]


def _cancelling(model: ModelProto, largest: Mapping[str, float]) -> set[str]:
    """Return outputs of sums far smaller than their terms, and of the nodes that compute the terms.

    Rounding errors of the large terms would dominate the small sum.
    """
    makers = {name: node for node in model.graph.node for name in node.output}
    found: set[str] = set()
    for node in model.graph.node:
        end = CANCELLED * largest.get(node.output[0], 0.0)
        waiting = [node.output[0]] if node.op_type in ("Add", "Sub") and end else []
        if all(largest.get(name, 0.0) <= end for name in node.input):
            continue
        while waiting:
            name = waiting.pop()
            if name in makers and name not in found:
                found.add(name)
                waiting += [item for item in makers[name].input if largest.get(item, 0.0) > end]
    return found


def _sizes(model: ModelProto) -> dict[str, int]:
    inferred = onnx.shape_inference.infer_shapes(model).graph
    return {
        value.name: math.prod(max(1, size.dim_value) for size in value.type.tensor_type.shape.dim)
        for value in (*inferred.input, *inferred.value_info, *inferred.output)
    }


def _refuse_overflow(
    model: ModelProto, kept: list[NodeProto], largest: Mapping[str, float], source: Path
) -> None:
    layers = [node for node in model.graph.node if node.op_type in _LAYERS]
    wide = [node for node in kept if node.op_type in _LAYERS]
    if 2 * len(wide) <= len(layers):
        return
    name = max(largest, key=lambda key: largest[key])
    raise FileError(
        f"{source}: {len(wide)} of {len(layers)} layers have numbers outside of float16, which "
        f"ends at {LARGEST:g} ({name!r} reaches {largest[name]:.3g}); such a file would be float32 "
        "for the most part: use onnx, or int8"
    )


def _separate_weights(model: ModelProto, kept: set[str]) -> None:
    """Give nodes that stay in float32 their own copies of shared constants."""
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    uses = Counter(name for node in model.graph.node for name in node.input)
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            if node.name in kept and name in stored and uses[name] > 1:
                copy = model.graph.initializer.add()
                copy.CopyFrom(stored[name])
                node.input[index] = copy.name = f"{name}_of_{node.name}"
                uses[name] -= 1


def _join_casts(model: ModelProto, own: set[str]) -> None:
    """Remove casts to float16 and back between float32 nodes, which the converter inserts.

    `own`: names of the model's original nodes, whose casts are kept.
    """
    graph = model.graph
    # it also repeats the same cast for each reader
    nodes = list({tuple(node.output): node for node in reversed(graph.node)}.values())[::-1]
    makers = {name: node for node in nodes for name in node.output}
    outputs = {value.name for value in graph.output}
    names: dict[str, str] = {}
    for node in list(nodes):
        before = makers.get(node.input[0]) if _casts_to(node, TensorProto.FLOAT) else None
        if before is None or before.name in own or not _casts_to(before, TensorProto.FLOAT16):
            continue
        origin, given = before.input[0], node.output[0]
        if given in outputs and origin in makers:
            nodes.remove(node)
            maker = makers[origin]  # writes the output directly
            maker.output[:] = [given if name == origin else name for name in maker.output]
            names[origin] = given
        elif given not in outputs:
            nodes.remove(node)
            names[given] = origin
    for node in nodes:
        node.input[:] = [_renamed(name, names) for name in node.input]
    while True:
        used = {name for node in nodes for name in node.input} | outputs
        live = [node for node in nodes if node.op_type != "Cast" or node.output[0] in used]
        if len(live) == len(nodes):
            break
        nodes = live
    del graph.node[:]
    graph.node.extend(nodes)
    del graph.value_info[:]  # types from before the conversion


def _renamed(name: str, names: Mapping[str, str]) -> str:
    while name in names:
        name = names[name]
    return name


def _casts_to(node: NodeProto, kind: int) -> bool:
    return node.op_type == "Cast" and any(a.name == "to" and a.i == kind for a in node.attribute)


def prepared(source: Path) -> ModelProto:
    """Read a float32 model for quantization: `folded`, with plain operators and named nodes."""
    model = folded(source)
    plain_operators(model)
    for place, node in enumerate(model.graph.node):
        node.name = f"{node.op_type}_{place}"
    return model


def folded(source: Path) -> ModelProto:
    """Read a float32 model; fold norms, infer shapes, give each layer its own weights.

    FileError names a file that does not load or is not float32.
    """
    metadata = read_props(source)
    model = read_model(source)
    if any(node.op_type in _CONVERTED for node in model.graph.node) or any(
        tensor.data_type == TensorProto.FLOAT16 for tensor in model.graph.initializer
    ):
        raise FileError(f"{source} is INT8 or float16 already; give the float32 file")
    with tempfile.TemporaryDirectory(prefix="mobilenas-fold-") as folder:
        given, path = Path(folder, "given.onnx"), Path(folder, "folded.onnx")
        # with a name that is not UTF-8, folding would fail, reported only in the log
        shutil.copyfile(source, given)
        # symbolic shape inference is for transformers
        quant_pre_process(str(given), str(path), skip_symbolic_shape=True)
        model = onnx.load(str(path))
    describe(model, metadata)
    _separate(model)
    return model


def _separate(model: ModelProto) -> None:
    """Give each layer its own weights: onnxruntime stores equal tensors, such as zeros, once."""
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    taken: set[str] = set()
    for place, node in enumerate(model.graph.node):
        if node.op_type not in _WEIGHTED:
            continue
        for index, name in enumerate(node.input):
            if name in taken:
                copy = model.graph.initializer.add()
                copy.CopyFrom(stored[name])
                node.input[index] = copy.name = f"{name}_{place}"
            elif name in stored:
                taken.add(name)


def describe(model: ModelProto, metadata: dict[str, str]) -> None:
    """Set the metadata; drop other metadata, and operator sets that no node uses."""
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, metadata)
    used = {node.domain for node in model.graph.node}
    kept = [item for item in model.opset_import if item.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)
