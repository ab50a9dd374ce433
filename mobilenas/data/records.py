"""Records of the index of shards and images: MessagePack files in the user's cache."""

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
    """Base of all index files."""

    index_version: Annotated[int, Meta(ge=1, le=1)] = 1


class ShardIndex(Indexed, frozen=True, kw_only=True):
    """Contents of a shard; valid while the shard has this size and mtime."""

    size: Count
    """Bytes of the shard."""
    mtime_ns: int
    """Modification time of the shard."""
    names: list[str]
    """Names of the images."""
    offsets: list[Count]
    """Offset of each image in the shard."""
    sizes: list[Count]
    """Bytes of each image."""
    labels: list[str]
    """Content of each image's `.cls` member."""
    unreadable: list[str]
    """Names of images of unsupported types, such as HEIC."""
    others: dict[str, Count]
    """Number of other members by suffix."""

    def __post_init__(self) -> None:
        """Check that all columns have the same length."""
        columns = (self.offsets, self.sizes, self.labels)
        if any(len(column) != len(self.names) for column in columns):
            raise ValueError("names, offsets, sizes and labels differ in length")

    def images(self) -> Iterator[tuple[str, str, int, int]]:
        """Yield name, label, offset and size of each image."""
        return zip(self.names, self.labels, self.offsets, self.sizes, strict=True)


class ImageRows(Indexed, frozen=True, kw_only=True):
    """Results for many images; a row is valid while its file has this size and mtime."""

    names: list[bytes]
    """Paths below the folder."""
    stamps: bytes
    """int64 [N, 2]: size in bytes and mtime in ns of the file that each image is in."""
    row_bytes: Annotated[int, Meta(ge=1, le=1000)]
    """Bytes of one row."""
    rows: bytes
    """[N] rows of a numpy type that the reader knows."""

    def __post_init__(self) -> None:
        """Check that stamps and rows match the names."""
        count = len(self.names)
        if (len(self.stamps), len(self.rows)) != (16 * count, self.row_bytes * count):
            raise ValueError("names, stamps and rows differ in length")


def index_path(kind: str, path: Path, *about: object) -> Path:
    """Return the index file for `path` and `about`, the other things its content depends on."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    key = os.fsencode("\0".join(map(str, (path.absolute(), *about))))
    name = hashlib.sha256(key).hexdigest()[:32]
    return home / "mobilenas" / kind / f"{name}.msgpack"


def read_index(path: Path, kind: type[_Read], reporter: Reporter) -> _Read | None:
    """Read an index file; None if it is missing, or damaged, which is reported."""
    if not path.exists():
        return None
    try:
        return msgspec.msgpack.decode(read_bytes(path), type=kind)
    except (FileError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        reporter.info(f"{path} cannot be used and is rebuilt: {error}")
        return None


def write_index(path: Path, index: Indexed, reporter: Reporter) -> None:
    """Write an index file; if that fails, report the consequence."""
    try:
        write_bytes(path, msgspec.msgpack.encode(index))
    except FileError as error:
        reporter.info(f"{error}: the next start will read the same files again")
