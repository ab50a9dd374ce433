"""How much of a graph onnxruntime's QNN provider (for Qualcomm chips) can run.

The mobile usability checker has no list for it. This list is from onnxruntime's page on the
provider, plus HardSigmoid (since onnxruntime 1.18, pull request 20508) and Reshape.
"""

from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING

from onnx import ModelProto, NodeProto

if TYPE_CHECKING:
    from onnxruntime.tools.mobile_helpers.usability_checker import PartitioningInfo

MAX_RANK = 5
"""Maximum rank of a tensor."""
OPERATORS = frozenset(
    {
        *("Abs", "Add", "And", "ArgMax", "ArgMin", "Asin", "Atan", "AveragePool"),
        *("BatchNormalization", "Cast", "Clip", "Concat", "Conv", "ConvTranspose", "Cos"),
        *("DepthToSpace", "DequantizeLinear", "Div", "Elu", "Equal", "Exp", "Expand", "Flatten"),
        *("Floor", "Gather", "Gelu", "Gemm", "GlobalAveragePool", "Greater", "GreaterOrEqual"),
        *("GridSample", "HardSigmoid", "HardSwish", "InstanceNormalization", "LRN"),
        *("LayerNormalization", "LeakyRelu", "Less", "LessOrEqual", "Log", "LogSoftmax"),
        *("LpNormalization", "MatMul", "Max", "MaxPool", "Min", "Mul", "Neg", "Not", "Or"),
        *("PRelu", "Pad", "Pow", "QuantizeLinear", "ReduceMax", "ReduceMean", "ReduceMin"),
        *("ReduceProd", "ReduceSum", "Relu", "Reshape", "Resize", "Round", "Sigmoid", "Sign"),
        *("Sin", "Slice", "Softmax", "SpaceToDepth", "Split", "Sqrt", "Squeeze", "Sub", "Tanh"),
        *("Tile", "TopK", "Transpose", "Unsqueeze", "Where"),
    }
)
"""Supported operators of the ONNX domain."""
_NO_INTEGERS = (
    "the file is float, which the NPU runs in float16 if at all; it is made for INT8: export int8"
)
_DYNAMIC = "the provider takes fixed sizes only: export without --dynamic-batch"

_PLAIN_DOMAINS = ("", "ai.onnx")


class SupportedOperators:
    """The list in the form that the usability checker expects."""

    def is_op_supported(self, node: NodeProto) -> bool:
        """Whether the provider supports an operator."""
        return node.domain in _PLAIN_DOMAINS and node.op_type in OPERATORS

    def get_caveats(self) -> Sequence[str]:
        """Return no caveats: the page has little more than names."""
        return ()


def judge(model: ModelProto, verdict: str, dynamic: int) -> tuple[str, str]:
    """Return the checker's verdict, adjusted to the provider's other conditions, and a note."""
    if dynamic:
        return "no", _DYNAMIC
    if _is_quantized(model):
        return verdict, ""
    return "no" if verdict == "no" else "maybe", _NO_INTEGERS


def _is_quantized(model: ModelProto) -> bool:
    """Whether all convolutions and linear layers read 8-bit values through QDQ nodes."""
    makers = {name: node.op_type for node in model.graph.node for name in node.output}
    layers = [node for node in model.graph.node if node.op_type in ("Conv", "Gemm", "MatMul")]
    return bool(layers) and all(
        makers.get(name) == "DequantizeLinear" for node in layers for name in node.input[:2]
    )


def partition(model: ModelProto, checker: ModuleType) -> "PartitioningInfo":
    """Return the checker's partitions of a graph; all shapes must be fixed."""
    return checker.check_partitioning(model.graph, SupportedOperators(), True, MAX_RANK)
