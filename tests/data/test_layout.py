"""Folders as people have them: what is a split, what a class, and what is refused by name."""

import os
import re
import unicodedata
from pathlib import Path

import pytest
from PIL import Image

from mobilenas.core.errors import DataError
from mobilenas.data import DataSettings, ImageData, load_data

NO_SPLITS = "70/15/15 % of each class"


def fill(root: Path, *folders: str, count: int = 4) -> None:
    for number, folder in enumerate(folders):
        (root / folder).mkdir(parents=True, exist_ok=True)
        for image in range(count):
            shade = (20 * number, 30 * image, len(folder))
            Image.new("RGB", (8, 8), shade).save(root / folder / f"{image}.png")


def load(root: Path) -> ImageData:
    return load_data(DataSettings(source=str(root)))


def classes_in(*parents: str) -> tuple[str, ...]:
    return tuple(f"{parent}/{name}" for parent in parents for name in ("cat", "dog"))


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [
        ("Train", "Val", "Test"),
        ("Training", "Validation", "Testing"),
        ("TRAIN", "dev", "TEST"),
        ("Train", "Validate", "Test"),
        ("training_set", "valid", "test set"),
        ("images-train", "val_images", "eval"),
        ("1_train", "2_dev", "3_evaluation"),
        ("TrainData", "ValidData", "TestData"),
    ],
)
def test_usual_names_are_splits(tmp_path: Path, train: str, val: str, test: str) -> None:
    fill(tmp_path, *classes_in(train, val, test))
    data = load(tmp_path)
    assert data.classes == ("cat", "dog")
    assert data.split_rule == f"the folders {train}, {val}, {test}"
    assert [len(data.train), len(data.val), len(data.test)] == [8, 8, 8]


def test_imagenet_as_it_is(tmp_path: Path) -> None:
    classes = ("n01440764", "n01443537")
    for label, wnid in enumerate(classes):
        for split, count in (("train", 6), ("val", 3)):
            folder = tmp_path / split / wnid
            folder.mkdir(parents=True)
            for number in range(count):
                image = Image.new("RGB", (40 + number, 30), (90 * label, 40 * number, count))
                image.save(folder / f"{wnid}_{number}.JPEG")
        # of the real ones, one is a PNG and 22 are CMYK
        Image.new("RGB", (9, 9)).save(folder / "0.JPEG", format="PNG")
        Image.new("CMYK", (9, 9)).save(folder / "1.JPEG")
    (tmp_path / "meta.bin").write_bytes(b"torchvision's")
    data = load(tmp_path)
    assert data.classes == classes
    assert [len(data.train), len(data.val), len(data.test)] == [10, 10, 2]
    assert data.split_rule == "the folders train, val; test is 15 % of each class of train, seed 0"
    assert (data.image_size, data.flip) == (224, True)


def test_a_flat_val_folder_is_refused(tmp_path: Path) -> None:
    fill(tmp_path, *classes_in("train"), "val")
    with pytest.raises(DataError, match=r"val holds 4 images and no class folders: .*images\.md"):
        load(tmp_path)


@pytest.mark.parametrize("names", [("train", "Train"), ("Testing", "test"), ("val", "dev")])
def test_two_names_of_one_split_are_refused(tmp_path: Path, names: tuple[str, str]) -> None:
    fill(tmp_path, *classes_in("train", "test", *names))
    with pytest.raises(DataError, match=" and ".join(sorted(names))):
        load(tmp_path)


@pytest.mark.parametrize(
    "parents",
    [("fold0", "fold1", "fold2"), ("a/fold0", "a/fold1"), ("seg_train/seg_train", "seg_test/x")],
)
def test_folds_are_no_classes(tmp_path: Path, parents: tuple[str, ...]) -> None:
    fill(tmp_path, *classes_in(*parents))
    with pytest.raises(DataError, match=r"hold only folders, of the same names \(cat, dog\)"):
        load(tmp_path)


def test_folds_are_no_classes_for_an_image_that_strayed(tmp_path: Path) -> None:
    fill(tmp_path, *classes_in("fold0", "fold1"), count=5)
    fill(tmp_path, "fold0", "fold1", count=1)
    with pytest.raises(DataError, match=r"fold0, fold1 in .* hold only folders"):
        load(tmp_path)
    fill(tmp_path, "fold0", "fold1", count=2)  # no longer a few
    assert load(tmp_path).classes == ("fold0", "fold1")


@pytest.mark.parametrize("beside", [("examples",), ("b/train/cat", "b/test/dog"), ("c/x/y",)])
def test_a_set_of_splits_beside_others_is_no_class(tmp_path: Path, beside: tuple[str, ...]) -> None:
    fill(tmp_path, *classes_in("a/Train", "a/Test"), *beside)
    with pytest.raises(DataError, match=r"a holds the splits train and test, so a is not a class"):
        load(tmp_path)


def test_folds_below_a_split_are_no_classes(tmp_path: Path) -> None:
    fill(tmp_path, *classes_in("train/fold0", "train/fold1", "test"))
    with pytest.raises(DataError, match=r"fold0, fold1 in .*train hold only folders"):
        load(tmp_path)


def test_splits_below_classes_are_refused(tmp_path: Path) -> None:
    fill(tmp_path, "cat/train", "cat/test", "dog/train", "dog/test")
    with pytest.raises(DataError, match=r"of the same names \(test, train\).* \(test/cat\), or"):
        load(tmp_path)


def test_a_folder_of_the_same_classes_is_no_class(tmp_path: Path) -> None:
    fill(tmp_path, "cat", "dog", *classes_in("all"))
    with pytest.raises(DataError, match=r"all holds folders of the same names as beside it"):
        load(tmp_path)


@pytest.mark.parametrize("wrapper", ["images", "a/b", "dataset/train"])
@pytest.mark.parametrize("parents", [("",), ("train", "test")])
def test_wrapper_folders_are_entered(
    tmp_path: Path, wrapper: str, parents: tuple[str, ...]
) -> None:
    fill(tmp_path / wrapper, *(name.lstrip("/") for name in classes_in(*parents)))
    (tmp_path / "README.txt").write_text("x")
    data = load(tmp_path)
    assert data.classes == ("cat", "dog")
    assert data.split_rule.startswith(NO_SPLITS if parents == ("",) else "the folders train, test")
    assert f"all of {tmp_path} lies in {tmp_path / wrapper}: read from there" in data.notes
    assert all(name.startswith(wrapper) for name in data.names)


def test_a_wrapper_in_each_split_is_entered(tmp_path: Path) -> None:
    fill(tmp_path, *classes_in("train/images", "test/images"))
    data = load(tmp_path)
    assert data.classes == ("cat", "dog")
    assert len(data.test) == 8
    assert data.split_rule.startswith("the folders train/images, test/images;")


def test_folders_inside_of_classes_name_no_classes(tmp_path: Path) -> None:
    fill(tmp_path, "train/cat/images", "train/dog/images", "val/cat/images", "val/dog/images")
    data = load(tmp_path)
    assert data.classes == ("cat", "dog")
    assert "of that class, such as cat/images" in " ".join(data.notes)


def test_a_training_folder_alone_is_split_as_a_whole(tmp_path: Path) -> None:
    fill(tmp_path, *classes_in("Train"))
    assert load(tmp_path).split_rule.startswith(NO_SPLITS)


def test_a_test_folder_without_labels_is_left_out(tmp_path: Path) -> None:
    fill(tmp_path, *classes_in("train"), "test", count=6)
    data = load(tmp_path)
    assert data.classes == ("cat", "dog")
    assert [len(data.train), len(data.val), len(data.test)] == [8, 2, 2]
    assert f"{tmp_path / 'test'} has no class folders" in " ".join(data.notes)


def test_a_training_folder_beside_classes_is_not_clear(tmp_path: Path) -> None:
    fill(tmp_path, "train/steam", "train/electric", "bus", "car")
    with pytest.raises(DataError, match=r"folders of images, bus, car: train could be a split"):
        load(tmp_path)


def test_other_folders_beside_splits_are_named(tmp_path: Path) -> None:
    fill(tmp_path, *classes_in("train", "test"), "unlabeled")
    assert f"{tmp_path / 'unlabeled'} is not a split: skipped" in load(tmp_path).notes


@pytest.mark.parametrize(
    "folders",
    [
        ("train2017/cat", "train2017/dog", "val2017/cat"),
        ("seg_train/cat", "seg_train/dog", "seg_test/1"),
        ("trainA", "trainB", "testA", "testB"),
        ("my train", "my-test"),
    ],
)
def test_names_nearly_of_splits_are_no_classes(tmp_path: Path, folders: tuple[str, ...]) -> None:
    fill(tmp_path, *folders)
    with pytest.raises(DataError, match="which look like splits and not like classes"):
        load(tmp_path)


@pytest.mark.parametrize(
    "names", [("train station", "test tube", "cup"), ("trainer", "tester"), ("contest", "train")]
)
def test_words_that_hold_those_of_splits_are_classes(
    tmp_path: Path, names: tuple[str, ...]
) -> None:
    fill(tmp_path, *names)
    assert load(tmp_path).classes == tuple(sorted(names))


@pytest.mark.parametrize("name", ["holdout", "test1", "train_extra"])
def test_a_split_of_another_name_is_not_left_out(tmp_path: Path, name: str) -> None:
    fill(tmp_path, *classes_in("train", "val", name))
    with pytest.raises(DataError, match=rf"{name} holds .* as train \(cat, dog\).* if it is test"):
        load(tmp_path)
    fill(tmp_path, *classes_in("test"))
    assert f"{tmp_path / name} is not a split: skipped" in load(tmp_path).notes


def test_splits_without_train_are_refused(tmp_path: Path) -> None:
    fill(tmp_path, *classes_in("Testing", "Validation"))
    with pytest.raises(DataError, match="has Validation and Testing but no train"):
        load(tmp_path)


def test_folders_of_machines_and_hidden_ones_are_no_classes(tmp_path: Path) -> None:
    fill(tmp_path, "x/cat", "x/dog", "__MACOSX/x/cat", ".git/y", "x/@eaDir", "x/cat/.thumbs")
    data = load(tmp_path)
    assert data.classes == ("cat", "dog")
    assert len(data.train) + len(data.val) + len(data.test) == 8


def test_images_beside_class_folders_are_counted(tmp_path: Path) -> None:
    fill(tmp_path, "cat", "dog")
    Image.new("RGB", (8, 8)).save(tmp_path / "logo.png")
    assert f"1 image directly in {tmp_path} without a class: skipped" in load(tmp_path).notes


def test_an_empty_class_is_named_with_a_hint(tmp_path: Path) -> None:
    fill(tmp_path, "cat", "dog")
    (tmp_path / "owl").mkdir()
    with pytest.raises(
        DataError, match=r"class 'owl' in .* 0 usable images; .* if it is not a class"
    ):
        load(tmp_path)


@pytest.mark.parametrize(
    "names",
    [
        ("Cat", "cat"),
        ("cat", "cat "),
        ("STRASSE", "straße"),
        ("café", "cafe\N{COMBINING ACUTE ACCENT}"),
    ],
)
def test_classes_of_nearly_the_same_name_are_refused(
    tmp_path: Path, names: tuple[str, str]
) -> None:
    fill(tmp_path, *names)
    with pytest.raises(DataError, match="two folders of nearly the same name"):
        load(tmp_path)


def test_characters_in_both_cases_are_classes(tmp_path: Path) -> None:
    fill(tmp_path, "A", "a")
    assert load(tmp_path).classes == ("A", "a")


def test_one_name_written_in_two_ways_is_one_class(tmp_path: Path) -> None:
    other = unicodedata.normalize("NFD", "café")
    fill(tmp_path, "train/café", "train/bar", f"test/{other}", "test/bar")
    data = load(tmp_path)
    assert data.classes == ("bar", "café")
    assert data.class_counts()["café"]["test"] == 4


def test_another_case_in_test_is_explained(tmp_path: Path) -> None:
    fill(tmp_path, "train/Cat", "train/dog", "test/cat", "test/dog")
    with pytest.raises(DataError, match=r"does not have: cat \(train has Cat\)"):
        load(tmp_path)


def test_links_up_the_tree_are_refused(tmp_path: Path) -> None:
    fill(tmp_path, "cat", "dog")
    (tmp_path / "loop").symlink_to(tmp_path, target_is_directory=True)
    with pytest.raises(DataError, match="loop is a link to a folder that contains it"):
        load(tmp_path)


@pytest.mark.parametrize("link", ["cat/up", "cat/a/b/up"])
def test_links_up_the_tree_are_refused_at_any_depth(tmp_path: Path, link: str) -> None:
    fill(tmp_path, "cat/a/b", "dog/a/b", "cat", "dog")
    (tmp_path / link).symlink_to(tmp_path / "cat", target_is_directory=True)
    with pytest.raises(DataError, match="up is a link to a folder that contains it"):
        load(tmp_path)


def test_linked_folders_inside_of_classes_are_read(tmp_path: Path) -> None:
    fill(tmp_path, "data/cat", "data/dog", "more")
    (tmp_path / "data/cat/more").symlink_to(tmp_path / "more", target_is_directory=True)
    assert sum(load(tmp_path / "data").class_counts()["cat"].values()) == 8


def test_linked_class_folders_are_read(tmp_path: Path) -> None:
    fill(tmp_path / "store", "one", "two")
    (tmp_path / "data").mkdir()
    for label, folder in (("cat", "one"), ("dog", "two")):
        (tmp_path / "data" / label).symlink_to(tmp_path / "store" / folder)
    assert load(tmp_path / "data").classes == ("cat", "dog")


@pytest.mark.parametrize("suffix", [".heic", ".HEIF", ".avif", ".pgm", ".cr2"])
def test_types_that_are_not_read_are_named(tmp_path: Path, suffix: str) -> None:
    fill(tmp_path, "cat", "dog")
    path = tmp_path / "cat" / f"photo{suffix}"
    path.write_bytes(b"x")
    named = re.escape(str(path)) + rf".*convert.*\*\{suffix}`.*--skip-bad-images"
    with pytest.raises(DataError, match=named):
        load(tmp_path)
    data = load_data(DataSettings(source=str(tmp_path), skip_bad_images=True))
    assert "1 unread image skipped: first" in " ".join(data.notes)


def test_a_folder_of_one_unread_type_says_which(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.heic").write_bytes(b"x")
    with pytest.raises(
        DataError, match=r"holds no images; it holds 2 \.heic: convert .*; supported are \.jpg"
    ):
        load(tmp_path)


@pytest.mark.parametrize(
    ("folder", "label"), [(b"caf\xe9", "caf\\xe9"), (b"a\nb", "a\\nb"), (b"\x1b[31mred", None)]
)
def test_any_name_of_a_file_system_becomes_a_label(
    tmp_path: Path, folder: bytes, label: str | None
) -> None:
    fill(tmp_path, os.fsdecode(folder), "dog")
    (tmp_path / "dog" / "0.png").rename(tmp_path / "dog" / os.fsdecode(b"im\xe4ge.png"))
    data = load(tmp_path)
    assert (label or "\\x1b[31mred") in data.classes
    for text in (*data.classes, *data.names):
        assert text.isprintable()
        assert text.encode().decode() == text
    assert "dog/im\\xe4ge.png" in data.names
