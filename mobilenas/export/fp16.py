"""Files in float16: half the size, computed in float16 where the device can."""

import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, TensorProto
from onnxruntime.quantization.onnx_model import ONNXModel
from onnxruntime.quantization.shape_inference import quant_pre_process
from onnxruntime.transformers.float16 import convert_float_to_float16

from mobilenas.errors import FileError
from mobilenas.export.checks import read_model, write_model
from mobilenas.export.onnx import read_props
from mobilenas.export.targets import plain_operators

_CONVERTED = ("DequantizeLinear", "QuantizeLinear")
_WEIGHTED = ("Conv", "Gemm")
_LARGEST = float(np.finfo(np.float16).max)


def to_fp16(source: Path, path: Path) -> None:
    """Write `source` with float16 weights and computation to `path`; its metadata is kept.

    Input and output stay float32: an app fills and reads the same buffers whichever file it
    loads, and two casts of an image and some logits cost nothing beside the network. Batch norms
    are folded first, in float32, because small variances vanish in float16, and operators made
    plain (`plain_operators`). Processors without float16 kernels, such as x86, compute in float32
    from the float16 weights. FileError names a file that does not load or a weight that float16
    cannot hold.
    """
    model = folded(source)
    plain_operators(model)
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            largest = float(np.abs(onnx.numpy_helper.to_array(tensor)).max(initial=0))
            if not largest <= _LARGEST:
                raise FileError(
                    f"{source}: {tensor.name!r} reaches {largest:g}; float16 ends at {_LARGEST:g}"
                )
    half = convert_float_to_float16(model, keep_io_types=True)
    # the converter puts the cast of the input behind all that reads it
    ONNXModel(half).topological_sort()
    write_model(half, path)


def folded(source: Path) -> ModelProto:
    """Read a float32 model: norms folded, shapes inferred, weights used by one layer each.

    FileError names a file that does not load or is no float32 model.
    """
    metadata = read_props(source)
    graph = read_model(source).graph
    if any(node.op_type in _CONVERTED for node in graph.node) or any(
        tensor.data_type == TensorProto.FLOAT16 for tensor in graph.initializer
    ):
        raise FileError(f"{source} is in 8 bits or in float16 already; give the float32 file")
    with tempfile.TemporaryDirectory(prefix="mobilenas-fold-") as folder:
        path = Path(folder, "folded.onnx")
        # symbolic shape inference is for transformers
        quant_pre_process(str(source), str(path), skip_symbolic_shape=True)
        model = onnx.load(str(path))
    describe(model, metadata)
    _separate(model)
    return model


def _separate(model: ModelProto) -> None:
    """Give each layer weights of its own: onnxruntime stores equal ones, such as zeros, once."""
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
    """Set the metadata; drop what passes noted, and operator sets that no node uses."""
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, metadata)
    used = {node.domain for node in model.graph.node}
    kept = [item for item in model.opset_import if item.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)
