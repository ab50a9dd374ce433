"""What the index spares, and what it must notice."""

import os
from pathlib import Path

import pytest
from PIL import Image

from mobilenas.core.errors import DataError
from mobilenas.data import DataSettings, ImageData, load_data, reading


@pytest.fixture(autouse=True)
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/mobilenas/images"


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Files that a start decodes."""
    seen: list[str] = []
    read_image = reading.read_image

    def record(path: Path, *rest: object) -> object:
        seen.append(path.name)
        return read_image(path, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(reading, "read_image", record)
    return seen


def paint(path: Path, value: int, side: int = 8) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (side, side), (value, 2 * value, 9)).save(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for value in range(12):
        paint(tmp_path / "images" / ("cat", "dog")[value % 2] / f"{value:02}.png", value)
    return tmp_path / "images"


def load(root: Path, *, memory_limit_bytes: int = 0, **settings: object) -> ImageData:
    return load_data(
        DataSettings(source=str(root), memory_limit_bytes=memory_limit_bytes, **settings)  # type: ignore[arg-type]
    )


def test_nothing_is_decoded_twice(root: Path, decoded: list[str]) -> None:
    before = load(root)
    assert len(decoded) == 12
    decoded.clear()
    again = load(root)
    assert not decoded
    assert again.describe() == before.describe() == load(root, memory_limit_bytes=2**20).describe()


def test_images_in_memory_leave_no_index(root: Path, index: Path) -> None:
    load(root, memory_limit_bytes=2**20)
    assert not index.exists()


def test_each_side_has_its_own(root: Path, decoded: list[str]) -> None:
    load(root)
    load(root, image_size=16)
    assert len(decoded) == 24
    decoded.clear()
    assert load(root, image_size=16).image_size == 16
    assert load(root).image_size == 8
    assert not decoded


def test_what_changes_is_decoded_again(root: Path, decoded: list[str]) -> None:
    load(root)
    paint(root / "cat" / "new.png", 200)
    (root / "dog" / "01.png").rename(root / "dog" / "one.png")
    paint(root / "cat" / "02.png", 50, side=9)
    os.utime(root / "cat" / "04.png", ns=(0, 0))
    (root / "dog" / "03.png").unlink()
    decoded.clear()
    changed = load(root, image_size=8)
    assert sorted(decoded) == ["02.png", "04.png", "new.png", "one.png"]
    assert changed.describe() == load(root, image_size=8, memory_limit_bytes=2**20).describe()
    assert any("1 image of another size was resized" in note for note in changed.notes)


def test_a_bad_image_is_tried_again(root: Path, decoded: list[str]) -> None:
    (root / "cat" / "bad.png").write_bytes((root / "cat" / "00.png").read_bytes()[:45])
    before = load(root, skip_bad_images=True)
    assert len(before.names) == 12
    decoded.clear()
    assert load(root, skip_bad_images=True).describe() == before.describe()
    assert decoded == ["bad.png"]
    with pytest.raises(DataError, match=r"bad\.png cannot be read"):
        load(root)


def test_bytes_in_names(root: Path, decoded: list[str]) -> None:
    odd = root / "cat" / os.fsdecode(b"caf\xe9.png")
    paint(odd, 77)
    before = load(root)
    decoded.clear()
    assert load(root).describe() == before.describe()
    assert not decoded


def test_a_damaged_index_is_made_again(root: Path, index: Path, decoded: list[str]) -> None:
    before = load(root)
    whole = {path: path.read_bytes() for path in index.iterdir()}
    assert len(whole) == 2
    for damage in (lambda content: content[:-1], lambda content: content[:30] + content[31:]):
        for path, content in whole.items():
            path.write_bytes(damage(content))
        decoded.clear()
        assert load(root).describe() == before.describe()
        assert len(decoded) == 12
        assert {path: path.read_bytes() for path in index.iterdir()} == whole
