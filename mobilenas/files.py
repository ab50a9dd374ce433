"""Files that are never half written: temporary name, flush, rename. JSON with a schema version."""

import contextlib
import io
import json
import os
import pickle
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mobilenas.errors import FileError

SCHEMA_VERSION = 1


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path` so that a kill at any moment leaves the old file or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
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
    """Write `text` as UTF-8, atomically."""
    write_bytes(path, text.encode())


def write_json(path: Path, data: dict[str, Any]) -> None:
    """Write `data` with the schema version first."""
    write_text(path, json.dumps({"schema_version": SCHEMA_VERSION} | data, indent=1) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object of this schema version; the error names file, place and what is legal."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise FileError(f"{path} does not exist") from error
    except OSError as error:
        raise FileError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise FileError(f"{path} is not JSON: {error}") from error
    if not isinstance(data, dict):
        raise FileError(f"{path} holds a {type(data).__name__}; it must hold an object")
    version = data.pop("schema_version", None)
    if version != SCHEMA_VERSION:
        raise FileError(
            f"{path}: schema_version is {version!r}; this release reads {SCHEMA_VERSION}"
        )
    return data


def append_jsonl(path: Path, record: dict[str, Any]) -> None:
    """Add one line to a log."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
    except OSError as error:
        raise FileError(f"cannot write {path}: {error.strerror or error}") from error


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Read a log; a last line cut by a kill is left out, a missing log is empty."""
    records = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"cannot read {path}: {error}") from error
    for number, line in enumerate(lines, 1):
        try:
            records.append(json.loads(line))
        except ValueError as error:
            if number < len(lines):
                raise FileError(f"{path}, line {number} is not JSON: {error}") from error
    return records


def write_jsonl(path: Path, records: Iterable[dict[str, Any]]) -> None:
    """Write a whole log, atomically."""
    write_text(path, "".join(json.dumps(record) + "\n" for record in records))


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write tensors and plain values, atomically."""
    import torch

    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_bytes(path, buffer.getvalue())


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """Read what `save_checkpoint` wrote; None where there is no checkpoint yet."""
    import torch

    if not path.exists():
        return None
    try:
        # the file is a zip archive: its checksums tell a damaged one before anything is unpickled
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, EOFError) as error:
        damaged = str(error)
    except OSError as error:
        raise FileError(f"cannot read {path}: {error.strerror or error}") from error
    if damaged is not None:
        raise FileError(f"{path} is cut or damaged; delete it to start this stage again")
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise FileError(f"{path} holds more than tensors and plain values") from error
    return state
