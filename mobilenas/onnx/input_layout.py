"""Files with camera pixels as input: uint8, channels last, normalization in the graph."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto

from mobilenas.core.errors import FileError
from mobilenas.core.settings import counted
from mobilenas.onnx.checks import read_model, write_model
from mobilenas.onnx.settings import UINT8_NHWC
from mobilenas.onnx.values import Attribute

INPUT_KEY = "input"
"""Metadata key of the input's `Layout`, as JSON; files without it have FLOAT_NCHW."""

_PREFIX = "pixels"
_CHANNELS_FIRST = (0, 3, 1, 2)
Step = tuple[str, list[NDArray[np.float64]], dict[str, Attribute]]
"""An operator, its constants and its attributes."""


def fold_input(source: Path, path: Path, mean: Sequence[float], std: Sequence[float]) -> None:
    """Write `source` to `path` with an input of uint8 [1, H, W, C] pixels instead of floats.

    The graph transposes and casts the pixels and computes x = (pixels / 255 - mean) / std, with
    mean and std of each channel in 0..1. If a float convolution reads the image, the scale is
    folded into its weights. The shift is folded into its bias if it has no padding, and is else a
    subtraction before it, because padding zeros mean x = 0, not black pixels. In other cases, such
    as INT8 and float16 files, a 1x1 depthwise convolution does both; so quantize first and fold
    last. `INPUT_KEY` is added to the metadata; mean and std stay there as a record and must not be
    applied again. FileError names a source with another input.
    """
    model = read_model(source)
    props = {item.key: item.value for item in model.metadata_props}
    image = _image(model, source, len(mean))
    scale = 1 / (255 * np.asarray(std, np.float64))
    shift = -np.asarray(mean, np.float64) / np.asarray(std, np.float64)
    readers = [node for node in model.graph.node if image.name in node.input]
    # not Mul and Add: in INT8 models onnxruntime runs them channels last, where broadcasting three
    # channels is slow (0.8 ms at 224x224, this one 0.1)
    step: Step | None = ("Conv", [scale.reshape(-1, 1, 1, 1), shift], {"group": len(mean)})
    if len(readers) == 1 and _has_own_weights(model, readers[0]):
        step = _fold_into(model, readers[0], scale, shift)
    _read_pixels(model, image.name, readers, step)
    _set_input(image)
    onnx.helper.set_model_props(model, props | {INPUT_KEY: json.dumps(UINT8_NHWC)})
    write_model(model, path)


def _image(model: ModelProto, source: Path, channels: int) -> ValueInfoProto:
    inputs: list[ValueInfoProto] = list(model.graph.input)
    tensor = inputs[0].type.tensor_type
    shape = [size.dim_value for size in tensor.shape.dim]
    fits = len(inputs) == 1 and tensor.elem_type == TensorProto.FLOAT and len(shape) == 4
    if not fits:
        raise FileError(f"{source} must have one input, float32 [1, C, H, W], to take pixels")
    if shape[1] != channels:
        raise FileError(
            f"{source} takes {counted(shape[1], 'channel')}; mean and std are of {channels}"
        )
    return inputs[0]


def _set_input(image: ValueInfoProto) -> None:
    tensor = image.type.tensor_type
    batch, channels, height, width = (onnx.TensorShapeProto.Dimension() for _ in range(4))
    for copy, size in zip((batch, channels, height, width), tensor.shape.dim, strict=True):
        copy.CopyFrom(size)
    tensor.elem_type = TensorProto.UINT8
    del tensor.shape.dim[:]
    tensor.shape.dim.extend((batch, height, width, channels))


def _has_own_weights(model: ModelProto, node: NodeProto) -> bool:
    """Whether it is a convolution without groups, with stored weights that only it uses."""
    stored = {tensor.name for tensor in model.graph.initializer}
    plain = node.op_type == "Conv" and all(a.name != "group" or a.i == 1 for a in node.attribute)
    uses = [name for other in model.graph.node for name in other.input]
    return plain and all(name in stored and uses.count(name) == 1 for name in node.input[1:])


def _fold_into(
    model: ModelProto, conv: NodeProto, scale: NDArray[np.float64], shift: NDArray[np.float64]
) -> Step | None:
    """Fold normalization into a convolution; return the step that cannot be folded."""
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    weight = onnx.numpy_helper.to_array(stored[conv.input[1]]).astype(np.float64)  # [O, C, k, k]
    _store(stored[conv.input[1]], weight * scale[:, None, None])
    if any(
        any(attribute.ints) if attribute.name == "pads" else attribute.s not in (b"", b"NOTSET")
        for attribute in conv.attribute
        if attribute.name in ("pads", "auto_pad")
    ):
        return ("Sub", [(-shift / scale).reshape(1, -1, 1, 1)], {})
    bias = (weight * shift[:, None, None]).sum(axis=(1, 2, 3))
    if len(conv.input) < 3:
        conv.input.append(f"{_PREFIX}_bias")
        stored[conv.input[2]] = model.graph.initializer.add(name=conv.input[2])
    else:
        bias += onnx.numpy_helper.to_array(stored[conv.input[2]])
    _store(stored[conv.input[2]], bias)
    return None


def _store(tensor: TensorProto, values: NDArray[np.float64]) -> None:
    tensor.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float32), tensor.name))


def _read_pixels(
    model: ModelProto, image: str, readers: Sequence[NodeProto], step: Step | None
) -> None:
    """Insert nodes that transpose, cast and normalize before those that read the image."""
    turned, x = f"{_PREFIX}_turned", f"{_PREFIX}_float"
    make = onnx.helper.make_node
    nodes = [
        # transposed as bytes, a quarter of the floats' size
        make("Transpose", [image], [turned], turned, perm=_CHANNELS_FIRST),
        make("Cast", [turned], [x], x, to=TensorProto.FLOAT),
    ]
    if step:
        operator, constants, attributes = step
        names = [f"{_PREFIX}_{operator.lower()}_{place}" for place in range(len(constants))]
        for name, numbers in zip(names, constants, strict=True):
            _store(model.graph.initializer.add(name=name), numbers)
        made = f"{_PREFIX}_{operator.lower()}"
        nodes.append(make(operator, [x, *names], [made], made, **attributes))
        x = made
    for node in readers:
        node.input[:] = [x if name == image else name for name in node.input]
    following = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*nodes, *following])
