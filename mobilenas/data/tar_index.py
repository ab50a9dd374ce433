"""Indexes a WebDataset shard: offset, size and label of every image, from the tar headers.

Members with the same name up to its first dot are a sample: `000012.jpg` and `000012.cls`. Only
headers and labels are read, and nothing is unpickled.
"""

import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from mobilenas.core.errors import DataError, first_line
from mobilenas.core.files import OTHER_FORM
from mobilenas.core.settings import readable
from mobilenas.data.image_files import IMAGE_SUFFIXES, UNREADABLE_SUFFIXES
from mobilenas.data.records import ShardIndex

_LABEL = ".cls"
_PICKLES = {".pyd", ".pkl", ".pickle", ".pth", ".pt"}
_MAX_LABEL_BYTES = 1000


def index_shard(path: Path) -> ShardIndex:
    """Index a shard; DataError names it and what is wrong with it."""
    images: dict[str, tarfile.TarInfo] = {}
    labels: dict[str, str] = {}
    dotted: dict[str, str] = {}
    unreadable: dict[str, str] = {}
    others: Counter[str] = Counter()
    try:
        found = path.stat()
        with path.open("rb") as file:
            for member in _members(path, file):
                key, suffix = _key_and_suffix(member.name)
                _check_member(path, member)
                if suffix in IMAGE_SUFFIXES:
                    _check_new(path, images.get(key), member)
                    images[key] = member
                elif suffix == _LABEL:
                    if key in labels:
                        raise DataError(f"{path} holds {readable(member.name)} twice")
                    labels[key] = _label(path, file, member)
                elif suffix in UNREADABLE_SUFFIXES:
                    unreadable[key] = readable(member.name)
                else:
                    others[suffix] += 1
                    if suffix.endswith(IMAGE_SUFFIXES):
                        dotted[key] = readable(member.name)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    for key, name in dotted.items():
        if key not in images:
            raise DataError(
                f"{path} holds {name}, but no image {readable(key)}.jpg: a sample is named up to "
                "the first dot"
            )
    for key, member in images.items():
        if key not in labels:
            raise DataError(f"{path} holds {readable(member.name)}, but no {_LABEL} with its label")
    for key in labels:
        if key not in images and key not in unreadable:
            raise DataError(f"{path} holds {readable(key)}{_LABEL}, but no image with this label")
    files = sorted(images.items(), key=lambda item: item[1].name)
    return ShardIndex(
        size=found.st_size,
        mtime_ns=found.st_mtime_ns,
        names=[readable(member.name) for _, member in files],
        offsets=[member.offset_data for _, member in files],
        sizes=[member.size for _, member in files],
        labels=[labels[key] for key, _ in files],
        unreadable=list(unreadable.values()),
        others=dict(others),
    )


def _members(path: Path, file: BinaryIO) -> Iterator[tarfile.TarInfo]:
    """Yield the files of a tar; DataError if it is damaged before its end."""
    end = 0
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                end, before = tar.offset, end
                if end <= before or member.size < 0:  # would never end
                    raise DataError(f"{path} is damaged at byte {before}")
                if member.isdir() or PurePosixPath(member.name).name.startswith("."):
                    continue
                yield member
            end = tar.offset
    except (tarfile.TarError, *OTHER_FORM) as error:
        if end:
            raise DataError(f"{path} is cut short or damaged: {first_line(error)}") from error
        raise DataError(f"{path} is cut short, or not an uncompressed tar file") from error
    # a tar ends in zeros, but Python takes any unreadable header for its end
    file.seek(end)
    block = file.read(tarfile.BLOCKSIZE)
    if len(block) < tarfile.BLOCKSIZE:
        raise DataError(f"{path} is cut short: the end of the archive is missing")
    if any(block):
        raise DataError(f"{path} is damaged at byte {end}")


def _key_and_suffix(name: str) -> tuple[str, str]:
    folder, slash, base = name.rpartition("/")
    stem, dot, suffix = base.partition(".")
    return f"{folder}{slash}{stem}", f"{dot}{suffix}".lower()


def _check_member(path: Path, member: tarfile.TarInfo) -> None:
    name = readable(member.name)
    if _PICKLES & {suffix.lower() for suffix in PurePosixPath(member.name).suffixes}:
        raise DataError(
            f"{path} holds {name}, a pickle, which can run any code when it is read: refused; "
            f"labels are numbers or names in {_LABEL} files"
        )
    if not member.isreg() or member.issparse():
        raise DataError(f"{path} holds {name}, which is a link or a sparse file, not a plain one")


def _check_new(path: Path, other: tarfile.TarInfo | None, member: tarfile.TarInfo) -> None:
    if other is not None:
        first, second = readable(other.name), readable(member.name)
        if first == second:
            raise DataError(f"{path} holds {first} twice")
        raise DataError(f"{path} holds two images of one sample, {first} and {second}")


def _label(path: Path, file: BinaryIO, member: tarfile.TarInfo) -> str:
    file.seek(member.offset_data)
    content = file.read(min(member.size, _MAX_LABEL_BYTES + 1))
    try:
        text = content.decode().strip()
    except UnicodeDecodeError:
        text = ""
    if not text or len(content) > _MAX_LABEL_BYTES or "\n" in text:
        raise DataError(
            f"{path}: {readable(member.name)} must be a number or the name of a class in one line"
        )
    return text
