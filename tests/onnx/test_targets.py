from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto
from onnxruntime.tools.mobile_helpers import usability_checker

from mobilenas.core.errors import FileError, MobileNASError
from mobilenas.latency.graphs import arch_model
from mobilenas.onnx.fp16 import folded, to_fp16
from mobilenas.onnx.int8 import quantize_static_qdq
from mobilenas.onnx.session import session
from mobilenas.onnx.settings import TARGETS
from mobilenas.onnx.targets import (
    CAVEAT,
    check_target,
    hard_sigmoid_to_clip,
    plain_operators,
    reduce_mean_to_pool,
    refused_operators,
)
from mobilenas.spaces.mobile.arch import MobileArch
from mobilenas.spaces.mobile.mobilenets import mobilenet_v2, mobilenet_v3_small

SIDE = 32


def images(count: int) -> list[NDArray[np.float32]]:
    noise = np.random.default_rng(0)
    return [noise.standard_normal((1, 3, SIDE, SIDE), np.float32) for _ in range(count)]


def network(activation: str) -> MobileArch:
    """Squeeze-excite in the first block, and one activation everywhere."""
    arch = mobilenet_v3_small(0.5, SIDE, 7)
    blocks = tuple(replace(block, activation=activation) for block in arch.blocks[:3])
    assert [bool(block.squeeze) for block in blocks] == [True, False, False]
    return replace(
        arch,
        stem=replace(arch.stem, activation=activation),
        blocks=blocks,
        head=replace(arch.head, activation=activation),
    )


def save(model: ModelProto | MobileArch, path: Path) -> Path:
    if isinstance(model, MobileArch):
        path.write_bytes(arch_model(model))
    else:
        onnx.checker.check_model(model, full_check=True)
        onnx.save(model, str(path))
    return path


def logits(path: Path) -> NDArray[np.float32]:
    runner = session(path)
    return np.concatenate([runner.run(None, {"image": image})[0] for image in images(3)])


def test_the_cpu_takes_every_file_and_xnnpack_cannot_be_asked(tmp_path: Path) -> None:
    path = save(network("hard_swish"), tmp_path / "m.onnx")
    cpu, xnnpack = check_target(path, "cpu"), check_target(path, "xnnpack")
    assert (cpu.verdict, cpu.available, cpu.partitions) == ("yes", True, None)
    assert xnnpack.verdict == "unknown"
    assert "XNNPACK" in xnnpack.recommendation


@pytest.mark.parametrize("target", ["qnn", "nnapi", "coreml"])
def test_a_plain_network_is_one_partition(
    target: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    arch = mobilenet_v2(0.35, SIDE, 7)
    path = save(replace(arch, blocks=arch.blocks[:3]), tmp_path / "m.onnx")
    hashing = NodeProto.__hash__
    report = check_target(path, target)
    assert capfd.readouterr() == ("", "")
    assert NodeProto.__hash__ is hashing
    assert [file.name for file in tmp_path.iterdir()] == ["m.onnx"]
    nodes = len(onnx.load(str(path)).graph.node)
    assert (report.nodes, report.supported, report.partitions) == (nodes, nodes, 1)
    # the NPU behind qnn is made for 8 bits
    verdict = "maybe" if target == "qnn" else "yes"
    assert (report.verdict, report.unsupported, report.dynamic) == (verdict, {}, 0)
    assert "should work well" in report.recommendation
    assert report.caveat == CAVEAT
    assert target == "qnn" or any("Conv" in line for line in report.unchecked)
    told = {"qnn": "export int8", "nnapi": "deprecated", "coreml": ""}[target]
    assert told in report.note and bool(told) == bool(report.note)
    assert report.split_by == ()
    assert report.partitions == 1


@pytest.fixture(scope="module")
def coreml_has_gates() -> bool:
    """Whether the list that comes with onnxruntime has HardSigmoid: that of 1.23 has not."""
    table = Path(usability_checker.__file__).with_name("coreml_supported_mlprogram_ops.md")
    return "ai.onnx:HardSigmoid|" in table.read_text(encoding="utf-8")


def test_hard_swish_splits_a_graph_for_nnapi_and_not_for_coreml(
    tmp_path: Path, coreml_has_gates: bool
) -> None:
    path = save(network("hard_swish"), tmp_path / "m.onnx")
    report = check_target(path, "nnapi")
    swishes = sum(node.op_type == "HardSwish" for node in onnx.load(str(path)).graph.node)
    # one gate of squeeze-excite beside them
    assert report.unsupported == {"HardSigmoid": swishes + 1}
    assert report.partitions is not None and report.partitions > swishes
    assert report.nodes == (report.supported or 0) + swishes + 1
    assert report.verdict == "no"
    assert "not recommended" in report.recommendation
    assert report.split_by == ("HardSigmoid",)
    assert check_target(path, "qnn").partitions == 1
    assert (check_target(path, "coreml").partitions == 1) is coreml_has_gates


def test_qnn_takes_8_bit_files_of_fixed_sizes(tmp_path: Path) -> None:
    path, eight = save(network("hard_swish"), tmp_path / "m.onnx"), tmp_path / "int8.onnx"
    quantize_static_qdq(path, eight, images(2), per_channel=True)
    report = check_target(eight, "qnn")
    assert (report.verdict, report.partitions, report.unsupported) == ("yes", 1, {})
    assert (report.note, report.available) == ("", False)
    model = onnx.load(str(eight))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    dynamic = check_target(save(model, tmp_path / "batch.onnx"), "qnn")
    assert (dynamic.verdict, dynamic.dynamic > 0) == ("no", True)
    assert "fixed sizes" in dynamic.note
    other = onnx.load(str(path))
    for node in other.graph.node:
        if node.op_type == "GlobalAveragePool" or node.op_type == "ReduceMean":
            mish = onnx.helper.make_node("Softplus", [node.input[0]], ["soft"])
            node.input[0] = "soft"
            other.graph.node.insert(list(other.graph.node).index(node), mish)
            break
    report = check_target(save(other, tmp_path / "mish.onnx"), "qnn")
    assert report.unsupported == {"Softplus": 1}


def test_what_a_target_refuses_is_what_its_reports_name(coreml_has_gates: bool) -> None:
    assert refused_operators("nnapi") == {"HardSigmoid"}
    gates = set() if coreml_has_gates else {"HardSigmoid"}
    assert refused_operators("coreml") == {"DequantizeLinear", "QuantizeLinear"} | gates
    assert (
        refused_operators("qnn")
        == refused_operators("cpu")
        == refused_operators("xnnpack")
        == frozenset()
    )


def test_plain_operators_make_one_partition_of_squeeze_excite(tmp_path: Path) -> None:
    path = save(network("relu"), tmp_path / "m.onnx")
    assert set(check_target(path, "nnapi").unsupported) == {"HardSigmoid"}
    model = onnx.load(str(path))
    # a gate, its mean, and the last mean
    assert plain_operators(model) == 3
    plain = save(model, tmp_path / "plain.onnx")
    np.testing.assert_allclose(logits(plain), logits(path), atol=1e-5 * logits(path).std())
    for target in ("nnapi", "coreml"):
        report = check_target(plain, target)
        assert (report.verdict, report.partitions) == ("yes", 1)
    assert plain_operators(model) == 0


def test_other_precisions_are_checked_as_targets_see_them(tmp_path: Path) -> None:
    path = save(network("relu"), tmp_path / "m.onnx")
    quantize_static_qdq(path, tmp_path / "int8.onnx", images(2), per_channel=True)
    to_fp16(path, tmp_path / "fp16.onnx", images(2))
    assert check_target(tmp_path / "int8.onnx", "nnapi").partitions == 1
    assert check_target(tmp_path / "fp16.onnx", "nnapi").partitions == 1
    half = check_target(tmp_path / "fp16.onnx", "coreml")
    assert (half.partitions, half.nodes) == (1, half.supported)
    eight = check_target(tmp_path / "int8.onnx", "coreml")
    assert (eight.verdict, sorted(eight.unsupported)) == (
        "no",
        ["DequantizeLinear", "QuantizeLinear"],
    )


def test_sizes_that_are_not_fixed_are_told(tmp_path: Path) -> None:
    model = onnx.load_from_string(arch_model(network("relu")))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    report = check_target(save(model, tmp_path / "m.onnx"), "nnapi")
    assert (report.verdict, report.supported) == ("no", 0)
    assert report.dynamic == report.nodes


def test_unknown_targets_and_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(MobileNASError, match="'tpu'") as caught:
        check_target(tmp_path / "m.onnx", "tpu")
    assert all(target in str(caught.value) for target in TARGETS)
    with pytest.raises(MobileNASError, match="'tpu'"):
        refused_operators("tpu")
    with pytest.raises(FileError, match=r"m\.onnx does not exist"):
        check_target(tmp_path / "m.onnx", "nnapi")


def means(axes: list[int], keepdims: int) -> ModelProto:
    helper = onnx.helper
    graph = helper.make_graph(
        [
            helper.make_node("Relu", ["image"], ["x"], "relu"),
            helper.make_node("ReduceMean", ["x", "axes"], ["logits"], "mean", keepdims=keepdims),
        ],
        "means",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, SIDE, SIDE])],
        [
            helper.make_tensor_value_info(
                "logits", TensorProto.FLOAT, ["n"] * (4 if keepdims else 2)
            )
        ],
        [onnx.numpy_helper.from_array(np.array(axes, np.int64), "axes")],
    )
    return helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 18)])


@pytest.mark.parametrize("axes", [[2, 3], [-1, -2]])
@pytest.mark.parametrize("keepdims", [0, 1])
def test_means_over_an_image_become_pools(axes: list[int], keepdims: int, tmp_path: Path) -> None:
    model = means(axes, keepdims)
    before = logits(save(model, tmp_path / "m.onnx"))
    assert reduce_mean_to_pool(model) == 1
    found = logits(save(model, tmp_path / "pool.onnx"))
    np.testing.assert_allclose(found, before, atol=1e-6)
    squeeze = [] if keepdims else ["Squeeze"]
    assert [n.op_type for n in model.graph.node] == ["Relu", "GlobalAveragePool", *squeeze]
    assert {item.name for item in model.graph.initializer} == ({"plain_axes"} if squeeze else set())


def test_other_means_and_gates_stay(tmp_path: Path) -> None:
    model = means([1, 2], 0)
    assert reduce_mean_to_pool(model) == 0
    assert [node.op_type for node in model.graph.node] == ["Relu", "ReduceMean"]
    # which takes hard-swish apart: its gate's convolution is read twice
    swish = folded(save(network("hard_swish"), tmp_path / "m.onnx"))
    gates = sum(node.op_type == "HardSigmoid" for node in swish.graph.node)
    assert gates > 2
    assert hard_sigmoid_to_clip(swish) == 1
    assert sum(node.op_type == "HardSigmoid" for node in swish.graph.node) == gates - 1
