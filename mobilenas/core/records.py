"""Records: their base classes, reader and writer, and those that several packages share.

A `Record` is a file or a part of one, and must have exactly its declared fields, with their types
and ranges. A `Part` declares only those fields of a larger file that one reader needs. A field with
a default is written only if it differs. A package's own records are in its `records.py`.
docs/formats.md says what the fields mean.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, TypeVar

from msgspec import Meta, Struct

from mobilenas.core.errors import FileError, MobileNASError
from mobilenas.core.explain import shown
from mobilenas.core.files import (
    SCHEMA_VERSION,
    append_jsonl,
    read_json,
    read_jsonl,
    read_list,
    write_json,
    write_jsonl,
    write_list,
)
from mobilenas.core.settings import format_cell, from_plain, to_plain

Count = Annotated[int, Meta(ge=0, le=10**15)]
Some = Annotated[int, Meta(ge=1, le=10**15)]
Few = Annotated[int, Meta(ge=0, le=10_000)]
Epoch = Annotated[int, Meta(ge=1, le=1_000_000)]
Amount = Annotated[float, Meta(ge=0, le=1e15)]
Percent = Annotated[float, Meta(ge=0, le=100)]
Points = Annotated[float, Meta(ge=-100, le=100)]
Share = Annotated[float, Meta(ge=0, le=1)]
Correlation = Annotated[float, Meta(ge=-1, le=1)]
Number = Annotated[float, Meta(ge=-1e30, le=1e30)]
Cost = Count | Amount
"""An integer, except for latency, a float in ms."""
Seconds = dict[str, Amount]
Json = dict[str, object]
"""An object with a reader of its own, such as an arch."""

_Read = TypeVar("_Read")


class Record(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """A file, or a part of one."""


class Part(Struct, frozen=True, kw_only=True):
    """Some fields of a file; others are ignored."""


class BudgetRow(Record, frozen=True, kw_only=True):
    """A budget, and the searched network's cost."""

    cost: Annotated[str, Meta(pattern="^[a-z0-9_-]{1,100}$")]
    limit: Annotated[int, Meta(ge=1, le=10**15)] | Annotated[float, Meta(ge=1e-12, le=1e15)]
    predicted: Cost | None = None
    recounted: Count | None = None
    measured: Amount | None = None
    measured_interval: Amount | None = None
    holds: bool | None = None

    @property
    def on_file(self) -> Cost | None:
        """The exported file's measured latency, or else its recounted cost."""
        return self.recounted if self.measured is None else self.measured

    def format_on_file(self) -> str:
        """Format `on_file` with the interval of a measurement."""
        interval = self.measured_interval
        margin = "" if interval is None else f" ± {interval:.1g}"
        return format_cell(self.on_file) + margin


class DataRecord(Record, frozen=True, kw_only=True):
    """The images, as described in run.json."""

    source: str
    classes: Sequence[str]
    counts: dict[str, Count]
    class_counts: dict[str, dict[str, Count]]
    image_size: Count
    mean: Sequence[Number]
    std: Sequence[Number]
    flip: bool
    fingerprint: str
    split_rule: str
    pixel_range: tuple[Number, Number] | None
    repeated: dict[str, Count]


class Machine(Record, frozen=True, kw_only=True):
    """The machine that produced the results."""

    platform: str
    processor: str
    cuda: str | None


def read_record(path: Path, kind: type[_Read], *, oldest: int = SCHEMA_VERSION) -> _Read:
    """Read a file of one JSON object; FileError names the file, the field and what is legal."""
    return _read(kind, read_json(path, oldest=oldest), path)


def write_record(path: Path, record: Record) -> None:
    """Write a file of one JSON object."""
    write_json(path, to_plain(record))


def read_records(path: Path, kind: type[_Read]) -> list[_Read]:
    """Read a file that is a list of objects."""
    items = enumerate(read_list(path))
    return [_read(kind, item, path, f"networks[{number}]") for number, item in items]


def write_records(path: Path, records: Sequence[Record]) -> None:
    """Write a file that is a list of objects."""
    write_list(path, to_plain(records))


def read_log(path: Path, kind: type[_Read]) -> list[_Read]:
    """Read a log of one object per line; a missing file is an empty log."""
    lines = enumerate(read_jsonl(path), 1)
    return [_read(kind, line, f"{path}, line {number}") for number, line in lines]


def write_log(path: Path, lines: Iterable[Record]) -> None:
    """Write a whole log."""
    write_jsonl(path, map(to_plain, lines))


def append_log(path: Path, line: Record) -> None:
    """Append a line to a log."""
    append_jsonl(path, to_plain(line))


def read_checkpoint_log(state: Json, kind: type[_Read], path: Path) -> list[_Read]:
    """Return the log that the checkpoint `path` holds in its `state`."""
    lines = state.get("log")
    if not isinstance(lines, list):
        raise FileError(f"{path}: log is {shown(lines)}; it must be a list")
    return [_read(kind, line, path, f"log[{number}]") for number, line in enumerate(lines)]


def _read(kind: type[_Read], data: object, source: object, place: str = "") -> _Read:
    try:
        return from_plain(kind, data, place)
    except MobileNASError as error:
        raise FileError(f"{source}: {error}") from error
