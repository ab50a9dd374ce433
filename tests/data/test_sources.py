"""Sources: layouts, file formats, splits, and the error for each bad input."""

import importlib
import json
import pickle
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mobilenas import data as data_package
from mobilenas.core.errors import DataError, MobileNASError
from mobilenas.core.settings import to_plain
from mobilenas.data import DataSettings, FileStore, ImageData, load_data


def paint(path: Path, size: tuple[int, int] = (8, 8), value: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value % 256, (3 * value) % 256, 9)).save(path)


def paint_classes(root: Path, count: int, classes: tuple[str, ...] = ("cat", "dog")) -> None:
    for label, name in enumerate(classes):
        for number in range(count):
            paint(root / name / f"{number:03}.png", value=100 * label + number)


def load(root: Path, **settings: object) -> ImageData:
    return load_data(DataSettings(source=str(root), **settings))  # type: ignore[arg-type]


def red_values(data: ImageData) -> dict[str, list[int]]:
    return {
        name: split.images(range(len(split)))[:, 0, 0, 0].tolist()
        for name, split in (("train", data.train), ("val", data.val), ("test", data.test))
    }


class Listener:
    def __init__(self) -> None:
        self.said: list[str] = []
        self.steps: list[int] = []

    def start(self, stage: str, total: int) -> None:
        self.steps = []

    def step(self, done: int, figures: dict[str, str]) -> None:
        self.steps.append(done)

    def info(self, message: str) -> None:
        self.said.append(message)


class TestDigits:
    def test_shapes_scale_and_split(self) -> None:
        data = load_data(DataSettings(source="digits"))
        assert [len(data.train), len(data.val), len(data.test)] == [1079, 359, 359]
        images = data.train.images(range(len(data.train)))
        assert images.shape[1:] == (3, 8, 8)
        assert images.dtype == torch.uint8
        assert (int(images.min()), int(images.max())) == (0, 255)
        assert torch.equal(images[:, 0], images[:, 2])
        assert not data.flip
        values = images.double() / 255
        assert data.mean == pytest.approx(values.mean((0, 2, 3)).tolist())
        assert data.std == pytest.approx(values.std((0, 2, 3), correction=0).tolist())

    def test_is_the_same_twice_and_json(self) -> None:
        first, second = (load_data(DataSettings(source="digits")) for _ in range(2))
        assert first.describe() == second.describe()
        plain = to_plain(first.describe())
        assert json.loads(json.dumps(plain)) == plain
        other = load_data(DataSettings(source="digits", split_seed=1))
        assert other.fingerprint != first.fingerprint

    @pytest.mark.parametrize("limit", [0, 2**31])
    def test_resized_in_memory_or_on_demand(self, limit: int) -> None:
        data = load_data(DataSettings(source="digits", image_size=16, memory_limit_bytes=limit))
        assert data.train.images([0, 1]).shape == (2, 3, 16, 16)
        assert any("resized to 16x16" in note for note in data.notes)

    def test_missing_package_names_the_extra(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def missing(name: str) -> None:
            raise ImportError(name)

        monkeypatch.setattr(importlib, "import_module", missing)
        with pytest.raises(DataError, match=r"mobilenas\[demo\]"):
            load_data(DataSettings(source="digits"))


class TestSettings:
    def test_unknown_name_says_what_is_legal(self) -> None:
        for name in ("digit", ""):  # an empty name is not the current directory
            settings = DataSettings(source=name)
            with pytest.raises(DataError, match=f"'{name}' is .* none of digits, cifar10"):
                settings.check_source()
            with pytest.raises(DataError, match=f"'{name}' is .* none of digits, cifar10"):
                load_data(settings)

    @pytest.mark.parametrize(
        "bad", [{"image_size": 4}, {"image_size": 2.5}, {"split_seed": -1}], ids=str
    )
    def test_values_out_of_range(self, bad: dict[str, float]) -> None:
        with pytest.raises(MobileNASError, match=next(iter(bad))):
            DataSettings(source="digits", **bad)  # type: ignore[arg-type]


class TestFolderLayouts:
    def test_three_splits(self, tmp_path: Path) -> None:
        for name, count in (("train", 4), ("valid", 2), ("test", 3)):
            paint_classes(tmp_path / name, count)
        data = load(tmp_path)
        assert [len(data.train), len(data.val), len(data.test)] == [8, 4, 6]
        assert data.classes == ("cat", "dog")
        assert data.image_size == 8
        assert data.flip
        assert data.train.labels.tolist() == [0] * 4 + [1] * 4
        assert red_values(data)["train"] == [0, 1, 2, 3, 100, 101, 102, 103]
        assert data.split_rule == "the folders train, valid, test"

    def test_val_from_train(self, tmp_path: Path) -> None:
        paint_classes(tmp_path / "train", 20)
        paint_classes(tmp_path / "test", 3)
        data = load(tmp_path)
        assert [len(data.train), len(data.val), len(data.test)] == [34, 6, 6]
        assert torch.bincount(data.val.labels).tolist() == [3, 3]
        found = red_values(data)
        assert sorted(found["train"] + found["val"]) == [*range(20), *range(100, 120)]

    def test_test_from_train(self, tmp_path: Path) -> None:
        paint_classes(tmp_path / "train", 20)
        paint_classes(tmp_path / "val", 3)
        data = load(tmp_path)
        assert [len(data.train), len(data.val), len(data.test)] == [34, 6, 6]
        assert "test is 15 % of each class of train" in data.split_rule
        assert f"splits of {tmp_path}: {data.split_rule}" in data.notes
        found = red_values(data)
        assert sorted(found["train"] + found["test"]) == [*range(20), *range(100, 120)]

    def test_class_folders(self, tmp_path: Path) -> None:
        paint_classes(tmp_path, 20)
        data = load(tmp_path)
        assert [len(data.train), len(data.val), len(data.test)] == [28, 6, 6]
        assert sorted(chain.from_iterable(red_values(data).values())) == [
            *range(20),
            *range(100, 120),
        ]
        assert red_values(load(tmp_path, split_seed=1)) != red_values(data)

    def test_a_class_may_be_called_train(self, tmp_path: Path) -> None:
        paint_classes(tmp_path, 5, ("bus", "test", "train"))
        assert load(tmp_path).classes == ("bus", "test", "train")

    def test_order_of_creation_does_not_matter(self, tmp_path: Path) -> None:
        numbers = list(range(12))
        found = []
        for order in (numbers, numbers[::-1]):
            root = tmp_path / f"from_{order[0]}"
            for number in order:
                paint(root / "b" / f"{number}.png", value=number)
                paint(root / "a" / f"{number}.png", value=100 + number)
            data = load(root)
            found.append((red_values(data), data.fingerprint))
        assert found[0] == found[1]

    def test_classes_are_listed_with_their_images(self, tmp_path: Path) -> None:
        paint_classes(tmp_path / "train", 4)
        paint_classes(tmp_path / "val", 1)
        paint_classes(tmp_path / "test", 3, ("cat",))
        data = load(tmp_path)
        assert "2 classes (images in train/val/test): cat 4/1/3, dog 4/1/0" in data.notes
        assert "test has no images of 1 class: first dog" in data.notes
        assert data.describe().class_counts["dog"] == {"train": 4, "val": 1, "test": 0}
        paint_classes(tmp_path / "test", 3, ("dog",))
        alike = "2 classes (images in train/val/test: 4/1/3 each): cat, dog"
        assert alike in load(tmp_path).notes

    def test_fingerprint_sees_a_renamed_file(self, tmp_path: Path) -> None:
        paint_classes(tmp_path, 6)
        before = load(tmp_path).fingerprint
        assert load(tmp_path).fingerprint == before
        (tmp_path / "cat" / "000.png").rename(tmp_path / "cat" / "000x.png")
        assert load(tmp_path).fingerprint != before

    def test_hidden_and_other_files_are_left_out(self, tmp_path: Path) -> None:
        paint_classes(tmp_path, 4)
        (tmp_path / "cat" / ".DS_Store").write_text("x")
        (tmp_path / "cat" / "._000.png").write_text("x")
        (tmp_path / "dog" / "notes.txt").write_text("x")
        listener = Listener()
        data = load_data(DataSettings(source=str(tmp_path)), listener)
        assert sum(map(len, (data.train, data.val, data.test))) == 8
        assert "files that are not images were skipped: 1 .txt" in data.notes
        assert listener.said == list(data.notes)
        assert listener.steps == [8]

    @pytest.mark.parametrize(
        ("classes", "flip"),
        [
            (("048_0", "097_a"), False),
            (("A", "b"), False),
            (("U+0041", "U+0042"), False),
            (("00", "41"), False),
            (("A", "apple"), True),
            (("n01440764", "n01443537"), True),
        ],
    )
    def test_flip_by_class_names(
        self, tmp_path: Path, classes: tuple[str, ...], flip: bool
    ) -> None:
        paint_classes(tmp_path, 4, classes)
        assert load(tmp_path).flip is flip
        assert load(tmp_path, flip=not flip).flip is not flip


class TestSizes:
    def test_different_sizes_become_224(self, tmp_path: Path) -> None:
        paint_classes(tmp_path, 4)
        paint(tmp_path / "cat" / "wide.png", (12, 8))
        data = load(tmp_path)
        assert data.image_size == 224
        assert "9 images of other sizes were resized to 224x224" in " ".join(data.notes)

    def test_asked_size(self, tmp_path: Path) -> None:
        paint_classes(tmp_path, 4)
        paint(tmp_path / "cat" / "wide.png", (12, 8))
        data = load(tmp_path, image_size=8)
        assert data.train.images([0]).shape == (1, 3, 8, 8)
        assert "1 image of another size was resized to 8x8" in data.notes

    def test_one_size_says_nothing(self, tmp_path: Path) -> None:
        paint_classes(tmp_path, 4)
        assert not any("resized" in note for note in load(tmp_path).notes)

    def test_on_disk_is_the_same(self, tmp_path: Path) -> None:
        paint_classes(tmp_path, 10)
        memory, disk = load(tmp_path), load(tmp_path, memory_limit_bytes=0)
        assert isinstance(disk.train.store, FileStore)
        assert any("decoded as they are needed" in note for note in disk.notes)
        assert disk.describe() == memory.describe()
        chunks = torch.arange(len(disk.train)).split(5)
        streams = zip(memory.train.stream(chunks), disk.train.stream(chunks), strict=True)
        assert all(torch.equal(first, second) for first, second in streams)
        assert red_values(disk) == red_values(memory)
        assert disk.train.images([]).shape == (0, 3, 8, 8)
        assert torch.equal(disk.train.subset([3, 1]).images([1]), memory.train.images([1]))


class TestFileFormats:
    @pytest.mark.parametrize(
        "name", ["a.jpg", "a.JPEG", "a.Png", "a.bmp", "a.webp", "a.GIF", "a.tif", "a.TIFF"]
    )
    def test_suffixes(self, tmp_path: Path, name: str) -> None:
        paint_classes(tmp_path, 4)
        Image.new("RGB", (8, 8)).save(tmp_path / "cat" / name)
        assert sum(len(split) for split in self.splits(load(tmp_path))) == 9

    @staticmethod
    def splits(data: ImageData) -> tuple[data_package.Split, ...]:
        return data.train, data.val, data.test


class TestBadFolders:
    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="none"):
            load(tmp_path / "none")

    def test_empty(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="holds no class folders; it needs class folders, or"):
            load(tmp_path)

    def test_images_without_class_folders(self, tmp_path: Path) -> None:
        paint(tmp_path / "a.png")
        with pytest.raises(DataError, match="holds no class folders"):
            load(tmp_path)

    def test_empty_class_folders(self, tmp_path: Path) -> None:
        for name in ("cat", "dog"):
            (tmp_path / name).mkdir()
        with pytest.raises(DataError, match=r"holds no images; supported are .jpg"):
            load(tmp_path)

    def test_one_class(self, tmp_path: Path) -> None:
        paint_classes(tmp_path, 4, ("cat",))
        with pytest.raises(DataError, match="one class, 'cat'"):
            load(tmp_path)

    @pytest.mark.parametrize(("folder", "needed"), [("", 4), ("train", 3)])
    def test_small_class(self, tmp_path: Path, folder: str, needed: int) -> None:
        paint_classes(tmp_path / folder, needed)
        if folder:
            paint_classes(tmp_path / "test", 1)
        assert len(load(tmp_path).train) == 4
        (tmp_path / folder / "dog" / "000.png").unlink()
        with pytest.raises(
            DataError, match=rf"class 'dog' in .* {needed - 1} usable images; .* at least {needed}"
        ):
            load(tmp_path)

    def test_unknown_class_in_test(self, tmp_path: Path) -> None:
        paint_classes(tmp_path / "train", 4)
        paint_classes(tmp_path / "test", 4, ("cat", "dgo", "owl"))
        with pytest.raises(DataError, match="classes that train does not have: dgo, owl"):
            load(tmp_path)

    def test_two_val_folders(self, tmp_path: Path) -> None:
        for name in ("train", "val", "valid", "test"):
            paint_classes(tmp_path / name, 4)
        with pytest.raises(DataError, match="has val and valid; keep one"):
            load(tmp_path)

    def test_split_folders_without_class_folders(self, tmp_path: Path) -> None:
        paint_classes(tmp_path, 4, ("test", "train"))
        with pytest.raises(DataError, match="has test, train without class folders"):
            load(tmp_path)

    def test_split_without_images(self, tmp_path: Path) -> None:
        paint_classes(tmp_path / "train", 4)
        (tmp_path / "test" / "cat").mkdir(parents=True)
        with pytest.raises(DataError, match="test holds no usable image"):
            load(tmp_path)


class TestBadImages:
    @pytest.fixture(params=["text", "cut", "empty", "nan"])
    def bad(self, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
        paint_classes(tmp_path, 5)
        path = tmp_path / "cat" / "000bad.jpg"
        if request.param == "nan":
            Image.fromarray(np.full((8, 8), np.nan, dtype=np.float32)).save(path, format="TIFF")
        elif request.param == "cut":
            noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
            Image.fromarray(noise).save(path)
            path.write_bytes(path.read_bytes()[:1500])
        else:
            path.write_text("hello" if request.param == "text" else "")
        return path

    @pytest.mark.parametrize("limit", [0, 2**31])
    def test_stops_or_skips(self, tmp_path: Path, bad: Path, limit: int) -> None:
        with pytest.raises(DataError, match=r"000bad.jpg .*--skip-bad-images") as caught:
            load(tmp_path, memory_limit_bytes=limit)
        assert "\n" not in str(caught.value)
        data = load(tmp_path, memory_limit_bytes=limit, skip_bad_images=True, image_size=8)
        assert f"1 bad image skipped: first {bad}" in data.notes
        assert sorted(chain.from_iterable(red_values(data).values())) == [
            *range(5),
            *range(100, 105),
        ]
        bad.unlink()
        assert load(tmp_path, image_size=8).describe() == data.describe()

    def test_too_few_are_left(self, tmp_path: Path) -> None:
        paint_classes(tmp_path, 4)
        (tmp_path / "dog" / "000.png").write_text("hello")
        with pytest.raises(DataError, match=r"class 'dog' in .* has 3 usable images"):
            load(tmp_path, skip_bad_images=True)


def write_cifar(root: Path, name: str) -> None:
    """A small CIFAR in the published format: ten batches' worth of noise, four classes."""
    rng = np.random.default_rng(0)

    def batch(count: int, key: str) -> dict[str, object]:
        pixels = rng.integers(0, 256, (count, 3072), dtype=np.uint8)
        return {"data": pixels, key: [place % 4 for place in range(count)]}

    classes = ["plane", "car", "bird", "cat"]
    if name == "cifar10":
        files = {f"data_batch_{number}": batch(16, "labels") for number in range(1, 6)}
        files |= {"test_batch": batch(12, "labels"), "batches.meta": {"label_names": classes}}
        folder = root / "cifar-10-batches-py"
    else:
        files = {"train": batch(80, "fine_labels"), "test": batch(12, "fine_labels")}
        files |= {"meta": {"fine_label_names": classes}}
        folder = root / "cifar-100-python"
    folder.mkdir(parents=True)
    for file, content in files.items():
        (folder / file).write_bytes(pickle.dumps(content))


class TestCifar:
    @pytest.mark.parametrize("name", ["cifar10", "cifar100"])
    def test_local_copy(self, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        from mobilenas.core._torchvision import datasets

        monkeypatch.setattr(
            datasets.cifar, "check_integrity", lambda path, md5=None: Path(path).is_file()
        )
        write_cifar(tmp_path, name)
        data = load_data(DataSettings(source=name, data_root=tmp_path))
        assert [len(data.train), len(data.val), len(data.test)] == [72, 8, 12]
        assert data.classes == ("plane", "car", "bird", "cat")
        assert torch.bincount(data.val.labels).tolist() == [2, 2, 2, 2]
        assert data.test.labels.tolist() == [0, 1, 2, 3] * 3
        assert data.flip
        kind = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
        image, _ = kind(tmp_path, train=False)[5]
        assert np.array_equal(np.asarray(image).transpose(2, 0, 1), data.test.images([5])[0])

    def test_missing_copy(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"no complete copy of cifar10 in .*--download"):
            load_data(DataSettings(source="cifar10", data_root=tmp_path))
