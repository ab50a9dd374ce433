"""Finds the splits and classes of a folder: split folders by name, wrapper folders."""

import os
import re
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from mobilenas.core.errors import DataError
from mobilenas.core.settings import counted, readable
from mobilenas.data.image_files import IMAGE_SUFFIXES, UNREADABLE_SUFFIXES

FOLDER_SPLITS = ("train", "val", "test")
"""The splits, in the order of all lists."""

LAYOUTS = (
    "class folders, or folders train, val and test of class folders (val and test may be missing)"
)
"""The supported layouts, for errors."""

_MACHINE_FOLDERS = frozenset(
    ("__MACOSX", "__pycache__", "@eaDir", "lost+found", "$RECYCLE.BIN", "System Volume Information")
)
SPLIT_WORDS = {
    "train": "train(?:ing)?",
    "val": "val(?:id(?:at(?:e|ion))?)?|dev",
    "test": "test(?:ing)?|eval(?:uation)?",
}
_BESIDE = r"[\W_]*(?:data(?:set)?|images?|imgs?|set|split)?[\W_]*"
# `Train`, `training_set`, `images-train`, `1 train`; not `train2` or `seg_train`
_SPLIT_NAMES = {
    split: re.compile(rf"\d*{_BESIDE}(?:{words}){_BESIDE}", re.IGNORECASE)
    for split, words in SPLIT_WORDS.items()
}
# `train2017`, `seg_test`, `valA`: a split, but perhaps one of several
_NEARLY = {
    split: re.compile(rf"(?:.*[\W\d_])?(?i:{words})(?:[\W\d_A-Z].*)?")
    for split, words in SPLIT_WORDS.items()
}
_MAX_NAMED = 4


@dataclass(frozen=True)
class Layout:
    """The folders that hold class folders."""

    classes: Path
    """The folder whose subfolders are the classes: the training split, or the whole set."""
    splits: dict[str, Path]
    """The folder of class folders of each split; empty without splits."""
    notes: tuple[str, ...]
    """Remarks for the user on how the folder was read."""


def find_layout(root: Path) -> Layout:
    """Find splits by name, entering wrapper folders; DataError if the layout is ambiguous."""
    top, notes = _enter_wrappers(root)
    found = {split: _split_folder(top, split) for split in FOLDER_SPLITS}
    names = {split: name for split, name in found.items() if name}
    if not names:
        _refuse_bare_splits(top)
        _refuse_inner_splits(top)
        _refuse_alike(top)
        _refuse_near_splits(top)
        return Layout(top, {}, (*notes, *_stray_images(top)))
    if "train" not in names:
        raise DataError(
            f"{top} has {' and '.join(names.values())} but no train; it needs {LAYOUTS}"
        )
    notes += _skipped_folders(top, names)
    splits = {}
    for split, name in names.items():
        splits[split], more = _enter_wrappers(top / name)
        notes += [*more, *_stray_images(splits[split])]
        _refuse_alike(splits[split])
    return Layout(splits["train"], splits, tuple(notes))


def subfolders(folder: Path) -> list[str]:
    """Return the sorted names of subfolders, without hidden and system folders."""
    with os.scandir(folder) as found:
        items = [item for item in found if _is_shown(item.name) and item.is_dir()]
    for item in items:
        _refuse_loop(Path(item))
    return sorted(item.name for item in items)


def files_below(folder: Path) -> list[Path]:
    """Return all files below a folder, sorted, without hidden ones (`.DS_Store`, `._photo.jpg`)."""
    found: list[str] = []
    for parent, folders, names in os.walk(folder, onerror=_reraise, followlinks=True):
        folders[:] = filter(_is_shown, folders)
        for name in folders:
            _refuse_loop(Path(parent, name))
        found += (f"{parent}/{name}" for name in names if name[0] != ".")
    return list(map(Path, sorted(found)))


def _refuse_loop(path: Path) -> None:
    """Raise for a link to a parent folder, which would repeat images under another class."""
    if path.is_symlink() and path.parent.resolve().is_relative_to(path.resolve()):
        raise DataError(f"{path} is a link to a folder that contains it; remove it")


def _reraise(error: OSError) -> None:
    raise error


def _is_shown(name: str) -> bool:
    return name[0] != "." and name not in _MACHINE_FOLDERS


def _images_in(folder: Path) -> int:
    """Return the number of files directly in a folder that have an image suffix."""
    with os.scandir(folder) as found:
        return sum(
            item.name[0] != "." and _is_image(item.name) and not item.is_dir() for item in found
        )


def _is_image(name: str) -> bool:
    return name.lower().endswith((*IMAGE_SUFFIXES, *UNREADABLE_SUFFIXES))


def _stray_images(folder: Path) -> list[str]:
    count = _images_in(folder)
    return (
        [f"{counted(count, 'image')} directly in {folder} without a class: skipped"]
        if count
        else []
    )


def _enter_wrappers(folder: Path) -> tuple[Path, list[str]]:
    """Return the folder or, while its only content is one folder of folders, that one."""
    inner = folder
    while not _images_in(inner):
        names = subfolders(inner)
        if len(names) != 1 or not subfolders(inner / names[0]):
            break
        inner /= names[0]
    return inner, [] if inner == folder else [f"all of {folder} lies in {inner}: read from there"]


def _split_folder(top: Path, split: str) -> str | None:
    """Return the name of a split's folder, one with subfolders: a class may be called `train`."""
    names = [
        name
        for name in subfolders(top)
        if _SPLIT_NAMES[split].fullmatch(name) and subfolders(top / name)
    ]
    if len(names) > 1:
        raise DataError(f"{top} has {' and '.join(names)}; keep one of them for {split}")
    return names[0] if names else None


def _is_split_name(name: str) -> bool:
    return any(pattern.fullmatch(name) for pattern in _SPLIT_NAMES.values())


def _refuse_bare_splits(top: Path) -> None:
    names = subfolders(top)
    if len(names) > 1 and all(map(_is_split_name, names)):
        raise DataError(
            f"{top} has {', '.join(names)} without class folders in them; it needs {LAYOUTS}"
        )


def _refuse_inner_splits(top: Path) -> None:
    """Raise if a "class" contains splits, so is a whole data set beside other folders."""
    for name in subfolders(top):
        inner = _enter_wrappers(top / name)[0]
        found = [split for split in FOLDER_SPLITS if _split_folder(inner, split)]
        if len(found) > 1:
            raise DataError(
                f"{inner} holds the splits {' and '.join(found)}, so {readable(name)} is not a "
                f"class: give {inner} alone, or move what lies beside it away"
            )


def _refuse_near_splits(top: Path) -> None:
    names = subfolders(top)
    near = [
        next((split for split, like in _NEARLY.items() if like.fullmatch(name)), None)
        for name in names
    ]
    if None not in near and len(set(near)) > 1:
        raise DataError(
            f"{top} has {_some(names)}, which look like splits and not like classes; rename them "
            f"to train, val and test. {top} needs {LAYOUTS}"
        )


def _skipped_folders(top: Path, splits: dict[str, str]) -> list[str]:
    """Return remarks on folders beside the splits; DataError if they could be classes."""
    others = [name for name in subfolders(top) if name not in splits.values()]
    like_classes = [name for name in others if not _is_split_name(name) and _images_in(top / name)]
    if len(splits) == 1 and like_classes:
        raise DataError(
            f"{top} has {splits['train']} with folders in it beside folders of images, "
            f"{_some(like_classes)}: {splits['train']} could be a split or a class; "
            f"move one of them away. {top} needs {LAYOUTS}"
        )
    _refuse_unknown_splits(top, splits, others)
    _refuse_flat_val(top, splits, others)
    notes = []
    for name in others:
        why = "is not a split"
        if _is_split_name(name):
            why = "has no class folders, so its images have no labels"
        notes.append(f"{top / name} {why}: skipped")
    return notes


def _refuse_unknown_splits(top: Path, splits: dict[str, str], others: list[str]) -> None:
    """Raise if a missing split may be there under another name, such as `holdout`."""
    lacking = [split for split in FOLDER_SPLITS if split not in splits]
    classes = _lowered(_enter_wrappers(top / splits["train"])[0])
    for name in others if lacking else ():
        common = classes & _lowered(_enter_wrappers(top / name)[0])
        if len(common) > 1:
            raise DataError(
                f"{top / name} holds folders of the same names as {splits['train']} "
                f"({_some(common)}): rename it if it is {' or '.join(lacking)}, or move it away"
            )


def _refuse_flat_val(top: Path, splits: dict[str, str], others: list[str]) -> None:
    """Raise if validation images are in one folder without classes, as in ImageNet's archive."""
    for name in others if "val" not in splits else ():
        if _SPLIT_NAMES["val"].fullmatch(name) and (count := _images_in(top / name)):
            raise DataError(
                f"{top / name} holds {counted(count, 'image')} and no class folders: move each "
                f"image into {name}/CLASS (those of ImageNet: docs/images.md), or move {name} "
                f"away, and images are drawn from {splits['train']}"
            )


def _lowered(folder: Path) -> set[str]:
    return {name.lower() for name in subfolders(folder)}


def _refuse_alike(parent: Path) -> None:
    """Raise if "classes" hold only subfolders with the same names, so are folds or splits."""
    names = subfolders(parent)
    inside = {name: _lowered(_enter_wrappers(parent / name)[0]) for name in names}
    inside = {
        name: inner
        for name, inner in inside.items()
        if len(inner) > 1 and _holds_folders(parent / name)
    }
    beside = {name.lower() for name in names}
    for name, inner in inside.items():
        if len(inner & beside) > 1:
            raise DataError(
                f"{parent / name} holds folders of the same names as beside it "
                f"({_some(inner & beside)}), so it is not a class; move it away"
            )
    for first, second in combinations(inside, 2):
        common = inside[first] & inside[second]
        if len(common) > 1:
            hint = "rename them to train, val and test"
            if all(map(_is_split_name, common)):
                hint = f"put splits above classes ({min(common)}/{readable(first)})"
            raise DataError(
                f"{_some(inside)} in {parent} hold only folders, of the same names "
                f"({_some(common)}), so they are not classes; {hint}, or "
                "put the images of each class directly into its folder"
            )


def _holds_folders(folder: Path) -> bool:
    """Whether a folder's images are in its subfolders; one in ten may be directly in it."""
    direct = _images_in(folder)
    return not direct or 10 * direct <= sum(_is_image(path.name) for path in files_below(folder))


def _some(names: "set[str] | dict[str, set[str]] | list[str]") -> str:
    shown = sorted(map(readable, names))
    more = [f"{len(shown) - _MAX_NAMED} more"] if len(shown) > _MAX_NAMED else []
    return ", ".join([*shown[:_MAX_NAMED], *more])
