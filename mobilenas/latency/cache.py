"""Finished rounds on disk, so that a killed measurement goes on with those it lacks."""

import contextlib
import hashlib
import json
import os
import platform
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import onnxruntime

from mobilenas.core.errors import FileError
from mobilenas.core.files import append_jsonl, read_jsonl
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
    """Return a short hash of what `device` says."""
    text = json.dumps(dict(described), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _cpu_name() -> str:
    # platform.processor() is empty or only "x86_64" on Linux; ARM kernels give numbers, not names
    text = ""
    with contextlib.suppress(OSError):
        text = _CPUINFO.read_text(encoding="utf-8", errors="replace")
    for field in ("model name", "Hardware", "CPU part"):
        match = re.search(rf"^{field}\s*:\s*(\S.*)$", text, re.MULTILINE)
        if match:
            return match[1].strip()
    return platform.processor() or "unknown"


class Cache:
    """A folder of logs of rounds: one for each device, runtime, provider and number of threads."""

    def __init__(self, folder: Path | None = None) -> None:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        self.folder = home / "mobilenas" / "latency" if folder is None else folder

    def rounds(self, provider: str, threads: int) -> "Rounds":
        """Open this machine's log; FileError names a line that is damaged."""
        described = device()
        runtime = described["onnxruntime"]
        clock = "cpu" if threads == 1 else "wall"  # what `kit_runner.timed` reads
        name = f"{fingerprint(described)}-ort{runtime}-{provider}-t{threads}-{clock}.jsonl"
        return Rounds(self.folder / name)


class Rounds:
    """An append-only log: {"ns": {key: nanoseconds}} for a round, {"failed": {key: reason}}.

    A key is the sha256 of a model's bytes; "disturbed" of a round lists those beside which other
    programs ran, {"forgotten": [key]} drops what stands before it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._rounds: list[dict[str, Timing]] = []
        self._failed: dict[str, str] = {}
        _cut_torn_line(path)
        for number, record in enumerate(read_jsonl(path), 1):
            self._take(record, number)

    def among(self, keys: Collection[str]) -> list[dict[str, Timing]]:
        """Return every finished round of these models, oldest first, by key."""
        rounds = ({k: each for k, each in times.items() if k in keys} for times in self._rounds)
        return [times for times in rounds if times]

    def failure(self, key: str) -> str | None:
        """Why a model does not run here, where it was found not to."""
        return self._failed.get(key)

    def add(self, timings: Mapping[str, Timing]) -> None:
        """Keep one round."""
        disturbed = [key for key, timing in timings.items() if timing.disturbed]
        record: dict[str, Any] = {"ns": {key: timing.ns for key, timing in timings.items()}}
        append_jsonl(self.path, record | ({"disturbed": disturbed} if disturbed else {}))
        self._rounds.append(dict(timings))

    def forget(self, keys: Collection[str]) -> None:
        """Drop what is known of these models' times."""
        append_jsonl(self.path, {"forgotten": sorted(keys)})
        self._drop(keys)

    def fail(self, key: str, reason: str) -> None:
        """Keep that a model does not run here."""
        append_jsonl(self.path, {"failed": {key: reason}})
        self._failed[key] = reason

    def _take(self, record: Any, number: int) -> None:
        times = record.get("ns", {}) if isinstance(record, dict) else None
        failed = record.get("failed", {}) if isinstance(record, dict) else None
        names = ("disturbed", "forgotten")
        lists = [record.get(name, []) if isinstance(record, dict) else None for name in names]
        if not (
            isinstance(times, dict)
            and isinstance(failed, dict)
            and set(record) <= {"ns", "failed", *names}
            and all(type(value) is int and value > 0 for value in times.values())
            and all(type(reason) is str for reason in failed.values())
            and all(isinstance(keys, list) for keys in lists)
            and all(type(key) is str for keys in lists for key in keys or ())
        ):
            raise FileError(
                f"{self.path}, line {number} is not a round of whole nanoseconds above zero or a "
                "failure; delete the line or the file to measure again"
            )
        disturbed, forgotten = (set(keys or ()) for keys in lists)
        self._drop(forgotten)
        self._rounds.append({key: Timing(ns, key in disturbed) for key, ns in times.items()})
        self._failed.update(failed)

    def _drop(self, keys: Collection[str]) -> None:
        if keys:
            self._rounds = [{k: t for k, t in r.items() if k not in keys} for r in self._rounds]


def _cut_torn_line(path: Path) -> None:
    # What a kill left of a line; the next line would be written onto it and be lost as well.
    try:
        with path.open("r+b") as file:
            content = file.read()
            file.truncate(content.rfind(b"\n") + 1)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise FileError(f"cannot read {path}: {error.strerror or error}") from error
