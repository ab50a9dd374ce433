import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

from mobilenas.core.errors import FileError
from mobilenas.latency.graphs import arch_model
from mobilenas.onnx.fp16 import to_fp16
from mobilenas.onnx.int8 import quantize_static_qdq
from mobilenas.onnx.ort_format import to_ort
from mobilenas.onnx.session import session
from mobilenas.spaces.mobile.mobilenets import mobilenet_v2

SIDE = 32
METADATA = {"labels": '["a", "ß"]'}


def images(count: int) -> list[NDArray[np.float32]]:
    noise = np.random.default_rng(0)
    return [noise.standard_normal((1, 3, SIDE, SIDE), np.float32) for _ in range(count)]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("sources")
    arch = mobilenet_v2(1.0, SIDE, 7)
    model = onnx.load_from_string(arch_model(replace(arch, blocks=arch.blocks[:4])))
    onnx.helper.set_model_props(model, METADATA)
    paths = {name: folder / f"model{suffix}.onnx" for name, suffix in SUFFIXES.items()}
    onnx.save(model, str(paths["fp32"]))
    to_fp16(paths["fp32"], paths["fp16"], images(2))
    quantize_static_qdq(paths["fp32"], paths["int8"], images(2), per_channel=True)
    return paths


SUFFIXES = {"fp32": "", "fp16": ".fp16", "int8": ".int8"}
OPERATORS = {"fp32": "FusedConv", "fp16": "Cast", "int8": "QLinearConv"}


@pytest.mark.parametrize("precision", SUFFIXES)
def test_the_ort_file_says_what_its_source_says(
    precision: str,
    sources: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    source, path = sources[precision], tmp_path / "deep" / f"model{SUFFIXES[precision]}.ort"
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.setenv("ORT_CONVERT_ONNX_MODELS_TO_ORT_OPTIMIZATION_LEVEL", "disable")
    before = set(source.parent.iterdir())
    files = to_ort(source, path)
    assert capfd.readouterr() == ("", "")
    assert set(source.parent.iterdir()) == before
    assert not list(temporary.iterdir())
    assert set(path.parent.iterdir()) == {files.model, files.operators}
    assert files.model == path
    # with the fast 8-bit kernels, whatever they compute here: an ORT file is not optimized again
    runner, expected = session(path), onnxruntime.InferenceSession(str(source))
    assert dict(runner.get_modelmeta().custom_metadata_map) == METADATA
    for image in images(3):
        (ours,), (theirs,) = (model.run(None, {"image": image}) for model in (runner, expected))
        np.testing.assert_allclose(ours, theirs, atol=1e-4 * theirs.std())
    # float16 stays half as large
    limit = {"fp32": 1.1, "fp16": 0.7, "int8": 0.5}[precision]
    assert path.stat().st_size < limit * sources["fp32"].stat().st_size
    lines = files.operators.read_text().splitlines()
    assert lines[0] == f"# Needed by {path.name}"
    assert all(line.count(";") == 2 for line in lines[1:])
    assert any(OPERATORS[precision] in line.split(";")[2].split(",") for line in lines[1:])
    assert str(temporary).encode() not in path.read_bytes()


def test_what_cannot_be_converted_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not onnx")
    with pytest.raises(FileError, match=r"broken\.onnx is not an ONNX file"):
        to_ort(broken, tmp_path / "m.ort")
    with pytest.raises(FileError, match=r"gone\.onnx does not exist"):
        to_ort(tmp_path / "gone.onnx", tmp_path / "m.ort")
    with pytest.raises(FileError, match=r"model\.onnx must end in \.ort"):
        to_ort(broken, tmp_path / "model.onnx")
    assert [file.name for file in tmp_path.iterdir()] == ["broken.onnx"]


@pytest.mark.slow
@pytest.mark.parametrize("precision", SUFFIXES)
def test_the_same_file_twice_has_the_same_bytes(
    precision: str, sources: dict[str, Path], tmp_path: Path
) -> None:
    content = []
    for number in range(3):  # of as many processes, each with another order of its own
        to_ort(sources[precision], tmp_path / f"{number}.ort")
        content.append((tmp_path / f"{number}.ort").read_bytes())
    assert content[0] == content[1] == content[2]
