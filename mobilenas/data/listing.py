"""Which files of a folder are images of which class and split, always in the same order."""

import unicodedata
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from mobilenas.core.errors import DataError
from mobilenas.core.settings import readable
from mobilenas.data.image_files import IMAGE_SUFFIXES, UNREADABLE_SUFFIXES
from mobilenas.data.layout import LAYOUTS, files_below, find_layout, subfolders


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
    folders: dict[str, Path]
    """Split to its folder of class folders; empty where the folder has no splits."""
    classes: tuple[str, ...]
    """Sorted class names."""
    entries: tuple[Entry, ...]
    """Sorted by split, class and name."""
    unreadable: tuple[Path, ...]
    """Images of types that are not read, such as HEIC."""
    notes: tuple[str, ...]
    """What the user should know about how the folder was read."""


def list_folder(root: Path) -> Listing:
    """Find images, classes and splits; DataError that names what is missing or too much."""
    if not root.is_dir():
        raise DataError(f"{root} is not a directory")
    try:
        return _listing(root)
    except OSError as error:
        raise DataError(f"cannot read {error.filename}: {error.strerror}") from error


def _listing(root: Path) -> Listing:
    layout = find_layout(root)
    classes = _class_folders(layout.classes)
    _check_number(root, list(classes))
    entries, unreadable, notes = [], [], [*layout.notes, *_nested(layout.classes)]
    others: Counter[str] = Counter()
    for split, folder in layout.splits.items() or [("", layout.classes)]:
        own = _class_folders(folder)
        _check_known(folder, own, classes)
        for label in sorted(own):
            found = files_below(folder / own[label])
            known = [path for path in found if path.suffix.lower() in IMAGE_SUFFIXES]
            entries += [Entry(split, label, path) for path in known]
            unread = [path for path in found if path.suffix.lower() in UNREADABLE_SUFFIXES]
            unreadable += unread
            others.update(path.suffix.lower() for path in {*found} - {*known} - {*unread})
    if not entries:
        others.update(path.suffix.lower() for path in unreadable)
        seen = f"; it holds {_by_type(others)}" if others else ""
        seen += f": {way_out(unreadable[0])}" if unreadable else ""
        raise DataError(f"{root} holds no images{seen}; supported are {', '.join(IMAGE_SUFFIXES)}")
    if others:
        notes.append(f"files that are not images were skipped: {_by_type(others)}")
    return Listing(
        root, layout.splits, tuple(sorted(classes)), tuple(entries), tuple(unreadable), tuple(notes)
    )


def way_out(path: Path) -> str:
    """Say what to do with images of a type that is not read."""
    suffix = path.suffix
    return f"convert to JPEG or PNG (such as with `magick mogrify -format jpg *{suffix}`)"


def _by_type(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {name or 'without suffix'}" for name, count in counts.most_common())


def _class_folders(parent: Path) -> dict[str, str]:
    """Class name to folder name; DataError where two are nearly alike."""
    found: dict[str, str] = {}
    alike: dict[str, str] = {}
    for folder in subfolders(parent):
        label = readable(unicodedata.normalize("NFC", folder))
        # A and a are characters; Cat and cat, or é written in two ways, are a slip
        key = " ".join(label.casefold().split()) if len(label) > 1 else label
        if key in alike:
            raise DataError(
                f"{parent} has two folders of nearly the same name, {alike[key]!r} and {folder!r}; "
                "merge them or rename one"
            )
        alike[key] = folder
        found[label] = folder
    return found


def _check_number(root: Path, classes: list[str]) -> None:
    if len(classes) == 0:
        raise DataError(f"{root} holds no class folders; it needs {LAYOUTS}")
    if len(classes) == 1:
        raise DataError(f"{root} has one class, {classes[0]!r}; at least two are needed")


def _check_known(folder: Path, own: dict[str, str], classes: dict[str, str]) -> None:
    unknown = sorted(set(own) - set(classes))
    if unknown:
        near = {label.lower(): label for label in classes}
        other_case = [near[label.lower()] for label in unknown if label.lower() in near]
        hint = f" (train has {', '.join(other_case)})" if other_case else ""
        raise DataError(
            f"{folder} has classes that train has not: {', '.join(unknown)}{hint}; rename them, or "
            f"move {folder.name} away, and images are drawn from train"
        )


def _nested(parent: Path) -> list[str]:
    """Remark on folders inside of class folders."""
    for name in subfolders(parent):
        inner = subfolders(parent / name)
        if inner:
            one = readable(f"{name}/{inner[0]}")
            return [f"images in folders inside of class folders are of that class, such as {one}"]
    return []
