"""What earlier starts found in shards and images, kept in the user's cache as MessagePack."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta

from mobilenas.core.errors import FileError
from mobilenas.core.files import read_bytes, write_bytes
from mobilenas.core.progress import Reporter
from mobilenas.core.records import Count, Record

_Read = TypeVar("_Read", bound="Indexed")


class Indexed(Record, frozen=True, kw_only=True):
    """A file of the index."""

    index_version: Annotated[int, Meta(ge=1, le=1)] = 1


class ShardIndex(Indexed, frozen=True, kw_only=True):
    """What a shard holds; valid while the shard has this size and time."""

    size: Count
    """Of the shard, in bytes."""
    mtime_ns: int
    """When the shard was written."""
    names: list[str]
    """Of the images."""
    offsets: list[Count]
    """Of each image's first byte."""
    sizes: list[Count]
    """Of each image, in bytes."""
    labels: list[str]
    """What the `.cls` of each image says."""
    unreadable: list[str]
    """Names of images of types that are not read, such as HEIC."""
    others: dict[str, Count]
    """How many members of other kinds it has, by suffix."""

    def __post_init__(self) -> None:
        """Check the lengths."""
        columns = (self.offsets, self.sizes, self.labels)
        if any(len(column) != len(self.names) for column in columns):
            raise ValueError("names, offsets, sizes and labels differ in length")

    def images(self) -> Iterator[tuple[str, str, int, int]]:
        """Name, label, offset and size of each."""
        return zip(self.names, self.labels, self.offsets, self.sizes, strict=True)


class ImageRows(Indexed, frozen=True, kw_only=True):
    """What was found in each of many images; valid where an image has this size and time."""

    names: list[bytes]
    """Paths below the folder."""
    stamps: bytes
    """int64 [N, 2]: size in bytes and mtime in ns of the file that each image is in."""
    row_bytes: Annotated[int, Meta(ge=1, le=1000)]
    """How long the row of an image is."""
    rows: bytes
    """[N] of a type that its reader knows."""

    def __post_init__(self) -> None:
        """Check the lengths."""
        count = len(self.names)
        if (len(self.stamps), len(self.rows)) != (16 * count, self.row_bytes * count):
            raise ValueError("names, stamps and rows differ in length")


def index_path(kind: str, path: Path, *about: object) -> Path:
    """Return the file of the index that holds `about` of `path`."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    key = os.fsencode("\0".join(map(str, (path.absolute(), *about))))
    name = hashlib.sha256(key).hexdigest()[:32]
    return home / "mobilenas" / kind / f"{name}.msgpack"


def read_index(path: Path, kind: type[_Read], reporter: Reporter) -> _Read | None:
    """Read a file of the index; None where there is none, or a damaged one, which is said."""
    if not path.exists():
        return None
    try:
        return msgspec.msgpack.decode(read_bytes(path), type=kind)
    except (FileError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        reporter.info(f"{path} cannot be used and is rebuilt: {error}")
        return None


def write_index(path: Path, index: Indexed, reporter: Reporter) -> None:
    """Write a file of the index; where that is not possible, say what it costs."""
    try:
        write_bytes(path, msgspec.msgpack.encode(index))
    except FileError as error:
        reporter.info(f"{error}: the next start will read the same files again")
