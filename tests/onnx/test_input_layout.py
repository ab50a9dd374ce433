import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto

from mobilenas.core.errors import FileError
from mobilenas.latency.graphs import arch_model
from mobilenas.onnx.export import read_props
from mobilenas.onnx.fp16 import to_fp16
from mobilenas.onnx.input_layout import INPUT_KEY, fold_input
from mobilenas.onnx.int8 import quantize_static_qdq
from mobilenas.onnx.metadata import ModelMetadata
from mobilenas.onnx.predict import prepare
from mobilenas.onnx.session import session
from mobilenas.onnx.settings import UINT8_NHWC
from mobilenas.spaces.mobile.mobilenets import mobilenet_v2

SIDE = 32
MEAN, STD = (0.5, 0.4, 0.1), (0.2, 0.25, 0.3)
METADATA = ModelMetadata(labels=("a", "b", "c"), mean=MEAN, std=STD, image_size=SIDE)


def pixels(count: int) -> list[NDArray[np.uint8]]:
    """Noise, with a black and a white image, whose borders differ most from zeros."""
    noise = np.random.default_rng(0)
    shape = (1, SIDE, SIDE, 3)
    drawn = [noise.integers(0, 256, shape, dtype=np.uint8) for _ in range(count - 2)]
    return [np.full(shape, 0, np.uint8), np.full(shape, 255, np.uint8), *drawn]


def normalized(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    return prepare(image[0], METADATA)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.onnx"
    arch = mobilenet_v2(0.35, SIDE, 3)
    model = onnx.load_from_string(arch_model(replace(arch, blocks=arch.blocks[:3])))
    onnx.helper.set_model_props(model, METADATA.to_strings())
    onnx.save(model, str(path))
    return path


def plain(path: Path, *, weight: NDArray[np.float32], bias: bool = True, **attributes: Any) -> Path:
    """One convolution with these attributes."""
    numbers = {"w": weight} | ({"b": np.ones(len(weight), np.float32)} if bias else {})
    helper = onnx.helper
    graph = helper.make_graph(
        [helper.make_node("Conv", ["image", *numbers], ["logits"], "conv", **attributes)],
        "plain",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, *"chw"])],
        [onnx.numpy_helper.from_array(value, name) for name, value in numbers.items()],
    )
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, ir_version=10, opset_imports=opset), str(path))
    return path


def compare(source: Path, folded: Path, share: float = 1e-5) -> None:
    before, after = session(source), session(folded)
    for image in pixels(6):
        (expected,) = before.run(None, {"image": normalized(image)})
        (found,) = after.run(None, {"image": image})
        assert np.abs(found - expected).max() < share * np.abs(expected).max()


def operators(path: Path) -> list[str]:
    return [node.op_type for node in onnx.load(str(path)).graph.node]


def test_pixels_give_the_logits_of_normalized_floats(network: Path, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "model.uint8.onnx"
    fold_input(network, path, MEAN, STD)
    compare(network, path)
    (entry,) = session(path).get_inputs()
    assert (entry.name, entry.type) == ("image", "tensor(uint8)")
    assert entry.shape == [1, SIDE, SIDE, 3]
    # padded with zeros: the shift stays outside of the convolution, its scale does not
    assert operators(path)[:4] == ["Transpose", "Cast", "Sub", "Conv"]
    assert operators(path)[3:] == operators(network)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_the_metadata_say_what_the_file_takes(network: Path, tmp_path: Path) -> None:
    fold_input(network, tmp_path / "m.onnx", MEAN, STD)
    props = read_props(tmp_path / "m.onnx")
    assert props == METADATA.to_strings() | {INPUT_KEY: json.dumps(UINT8_NHWC)}
    assert INPUT_KEY not in read_props(network)


@pytest.mark.parametrize("bias", [True, False])
def test_a_convolution_without_padding_takes_all_up(bias: bool, tmp_path: Path) -> None:
    weight = np.random.default_rng(1).standard_normal((4, 3, 3, 3), np.float32)
    source = plain(tmp_path / "m.onnx", weight=weight, bias=bias, strides=[2, 2])
    fold_input(source, tmp_path / "folded.onnx", MEAN, STD)
    compare(source, tmp_path / "folded.onnx")
    assert operators(tmp_path / "folded.onnx") == ["Transpose", "Cast", "Conv"]


@pytest.mark.parametrize("attributes", [{"pads": [0, 0, 1, 1]}, {"auto_pad": "SAME_UPPER"}])
def test_what_pads_keeps_its_border(attributes: dict[str, Any], tmp_path: Path) -> None:
    weight = np.random.default_rng(1).standard_normal((4, 3, 3, 3), np.float32)
    source = plain(tmp_path / "m.onnx", weight=weight, **attributes)
    fold_input(source, tmp_path / "folded.onnx", MEAN, STD)
    compare(source, tmp_path / "folded.onnx")
    assert operators(tmp_path / "folded.onnx") == ["Transpose", "Cast", "Sub", "Conv"]


def test_another_reader_gets_normalized_floats(tmp_path: Path) -> None:
    weight = np.random.default_rng(1).standard_normal((6, 1, 3, 3), np.float32)
    source = plain(tmp_path / "m.onnx", weight=weight, group=3, pads=[1, 1, 1, 1])
    fold_input(source, tmp_path / "folded.onnx", MEAN, STD)
    compare(source, tmp_path / "folded.onnx")
    assert operators(tmp_path / "folded.onnx") == ["Transpose", "Cast", "Conv", "Conv"]


def test_files_in_float16_and_8_bits_take_pixels_too(network: Path, tmp_path: Path) -> None:
    half, eight = tmp_path / "fp16.onnx", tmp_path / "int8.onnx"
    images = [normalized(image) for image in pixels(4)]
    to_fp16(network, half, images)
    quantize_static_qdq(network, eight, images, per_channel=True)
    for path in (half, eight):
        fold_input(path, tmp_path / "pixels.onnx", MEAN, STD)
        compare(path, tmp_path / "pixels.onnx")


def test_pixels_can_be_made_float16_and_8_bits(network: Path, tmp_path: Path) -> None:
    path = tmp_path / "uint8.onnx"
    fold_input(network, path, MEAN, STD)
    to_fp16(path, tmp_path / "fp16.onnx", pixels(4))
    compare(network, tmp_path / "fp16.onnx", share=0.01)
    quantize_static_qdq(path, tmp_path / "int8.onnx", pixels(8), per_channel=True)
    compare(network, tmp_path / "int8.onnx", share=0.2)


def test_other_inputs_are_refused(network: Path, tmp_path: Path) -> None:
    folded = tmp_path / "folded.onnx"
    fold_input(network, folded, MEAN, STD)
    with pytest.raises(
        FileError, match=r"folded\.onnx must have one input, float32 \[1, C, H, W\]"
    ):
        fold_input(folded, tmp_path / "again.onnx", MEAN, STD)
    with pytest.raises(FileError, match=r"model\.onnx takes 3 channels; mean and std are of 1"):
        fold_input(network, tmp_path / "grey.onnx", (0.5,), (0.5,))
    with pytest.raises(FileError, match=r"gone\.onnx does not exist"):
        fold_input(tmp_path / "gone.onnx", tmp_path / "out.onnx", MEAN, STD)
    assert [file.name for file in tmp_path.iterdir()] == ["folded.onnx"]
