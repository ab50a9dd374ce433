"""Atomic writes (temporary file, fsync, rename), and JSON with a schema version.

JSON is read strictly: `parse_json` lists what it rejects.
"""

import contextlib
import io
import json
import math
import os
import pickle
import re
import stat
import struct
import warnings
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mobilenas.core import processes
from mobilenas.core.errors import FileError, first_line

SCHEMA_VERSION = 2
TEMPORARY = re.compile(r"\.(.+)\.[^.]+\.tmp")
"""Name of a file that is being written; the group is its final name."""
_NAME_CHARACTERS = 50

State = dict[str, Any]
"""Content of a checkpoint: tensors and plain values, untyped."""

_MAX_BYTES = 2**33
_MAX_TEXT = 2**28
_DEEPEST = 64
_LARGEST_INTEGER = 2**63
_MAX_DIGITS = 20
_LARGEST_FLOAT = 1e100
"""Products of a few such numbers are still finite."""
OTHER_FORM = (
    *(ArithmeticError, AssertionError, AttributeError, EOFError, LookupError, MemoryError),
    *(RuntimeError, TypeError, UserWarning, ValueError),
)
"""Exceptions raised while a damaged or incompatible state is read or restored."""
_UNUSUAL = re.compile(r"\\u(?:0000|[dD][89a-fA-F])")
_ALIEN = re.compile(r"[\x00\ud800-\udc7f\udd00-\udfff]")
"""Characters that no text of ours has. U+DC80 to U+DCFF are allowed: bytes of file names."""


_kept_to = set[Path]()
"""Record files of the folders that this process works in."""


def keep_to(record: Path) -> None:
    """From now on, write to the folder of `record` only while `record` exists.

    Otherwise a folder removed during a run would be recreated in part, without its record.
    """
    _kept_to.add(record.absolute())


def release(record: Path) -> None:
    """Undo `keep_to`, because the folder is started afresh."""
    _kept_to.discard(record.absolute())


def _make_parent(path: Path) -> None:
    for folder in path.absolute().parents:
        for record in _kept_to:
            if record.parent == folder and record != path.absolute() and not record.exists():
                raise FileError(
                    f"{record} is gone: its folder was removed or moved during the work in it"
                )
    path.parent.mkdir(parents=True, exist_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path` so that a kill at any moment leaves the old file or the new one.

    In the folders of a job of several processes, the first process writes once all have reached
    this point, and all continue when it is done.
    """
    folders = {record.parent for record in _kept_to}
    if processes.count() == 1 or folders.isdisjoint(path.absolute().parents):
        _write(path, content)
        return
    processes.wait()
    if processes.is_first():
        _write(path, content)
    processes.wait()


def _write(path: Path, content: bytes) -> None:
    # only part of the name, because systems limit its bytes
    temporary = path.with_name(f".{path.name[:_NAME_CHARACTERS]}.{os.getpid()}.tmp")
    try:
        _make_parent(path)
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise FileError(f"cannot write {path}: {error.strerror or error}") from error


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, atomically; bytes of file names that are not UTF-8 are escaped."""
    write_bytes(path, text.encode(errors="backslashreplace"))


def read_bytes(path: Path, limit: int = _MAX_BYTES) -> bytes:
    """Read a file of up to `limit` bytes; FileError if it is missing, larger or not readable."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe or a device may never end
            what = "a folder" if path.is_dir() else "a device or a pipe"
            raise FileError(f"cannot read {path}: it is {what}, not a file")
        with path.open("rb") as file:
            content = file.read(limit + 1)
    except FileNotFoundError as error:
        raise FileError(f"{path} does not exist") from error
    except OSError as error:
        raise FileError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:  # a name that no file can have, as with a null character
        raise FileError(f"cannot read {str(path)!r}: {error}") from error
    if len(content) > limit:
        raise FileError(f"{path} has more than {limit} bytes")
    return content


def inside(folder: Path, text: str, source: object) -> Path:
    """Return `folder` / `text`; FileError names `source` if that is not a path below `folder`."""
    path = folder / text
    try:
        plain = text and not Path(text).is_absolute() and ".." not in Path(text).parts
        if plain and path.resolve().is_relative_to(folder.resolve()):
            path.exists()  # raises where the name is too long for any file
            return path
    except (OSError, RuntimeError, ValueError):  # circular links, illegal names
        pass
    raise FileError(f"{source} names {text!r}; it must name a file in {folder}")


def to_json(data: object, name: object = "JSON", *, indent: int | None = None) -> str:
    """Return standard JSON; FileError names `name` and the place of a number that is not finite."""
    try:
        return json.dumps(data, indent=indent, allow_nan=False)
    except ValueError as error:
        raise FileError(f"cannot write {name}: {_not_finite(data) or error}") from error


def _not_finite(data: object) -> str:
    """Describe the first number that is not finite; empty if there is none."""
    for place, item in _places(data):
        if isinstance(item, float) and not math.isfinite(item):
            return f"{place} is {item}; it must be a finite number"
    return ""


def _places(data: object, place: str = "") -> Iterator[tuple[str, object]]:
    """Yield the path and value of every leaf."""
    if isinstance(data, dict):
        for key, item in data.items():
            yield from _places(item, f"{place}.{key}" if place else str(key))
    elif isinstance(data, list | tuple):
        for number, item in enumerate(data):
            yield from _places(item, f"{place}[{number}]")
    else:
        yield place, data


def parse_json(text: str | bytes, source: str) -> object:
    """Read JSON from outside; FileError names `source` and what is wrong.

    Rejects NaN and infinity, numbers above 2^63 (integers) or 1e100 (floats), duplicate keys, more
    than 64 levels, and text with null characters or unpaired surrogates.
    """
    wrong: list[_Wrong] = []

    def refused(number: str) -> "_Wrong":
        wrong.append(_Wrong(number))
        return wrong[-1]

    def integer(number: str) -> "int | _Wrong":
        value = int(number) if len(number) <= _MAX_DIGITS else _LARGEST_INTEGER
        return value if abs(value) < _LARGEST_INTEGER else refused(number)

    def finite(number: str) -> "float | _Wrong":
        value = float(number)
        return value if abs(value) <= _LARGEST_FLOAT else refused(number)

    try:
        if isinstance(text, bytes):
            text = text.decode()
        data = json.loads(
            text,
            parse_int=integer,
            parse_float=finite,
            parse_constant=refused,
            object_pairs_hook=_object,
        )
        _check_depth(data)
        if wrong:
            shown = wrong[0].text if len(wrong[0].text) < 40 else f"{len(wrong[0].text)} digits"
            place = next(where for where, item in _places(data) if item is wrong[0])
            raise FileError(f"{source}: {place} is {shown}, which is not a legal number")
        if _UNUSUAL.search(text):
            _check_texts(data)
    except RecursionError as error:
        raise FileError(f"{source} is nested too deeply") from error
    except ValueError as error:
        raise FileError(f"{source} is not JSON: {error}") from error
    return data


@dataclass(frozen=True, eq=False)
class _Wrong:
    """A number that is rejected, as it stands in the text."""

    text: str


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        double = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {double!r} appears twice in one object")
    return found


def _check_depth(data: object) -> None:
    level = [data]
    for _ in range(_DEEPEST + 1):
        nodes = [node for node in level if isinstance(node, dict | list)]
        if not nodes:
            return
        level = [i for n in nodes for i in (n.values() if isinstance(n, dict) else n)]
    raise ValueError(f"it is nested more than {_DEEPEST} levels deep")


def _check_texts(data: object) -> None:
    keys = [key for node in _objects(data) for key in node]
    for text in keys + [item for _, item in _places(data) if isinstance(item, str)]:
        if _ALIEN.search(text):
            raise ValueError(f"the text {text[:80]!r} has a character that is not allowed in names")


def _objects(data: object) -> Iterator[dict[str, object]]:
    if isinstance(data, dict):
        yield data
    if isinstance(data, dict | list):
        for item in data.values() if isinstance(data, dict) else data:
            yield from _objects(item)


def write_json(path: Path, data: dict[str, object]) -> None:
    """Write `data` with the schema version first."""
    write_text(path, to_json({"schema_version": SCHEMA_VERSION} | data, path, indent=1) + "\n")


def write_list(path: Path, data: list[dict[str, object]]) -> None:
    """Write a bare list, which has no schema version."""
    write_text(path, to_json(data, path, indent=1) + "\n")


def read_list(path: Path) -> list[object]:
    """Read a bare list."""
    data = parse_json(read_bytes(path, _MAX_TEXT), str(path))
    if not isinstance(data, list):
        raise FileError(f"{path} holds a {type(data).__name__}; it must hold a list")
    return data


def read_json(path: Path, *, oldest: int = SCHEMA_VERSION) -> dict[str, object]:
    """Read a JSON object and check its schema version; FileError names the file.

    Files of the schema versions from `oldest` on are read.
    """
    data = parse_json(read_bytes(path, _MAX_TEXT), str(path))
    if not isinstance(data, dict):
        raise FileError(f"{path} holds a {type(data).__name__}; it must hold an object")
    version = data.pop("schema_version", None)
    if type(version) is not int or not oldest <= version <= SCHEMA_VERSION:
        legal = " and ".join(map(str, range(oldest, SCHEMA_VERSION + 1)))
        earlier = type(version) is int and 0 < version < oldest
        hint = ", and an earlier one wrote the file" if earlier else ""
        raise FileError(f"{path}: schema_version is {version!r}; this release reads {legal}{hint}")
    return data


def append_jsonl(path: Path, record: dict[str, object]) -> None:
    """Add one line to a log."""
    line = to_json(record, path) + "\n"
    try:
        _make_parent(path)
        with path.open("a", encoding="utf-8") as file:
            file.write(line)
    except OSError as error:
        raise FileError(f"cannot write {path}: {error.strerror or error}") from error


def read_jsonl(path: Path) -> list[dict[str, object]]:
    """Read a log. A last line cut by a kill is skipped; a missing log is empty."""
    lines = read_bytes(path, _MAX_TEXT).split(b"\n") if path.exists() else []
    whole, cut = lines[:-1], lines[-1:]
    found = [parse_json(line, f"{path}, line {number}") for number, line in enumerate(whole, 1)]
    with contextlib.suppress(FileError):
        found += [parse_json(line, str(path)) for line in cut if line]
    records: list[dict[str, object]] = []
    for number, record in enumerate(found, 1):
        if not isinstance(record, dict):
            raise FileError(f"{path}, line {number} is not an object: it is {record!r:.80}")
        records.append(record)
    return records


def write_jsonl(path: Path, records: Iterable[dict[str, object]]) -> None:
    """Write a whole log, atomically."""
    write_text(path, "".join(to_json(record, path) + "\n" for record in records))


def save_checkpoint(path: Path, state: State) -> None:
    """Write tensors and plain values, atomically."""
    import torch

    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_bytes(path, buffer.getvalue())


def load_checkpoint(path: Path) -> State | None:
    """Read what `save_checkpoint` wrote; None where there is no checkpoint yet."""
    import torch

    if not path.exists():
        return None
    if _is_damaged(path):
        raise FileError(f"{path} is truncated or damaged; delete it to start this stage again")
    try:
        with restoring(path):
            state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise FileError(f"{path} holds more than tensors and plain values") from error
    if not isinstance(state, dict):
        raise FileError(f"{path} holds a {type(state).__name__}; it must hold an object")
    with restoring(path):
        for place, item in _places(state):
            if isinstance(item, torch.Tensor) and bool(item.isnan().any()):
                raise ValueError(f"{place} holds NaN")
    return state


def _is_damaged(path: Path) -> bool:
    """Whether a checkpoint, which is a zip archive, has been truncated or changed.

    Its checksums tell without unpickling. torch neither compresses nor encrypts.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            packed = sum(member.file_size for member in members) > path.stat().st_size
            stored = all(m.compress_type == zipfile.ZIP_STORED for m in members)
            return packed or not stored or archive.testzip() is not None
    except OSError as error:
        raise FileError(f"cannot read {path}: {error.strerror or error}") from error
    except (zipfile.BadZipFile, EOFError, RuntimeError, ValueError, struct.error):
        return True


@contextlib.contextmanager
def restoring(path: Path) -> Iterator[None]:
    """Turn errors from restoring an incompatible state into one FileError."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", "Casting complex", UserWarning)
            yield
    except OTHER_FORM as error:
        raise FileError(
            f"{path} is not what this release writes ({type(error).__name__}: "
            f"{first_line(error):.100}); "
            "delete it to start this stage again"
        ) from error
