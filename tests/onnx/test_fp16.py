import json
import os
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from onnx import TensorProto
from onnx.reference import ReferenceEvaluator
from onnxruntime.quantization.onnx_model import ONNXModel
from onnxruntime.transformers.float16 import convert_float_to_float16
from torch import Tensor, nn

from mobilenas.core.errors import DataError, FileError
from mobilenas.onnx.export import INPUT, export_onnx, read_props
from mobilenas.onnx.fp16 import folded, to_fp16
from mobilenas.onnx.int8 import quantize_static_qdq
from mobilenas.onnx.session import session
from mobilenas.spaces.mobile.mobilenets import mobilenet_v3_small
from mobilenas.spaces.networks import build

slow = pytest.mark.slow
SIDE = 32
METADATA = {"labels": json.dumps(["cat", "größer"]), "mean": "[0.1, 0.2, 0.3]"}


def images(count: int) -> list[NDArray[np.float32]]:
    noise = np.random.default_rng(0)
    return [noise.standard_normal((1, 3, SIDE, SIDE), np.float32) for _ in range(count)]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("export") / "model.onnx"
    arch = mobilenet_v3_small(0.5, SIDE, 7)
    module = build(replace(arch, blocks=arch.blocks[:5]))
    with torch.no_grad():
        module.train()(torch.from_numpy(np.concatenate(images(16))))
        # a channel that hardly varies: its variance is nothing in float16
        norm = module.get_submodule("stem.1")
        norm.running_var[0] = 1e-9
    export_onnx(module, path, image_size=SIDE, channels=3, metadata=METADATA)
    return path


def test_half_the_size_and_nearly_the_same_logits(
    exported: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    before, path = exported.read_bytes(), tmp_path / "deep" / "model.fp16.onnx"
    to_fp16(exported, path, images(4))
    assert exported.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["model.fp16.onnx"]
    assert not list(temporary.iterdir())
    assert capfd.readouterr() == ("", "")
    assert path.stat().st_size < 0.6 * len(before)
    assert read_props(path) == METADATA
    float_runner, runner = session(exported), session(path)
    for image in images(4):
        (expected,) = float_runner.run(None, {INPUT: image})
        (found,) = runner.run(None, {INPUT: image})
        assert found.dtype == np.float32
        assert 0 < np.abs(found - expected).max() < 0.01 * expected.std()


def test_weights_are_float16_and_what_apps_touch_is_float32(exported: Path, tmp_path: Path) -> None:
    to_fp16(exported, tmp_path / "m.onnx", images(4))
    model = onnx.load(str(tmp_path / "m.onnx"))
    onnx.checker.check_model(model, full_check=True)
    assert [(item.domain, item.version) for item in model.opset_import] == [("", 18)]
    ends = (*model.graph.input, *model.graph.output)
    assert {item.type.tensor_type.elem_type for item in ends} == {TensorProto.FLOAT}
    kinds = {item.data_type for item in model.graph.initializer}
    assert kinds == {TensorProto.FLOAT16, TensorProto.INT64}
    operators = [node.op_type for node in model.graph.node]
    assert operators.count("Cast") == 2
    assert "BatchNormalization" not in operators


def test_norms_are_folded_and_metadata_kept(exported: Path) -> None:
    model = folded(exported)
    assert "BatchNormalization" not in {node.op_type for node in model.graph.node}
    assert {item.key: item.value for item in model.metadata_props} == METADATA


def test_a_name_that_is_not_utf8_changes_nothing(exported: Path, tmp_path: Path) -> None:
    named = tmp_path / os.fsdecode(b"\xff.onnx")
    named.write_bytes(exported.read_bytes())
    assert folded(named) == folded(exported)


def test_a_weight_beyond_float16_stays_in_float32(exported: Path, tmp_path: Path) -> None:
    model = onnx.load(str(exported))
    (bias,) = (item for item in model.graph.initializer if item.name == "classifier.3.bias")
    bias.CopyFrom(onnx.numpy_helper.from_array(np.full(7, -1e5, np.float32), bias.name))
    onnx.save(model, str(tmp_path / "large.onnx"))
    report = to_fp16(tmp_path / "large.onnx", tmp_path / "out.onnx", images(2))
    assert report.float32_nodes == ("Gemm logits",)
    assert report.largest_activation == pytest.approx(1e5, rel=1e-3)
    check_true_float16(tmp_path / "large.onnx", tmp_path / "out.onnx", images(2))


def check_true_float16(
    source: Path, half: Path, given: list[NDArray[np.float32]], rtol: float = 0.01
) -> None:
    """Hold a file against its source in the reference implementation, whose float16 overflows."""
    runner = ReferenceEvaluator(onnx.load(str(half)))
    for image in given:
        (expected,) = session(source).run(None, {INPUT: image})
        (found,) = runner.run(None, {INPUT: image})
        np.testing.assert_allclose(found, expected, rtol=0, atol=rtol * np.abs(expected).max())


class Loud(nn.Module):
    """Maps far beyond float16 between two layers that are not, as `kind` makes them."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 1)
        self.c, self.d = nn.Conv2d(8, 8, 1), nn.Linear(8, 7)
        with torch.no_grad():
            if kind not in ("quiet", "logits"):
                self.a.weight *= 3e5
                self.b.weight *= 1e-5
            self.d.weight *= 1e6 if kind == "logits" else 1
        self.norm = nn.LayerNorm(8, eps=1e-12)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.a(x))
        if self.kind == "shared":  # two float32 nodes read one tensor
            y = y + torch.sigmoid(y * 1e-5)
        y = F.relu(self.c(F.relu(self.b(y))))
        y = (y * 1e-7).mean((2, 3)) * 1e7 if self.kind == "small" else y.mean((2, 3))
        if self.kind == "squares":
            y = (y * 1e-3) ** 2
            y = y / torch.sqrt(y.mean(1, keepdim=True) + 1e-12)
        elif self.kind == "norm":
            y = self.norm(y * 1e-4)
        elif self.kind == "casts":  # the exporter casts softplus's constants, which are float32
            y = F.softplus(y, beta=4.0) + (y > 0).int().float() / (y + 1)
        z: Tensor = self.d(y)
        return z


class Far(nn.Module):
    """Adds to what it computes a number within float16, and takes it away again."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.a, self.b, self.d = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1), nn.Linear(8, 7)

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "pixels":
            x = (x + 3e4) - 3e4
        y = F.relu(self.a(x))
        if self.kind == "maps":
            y = (y + 3e4) - 3e4
        elif self.kind == "scaled":
            y = 2 * (F.relu(0.5 * (y + 2e4)) - 1e4)
        elif self.kind == "centered":  # as an image with a large offset is
            y = y + 1e3
            y = y - y.mean(1, keepdim=True)
        z: Tensor = self.d(F.relu(self.b(y)).mean((2, 3)))
        return z


@pytest.mark.parametrize(
    "kind",
    [
        *("quiet", "maps", "logits", "norm"),
        *(pytest.param(kind, marks=slow) for kind in ("shared", "squares", "small", "casts")),
    ],
)
def test_in_true_float16_nothing_overflows_or_vanishes(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    path, out = tmp_path / "m.onnx", tmp_path / "fp16.onnx"
    export_onnx(Loud(kind).eval(), path, image_size=8, channels=3, metadata=METADATA)
    given = [image[:, :, :8, :8] for image in images(6)]
    report = to_fp16(path, out, given)
    check_true_float16(path, out, given)
    assert (report.largest_activation > 65504) == (kind != "quiet")
    assert bool(report.float32_nodes) == (kind != "quiet")
    half = [t for t in onnx.load(str(out)).graph.initializer if t.data_type == TensorProto.FLOAT16]
    assert len(half) >= 2  # and not all of it is float32
    plain = convert_float_to_float16(onnx.load(str(path)), keep_io_types=True)
    ONNXModel(plain).topological_sort()
    with np.errstate(all="ignore"):
        (wrong,) = ReferenceEvaluator(plain).run(None, {INPUT: given[0]})
    (expected,) = session(path).run(None, {INPUT: given[0]})
    if kind != "quiet":  # the case is one: without care it is wrong
        assert not np.abs(wrong - expected).max() < 0.01 * np.abs(expected).max()


@pytest.mark.parametrize(
    "kind", ["pixels", "maps", *(pytest.param(kind, marks=slow) for kind in ("scaled", "centered"))]
)
def test_in_true_float16_no_digits_are_lost_where_large_numbers_cancel(
    kind: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    path, out = tmp_path / "m.onnx", tmp_path / "fp16.onnx"
    export_onnx(Far(kind).eval(), path, image_size=8, channels=3, metadata=METADATA)
    given = [image[:, :, :8, :8] for image in images(6)]
    report = to_fp16(path, out, given)
    check_true_float16(path, out, given)
    assert report.largest_activation < 65504 / 2
    sums = [name for name in report.float32_nodes if name.split()[0] in ("Add", "Sub")]
    assert len(sums) >= (1 if kind == "centered" else 2)
    plain = convert_float_to_float16(onnx.load(str(path)), keep_io_types=True)
    ONNXModel(plain).topological_sort()
    (wrong,) = ReferenceEvaluator(plain).run(None, {INPUT: given[0]})
    (expected,) = session(path).run(None, {INPUT: given[0]})
    assert not np.abs(wrong - expected).max() < 0.01 * np.abs(expected).max()


def test_sums_in_which_little_cancels_are_float16(exported: Path, tmp_path: Path) -> None:
    """The residual sums of MobileNetV3 among them."""
    report = to_fp16(exported, tmp_path / "m.onnx", images(4))
    assert not [name for name in report.float32_nodes if name.split()[0] in ("Add", "Sub")]


def test_a_network_that_would_be_float32_for_the_most_part_is_refused(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = Loud("maps").eval()
    with torch.no_grad():
        module.b.weight *= 1e5
    path = tmp_path / "m.onnx"
    export_onnx(module, path, image_size=8, channels=3, metadata=METADATA)
    told = r"m\.onnx: \d of 4 layers have numbers outside of float16, which ends at 65504 \("
    with pytest.raises(FileError, match=told):
        to_fp16(path, tmp_path / "out.onnx", [image[:, :, :8, :8] for image in images(2)])
    assert not (tmp_path / "out.onnx").exists()


def test_without_images_nothing_is_known(exported: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no images to measure ranges of .*model\.onnx"):
        to_fp16(exported, tmp_path / "out.onnx", [])


def test_only_float32_files_are_converted(exported: Path, tmp_path: Path) -> None:
    to_fp16(exported, tmp_path / "half.onnx", images(1))
    quantize_static_qdq(exported, tmp_path / "int8.onnx", images(1), per_channel=True)
    for name in ("half", "int8"):
        with pytest.raises(FileError, match=rf"{name}\.onnx is INT8 or float16 already"):
            to_fp16(tmp_path / f"{name}.onnx", tmp_path / "out.onnx", images(1))
    with pytest.raises(FileError, match=r"gone\.onnx does not exist"):
        to_fp16(tmp_path / "gone.onnx", tmp_path / "out.onnx", images(1))
