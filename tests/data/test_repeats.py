"""The same picture twice: in two splits, in two classes."""

from pathlib import Path

import pytest
from PIL import Image

from mobilenas.data import DataSettings, ImageData, load_data


def paint(path: Path, shade: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (shade, 255 - shade, 3)).save(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    shades = iter(range(255))
    for split in ("train", "val", "test"):
        for label in ("cat", "dog"):
            for number in range(4):
                paint(tmp_path / split / label / f"{number}.png", next(shades))
    return tmp_path


def load(root: Path) -> ImageData:
    return load_data(DataSettings(source=str(root)))


def test_images_that_differ_are_no_repeats(root: Path) -> None:
    data = load(root)
    assert data.repeated == {"val": 0, "test": 0}
    assert not any("also in" in note for note in data.notes)


def test_repeats_across_splits_are_counted_and_named(root: Path) -> None:
    paint(root / "test/cat/a copy.png", 0)
    with Image.open(root / "test/cat/a copy.png") as image:
        image.save(root / "test/cat/other.bmp")  # another file, the same picture
    paint(root / "val/dog/5.png", 4)
    data = load(root)
    assert data.describe().repeated == {"val": 1, "test": 2}
    told = [note for note in data.notes if "also in another split" in note]
    assert told[0].startswith("1 image of val is also in another split")
    assert told[1].startswith("2 images of test")
    assert told[1].endswith("first test/cat/a copy.png is train/cat/0.png")


def test_repeats_across_classes_are_named(root: Path) -> None:
    paint(root / "train/dog/wrong.png", 0)
    data = load(root)
    assert data.repeated == {"val": 0, "test": 0}
    (told,) = (note for note in data.notes if "also in another class" in note)
    assert told.endswith("first train/dog/wrong.png is train/cat/0.png")


def test_repeats_within_a_class_and_split_are_not_reported(root: Path) -> None:
    paint(root / "train/cat/copy.png", 0)
    assert not any("also in" in note for note in load(root).notes)
