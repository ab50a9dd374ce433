"""Times the models of a kit on this device and writes kit-results.json beside them.

Stands alone: a kit holds a copy named run_kit.py, which needs Python 3.8, numpy and onnxruntime.
"""

from __future__ import annotations

import argparse
import csv
import gc
import hashlib
import json
import math
import os
import platform
import random
import re
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # onnxruntime reads it when it is imported
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as _state

SCHEMA_VERSION = 1
TIMING_NS = 1_000_000
"""A timing lasts at least this long: short models run several times in it."""

_DEEPEST, _MOST_DIGITS, _LARGEST_INTEGER, _LARGEST_FLOAT = 64, 20, 2**63, 1e100
_ALIEN = re.compile(r"[\x00\ud800-\udc7f\udd00-\udfff]")
"""What no file of a kit holds, as in mobilenas/core/files.py, which this file does without."""
_FATAL = 4  # onnxruntime's log level; its errors come as exceptions anyway
_XNNPACK = "XnnpackExecutionProvider"
_WARMUP_RUNS, _WARMUP_NS = 5, 1_000_000_000
_MODEL_ERRORS = (
    _state.EPFail,
    _state.Fail,
    _state.InvalidArgument,
    _state.InvalidGraph,
    _state.InvalidProtobuf,
    _state.NoModel,
    _state.NoSuchFile,
    _state.NotImplemented,
    _state.RuntimeException,
    MemoryError,
    RuntimeError,  # what pybind makes of any other C++ exception
)
_DTYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(uint8)": np.uint8,
    "tensor(int8)": np.int8,
}


class KitError(Exception):
    """Something the user can mend."""


class Job:
    """One loaded model and its finished rounds."""

    def __init__(self, session: Any, feed: dict[str, Any], ns: list[int], threads: int) -> None:
        self.session, self.feed, self.ns = session, feed, ns
        # of one thread, the time that it has the processor: other programs do not count
        own_clock = threads == 1 and sys.platform != "win32"  # whose clock of threads is coarse
        self._clock = time.thread_time_ns if own_clock else time.perf_counter_ns
        stop = time.perf_counter_ns() + _WARMUP_NS
        fastest = self._run(1)
        for _ in range(1, _WARMUP_RUNS):
            if time.perf_counter_ns() > stop:
                break
            fastest = min(fastest, self._run(1))
        self.repeats = math.ceil(TIMING_NS / max(1, fastest))

    def round(self) -> None:
        """Add one timing; the run before it, untimed, warms the caches."""
        self.session.run(None, self.feed)
        self.ns.append(max(1, self._run(self.repeats)))

    def _run(self, repeats: int) -> int:
        start = self._clock()
        for _ in range(repeats):
            self.session.run(None, self.feed)
        return round((self._clock() - start) / repeats)


class Bench:
    """Opens models that share threads, memory and inputs, of which each could have its own."""

    def __init__(self, threads: int, provider: str) -> None:
        self._provider: Any = provider
        self._threads = threads
        self._settings = onnxruntime.SessionOptions()
        self._settings.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        self._settings.log_severity_level = _FATAL
        # Threads that go on spinning after a run would slow down the next session's run.
        self._settings.add_session_config_entry("session.force_spinning_stop", "1")
        self._settings.add_session_config_entry("session.use_env_allocators", "1")
        # Weights stay as long as the session: in the arena they would split its memory.
        self._settings.add_session_config_entry(
            "session.use_device_allocator_for_initializers", "1"
        )
        self._values: dict[str, Any] = {}
        if provider == _XNNPACK:  # it brings threads of its own
            self._provider, threads = (provider, {"intra_op_num_threads": str(threads)}), 1
        self._share(threads)

    def _share(self, threads: int) -> None:
        kind, use = onnxruntime.OrtAllocatorType, onnxruntime.OrtMemType
        memory = onnxruntime.OrtMemoryInfo("Cpu", kind.ORT_ARENA_ALLOCATOR, 0, use.DEFAULT)
        onnxruntime.create_and_register_allocator(memory, onnxruntime.OrtArenaCfg({}))
        if threads == 1:  # then a session makes no thread
            self._settings.intra_op_num_threads = self._settings.inter_op_num_threads = 1
        elif hasattr(onnxruntime, "set_global_thread_pool_sizes"):
            onnxruntime.set_global_thread_pool_sizes(threads, 1)
            self._settings.use_per_session_threads = False
        else:
            raise KitError(
                f"onnxruntime {onnxruntime.__version__} cannot share threads between models; "
                "say --threads 1 or install a newer one"
            )

    def open(self, path: Path, ns: list[int]) -> Job:
        """Load a model and warm it up."""
        session = onnxruntime.InferenceSession(
            str(path), self._settings, providers=[self._provider], enable_fallback=0
        )
        feed = {
            entry.name: self._random(entry.type, math.prod(entry.shape)).reshape(entry.shape)
            for entry in session.get_inputs()
        }
        return Job(session, feed, ns, self._threads)

    def _random(self, kind: str, count: int) -> Any:
        # All models read the same memory: an input of its own for each would be as much as weights.
        values = self._values.get(kind)
        if values is None or values.size < count:
            values = np.random.default_rng(0).uniform(0, 100, 2 * count).astype(_DTYPES[kind])
            self._values[kind] = values
        return values[:count]


def is_precise(ns: list[int], rounds: int, most_rounds: int, tolerance: float) -> bool:
    """Whether a model needs no further round: its median is known to `tolerance`, or it had all."""
    if len(ns) < rounds:
        return False
    # with 95 % the median lies between these two of the sorted values
    ordered, count = sorted(ns), len(ns)
    rank = max(0, math.floor((count - 1.96 * math.sqrt(count)) / 2) - 1)
    half_width = (ordered[count - 1 - rank] - ordered[rank]) / 2
    return len(ns) >= most_rounds or half_width <= tolerance * statistics.median(ns)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object of this schema version, as strictly as mobilenas itself does."""
    try:
        data: Any = json.loads(
            path.read_text(encoding="utf-8"),
            parse_int=_integer,
            parse_float=_finite,
            parse_constant=_no_number,
            object_pairs_hook=_object,
        )
        _check(data, _DEEPEST)
    except OSError as error:
        raise KitError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise KitError(f"{path} is not JSON: {error}") from error
    version = data.get("schema_version") if isinstance(data, dict) else None
    if type(version) is not int or version != SCHEMA_VERSION:
        raise KitError(f"{path}: schema_version is {version!r}; this runner reads {SCHEMA_VERSION}")
    return dict(data)


def read_manifest(path: Path) -> dict[str, Any]:
    """Read what the kit holds; all its models lie in it."""
    data = read_json(path)
    models = data.get("models")
    if not isinstance(data.get("kit"), str) or not isinstance(models, list):
        raise KitError(f"{path} is not a kit's manifest: it lacks kit or models")
    for number, model in enumerate(models):
        told = [model.get(key) for key in ("file", "sha256")] if isinstance(model, dict) else []
        names = [name for name in told if isinstance(name, str)]
        if len(names) < 2:
            raise KitError(f"{path}: models[{number}] must have file and sha256")
        if Path(names[0]).is_absolute() or ".." in Path(names[0]).parts:
            raise KitError(f"{path}: models[{number}].file is {names[0]!r}, outside the kit")
    return data


def check_times(path: Path, times: Any) -> None:
    """Raise unless results have rounds of nanoseconds, or why a model does not run."""
    if not isinstance(times, dict):
        raise KitError(f"{path}: times must be an object")
    for name, entry in times.items():
        rounds = entry.get("ns") if isinstance(entry, dict) else None
        whole = isinstance(rounds, list) and all(type(ns) is int and ns > 0 for ns in rounds)
        if not whole and not (isinstance(entry, dict) and isinstance(entry.get("failed"), str)):
            raise KitError(f"{path}: times[{name!r}] must have ns or failed; delete the file")


def _integer(text: str) -> int:
    value = int(text) if len(text) <= _MOST_DIGITS else _LARGEST_INTEGER
    return value if abs(value) < _LARGEST_INTEGER else int(_no_number(text))


def _finite(text: str) -> float:
    value = float(text)
    return value if abs(value) <= _LARGEST_FLOAT else _no_number(text)


def _no_number(text: str) -> float:
    raise ValueError(f"{text:.40} is not a legal number")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    for key in keys:
        if keys.count(key) > 1:
            raise ValueError(f"the key {key!r} stands twice in one object")
    return dict(pairs)


def _check(data: Any, levels: int) -> None:
    """Raise where lists and objects are nested deeper, or a text has what no name has."""
    if isinstance(data, str) and _ALIEN.search(data):
        raise ValueError(f"the text {data[:80]!r} has a character that is not allowed in names")
    if not isinstance(data, (dict, list)):
        return
    if not levels:
        raise ValueError(f"it is nested more than {_DEEPEST} levels deep")
    for item in [*data, *data.values()] if isinstance(data, dict) else data:
        _check(item, levels - 1)


def write_json(path: Path, data: dict[str, Any]) -> None:
    """Write so that a kill at any moment leaves the old file or the new one."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(data, allow_nan=False) + "\n", encoding="utf-8")
    temporary.replace(path)


def describe_device(name: str) -> dict[str, Any]:
    """Say what this is; `name` replaces what the system calls its processor."""
    return {
        "cpu": name or _processor(),
        "architecture": platform.machine(),
        "cores": os.cpu_count() or 1,
        "os": platform.system(),
        "onnxruntime": onnxruntime.__version__,
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    text = info.read_text(encoding="utf-8", errors="replace") if info.exists() else ""
    for key in ("model name", "Hardware", "Model", "CPU part"):
        found = re.search(rf"^{key}\s*:\s*(.+)$", text, re.MULTILINE)
        if found:
            return found[1].strip()
    return platform.processor() or platform.machine()


def new_results(manifest: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """Return results without times; they carry the manifest, so that they can be read alone."""
    return {
        "schema_version": SCHEMA_VERSION,
        "kit": manifest["kit"],
        "units": "ns",
        "device": describe_device(options.device),
        "provider": options.provider,
        "threads": options.threads,
        "rounds": options.rounds,
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "manifest": manifest,
        "times": {},
    }


def start_results(manifest: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """Go on with the results that are there, if they are of this kit and measured alike."""
    new = new_results(manifest, options)
    if not options.out.exists():
        return new
    old = read_json(options.out)
    for name in ("kit", "device", "provider", "threads"):
        if old.get(name) != new[name]:
            raise KitError(
                f"{options.out} holds results with {name} {old.get(name)!r}, not {new[name]!r}; "
                "move it away or say --out"
            )
    check_times(options.out, old.get("times"))
    return {**old, "manifest": manifest, "rounds": options.rounds}


def load(folder: Path, results: dict[str, Any], options: argparse.Namespace) -> list[Job]:
    """Load every model that has not failed; note those that do."""
    models, times = results["manifest"]["models"], results["times"]
    jobs: list[Job] = []
    bench = Bench(options.threads, options.provider)
    for number, entry in enumerate(models, 1):
        name, path = entry["file"], folder / entry["file"]
        if name in options.skip:
            times[name] = {"failed": "left out with --skip"}
        if "failed" in times.get(name, {}):
            continue
        # the last line on the screen names a model that ends this process
        tell(f"loading {number}/{len(models)}: {name}")
        if not path.is_file() or sha256(path) != entry["sha256"]:
            raise KitError(f"{path} is missing or differs from the manifest; copy the kit again")
        ns = times.setdefault(name, {"ns": []})["ns"]
        try:
            jobs.append(bench.open(path, ns))
        except _MODEL_ERRORS as error:
            times[name] = {"failed": str(error).partition("\n")[0]}
    return jobs


def measure(jobs: list[Job], results: dict[str, Any], options: argparse.Namespace) -> None:
    """Time every model once a round, in a fresh order, until all medians are known."""
    limits = (options.rounds, max(options.rounds, options.most_rounds), options.tolerance)
    gc.disable()
    number = 0
    while True:
        waiting = [job for job in jobs if not is_precise(job.ns, *limits)]
        if not waiting:
            break
        number += 1
        began = time.monotonic()
        random.shuffle(waiting)
        for job in waiting:
            job.round()
        write_json(options.out, results)
        seconds = time.monotonic() - began
        tell(
            f"round {number} of {limits[0]} to {limits[1]}: {len(waiting)} models, {seconds:.1f} s"
        )
    write_json(options.out, results)


def read_perf_test(folder: Path, results: dict[str, Any]) -> None:
    """Fill in the times that onnxruntime_perf_test wrote, one file a model.

    A line is name, seconds, memory, load, run. Run 0 begins a new round; its median counts.
    """
    for entry in results["manifest"]["models"]:
        path = folder / (Path(entry["file"]).name + ".csv")
        if not path.is_file():
            results["times"][entry["file"]] = {"failed": "onnxruntime_perf_test wrote no times"}
            continue
        rounds: list[list[float]] = []
        try:
            with path.open(encoding="utf-8", newline="") as file:
                for line in csv.reader(file):
                    if line[4] == "0":
                        rounds.append([])
                    rounds[-1].append(float(line[1]))
        except (ValueError, IndexError) as error:
            raise KitError(f"{path} is not what onnxruntime_perf_test writes: {error}") from error
        ns = [round(statistics.median(runs) * 1e9) for runs in rounds]
        results["times"][entry["file"]] = {"ns": ns}


def sha256(path: Path) -> str:
    """Return the checksum of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def tell(message: str) -> None:
    """Show progress on stderr: one changing line on a terminal."""
    live = sys.stderr.isatty()
    print(f"\r\033[K{message}" if live else message, end="" if live else "\n", file=sys.stderr)
    sys.stderr.flush()


def parse(words: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    providers = onnxruntime.get_available_providers()
    here = Path(__file__).resolve().parent
    parser = argparse.ArgumentParser(description="Time the models of this kit on this device.")
    parser.add_argument("--kit", type=Path, default=here, help="folder; where this file is")
    parser.add_argument("--out", type=Path, help="file to write; kit-results.json in the kit")
    parser.add_argument("--threads", type=int, default=1, help="threads of onnxruntime; 1")
    parser.add_argument("--provider", default="CPUExecutionProvider", help=", ".join(providers))
    parser.add_argument("--rounds", type=int, default=16, help="least rounds; 16")
    parser.add_argument("--most-rounds", type=int, default=48, help="most rounds; 48")
    parser.add_argument("--tolerance", type=float, default=0.02, help="of the median; 0.02")
    parser.add_argument("--device", default="", help='name of the device, such as "Pixel 7"')
    parser.add_argument("--skip", action="append", default=[], help="a model's file; repeatable")
    parser.add_argument("--perf-test", type=Path, help="times of onnxruntime_perf_test instead")
    parser.add_argument("--runtime", help="with --perf-test: the device's onnxruntime, as 1.22.0")
    options = parser.parse_args(words)
    options.out = options.out or options.kit / "kit-results.json"
    if options.threads < 1 or options.rounds < 1 or not options.tolerance > 0:
        parser.error("--threads and --rounds must be at least 1, --tolerance above 0")
    if not options.perf_test and options.provider not in providers:
        parser.error(f"--provider is {options.provider}; here are {', '.join(providers)}")
    if options.perf_test and not (options.device and options.runtime):
        parser.error("--perf-test needs --device and --runtime: this is not the device")
    return options


def run(options: argparse.Namespace) -> None:
    """Do what the command line says."""
    manifest = read_manifest(options.kit / "manifest.json")
    if options.perf_test:
        results = new_results(manifest, options)
        results["device"] = {"cpu": options.device, "onnxruntime": options.runtime}
        read_perf_test(options.perf_test, results)
        write_json(options.out, results)
    else:
        results = start_results(manifest, options)
        measure(load(options.kit, results, options), results, options)
    failed = sum("failed" in entry for entry in results["times"].values())
    tell(f"{len(results['times'])} models, {failed} of them failed: {options.out}\n")


def main(words: list[str] | None = None) -> int:
    """Exit status 0 when done, 2 for wrong input, 130 when interrupted."""
    try:
        run(parse(words))
    except KitError as error:
        print(f"run_kit.py: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("run_kit.py: interrupted; the same command goes on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
