"""How much of a graph a target's accelerator can run, and exact rewrites that increase it."""

import logging
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnxruntime
from onnx import ModelProto, NodeProto, TensorProto

from mobilenas.core.settings import check_choice
from mobilenas.onnx import qnn
from mobilenas.onnx.checks import read_model
from mobilenas.onnx.record import TargetReport
from mobilenas.onnx.session import XNNPACK, session
from mobilenas.onnx.settings import TARGETS
from mobilenas.onnx.values import Array

if TYPE_CHECKING:
    from onnxruntime.tools.mobile_helpers.usability_checker import PartitioningInfo

CAVEAT = (
    "onnxruntime's mobile usability checker compares operator types with the provider's list and "
    "shapes with fixed ones; it sees no device, and a driver may still refuse a node"
)
"""Shown with every verdict of the checker."""
DEPRECATED = {
    "nnapi": "Android has deprecated NNAPI since version 15: use qnn on Qualcomm's chips, "
    "xnnpack or cpu on others"
}
"""Deprecated targets, and what to use instead."""
GATE = "HardSigmoid"
"""The operator of the gates in hard-swish and squeeze-excite."""
FORM_OPERATORS = frozenset({"Cast", "DequantizeLinear", "QuantizeLinear"})
"""Operators that come from the file's format, not from the network; another format avoids them."""

_PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "xnnpack": XNNPACK,
    "qnn": "QNNExecutionProvider",
    "nnapi": "NnapiExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
}
# MLProgram (iOS 15 and newer; the provider's option ModelFormat) supports more operators than
# NeuralNetwork, such as hard-sigmoid
_LISTS = {"nnapi": "nnapi_supported_ops.md", "coreml": "coreml_supported_mlprogram_ops.md"}
# Operators of this project's files after onnxruntime folded norms and decomposed HardSwish.
_OPERATORS = frozenset(
    {
        *("Add", "AveragePool", "Cast", "Clip", "Concat", "Conv", "DequantizeLinear", "Gemm"),
        *("GlobalAveragePool", "HardSigmoid", "MaxPool", "Mul", "QuantizeLinear", "ReduceMean"),
        *("Relu", "Slice", "Squeeze", "Sub", "Transpose"),
    }
)
_SPATIAL = (2, 3)  # of NCHW
_ZERO, _ONE, _AXES = "plain_zero", "plain_one", "plain_axes"


def check_target(path: Path, target: str) -> TargetReport:
    """Report how much of an ONNX file a target supports; FileError names a bad file."""
    check_choice("target", target, TARGETS)
    session(path)
    available = _PROVIDERS[target] in onnxruntime.get_available_providers()
    if target == "qnn" or target in _LISTS:
        return _checked(path, target, available)
    if target == "cpu":
        verdict, said = "yes", "The CPU runs every file that onnxruntime loads."
    else:
        verdict = "unknown"
        has = "has" if available else "does not have"
        said = f"This onnxruntime {has} XNNPACK; there is no list to check a graph against."
    return TargetReport(target=target, available=available, verdict=verdict, recommendation=said)


def refused_operators(target: str) -> frozenset[str]:
    """Return the operators of this project's files that a target does not list as supported.

    HardSwish is not listed, because onnxruntime turns it into HardSigmoid and Mul. Batch norms are
    folded.
    """
    check_choice("target", target, TARGETS)
    listed = qnn.OPERATORS if target == "qnn" else _OPERATORS
    return _OPERATORS - (_supported(target) if target in _LISTS else listed)


def plain_operators(model: ModelProto) -> int:
    """Replace operators by ones with fast kernels, in place; return the number of changes.

    Exact up to rounding: `reduce_mean_to_pool` and `hard_sigmoid_to_clip`.
    """
    return reduce_mean_to_pool(model) + hard_sigmoid_to_clip(model)


def reduce_mean_to_pool(model: ModelProto) -> int:
    """Replace means over height and width by global average pools; return their number.

    onnxruntime has INT8 and blocked kernels for these, and more accelerators support them. For a
    mean without keepdims, a Squeeze is added.
    """
    stored = constants(model)
    inferred = onnx.shape_inference.infer_shapes(model).graph
    ranks = {
        value.name: len(value.type.tensor_type.shape.dim)
        for value in (*inferred.value_info, *inferred.input)
    }
    nodes: list[NodeProto] = []
    changed = 0
    for node in model.graph.node:
        images = node.op_type == "ReduceMean" and ranks.get(node.input[0]) == 4
        if images and {axis % 4 for axis in _mean_axes(node, stored)} == set(_SPATIAL):
            nodes.extend(_pool(node))
            changed += 1
        else:
            nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    _store(model, {_AXES: np.array(_SPATIAL, np.int64)})
    return changed


def hard_sigmoid_to_clip(model: ModelProto) -> int:
    """Replace hard-sigmoids after convolutions by clips to 0..1; return their number.

    max(0, min(1, alpha (W x + b) + beta)): alpha and beta are folded into the convolution. So the
    gate of squeeze-excite stays INT8, and NNAPI, which has no hard-sigmoid, can run it.
    """
    stored = constants(model)
    makers = {name: node for node in model.graph.node for name in node.output}
    uses = Counter(name for node in model.graph.node for name in node.input)
    outputs = {value.name for value in model.graph.output}
    changed: dict[str, Array] = {}
    gates = [node for node in model.graph.node if node.op_type == "HardSigmoid"]
    found = 0
    for gate in gates:
        conv = makers.get(gate.input[0])
        if conv is None or conv.op_type != "Conv" or len(conv.input) < 3:
            continue
        owned = all(name in stored and uses[name] == 1 for name in conv.input[1:])
        if not owned or uses[gate.input[0]] > 1 or gate.input[0] in outputs:
            continue
        alpha, beta = _float(gate, "alpha", 0.2), _float(gate, "beta", 0.5)
        changed[conv.input[1]] = stored[conv.input[1]] * np.float32(alpha)
        changed[conv.input[2]] = stored[conv.input[2]] * np.float32(alpha) + np.float32(beta)
        clip = onnx.helper.make_node(
            "Clip", [gate.input[0], _ZERO, _ONE], list(gate.output), gate.name
        )
        gate.CopyFrom(clip)
        found += 1
    _store(model, changed | {_ZERO: np.float32(0), _ONE: np.float32(1)})
    return found


def _checked(path: Path, target: str, available: bool) -> TargetReport:
    model = _as_targets_see_it(path)
    info = _partition(model, target)
    lines: list[str] = []
    logger = logging.Logger("usability", logging.INFO)
    logger.addHandler(_Lines(lines.append))
    info.print_analysis(logger, _PROVIDERS[target].removesuffix("ExecutionProvider"))
    refused = {name.rpartition(":")[2] for name in info.unsupported_ops}
    counts = Counter(node.op_type for node in model.graph.node if node.op_type in refused)
    verdict, note = info.suitability().name.lower(), DEPRECATED.get(target, "")
    if target == "qnn":
        verdict, note = qnn.judge(model, verdict, info.nodes_unsupported_due_to_dynamic_input)
    return TargetReport(
        target=target,
        available=available,
        verdict=verdict,
        recommendation=lines[-1],
        nodes=info.num_nodes,
        supported=info.num_supported_nodes,
        partitions=info.num_partitions,
        unsupported=dict(sorted(counts.items())),
        dynamic=info.nodes_unsupported_due_to_dynamic_input,
        unchecked=tuple(info.supported_ops_checker.get_caveats()),
        caveat=CAVEAT,
        split_by=tuple(sorted(counts.keys() - FORM_OPERATORS)) if info.num_partitions > 1 else (),
        note=note,
    )


def _as_targets_see_it(path: Path) -> ModelProto:
    """Return the graph from which providers choose nodes, with shapes.

    A float16 graph is not optimized, because that adds casts around every node on a CPU without
    float16 kernels.
    """
    from onnxruntime.tools.onnx_model_utils import ModelProtoWithShapeInfo, optimize_model

    model = read_model(path)
    half = any(tensor.data_type == TensorProto.FLOAT16 for tensor in model.graph.initializer)
    with tempfile.TemporaryDirectory(prefix="mobilenas-target-") as folder:
        seen = Path(folder, "optimized.onnx")
        if half:
            onnx.save(model, str(seen))
        else:
            optimize_model(path, seen, log_level=4)
        shaped: ModelProto = ModelProtoWithShapeInfo(seen).model_with_shape_info
        return shaped


def _partition(model: ModelProto, target: str) -> "PartitioningInfo":
    from onnxruntime.tools.mobile_helpers import usability_checker as checker

    hashing = NodeProto.__hash__
    try:
        if target == "qnn":
            return qnn.partition(model, checker)
        if target == "nnapi":
            return checker.check_nnapi_partitions(model, True)
        return checker.check_coreml_partitions(model, True, _LISTS[target])
    finally:
        # the checker makes nodes hashable in the whole process
        NodeProto.__hash__ = hashing  # type: ignore[method-assign]


class _Lines(logging.Handler):
    """Passes each message to a function."""

    def __init__(self, keep: Callable[[str], None]) -> None:
        super().__init__()
        self._keep = keep

    def emit(self, record: logging.LogRecord) -> None:
        self._keep(record.getMessage().strip())


def _supported(target: str) -> frozenset[str]:
    """Return the ONNX operators in the checker's list, a Markdown table."""
    from onnxruntime.tools.mobile_helpers import usability_checker as checker

    table = Path(checker.__file__).with_name(_LISTS[target]).read_text(encoding="utf-8")
    names = (line.split("|")[1] for line in table.splitlines() if line.startswith("|ai.onnx:"))
    return frozenset(name.removeprefix("ai.onnx:") for name in names)


def _mean_axes(node: NodeProto, stored: Mapping[str, Array]) -> list[int]:
    for attribute in node.attribute:
        if attribute.name == "axes":  # before opset 18
            return list(attribute.ints)
    axes = stored.get(node.input[1], ()) if len(node.input) > 1 else ()
    return [int(axis) for axis in axes]


def _pool(mean: NodeProto) -> list[NodeProto]:
    x, y = mean.input[0], mean.output[0]
    if all(item.i for item in mean.attribute if item.name == "keepdims"):
        return [onnx.helper.make_node("GlobalAveragePool", [x], [y], mean.name)]
    pooled = f"{y}_pooled"
    return [
        onnx.helper.make_node("GlobalAveragePool", [x], [pooled], mean.name),
        onnx.helper.make_node("Squeeze", [pooled, _AXES], [y], f"{mean.name}_squeeze"),
    ]


def constants(model: ModelProto) -> dict[str, Array]:
    """Return the stored tensors by name."""
    return {item.name: onnx.numpy_helper.to_array(item) for item in model.graph.initializer}


def _float(node: NodeProto, name: str, default: float) -> float:
    return next((float(item.f) for item in node.attribute if item.name == name), default)


def _store(model: ModelProto, values: Mapping[str, Array | np.float32]) -> None:
    """Store weights, replacing those of the same name; drop weights that no node uses."""
    used = {name for node in model.graph.node for name in node.input}
    kept = {item.name: item for item in model.graph.initializer if item.name in used}
    for name, numbers in values.items():
        if name in used:
            kept[name] = onnx.numpy_helper.from_array(np.asarray(numbers), name)
    tensors = list(kept.values())
    del model.graph.initializer[:]
    model.graph.initializer.extend(tensors)
