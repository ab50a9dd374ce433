"""Lists WebDataset shards: classes, splits, and every image as a range of bytes."""

import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from mobilenas.core.errors import DataError
from mobilenas.core.files import read_bytes
from mobilenas.core.images import Member, Shard
from mobilenas.core.progress import Reporter
from mobilenas.core.settings import readable
from mobilenas.data.layout import FOLDER_SPLITS, SPLIT_WORDS
from mobilenas.data.listing import Entry, Listing, by_type, check_known, check_number, labels_of
from mobilenas.data.patterns import shard_paths
from mobilenas.data.records import ShardIndex, index_path, read_index, write_index
from mobilenas.data.tar_index import index_shard

NAMES_FILE = "classnames.txt"
"""A file beside the shards: the names of classes 0, 1, ..., one per line."""
_NUMBER = re.compile(r"-?[0-9]+")
_MAX_CLASSES = 1_000_000
_MAX_NAMES_BYTES = 2**24


def list_shards(source: str, reporter: Reporter) -> Listing:
    """Find images, classes and splits; DataError names the shard and the problem."""
    paths = shard_paths(source)
    root = Path(os.path.commonpath([path.absolute().parent for path in paths]))
    names = {path: path.absolute().relative_to(root).as_posix() for path in paths}
    splits = _splits(names)
    found = _indexes(paths, reporter)
    class_of = _classes(found, root / NAMES_FILE)
    entries = [
        Entry(split, class_of[label], Member(shard, name, offset, size), f"{names[path]}/{name}")
        for split, of_split in splits.items()
        for path in of_split
        for shard in [Shard(path, found[path].size, found[path].mtime_ns)]
        for name, label, offset, size in found[path].images()
    ]
    others: Counter[str] = Counter()
    for index in found.values():
        others.update(index.others)
    train, *_ = splits  # the only ones if their names give no splits
    known = {entry.label for entry in entries if entry.split == train}
    if not known:
        seen = f"; it holds {by_type(others)}" if others else ""
        raise DataError(f"{_span(splits[train])} holds no images{seen}")
    classes = tuple(label for label in dict.fromkeys(class_of.values()) if label in known)
    check_number(source, classes)
    for split, of_split in splits.items():
        own = (entry.label for entry in entries if entry.split == split)
        check_known(_span(of_split), own, classes, "a label must occur in train, too")
    spans = {split: _span([names[path] for path in each]) for split, each in splits.items()}
    skipped = f"members that are neither images nor labels were skipped: {by_type(others)}"
    return Listing(
        root=root,
        places={split: _span(of_split) for split, of_split in splits.items() if split},
        rule=f"the shards {', '.join(spans.values())}",
        classes=classes,
        entries=tuple(entries),
        unreadable=tuple(path / name for path in paths for name in found[path].unreadable),
        notes=(skipped,) if others else (),
    )


def _splits(names: Mapping[Path, str]) -> dict[str, list[Path]]:
    """Group shards by the split in their names below the common folder; '' if none has one."""
    splits: dict[str, list[Path]] = {}
    for path, name in names.items():
        words = re.split(r"[\W\d_]+", name)
        said = [
            split
            for split, pattern in SPLIT_WORDS.items()
            if any(re.fullmatch(pattern, word, re.IGNORECASE) for word in words)
        ]
        if len(said) > 1:
            raise DataError(f"{path} could be of {' or '.join(said)}; rename it")
        splits.setdefault("".join(said), []).append(path)
    if len(splits) > 1 and "" in splits:
        raise DataError(
            f"{splits[''][0]} has none of train, val and test in its name, unlike others"
        )
    if "" not in splits and "train" not in splits:
        raise DataError(f"there are shards of {' and '.join(splits)}, but none of train")
    return {split: splits[split] for split in ("", *FOLDER_SPLITS) if split in splits}


def _span(shards: Iterable[Path | str]) -> str:
    """Format a range of sorted shards: the first and the last."""
    first, *_, last = [*shards] * 2
    return f"{first} to {last}" if first != last else f"{first}"


def _indexes(paths: Sequence[Path], reporter: Reporter) -> dict[Path, ShardIndex]:
    """Return the index of every shard, from the cache if the shard has not changed since."""
    found = {}
    reporter.start("looking through shards", len(paths))
    for done, path in enumerate(paths, 1):
        file = index_path("shards", path)
        index = read_index(file, ShardIndex, reporter)
        stat = path.stat()
        if index is None or (index.size, index.mtime_ns) != (stat.st_size, stat.st_mtime_ns):
            index = index_shard(path)
            write_index(file, index, reporter)
        found[path] = index
        reporter.step(done, {})
    return found


def _classes(found: Mapping[Path, ShardIndex], file: Path) -> dict[str, str]:
    """Map every label that occurs to its class name, in the order of the classes."""
    labels = {label for index in found.values() for label in index.labels}
    names = _class_names(file) if file.exists() else None
    numbers = names is not None or all(map(_NUMBER.fullmatch, labels))
    if not numbers:
        named = labels_of(
            sorted(labels), f"{next(iter(found))} and the shards beside it have two classes"
        )
        return {label: name for name, label in named.items()}
    legal = range(_MAX_CLASSES if names is None else len(names))
    for label in sorted(labels):
        if not _NUMBER.fullmatch(label) or int(label) not in legal:
            path, name = next(
                (path, name)
                for path, index in found.items()
                for name, other, *_ in index.images()
                if other == label
            )
            where = f"{file} names {len(legal)} classes" if names else "classes are numbered"
            raise DataError(
                f"the label of {path / name} is {readable(label)}; {where}, from 0 to {legal[-1]}"
            )
    ordered = sorted(labels, key=int)
    return {label: names[int(label)] if names else str(int(label)) for label in ordered}


def _class_names(file: Path) -> list[str]:
    """Read the names of classes 0, 1, ..., one per line."""
    try:
        text = read_bytes(file, _MAX_NAMES_BYTES).decode().strip()
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not UTF-8") from error
    names = [line.strip() for line in text.split("\n")]
    if not all(names):
        raise DataError(f"{file}, line {names.index('') + 1}: the name of a class is missing")
    return list(labels_of(names, f"{file} has two classes"))
