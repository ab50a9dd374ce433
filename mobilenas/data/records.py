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


def index_path(kind: str, path: Path) -> Path:
    """Return the file of the index that is about `path`."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    name = hashlib.sha256(os.fsencode(path.absolute())).hexdigest()[:32]
    return home / "mobilenas" / kind / f"{name}.msgpack"


def read_index(path: Path, kind: type[_Read], reporter: Reporter) -> _Read | None:
    """Read a file of the index; None where there is none, or a damaged one, which is said."""
    if not path.exists():
        return None
    try:
        return msgspec.msgpack.decode(read_bytes(path), type=kind)
    except (FileError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        reporter.info(f"{path} cannot be used and is made again: {error}")
        return None


def write_index(path: Path, index: Indexed, reporter: Reporter) -> None:
    """Write a file of the index; where that is not possible, say what it costs."""
    try:
        write_bytes(path, msgspec.msgpack.encode(index))
    except FileError as error:
        reporter.info(f"{error}: the next start looks through the same files again")
