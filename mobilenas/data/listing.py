"""Which files of a folder are images of which class and split, always in the same order."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mobilenas.data.images import IMAGE_SUFFIXES
from mobilenas.errors import DataError

FOLDER_SPLITS = ("train", "val", "test")
"""The splits, in the order in which everything lists them."""

_VAL_NAMES = ("val", "valid", "validation")
_LAYOUTS = "class folders, or folders train, val and test (or train and test) of class folders"


@dataclass(frozen=True)
class Entry:
    """One image file."""

    split: str
    """`train`, `val`, `test`, or empty where the folder has no splits."""
    label: str
    """Class name."""
    path: Path
    """The file."""


@dataclass(frozen=True)
class Listing:
    """What a folder holds."""

    root: Path
    """The folder."""
    folders: dict[str, str]
    """Split to the name of its subfolder; empty where the folder has none."""
    classes: tuple[str, ...]
    """Sorted class names."""
    entries: tuple[Entry, ...]
    """Sorted by split, class and name."""
    other_files: int
    """Files among them that are not named like images."""


def _subfolders(folder: Path) -> list[str]:
    with os.scandir(folder) as found:
        return sorted(item.name for item in found if item.is_dir() and item.name[0] != ".")


def _files(folder: Path) -> Iterator[Path]:
    """All files below `folder` but hidden ones (`.DS_Store`, `._photo.jpg`)."""
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name[0] != "."]
        yield from (Path(parent, name) for name in names if name[0] != ".")


def _split_folders(root: Path) -> dict[str, str]:
    """Split to subfolder name; empty where class folders lie directly in `root`."""
    # A class may be called `train`: a split's folder holds folders, a class's folder holds images.
    names = [name for name in _subfolders(root) if _subfolders(root / name)]
    val_names = [name for name in _VAL_NAMES if name in names]
    if len(val_names) > 1:
        raise DataError(f"{root} has {' and '.join(val_names)}; keep one of them")
    found: dict[str, str] = {split: split for split in ("train", "test") if split in names}
    if val_names:
        found["val"] = val_names[0]
    missing = [split for split in ("train", "test") if split not in found]
    if found and missing:
        has = " and ".join(found.values())
        raise DataError(f"{root} has {has} but no {' and no '.join(missing)}; it needs {_LAYOUTS}")
    return {split: found[split] for split in FOLDER_SPLITS if split in found}


def _check_classes(root: Path, folders: dict[str, str], classes: list[str]) -> None:
    if len(classes) == 0:
        raise DataError(f"{root} holds no class folders; it needs {_LAYOUTS}")
    if len(classes) == 1:
        raise DataError(f"{root} has one class, {classes[0]!r}; at least two are needed")
    if not folders and set(classes) <= {"train", "test", *_VAL_NAMES}:
        raise DataError(f"{root} has {', '.join(classes)} without class folders in them")
    for name in folders.values():
        unknown = sorted(set(_subfolders(root / name)) - set(classes))
        if unknown:
            raise DataError(f"{root / name} has classes that train has not: {', '.join(unknown)}")


def list_folder(root: Path) -> Listing:
    """Find images, classes and splits; DataError that names what is missing or too much."""
    if not root.is_dir():
        raise DataError(f"{root} is not a folder")
    try:
        folders = _split_folders(root)
        classes = _subfolders(root / folders.get("train", ""))
        _check_classes(root, folders, classes)
        entries = []
        other_files = 0
        for split, folder in folders.items() or [("", "")]:
            for label in classes:
                found = sorted(_files(root / folder / label), key=Path.as_posix)
                images = [path for path in found if path.suffix.lower() in IMAGE_SUFFIXES]
                other_files += len(found) - len(images)
                entries += [Entry(split, label, path) for path in images]
    except OSError as error:
        raise DataError(f"cannot read {error.filename}: {error.strerror}") from error
    if not entries:
        raise DataError(f"{root} holds no images; known are {', '.join(IMAGE_SUFFIXES)}")
    return Listing(root, folders, tuple(classes), tuple(entries), other_files)
