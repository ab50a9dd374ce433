"""A log of finished rounds, from which a killed measurement resumes."""

import contextlib
import hashlib
import json
import os
import platform
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated

import onnxruntime
from msgspec import Meta, field

from mobilenas.core.errors import FileError
from mobilenas.core.records import Record, append_log, read_log
from mobilenas.latency.kit_runner import Timing

_CPUINFO = Path("/proc/cpuinfo")


def device() -> dict[str, str | int]:
    """Describe this machine: cpu, architecture, cores, os, onnxruntime."""
    return {
        "cpu": _cpu_name(),
        "architecture": platform.machine(),
        "cores": os.cpu_count() or 1,
        "os": platform.system(),
        "onnxruntime": onnxruntime.__version__,
    }


def fingerprint(described: Mapping[str, str | int]) -> str:
    """Return a short hash of the description by `device`."""
    text = json.dumps(dict(described), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _cpu_name() -> str:
    # platform.processor() is empty or only "x86_64" on Linux; on ARM, /proc/cpuinfo has numbers,
    # not names
    text = ""
    with contextlib.suppress(OSError):
        text = _CPUINFO.read_text(encoding="utf-8", errors="replace")
    for name in ("model name", "Hardware", "CPU part"):
        match = re.search(rf"^{name}\s*:\s*(\S.*)$", text, re.MULTILINE)
        if match:
            return match[1].strip()
    return platform.processor() or "unknown"


class Cache:
    """A folder with a log for each device, runtime, provider and number of threads."""

    def __init__(self, folder: Path | None = None) -> None:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        self.folder = home / "mobilenas" / "latency" if folder is None else folder

    def rounds(self, provider: str, threads: int) -> "Rounds":
        """Open this machine's log; FileError names a damaged line."""
        described = device()
        runtime = described["onnxruntime"]
        clock = "cpu" if threads == 1 else "wall"  # what `kit_runner.timed` reads
        name = f"{fingerprint(described)}-ort{runtime}-{provider}-t{threads}-{clock}.jsonl"
        return Rounds(self.folder / name)


class RoundLine(Record, frozen=True, kw_only=True):
    """A line of the log."""

    ns: dict[str, Annotated[int, Meta(ge=1)]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    disturbed: list[str] = field(default_factory=list)
    forgotten: list[str] = field(default_factory=list)


class Rounds:
    """An append-only log: {"ns": {key: nanoseconds}} for a round, {"failed": {key: reason}}.

    A key is the sha256 of a model's bytes. "disturbed" lists the models of a round that other
    programs disturbed; {"forgotten": [key]} invalidates earlier times of a model.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._rounds: list[dict[str, Timing]] = []
        self._failed: dict[str, str] = {}
        _cut_torn_line(path)
        try:
            lines = read_log(path, RoundLine)
        except FileError as error:
            message = f"{error}; delete the line or the file to measure again"
            raise FileError(message) from error
        for line in lines:
            self._take(line)

    def among(self, keys: Collection[str]) -> list[dict[str, Timing]]:
        """Return the finished rounds of these models, oldest first, as times by key."""
        rounds = ({k: each for k, each in times.items() if k in keys} for times in self._rounds)
        return [times for times in rounds if times]

    def failure(self, key: str) -> str | None:
        """Return why a model does not run on this machine; None if that is not known."""
        return self._failed.get(key)

    def add(self, timings: Mapping[str, Timing]) -> None:
        """Log a round."""
        disturbed = [key for key, timing in timings.items() if timing.disturbed]
        ns = {key: timing.ns for key, timing in timings.items()}
        append_log(self.path, RoundLine(ns=ns, disturbed=disturbed))
        self._rounds.append(dict(timings))

    def forget(self, keys: Collection[str]) -> None:
        """Discard the logged times of these models."""
        append_log(self.path, RoundLine(forgotten=sorted(keys)))
        self._drop(keys)

    def fail(self, key: str, reason: str) -> None:
        """Log that a model does not run on this machine."""
        append_log(self.path, RoundLine(failed={key: reason}))
        self._failed[key] = reason

    def _take(self, line: "RoundLine") -> None:
        disturbed = set(line.disturbed)
        self._drop(set(line.forgotten))
        self._rounds.append({key: Timing(ns, key in disturbed) for key, ns in line.ns.items()})
        self._failed.update(line.failed)

    def _drop(self, keys: Collection[str]) -> None:
        if keys:
            self._rounds = [{k: t for k, t in r.items() if k not in keys} for r in self._rounds]


def _cut_torn_line(path: Path) -> None:
    # A kill may leave part of a line, to which the next line would be appended.
    try:
        with path.open("r+b") as file:
            content = file.read()
            file.truncate(content.rfind(b"\n") + 1)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise FileError(f"cannot read {path}: {error.strerror or error}") from error
