"""The archive of onnxruntime-web is the one whose checksum is known."""

import base64
import hashlib
import io
import tarfile
from itertools import chain
from pathlib import Path

import pytest

from mobilenas.core.errors import FileError
from mobilenas.web import runtime

NAMES = list(chain(*runtime.FILES.values()))


def archive(path: Path) -> Path:
    with tarfile.open(path, "w:gz") as content:
        for name in (*NAMES, "../other.js"):
            info = tarfile.TarInfo(f"package/dist/{name}")
            info.size = len(name)
            content.addfile(info, io.BytesIO(name.encode()))
    return path


def test_the_files_of_the_right_archive_are_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = archive(tmp_path / "ort.tgz")
    checksum = base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()
    monkeypatch.setattr(runtime, "INTEGRITY", checksum)
    monkeypatch.setattr(runtime, "FOLDER", tmp_path / "ort")
    with pytest.raises(FileError, match="lacks onnxruntime-web"):
        runtime.check_runtime("wasm")
    runtime.unpack(path, tmp_path / "ort")
    runtime.check_runtime("webgpu")
    found = {file.name: file.read_text() for file in (tmp_path / "ort").iterdir()}
    assert found == {name: name for name in NAMES}
    (tmp_path / "ort" / runtime.FILES["webgpu"][0]).unlink()
    runtime.check_runtime("wasm")
    with pytest.raises(FileError, match="for webgpu; with npm"):
        runtime.check_runtime("webgpu")


def test_another_archive_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="its sha512 differs"):
        runtime.unpack(archive(tmp_path / "ort.tgz"), tmp_path / "ort")
    assert not (tmp_path / "ort").exists()
