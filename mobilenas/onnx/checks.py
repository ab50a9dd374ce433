"""Checks of a finished file: format, size, parity, alignment, reorders, memory."""

import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto

from mobilenas.core.errors import DataError, FileError, first_line
from mobilenas.core.files import write_bytes
from mobilenas.core.settings import counted
from mobilenas.nn.costs import alive_bytes
from mobilenas.onnx.classifier import FLOAT, Classifier
from mobilenas.onnx.metadata import ModelMetadata
from mobilenas.onnx.predict import prepare
from mobilenas.onnx.record import FileReport
from mobilenas.onnx.session import LOAD_ERRORS, session, source_of
from mobilenas.onnx.settings import PROVIDER
from mobilenas.onnx.values import Array

ALIGNMENT = 8
"""Channels should be multiples of this, the blocked layouts of runtimes."""
REORDERS = ("ReorderInput", "ReorderOutput")
"""onnxruntime's nodes that change the memory layout of a tensor."""

_ORT_SUFFIX = ".ort"
_FATAL = 4  # onnxruntime's log level
_IN_PLACE = ("Add", "Clip", "Flatten", "HardSigmoid", "HardSwish", "Mul", "Relu", "Reshape", "Sub")
_OptimizationLevel = onnxruntime.GraphOptimizationLevel


def check_file(
    path: Path, reference: Path | None = None, images: Iterable[Array] = ()
) -> FileReport:
    """Check a file in ONNX or ORT format; FileError names it and what is wrong.

    It is compared with `reference` on `images`: inputs of both, or uint8 pixels [1, H, W, C], which
    are normalized for float models by their metadata. Unaligned channels and reorders are reported,
    not errors.
    """
    ort = path.suffix == _ORT_SUFFIX
    runner = session(path)
    model = None if ort else read_model(path)
    optimized = _optimized(path, _OptimizationLevel.ORT_ENABLE_EXTENDED)
    blocked = _optimized(path, _OptimizationLevel.ORT_ENABLE_ALL)
    counts = Counter(node.op_type for node in (model or optimized).graph.node)
    shapes = [entry.shape for entry in (*runner.get_inputs(), *runner.get_outputs())]
    agreement = _agreement(path, reference, images) if reference else (None, None, 0)
    return FileReport(
        size_bytes=path.stat().st_size,
        opset=_opset(model) if model else None,
        static=all(isinstance(size, int) and size > 0 for shape in shapes for size in shape)
        and all(shape[:1] == [1] for shape in shapes),
        operators=dict(sorted(counts.items())),
        unaligned=_unaligned(model or optimized),
        reorders={name: _count(blocked, name) for name in REORDERS},
        peak_memory_bytes=_peak_memory(path, optimized),
        max_abs_difference=agreement[0],
        top1_agreement=agreement[1],
        images=agreement[2],
    )


def read_model(path: Path) -> ModelProto:
    """Read an ONNX file and check it; FileError names it."""
    try:
        model = onnx.load(str(path))
        onnx.checker.check_model(model, full_check=True)
    except FileNotFoundError as error:
        raise FileError(f"{path} does not exist") from error
    except OSError as error:
        raise FileError(f"cannot read {path}: {error.strerror or error}") from error
    except (
        DecodeError,
        onnx.checker.ValidationError,
        onnx.shape_inference.InferenceError,
        UnicodeDecodeError,  # an error about a name that is not UTF-8
    ) as error:
        raise FileError(f"{path} is not a correct ONNX file: {first_line(error)}") from error
    return model


def write_model(model: ModelProto, path: Path) -> None:
    """Check a model and write it; FileError names the file."""
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise FileError(f"{path} would not be a correct ONNX file: {first_line(error)}") from error
    write_bytes(path, model.SerializeToString(deterministic=True))


def _opset(model: ModelProto) -> int:
    versions = {item.domain or "ai.onnx": item.version for item in model.opset_import}
    return int(versions["ai.onnx"])


def _count(model: ModelProto, operator: str) -> int:
    return sum(node.op_type == operator for node in model.graph.node)


def _options(level: onnxruntime.GraphOptimizationLevel) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _FATAL
    options.graph_optimization_level = level
    options.intra_op_num_threads = 1
    return options


def _optimized(path: Path, level: onnxruntime.GraphOptimizationLevel) -> ModelProto:
    """Return the graph that onnxruntime runs, optimized to `level`."""
    with tempfile.TemporaryDirectory(prefix="mobilenas-check-") as folder:
        file = Path(folder, "optimized.onnx")
        options = _options(level)
        options.optimized_model_filepath = str(file)
        options.add_session_config_entry("session.save_model_format", "ONNX")
        try:
            onnxruntime.InferenceSession(source_of(path), options, providers=[PROVIDER])
        except LOAD_ERRORS as error:
            raise FileError(
                f"{path} is not a file that onnxruntime loads: {first_line(error)}"
            ) from error
        return onnx.load(str(file))


def _unaligned(model: ModelProto) -> tuple[str, ...]:
    """Return convolutions whose output channels are not a multiple of 8.

    Depthwise ones have those of their input, which is listed already. Input channels are not
    checked: they are the image's, or another convolution's output.
    """
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    makers = {name: node for node in model.graph.node for name in node.output}
    found = []
    for node in model.graph.node:
        name = _weight(node)
        while name not in shapes and name in makers:  # through dequantization and casts
            name = makers[name].input[0]
        channels = shapes.get(name, (0,))[0]
        depthwise = any(item.name == "group" and item.i == channels for item in node.attribute)
        if channels % ALIGNMENT and not depthwise:
            found.append(f"{name}: {channels}")
    return tuple(found)


def _weight(node: NodeProto) -> str:
    if node.op_type in ("Conv", "FusedConv"):
        return str(node.input[1])
    return str(node.input[3]) if node.op_type == "QLinearConv" else ""


def _peak_memory(path: Path, model: ModelProto) -> int:
    """Return the peak of bytes alive at once; elementwise operators overwrite dead inputs."""
    nodes = model.graph.node
    sizes = _sizes(path, model)
    last = {name: place for place, node in enumerate(nodes) for name in node.input}
    last |= dict.fromkeys((value.name for value in model.graph.output), len(nodes))
    (image,) = model.graph.input
    maps = [(sizes[image.name], 0, last.get(image.name, 0))]
    for place, node in enumerate(nodes):
        dying = {sizes[name] for name in node.input if name in sizes and last[name] == place}
        written = {name: sizes[name] for name in node.output if name in sizes}
        in_place = node.op_type in _IN_PLACE and set(written.values()) <= dying
        maps += [(size, place + in_place, last.get(name, place)) for name, size in written.items()]
    return max(alive_bytes(maps, len(nodes) + 1))


def _sizes(path: Path, model: ModelProto) -> dict[str, int]:
    """Run the graph; return the bytes of the input and of all tensors that depend on it."""
    (image,) = model.graph.input
    depends = {image.name}
    for node in model.graph.node:
        if not depends.isdisjoint(node.input):
            depends.update(name for name in node.output if name)
    probe = ModelProto()
    probe.CopyFrom(model)
    del probe.graph.output[:]
    names = [name for name in sorted(depends) if name != image.name]
    probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    tensor = image.type.tensor_type
    shape = [max(1, size.dim_value) for size in tensor.shape.dim]
    given = np.zeros(shape, onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    try:
        runner = onnxruntime.InferenceSession(
            probe.SerializeToString(),
            _options(_OptimizationLevel.ORT_DISABLE_ALL),
            providers=[PROVIDER],
        )
        values = runner.run(None, {image.name: given})
    except LOAD_ERRORS as error:
        raise FileError(f"{path} does not run in onnxruntime: {first_line(error)}") from error
    found = dict(zip(names, (int(value.nbytes) for value in values), strict=True))
    return found | {image.name: int(given.nbytes)}


def _agreement(path: Path, reference: Path, images: Iterable[Array]) -> tuple[float, float, int]:
    ours, theirs = _Pixels(path), _Pixels(reference)
    differences, same = [], 0
    for image in images:
        found, expected = ours.logits(image), theirs.logits(image)
        if found.shape != expected.shape:
            raise FileError(
                f"{path} gives {counted(len(found), 'logit')}, {reference} {len(expected)}; they "
                "must have "
                "the same classes to be compared"
            )
        differences.append(float(np.abs(found - expected).max()))
        same += int(found.argmax() == expected.argmax())
    if not differences:
        raise DataError(f"there are no images to compare {path} with {reference} on")
    return max(differences), 100 * same / len(differences), len(differences)


class _Pixels(Classifier):
    """A file that accepts pixels [1, H, W, C] even if its input is float."""

    def logits(self, image: Array) -> NDArray[np.float32]:
        """Return logits [classes]; DataError for an image that does not fit."""
        if image.dtype == np.uint8 and self.type == FLOAT:
            metadata = ModelMetadata.from_strings(self.metadata, str(self.path))
            image = prepare(image[0], metadata)
        return super().logits(image)
