import json
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto

from mobilenas.errors import FileError
from mobilenas.export.fp16 import folded, to_fp16
from mobilenas.export.int8 import quantize_static_qdq
from mobilenas.export.onnx import INPUT, export_onnx, read_props
from mobilenas.profiling.session import session
from mobilenas.spaces import build
from mobilenas.spaces.mobilenets import mobilenet_v3_small

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
    to_fp16(exported, path)
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
    to_fp16(exported, tmp_path / "m.onnx")
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


def test_a_weight_beyond_float16_is_named(exported: Path, tmp_path: Path) -> None:
    model = onnx.load(str(exported))
    (bias,) = (item for item in model.graph.initializer if item.name == "classifier.3.bias")
    bias.CopyFrom(onnx.numpy_helper.from_array(np.full(7, -1e5, np.float32), bias.name))
    onnx.save(model, str(tmp_path / "large.onnx"))
    with pytest.raises(FileError, match=r"large\.onnx: 'classifier.3.bias' reaches 100000; .*6550"):
        to_fp16(tmp_path / "large.onnx", tmp_path / "out.onnx")
    assert not (tmp_path / "out.onnx").exists()


def test_only_float32_files_are_converted(exported: Path, tmp_path: Path) -> None:
    to_fp16(exported, tmp_path / "half.onnx")
    quantize_static_qdq(exported, tmp_path / "int8.onnx", images(1), per_channel=True)
    for name in ("half", "int8"):
        with pytest.raises(FileError, match=rf"{name}\.onnx is in 8 bits or in float16 already"):
            to_fp16(tmp_path / f"{name}.onnx", tmp_path / "out.onnx")
    with pytest.raises(FileError, match=r"gone\.onnx does not exist"):
        to_fp16(tmp_path / "gone.onnx", tmp_path / "out.onnx")
