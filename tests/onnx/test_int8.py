import json
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto

from mobilenas.core.errors import DataError, FileError, MobileNASError
from mobilenas.onnx.export import INPUT, export_onnx, read_props
from mobilenas.onnx.fp16 import folded
from mobilenas.onnx.int8 import correct_biases, equalize_ranges, quantize_static_qdq
from mobilenas.onnx.session import session
from mobilenas.onnx.settings import CALIBRATIONS
from mobilenas.onnx.targets import plain_operators
from mobilenas.spaces.mobile.arch import MobileArch
from mobilenas.spaces.mobile.mobilenets import mobilenet_v3_small
from mobilenas.spaces.networks import build

SIDE = 32
METADATA = {"labels": json.dumps(["cat", "größer"]), "mean": "[0.1, 0.2, 0.3]"}


def images(count: int, seed: int = 0) -> list[NDArray[np.float32]]:
    """Coarse patterns: of fine noise, all images look the same to a network's last mean."""
    noise = np.random.default_rng(seed)
    coarse = 2 * noise.standard_normal((count, 1, 3, 4, 4), np.float32)
    return list(coarse.repeat(SIDE // 4, axis=3).repeat(SIDE // 4, axis=4))


def network(activation: str) -> MobileArch:
    """Four blocks, squeeze-excite in the first and the fourth."""
    arch = mobilenet_v3_small(0.5, SIDE, 7)
    blocks = tuple(replace(block, activation=activation) for block in arch.blocks[:4])
    stem, head = (replace(part, activation=activation) for part in (arch.stem, arch.head))
    return replace(arch, stem=stem, blocks=blocks, head=replace(head, hidden=0))


def export(arch: MobileArch, path: Path) -> Path:
    torch.manual_seed(0)
    module = build(arch)
    for layer in module.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = 1.0
    with torch.no_grad():
        module.train()(torch.from_numpy(np.concatenate(images(16, seed=7))))
    export_onnx(module, path, image_size=SIDE, channels=3, metadata=METADATA)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("export")


@pytest.fixture(scope="module")
def exported(folder: Path) -> Path:
    return export(network("relu"), folder / "relu.onnx")


@pytest.fixture(scope="module")
def scattered(exported: Path, folder: Path) -> Path:
    """The same function with weights that differ by up to 64 times between channels."""
    model = plain(exported)
    weights = {item.name: onnx.numpy_helper.to_array(item) for item in model.graph.initializer}
    convs = {node.output[0]: node for node in model.graph.node if node.op_type == "Conv"}
    rectified = {n.output[0]: n.input[0] for n in model.graph.node if n.op_type == "Relu"}
    noise, changed = np.random.default_rng(0), dict(weights)
    for node in list(convs.values()):
        before = convs.get(rectified.get(node.input[0], ""))
        readers = sum(node.input[0] in other.input for other in model.graph.node)
        depthwise = weights[node.input[1]].shape[1] == 1
        if before is not None and readers == 1 and depthwise:
            scale = np.exp2(noise.uniform(-3, 3, len(weights[before.input[1]])))
            shape = scale.astype(np.float32)[:, None, None, None]
            changed[before.input[1]] = changed[before.input[1]] / shape
            changed[before.input[2]] = changed[before.input[2]] / shape.ravel()
            changed[node.input[1]] = changed[node.input[1]] * shape
    for item in model.graph.initializer:
        item.CopyFrom(onnx.numpy_helper.from_array(changed[item.name], item.name))
    return save(model, folder / "scattered.onnx")


def plain(path: Path) -> ModelProto:
    model = folded(path)
    plain_operators(model)
    return model


def save(model: ModelProto, path: Path) -> Path:
    onnx.save(model, str(path))
    return path


def logits(path: Path, count: int = 12) -> NDArray[np.float32]:
    runner = session(path)
    return np.concatenate([runner.run(None, {INPUT: x})[0] for x in images(count, seed=1)])


def error(path: Path, reference: Path) -> float:
    """Root mean square of the difference, as a share of what images make of the logits."""
    expected = logits(reference)
    deviation = (expected - expected.mean(0)).std()
    return float(np.sqrt(((logits(path) - expected) ** 2).mean()) / deviation)


def ranges(model: ModelProto) -> dict[str, NDArray[np.float32]]:
    """Largest absolute weight of each output channel."""
    return {
        item.name: np.abs(onnx.numpy_helper.to_array(item)).reshape(item.dims[0], -1).max(1)
        for item in model.graph.initializer
        if len(item.dims) == 4
    }


@pytest.mark.parametrize("method", CALIBRATIONS)
def test_the_8_bit_file_says_nearly_the_same(
    method: str,
    exported: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    before, out = exported.read_bytes(), tmp_path / "deep" / "model.int8.onnx"
    # 11 images are no whole number of the strides in which they are looked at
    quantize_static_qdq(
        exported,
        out,
        iter(images(11)),
        per_channel=True,
        method=method,
        equalize=True,
        correct_bias=True,
    )
    assert capfd.readouterr() == ("", "")
    assert exported.read_bytes() == before
    assert [file.name for file in out.parent.iterdir()] == ["model.int8.onnx"]
    assert not list(temporary.iterdir())
    assert read_props(out) == METADATA
    assert out.stat().st_size < 0.8 * len(before)
    assert 0 < error(out, exported) < 0.5


def test_all_of_the_network_is_in_8_bits(exported: Path, tmp_path: Path) -> None:
    for per_channel in (True, False):
        out = tmp_path / "int8.onnx"
        quantize_static_qdq(exported, out, images(2), per_channel=per_channel)
        model = onnx.load(str(out))
        operators = {node.op_type for node in model.graph.node}
        assert operators == {
            *("Add", "Conv", "DequantizeLinear", "Gemm", "GlobalAveragePool", "Mul"),
            *("QuantizeLinear", "Squeeze"),
        }
        assert [(item.domain, item.version) for item in model.opset_import] == [("", 18)]
        weights = [item for item in model.graph.initializer if len(item.dims) > 1]
        assert {item.data_type for item in weights} == {TensorProto.INT8}
        scales = [i.dims for i in model.graph.initializer if i.name.endswith("0.weight_scale")]
        assert all(bool(dims) == per_channel for dims in scales)


def test_equalized_weights_compute_the_same(exported: Path, tmp_path: Path) -> None:
    model = plain(exported)
    # expand, depthwise and squeeze layers, of which relu or nothing passes scales on
    assert equalize_ranges(model, images(2)) > 8
    equalized = save(model, tmp_path / "m.onnx")
    np.testing.assert_allclose(logits(equalized), logits(exported), atol=1e-4)
    assert ranges(model).keys() == ranges(plain(exported)).keys()


def test_scattered_ranges_are_evened_out(scattered: Path, exported: Path, tmp_path: Path) -> None:
    np.testing.assert_allclose(logits(scattered), logits(exported), atol=1e-4)
    errors = {}
    for equalize in (False, True):
        out = tmp_path / f"{equalize}.onnx"
        quantize_static_qdq(scattered, out, images(8), per_channel=False, equalize=equalize)
        errors[equalize] = error(out, exported)
    assert errors[True] < 0.7 * errors[False]
    model = plain(scattered)
    equalize_ranges(model)
    graph = {node.output[0]: node for node in model.graph.node}
    largest, pairs = ranges(model), 0
    for node in model.graph.node:
        relu = graph.get(node.input[0])
        before = graph.get(relu.input[0]) if relu and relu.op_type == "Relu" else None
        if before is not None and node.op_type == "Conv" and node.input[1] in largest:
            first, second = largest[before.input[1]], largest[node.input[1]]
            if dims(model, node.input[1])[1] == 1:
                np.testing.assert_allclose(first, second, rtol=0.01)
                pairs += 1
    assert pairs == 4


def dims(model: ModelProto, name: str) -> list[int]:
    return next(list(item.dims) for item in model.graph.initializer if item.name == name)


@pytest.mark.parametrize("activation", ["relu6", "hard_swish"])
def test_scales_pass_only_what_is_homogeneous(activation: str, folder: Path) -> None:
    path = export(network(activation), folder / f"{activation}.onnx")
    before, model = plain(path), plain(path)
    scaled = equalize_ranges(model)
    moved = [
        name
        for name, largest in ranges(model).items()
        if not np.allclose(largest, ranges(before)[name], rtol=1e-3)
    ]
    # squeeze-excite has a relu of its own; a projection without shortcut feeds the next expansion
    assert 0 < scaled <= 4
    assert not any("depthwise" in name or "stem" in name for name in moved)
    after = save(model, folder / "after.onnx")
    np.testing.assert_allclose(logits(after), logits(path), atol=1e-4)


def test_no_channel_outgrows_its_tensor(folder: Path) -> None:
    """A channel of tiny weights and a large bias; evened out alone it would be 300 times larger."""
    helper = onnx.helper
    noise = np.random.default_rng(0)
    first = noise.standard_normal((8, 3, 1, 1)).astype(np.float32)
    first[0] *= 1e-6
    second = noise.standard_normal((8, 8, 1, 1)).astype(np.float32)
    numbers = {"w": first, "b": np.full(8, 2, np.float32), "v": second}
    graph = helper.make_graph(
        [
            helper.make_node("Conv", [INPUT, "w", "b"], ["x"], "first"),
            helper.make_node("Relu", ["x"], ["y"], "relu"),
            helper.make_node("Conv", ["y", "v"], ["logits"], "second"),
        ],
        "dead",
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, [1, 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 8, SIDE, SIDE])],
        [onnx.numpy_helper.from_array(value, name) for name, value in numbers.items()],
    )
    opset = [helper.make_opsetid("", 18)]
    biases = {}
    for bounded in (False, True):
        model = helper.make_model(graph, ir_version=10, opset_imports=opset)
        assert equalize_ranges(model, images(4) if bounded else ()) == 1
        (bias,) = (item for item in model.graph.initializer if item.name == "b")
        biases[bounded] = onnx.numpy_helper.to_array(bias)
    assert biases[False][0] > 300
    assert biases[True][0] < 20
    np.testing.assert_allclose(biases[True][1:], biases[False][1:], rtol=0.2)


def test_biases_take_the_mean_error_up(scattered: Path, exported: Path, tmp_path: Path) -> None:
    outs = {flag: tmp_path / f"{flag}.onnx" for flag in (False, True)}
    for flag, out in outs.items():
        quantize_static_qdq(scattered, out, images(16), per_channel=False, correct_bias=flag)
    expected = logits(exported)
    mean = {flag: np.abs((logits(out) - expected).mean(0)).mean() for flag, out in outs.items()}
    assert mean[True] < mean[False]
    assert error(outs[True], exported) < error(outs[False], exported)
    before, after = (onnx.load(str(out)) for out in outs.values())
    for old, new in zip(before.graph.initializer, after.graph.initializer, strict=True):
        # nothing but biases moved
        assert old == new or (new.data_type == TensorProto.INT32 and old.name == new.name)


def test_one_layer_has_no_mean_error_left(tmp_path: Path) -> None:
    helper = onnx.helper
    weight = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32)
    weight[0] *= 30  # the other channels get few of the 256 steps
    numbers = {"w": weight, "b": np.zeros(4, np.float32)}
    graph = helper.make_graph(
        [helper.make_node("Conv", [INPUT, "w", "b"], ["logits"], "conv")],
        "one",
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, [1, 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 4, SIDE - 2, SIDE - 2])],
        [onnx.numpy_helper.from_array(value, name) for name, value in numbers.items()],
    )
    opset = [helper.make_opsetid("", 18)]
    source = save(helper.make_model(graph, ir_version=10, opset_imports=opset), tmp_path / "m.onnx")
    noise = np.random.default_rng(1)
    samples = [noise.standard_normal((1, 3, SIDE, SIDE), np.float32) + 1 for _ in range(4)]
    errors = []
    for flag in (False, True):
        out = tmp_path / "int8.onnx"
        quantize_static_qdq(source, out, samples, per_channel=False, correct_bias=flag)
        both = [session(path) for path in (source, out)]
        found = [np.stack([r.run(None, {INPUT: x})[0] for x in samples]) for r in both]
        errors.append(np.abs((found[0] - found[1]).mean((0, 1, 3, 4))).max())
    assert errors[1] < 0.1 * errors[0]


def test_layers_whose_inputs_are_float_keep_their_bias(exported: Path) -> None:
    model = plain(exported)
    assert correct_biases(model, model, images(1)) == 0


def test_percentiles_cut_what_is_rare(exported: Path, tmp_path: Path) -> None:
    samples = images(8)
    samples[3][0, 0, 0, 0] = 1000
    steps = {}
    for method in ("minmax", "percentile"):
        quantize_static_qdq(exported, tmp_path / "m.onnx", samples, per_channel=True, method=method)
        model = onnx.load(str(tmp_path / "m.onnx"))
        (first,) = (node for node in model.graph.node if node.input[0] == INPUT)
        (scale,) = (item for item in model.graph.initializer if item.name == first.input[1])
        steps[method] = float(onnx.numpy_helper.to_array(scale))
    assert steps["minmax"] == pytest.approx(1000 / 255, rel=0.02)
    assert steps["percentile"] < 0.9 * steps["minmax"]


@pytest.mark.parametrize("kind", [torch.nn.GroupNorm, torch.nn.InstanceNorm2d])
def test_norms_that_cannot_be_folded_stay_in_float(kind: type, tmp_path: Path) -> None:
    torch.manual_seed(0)
    norm = kind(2, 8) if kind is torch.nn.GroupNorm else kind(8, affine=True)
    parts = (torch.nn.Conv2d(3, 8, 3, 2), norm, torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1))
    module = torch.nn.Sequential(*parts, torch.nn.Flatten(), torch.nn.Linear(8, 7))
    path, out = tmp_path / "m.onnx", tmp_path / "int8.onnx"
    export_onnx(module, path, image_size=SIDE, channels=3, metadata=METADATA)
    quantize_static_qdq(path, out, images(8), per_channel=True, equalize=True)
    assert error(out, path) < 0.5  # little of an image is left behind an instance norm


def test_what_does_not_fit_is_named(exported: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    with pytest.raises(MobileNASError, match=r"method.*'median'.*minmax"):
        quantize_static_qdq(exported, out, images(1), per_channel=True, method="median")
    with pytest.raises(DataError, match=r"no images to quantize .*relu\.onnx with"):
        quantize_static_qdq(exported, out, [], per_channel=True)
    wrong = [*images(1), np.zeros((3, SIDE, SIDE), np.float32)]
    with pytest.raises(DataError, match=r"image 1 is float32 \[3, 32, 32\]; .*\[1, 3, 32, 32\]"):
        quantize_static_qdq(exported, out, wrong, per_channel=True)
    with pytest.raises(DataError, match="image 0 is uint8"):
        pixels = np.zeros((1, 3, SIDE, SIDE), np.uint8)
        quantize_static_qdq(exported, out, [pixels], per_channel=True)
    assert not out.exists()


def test_only_float32_files_are_quantized(exported: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    quantize_static_qdq(exported, tmp_path / "int8.onnx", images(1), per_channel=True)
    with pytest.raises(FileError, match=r"int8\.onnx is INT8 or float16 already"):
        quantize_static_qdq(tmp_path / "int8.onnx", out, images(1), per_channel=True)
    with pytest.raises(FileError, match=r"gone\.onnx does not exist"):
        quantize_static_qdq(tmp_path / "gone.onnx", out, images(1), per_channel=True)
