"""Lists the images of a folder with class and split, always in the same order."""

import os
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mobilenas.core.errors import DataError
from mobilenas.core.images import ImageFile
from mobilenas.core.settings import readable
from mobilenas.data.image_files import IMAGE_SUFFIXES, UNREADABLE_SUFFIXES
from mobilenas.data.layout import LAYOUTS, files_below, find_layout, subfolders


@dataclass(frozen=True)
class Entry:
    """One image file."""

    split: str
    """`train`, `val`, `test`, or empty without splits."""
    label: str
    """Class name."""
    path: ImageFile
    """Location of its bytes."""
    name: str
    """Path below the folder."""


@dataclass(frozen=True)
class Listing:
    """Contents of a folder or a set of shards."""

    root: Path
    """The folder."""
    places: dict[str, str]
    """Location of each split, as text; empty without splits."""
    rule: str
    """How these splits were found, in words."""
    classes: tuple[str, ...]
    """Sorted class names."""
    entries: tuple[Entry, ...]
    """Sorted by split, class and name."""
    unreadable: tuple[Path, ...]
    """Images of unsupported types, such as HEIC."""
    notes: tuple[str, ...]
    """Remarks for the user on how the folder was read."""


def list_folder(root: Path) -> Listing:
    """Find images, classes and splits; DataError names what is missing or ambiguous."""
    if not root.is_dir():
        raise DataError(f"{root} is not a directory")
    try:
        return _listing(root)
    except OSError as error:
        raise DataError(f"cannot read {error.filename}: {error.strerror}") from error


def _listing(root: Path) -> Listing:
    layout = find_layout(root)
    classes = _labels(layout.classes)
    check_number(root, list(classes))
    entries, unreadable, notes = [], [], [*layout.notes, *_nested(layout.classes)]
    others: Counter[str] = Counter()
    start = len((root / "x").as_posix()) - 1  # of the part below the folder
    for split, folder in layout.splits.items() or [("", layout.classes)]:
        own = _labels(folder)
        hint = f"rename them, or move {folder.name} away, and images are drawn from train"
        check_known(folder, own, classes, hint)
        for label in sorted(own):
            for path in files_below(folder / own[label]):
                suffix = path.suffix.lower()
                if suffix in IMAGE_SUFFIXES:
                    entries.append(Entry(split, label, path, path.as_posix()[start:]))
                elif suffix in UNREADABLE_SUFFIXES:
                    unreadable.append(path)
                else:
                    others[suffix] += 1
    if not entries:
        others.update(path.suffix.lower() for path in unreadable)
        seen = f"; it holds {by_type(others)}" if others else ""
        seen += f": {way_out(unreadable[0])}" if unreadable else ""
        raise DataError(f"{root} holds no images{seen}; supported are {', '.join(IMAGE_SUFFIXES)}")
    if others:
        notes.append(f"files that are not images were skipped: {by_type(others)}")
    return Listing(
        root=root,
        places={split: str(folder) for split, folder in layout.splits.items()},
        rule=_rule(layout.splits.values()),
        classes=tuple(sorted(classes)),
        entries=tuple(entries),
        unreadable=tuple(unreadable),
        notes=tuple(notes),
    )


def _rule(folders: Collection[Path]) -> str:
    if not folders:
        return ""
    top = os.path.commonpath([folder.parent for folder in folders])
    return f"the folders {', '.join(readable(f.relative_to(top).as_posix()) for f in folders)}"


def way_out(path: Path) -> str:
    """Return advice for images of an unsupported type."""
    suffix = path.suffix
    return f"convert to JPEG or PNG (such as with `magick mogrify -format jpg *{suffix}`)"


def by_type(counts: Counter[str]) -> str:
    """Format the number of files of each suffix."""
    return ", ".join(f"{count} {name or 'without suffix'}" for name, count in counts.most_common())


def _labels(parent: Path) -> dict[str, str]:
    return labels_of(subfolders(parent), f"{parent} has two folders")


def labels_of(names: Iterable[str], where: str) -> dict[str, str]:
    """Map class names to names as written; DataError if two differ only in case or spaces."""
    found: dict[str, str] = {}
    alike: dict[str, str] = {}
    for name in names:
        label = readable(unicodedata.normalize("NFC", name))
        # A and a are characters; Cat and cat, or two encodings of é, are a mistake
        key = " ".join(label.casefold().split()) if len(label) > 1 else label
        if key in alike:
            raise DataError(
                f"{where} of nearly the same name, {alike[key]!r} and {name!r}; "
                "merge them or rename one"
            )
        alike[key] = name
        found[label] = name
    return found


def check_number(source: object, classes: Sequence[str]) -> None:
    """Raise unless there are at least two classes."""
    if len(classes) == 0:
        raise DataError(f"{source} holds no class folders; it needs {LAYOUTS}")
    if len(classes) == 1:
        raise DataError(f"{source} has one class, {classes[0]!r}; at least two are needed")


def check_known(place: object, own: Iterable[str], classes: Iterable[str], remedy: str) -> None:
    """Raise if a split has classes that train lacks."""
    unknown = sorted(set(own) - set(classes))
    if unknown:
        near = {label.lower(): label for label in classes}
        other_case = [near[label.lower()] for label in unknown if label.lower() in near]
        hint = f" (train has {', '.join(other_case)})" if other_case else ""
        raise DataError(
            f"{place} has classes that train does not have: {', '.join(unknown)}{hint}; {remedy}"
        )


def _nested(parent: Path) -> list[str]:
    """Return a remark if class folders have subfolders."""
    for name in subfolders(parent):
        inner = subfolders(parent / name)
        if inner:
            one = readable(f"{name}/{inner[0]}")
            return [f"images in folders inside of class folders are of that class, such as {one}"]
    return []
