import json
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray

from mobilenas.errors import DataError, FileError
from mobilenas.export.onnx import INPUT, export_onnx, read_props
from mobilenas.profiling.quantize import quantize
from mobilenas.profiling.session import session
from mobilenas.spaces import build
from mobilenas.spaces.mobilenets import mobilenet_v2

SIDE = 32
METADATA = {"labels": json.dumps(["cat", "größer"]), "mean": "[0.1, 0.2, 0.3]"}


def images(count: int) -> list[NDArray[np.float32]]:
    noise = np.random.default_rng(0)
    return [noise.standard_normal((1, 3, SIDE, SIDE), np.float32) for _ in range(count)]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("export") / "model.onnx"
    arch = mobilenet_v2(0.25, SIDE, 7)
    module = build(replace(arch, blocks=arch.blocks[:4]))
    with torch.no_grad():
        module.train()(torch.from_numpy(np.concatenate(images(16))))
    export_onnx(module, path, image_size=SIDE, channels=3, metadata=METADATA)
    return path


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_the_8_bit_file_says_nearly_the_same(
    exported: Path, tmp_path: Path, temporary: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "deep" / "model.int8.onnx"
    before = exported.read_bytes()
    quantize(exported, out, iter(images(8)))
    assert exported.read_bytes() == before
    assert [file.name for file in out.parent.iterdir()] == ["model.int8.onnx"]
    assert [file.name for file in exported.parent.iterdir()] == ["model.onnx"]
    assert not list(temporary.iterdir())
    assert capfd.readouterr() == ("", "")
    assert read_props(out) == METADATA
    float_runner, runner = session(exported), session(out)
    pairs = [(r.run(None, {INPUT: x})[0] for r in (float_runner, runner)) for x in images(12)]
    expected, found = (np.concatenate(part) for part in zip(*pairs, strict=True))
    assert 0 < np.abs(found - expected).max() < 0.5 * expected.std()


def test_batch_norms_are_folded_and_weights_are_small(exported: Path, tmp_path: Path) -> None:
    for per_channel in (True, False):
        out = tmp_path / f"{per_channel}.onnx"
        quantize(exported, out, images(2), per_channel=per_channel)
        model = onnx.load(str(out))
        assert "BatchNormalization" not in {node.op_type for node in model.graph.node}
        assert [(item.domain, item.version) for item in model.opset_import] == [("", 18)]
        weights = {i.name: i for i in model.graph.initializer if len(i.dims) > 1}
        assert {item.data_type for item in weights.values()} == {onnx.TensorProto.INT8}
        scales = {
            tuple(item.dims)
            for item in model.graph.initializer
            if item.name.endswith("0.weight_scale")
        }
        assert ((8,) in scales, () in scales) == (per_channel, not per_channel)
        assert out.stat().st_size < exported.stat().st_size


def test_samples_that_do_not_fit_are_named(exported: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    with pytest.raises(DataError, match="there are no samples to quantize with"):
        quantize(exported, out, [])
    wrong = [*images(1), np.zeros((3, SIDE, SIDE), np.float32)]
    with pytest.raises(
        DataError, match=r"sample 1 has the shape \[3, 32, 32\]; .* \[1, 3, 32, 32\]"
    ):
        quantize(exported, out, wrong)
    assert not out.exists()


def test_a_file_that_does_not_load_is_named(tmp_path: Path) -> None:
    path = tmp_path / "broken.onnx"
    with pytest.raises(FileError, match=r"broken\.onnx does not exist"):
        quantize(path, tmp_path / "out.onnx", images(1))
    path.write_bytes(b"not onnx")
    with pytest.raises(FileError, match=r"broken\.onnx is not an ONNX file"):
        quantize(path, tmp_path / "out.onnx", images(1))


def test_quantization_does_without_torch() -> None:
    code = "import sys, mobilenas.profiling.quantize; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
