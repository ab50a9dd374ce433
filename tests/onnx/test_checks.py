import platform
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto

from mobilenas.core.errors import DataError, FileError
from mobilenas.cost.networks import costs
from mobilenas.latency.graphs import arch_model
from mobilenas.onnx.checks import REORDERS, check_file, read_model, write_model
from mobilenas.onnx.fp16 import to_fp16
from mobilenas.onnx.input_layout import fold_input
from mobilenas.onnx.int8 import quantize_static_qdq
from mobilenas.onnx.metadata import ModelMetadata
from mobilenas.onnx.ort_format import to_ort
from mobilenas.spaces.mobile.arch import MobileArch
from mobilenas.spaces.mobile.mobilenets import mobilenet_v2

SIDE = 32
METADATA = ModelMetadata(
    labels=("a", "b", "c"), mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3), image_size=SIDE
)
ARCH = replace(mobilenet_v2(0.5, SIDE, 3), blocks=mobilenet_v2(0.5, SIDE, 3).blocks[:4])


def floats(count: int) -> list[NDArray[np.float32]]:
    noise = np.random.default_rng(0)
    return [noise.standard_normal((1, 3, SIDE, SIDE), np.float32) for _ in range(count)]


def pixels(count: int) -> list[NDArray[np.uint8]]:
    noise = np.random.default_rng(0)
    return [noise.integers(0, 256, (1, SIDE, SIDE, 3), dtype=np.uint8) for _ in range(count)]


def save(arch: MobileArch, path: Path) -> Path:
    model = onnx.load_from_string(arch_model(arch))
    onnx.helper.set_model_props(model, METADATA.to_strings())
    onnx.save(model, str(path))
    return path


def chain(path: Path, channels: tuple[int, ...], batch: int | str = 1, classes: int = 10) -> Path:
    """1x1 convolutions with these output channels, then the classes' weights."""
    helper, names, weights, nodes = onnx.helper, ["image"], [], []
    for place, (before, after) in enumerate(zip((3, *channels), channels, strict=False)):
        values = np.full((after, before, 1, 1), 0.5, np.float32)
        weights.append(onnx.numpy_helper.from_array(values, f"w{place}"))
        nodes.append(helper.make_node("Conv", [names[-1], f"w{place}"], [f"y{place}"]))
        names.append(f"y{place}")
    values = np.ones((channels[-1], classes), np.float32)
    weights.append(onnx.numpy_helper.from_array(values, "last"))
    nodes += [
        helper.make_node("GlobalAveragePool", [names[-1]], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "last"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, classes])],
        weights,
    )
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, ir_version=10, opset_imports=opset), str(path))
    return path


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(ARCH, tmp_path_factory.mktemp("model") / "model.onnx")


def test_a_file_agrees_with_itself(network: Path, capfd: pytest.CaptureFixture[str]) -> None:
    report = check_file(network, network, floats(3))
    assert capfd.readouterr() == ("", "")
    assert (report.max_abs_difference, report.top1_agreement, report.images) == (0.0, 100.0, 3)
    assert report.size_bytes == network.stat().st_size
    assert (report.opset, report.static, report.unaligned) == (18, True, ())
    nodes = onnx.load(str(network)).graph.node
    assert report.operators["Conv"] == sum(node.op_type == "Conv" for node in nodes)
    assert sum(report.operators.values()) == len(nodes)
    assert set(report.reorders) == set(REORDERS)


def test_without_a_reference_nothing_is_compared(network: Path) -> None:
    report = check_file(network)
    assert (report.max_abs_difference, report.top1_agreement, report.images) == (None, None, 0)


def test_peak_memory_is_that_of_the_cost_model(network: Path) -> None:
    # without hard-swish, which onnxruntime computes with a second tensor, the rules are the same
    assert check_file(network).peak_memory_bytes == costs(ARCH).memory


def test_every_format_is_checked_against_the_float_file(network: Path, tmp_path: Path) -> None:
    paths = {name: tmp_path / f"{name}.onnx" for name in ("fp16", "int8", "pixels")}
    to_fp16(network, paths["fp16"], floats(2))
    quantize_static_qdq(network, paths["int8"], floats(4), per_channel=True)
    fold_input(network, paths["pixels"], METADATA.mean, METADATA.std)
    paths["ort"] = to_ort(network, tmp_path / "model.ort").model
    reports = {name: check_file(path, network, pixels(4)) for name, path in paths.items()}
    differences = {name: report.max_abs_difference or 0.0 for name, report in reports.items()}
    assert max(differences["pixels"], differences["ort"]) < 1e-4
    assert 1e-4 < differences["fp16"] < differences["int8"]
    assert reports["int8"].peak_memory_bytes * 4 == reports["pixels"].peak_memory_bytes
    assert reports["fp16"].operators["Cast"] == 2
    assert reports["ort"].opset is None
    fused = sum(reports["ort"].operators.get(name, 0) for name in ("Conv", "FusedConv"))
    assert fused == reports["int8"].operators["Conv"]
    assert all(report.unaligned == () and report.static for report in reports.values())


def test_unaligned_channels_are_named_without_image_and_classes(tmp_path: Path) -> None:
    path = chain(tmp_path / "m.onnx", (16, 12, 8))
    assert check_file(path).unaligned == ("w1: 12",)
    quantize_static_qdq(path, tmp_path / "int8.onnx", floats(2), per_channel=True)
    assert check_file(tmp_path / "int8.onnx").unaligned == ("w1_quantized: 12",)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="other layouts have other blocks")
def test_reorders_are_counted(tmp_path: Path) -> None:
    aligned = check_file(chain(tmp_path / "a.onnx", (16, 16, 16))).reorders
    # fewer channels than a block, of 8 with AVX2 and of 16 with AVX-512, leave the layout
    unaligned = check_file(chain(tmp_path / "b.onnx", (16, 4, 16))).reorders
    assert sum(unaligned.values()) > sum(aligned.values())


def test_a_symbolic_batch_is_not_static(tmp_path: Path) -> None:
    assert not check_file(chain(tmp_path / "m.onnx", (8,), batch="batch")).static
    assert not check_file(chain(tmp_path / "m.onnx", (8,), batch=2)).static


def test_a_nan_is_no_agreement(network: Path, tmp_path: Path) -> None:
    model = onnx.load(str(network))
    weight = model.graph.initializer[0]
    values = np.full(tuple(weight.dims), np.nan, np.float32)
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    onnx.save(model, str(tmp_path / "nan.onnx"))
    with pytest.raises(FileError, match=r"nan\.onnx gives nan as a logit"):
        check_file(tmp_path / "nan.onnx", network, floats(2))


def test_what_cannot_be_compared_is_named(network: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no images to compare .*model\.onnx"):
        check_file(network, network)
    with pytest.raises(DataError, match=r"an image is float32 \[1, 3, 8, 8\]; .*\[1, 3, 32, 32\]"):
        check_file(network, network, [np.zeros((1, 3, 8, 8), np.float32)])
    with pytest.raises(DataError, match="an image is float64"):
        check_file(network, network, [np.zeros((1, 3, SIDE, SIDE))])
    other = chain(tmp_path / "other.onnx", (8,), classes=4)
    with pytest.raises(FileError, match=r"other\.onnx gives 4 logits, .*model\.onnx 3; they"):
        check_file(other, network, floats(1))
    with pytest.raises(FileError, match=r"other\.onnx has no 'labels' in its metadata"):
        check_file(other, network, pixels(1))


def test_what_is_no_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"gone\.onnx does not exist"):
        check_file(tmp_path / "gone.onnx")
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not onnx")
    with pytest.raises(FileError, match=r"broken\.onnx is not"):
        check_file(broken)
    with pytest.raises(FileError, match=r"broken\.onnx is not a correct ONNX file"):
        read_model(broken)
    with pytest.raises(FileError, match=r"gone\.onnx does not exist"):
        read_model(tmp_path / "gone.onnx")


def test_only_correct_models_are_written(network: Path, tmp_path: Path) -> None:
    model = read_model(network)
    model.graph.node[0].op_type = "Convolve"
    with pytest.raises(FileError, match=r"out\.onnx would not be a correct ONNX file: .*Convolve"):
        write_model(model, tmp_path / "out.onnx")
    assert not list(tmp_path.iterdir())


def test_the_image_s_own_channels_need_no_alignment(network: Path, tmp_path: Path) -> None:
    to_fp16(network, tmp_path / "fp16.onnx", floats(2))
    fold_input(tmp_path / "fp16.onnx", tmp_path / "pixels.onnx", METADATA.mean, METADATA.std)
    report = check_file(tmp_path / "pixels.onnx")
    assert report.operators["Conv"] == check_file(network).operators["Conv"] + 1
    assert report.unaligned == ()
