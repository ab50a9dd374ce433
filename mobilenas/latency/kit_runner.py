"""Times models on this device: the benchmark behind all measurements, and the runner of kits.

A standalone file: kits have a copy named run_kit.py, which needs Python 3.8, numpy and onnxruntime.
`mobilenas` measures with the same `Bench`, in a separate process (`worker.py`).
"""

from __future__ import annotations

import argparse
import csv
import functools
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
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # onnxruntime reads it when it is imported
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as _state

if sys.platform != "win32":
    import resource

SCHEMA_VERSION = 2
TIMING_NS = 1_000_000
"""Minimum duration of a timing, in repeated runs: shorter timings are clock noise."""

_TRIES = 3
"""Maximum number of timings, if other programs disturb them."""
_SLICE_NS = 4_000_000
"""A longer timing is not repeated: no scheduler would let it run undisturbed for so long."""
_MAX_WALL_SHARE = 1.05
"""Up to this ratio of wall time to processor time, a timing counts as undisturbed."""
_DEEPEST, _MAX_DIGITS, _LARGEST_INTEGER, _LARGEST_FLOAT = 64, 20, 2**63, 1e100
_ALIEN = re.compile(r"[\x00\ud800-\udc7f\udd00-\udfff]")
"""Characters that kit files never have; as in mobilenas/core/files.py, not imported here."""
_FATAL = 4  # onnxruntime's log level; errors are raised anyway
_XNNPACK = "XnnpackExecutionProvider"
_WARMUP_NS = 1_000_000_000
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
    RuntimeError,  # pybind's form of any other C++ exception
    UnicodeDecodeError,  # a name in the file, or in a message about it, that is not UTF-8
)
_DTYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(uint8)": np.uint8,
    "tensor(int8)": np.int8,
}

if TYPE_CHECKING:
    Json = dict[str, Any]
    Array = np.ndarray[Any, np.dtype[Any]]


class KitError(Exception):
    """An error that the user can fix."""


class ModelError(Exception):
    """A model that onnxruntime does not load or run; the message continues the model's name."""


class Timing(NamedTuple):
    """Duration of one run."""

    ns: int
    """Nanoseconds."""
    disturbed: bool
    """Whether other programs took the processor meanwhile."""


def timed(run: Callable[[], object], repeats: int, threads: int) -> Timing:
    """Time `repeats` consecutive runs, which use `threads` threads; repeat if disturbed.

    A single thread is timed by its processor time, which excludes time waiting for the processor,
    but not the effect of other programs on caches. Several threads are timed by wall time, because
    threads also use the processor while they wait for each other. On Windows wall time is always
    used, because its thread clock has ticks of 16 ms.
    """
    own_clock = threads == 1 and sys.platform != "win32"
    timing, used_ns = _once(run, repeats, own_clock=own_clock)
    for _ in range(1, _TRIES):
        if not timing.disturbed or used_ns > _SLICE_NS:
            break
        again, used_ns = _once(run, repeats, own_clock=own_clock)
        timing = min(timing, again, key=lambda each: (each.disturbed, each.ns))
    return timing


def _once(run: Callable[[], object], repeats: int, *, own_clock: bool) -> tuple[Timing, int]:
    """Return one timing, and this thread's processor time in ns."""
    switches, wall, used = _switches(), time.perf_counter_ns(), time.thread_time_ns()
    for _ in range(repeats):
        run()
    used, wall = time.thread_time_ns() - used, time.perf_counter_ns() - wall
    alone = wall <= _MAX_WALL_SHARE * used if own_clock else _switches() == switches
    took = used if own_clock else wall
    return Timing(max(1, round(took / repeats)), not alone), used


def _switches() -> int:
    """Return how often threads of this process were preempted; 0 on Windows."""
    if sys.platform == "win32":
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


class Bench:
    """Loads models that share threads, memory and inputs.

    One per process. Otherwise each of 1300 models would keep memory for its largest tensors and,
    with several threads, threads of its own.
    """

    def __init__(self, threads: int, provider: str, warmup: int = 5) -> None:
        self._threads, self._warmup = threads, warmup
        # XNNPACK has its own threads, with which onnxruntime's would compete.
        xnnpack = provider == _XNNPACK
        self._provider = (provider, {"intra_op_num_threads": str(threads)} if xnnpack else {})
        self._options = onnxruntime.SessionOptions()
        self._options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        self._options.log_severity_level = _FATAL
        # Threads that keep spinning after a run would slow down the next session's run.
        self._options.add_session_config_entry("session.force_spinning_stop", "1")
        self._options.add_session_config_entry("session.use_env_allocators", "1")
        # Weights live as long as the session; in the arena they would fragment its memory.
        self._options.add_session_config_entry("session.use_device_allocator_for_initializers", "1")
        self._share(1 if xnnpack else threads)
        self._random = np.random.default_rng(0)
        self._values: Json = {}

    def _share(self, threads: int) -> None:
        if threads == 1:  # then a session starts no threads
            self._options.intra_op_num_threads = self._options.inter_op_num_threads = 1
        elif hasattr(onnxruntime, "set_global_thread_pool_sizes"):
            onnxruntime.set_global_thread_pool_sizes(threads, 1)
            self._options.use_per_session_threads = False
        else:
            raise KitError(
                f"onnxruntime {onnxruntime.__version__} cannot share threads between models; "
                "say --threads 1 or install a newer one"
            )
        kind, use = onnxruntime.OrtAllocatorType, onnxruntime.OrtMemType
        memory = onnxruntime.OrtMemoryInfo("Cpu", kind.ORT_ARENA_ALLOCATOR, 0, use.DEFAULT)
        onnxruntime.create_and_register_allocator(memory, onnxruntime.OrtArenaCfg({}))

    def load(self, path: Path, *, held: bool = True) -> Job:
        """Load and warm up a model; ModelError if it does not load or run.

        Without `held`, it is loaded again from its file for every timing, to save memory.
        """
        if not path.is_file():
            raise ModelError("does not exist")
        try:
            session = self._open(path)
            feed = {entry.name: self._input(entry) for entry in session.get_inputs()}
        except _MODEL_ERRORS as error:
            reason = _first_line(error)
            raise ModelError(f"is not an ONNX file that onnxruntime loads: {reason}") from error
        job = Job(functools.partial(self._open, path), session, feed, self._threads)
        try:
            job.warm_up(self._warmup)
        except _MODEL_ERRORS as error:
            raise ModelError(f"does not run in onnxruntime: {_first_line(error)}") from error
        if not held:
            job.session = None
        return job

    def _open(self, path: Path) -> onnxruntime.InferenceSession:
        try:
            source: str | bytes = str(path)
            str(path).encode()
        except UnicodeEncodeError:  # a name that onnxruntime does not accept
            source = path.read_bytes()
        # With fallback, it would print to stdout and then measure another provider.
        return onnxruntime.InferenceSession(
            source, self._options, providers=[self._provider], enable_fallback=0
        )

    def _input(self, entry: onnxruntime.NodeArg) -> Array:
        first, *rest = entry.shape or [1]
        batch = first if isinstance(first, int) else 1  # a symbolic batch is one image
        if entry.type not in _DTYPES or not all(isinstance(size, int) for size in rest):
            raise ModelError(
                f"has input {entry.name!r} of {entry.type} {entry.shape}; only float and 8-bit "
                "inputs with fixed sizes can be timed"
            )
        shape = (batch, *rest) if entry.shape else ()
        count = math.prod(shape)
        # All models share one input buffer; separate ones would need as much memory as weights.
        values = self._values.get(entry.type)
        if values is None or values.size < count:
            size = max(count, 2 * values.size if values is not None else 0)
            values = self._random.uniform(0, 100, size).astype(_DTYPES[entry.type])
            self._values[entry.type] = values
        image: Array = values[:count].reshape(shape)
        return image


class Job:
    """One model to time."""

    def __init__(
        self,
        open_: Callable[[], onnxruntime.InferenceSession],
        session: onnxruntime.InferenceSession,
        feed: Json,
        threads: int,
    ) -> None:
        self.session = session  # None: opened for every timing
        self.run_ns, self._repeats = 0, 1
        self._open, self._feed, self._threads = open_, feed, threads

    def warm_up(self, runs: int) -> None:
        """Run it a few times; the fastest run determines the number of runs per timing."""
        stop = time.perf_counter_ns() + _WARMUP_NS
        self.run_ns = self._time(self.session, 1).ns
        for _ in range(1, runs):
            if time.perf_counter_ns() > stop:
                break
            self.run_ns = min(self.run_ns, self._time(self.session, 1).ns)
        self._repeats = math.ceil(TIMING_NS / self.run_ns)

    def time(self) -> Timing:
        """Time one run."""
        session = self.session
        if session is None:
            session = self._open()
            session.run(None, self._feed)  # the first run allocates memory
        # An untimed run, so that weights and inputs are in the processor's caches.
        session.run(None, self._feed)
        return self._time(session, self._repeats)

    def _time(self, session: onnxruntime.InferenceSession, repeats: int) -> Timing:
        return timed(lambda: session.run(None, self._feed), repeats, self._threads)


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


def half_interval(values: Sequence[float]) -> float:
    """Return half the width of the median's 95 % confidence interval, from order statistics."""
    # The median is between order statistics n/2 -+ 1.96 sqrt(n)/2 with 95 %, for any distribution
    # (normal approximation of the binomial). For few rounds that is the whole range.
    ordered, count = sorted(values), len(values)
    rank = max(0, math.floor((count - 1.96 * math.sqrt(count)) / 2) - 1)
    return (ordered[count - 1 - rank] - ordered[rank]) / 2


def is_precise(ns: list[int], rounds: int, max_rounds: int, tolerance: float) -> bool:
    """Whether a model is finished: its median is known to `tolerance`, or rounds are used up."""
    if len(ns) < rounds:
        return False
    return len(ns) >= max_rounds or half_interval(ns) <= tolerance * statistics.median(ns)


def read_json(path: Path) -> Json:
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


def read_manifest(path: Path) -> Json:
    """Read the kit's manifest; all models must be inside the kit."""
    data = read_json(path)
    models = data.get("models")
    if not isinstance(data.get("kit"), str) or not isinstance(models, list):
        raise KitError(f"{path} is not a kit's manifest: it lacks kit or models")
    for number, model in enumerate(models):
        given = [model.get(key) for key in ("file", "sha256")] if isinstance(model, dict) else []
        names = [name for name in given if isinstance(name, str)]
        if len(names) < 2:
            raise KitError(f"{path}: models[{number}] must have file and sha256")
        if Path(names[0]).is_absolute() or ".." in Path(names[0]).parts:
            raise KitError(f"{path}: models[{number}].file is {names[0]!r}, outside the kit")
    return data


def check_times(path: Path, times: object) -> None:
    """Raise unless every model has rounds of nanoseconds, or the reason why it does not run."""
    if not isinstance(times, dict):
        raise KitError(f"{path}: times must be an object")
    for name, entry in times.items():
        rounds = entry.get("ns") if isinstance(entry, dict) else None
        whole = isinstance(rounds, list) and all(type(ns) is int and ns > 0 for ns in rounds)
        if not whole and not (isinstance(entry, dict) and isinstance(entry.get("failed"), str)):
            raise KitError(f"{path}: times[{name!r}] must have ns or failed; delete the file")


def _integer(text: str) -> int:
    value = int(text) if len(text) <= _MAX_DIGITS else _LARGEST_INTEGER
    return value if abs(value) < _LARGEST_INTEGER else int(_no_number(text))


def _finite(text: str) -> float:
    value = float(text)
    return value if abs(value) <= _LARGEST_FLOAT else _no_number(text)


def _no_number(text: str) -> float:
    raise ValueError(f"{text:.40} is not a legal number")


def _object(pairs: list[tuple[str, object]]) -> Json:
    keys = [key for key, _ in pairs]
    for key in keys:
        if keys.count(key) > 1:
            raise ValueError(f"the key {key!r} appears twice in one object")
    return dict(pairs)


def _check(data: object, levels: int) -> None:
    """Raise if data is nested more than `levels` deep, or a text has illegal characters."""
    if isinstance(data, str) and _ALIEN.search(data):
        raise ValueError(f"the text {data[:80]!r} has a character that is not allowed in names")
    if not isinstance(data, (dict, list)):
        return
    if not levels:
        raise ValueError(f"it is nested more than {_DEEPEST} levels deep")
    for item in [*data, *data.values()] if isinstance(data, dict) else data:
        _check(item, levels - 1)


def write_json(path: Path, data: Json) -> None:
    """Write atomically, so that a kill leaves the old file or the new one."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(data, allow_nan=False) + "\n", encoding="utf-8")
    temporary.replace(path)


def describe_device(name: str) -> Json:
    """Describe this device; `name` replaces the system's name of its processor."""
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


def new_results(manifest: Json, options: argparse.Namespace) -> Json:
    """Return results without times; they include the manifest, so that one file is enough."""
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


def start_results(manifest: Json, options: argparse.Namespace) -> Json:
    """Return the results to resume from, or new ones; raise if they were measured differently."""
    new = new_results(manifest, options)
    if not options.out.exists():
        return new
    old = read_json(options.out)
    for name in ("kit", "device", "provider", "threads"):
        if old.get(name) != new[name]:
            raise KitError(
                f"{options.out} holds results with {name} {old.get(name)!r}, not {new[name]!r}; "
                "move it away or choose another --out"
            )
    check_times(options.out, old.get("times"))
    return {**old, "manifest": manifest, "rounds": options.rounds}


class Loaded(NamedTuple):
    """A model and its finished rounds."""

    job: Job
    ns: list[int]


def load(folder: Path, results: Json, options: argparse.Namespace) -> list[Loaded]:
    """Load every model that has not failed; record those that fail."""
    models, times = results["manifest"]["models"], results["times"]
    loaded: list[Loaded] = []
    bench = Bench(options.threads, options.provider)
    for number, entry in enumerate(models, 1):
        name, path = entry["file"], folder / entry["file"]
        if name in options.skip:
            times[name] = {"failed": "left out with --skip"}
        if "failed" in times.get(name, {}):
            continue
        # if a model kills this process, the last line on the screen names it
        tell(f"loading {number}/{len(models)}: {name}")
        if not path.is_file() or sha256(path) != entry["sha256"]:
            raise KitError(f"{path} is missing or differs from the manifest; copy the kit again")
        ns = times.setdefault(name, {"ns": []})["ns"]
        try:
            loaded.append(Loaded(bench.load(path), ns))
        except ModelError as error:
            times[name] = {"failed": str(error)}
    return loaded


def measure(loaded: list[Loaded], results: Json, options: argparse.Namespace) -> None:
    """Time every model once per round, in random order, until all medians are known."""
    limits = (options.rounds, max(options.rounds, options.max_rounds), options.tolerance)
    gc.disable()
    number = 0
    while True:
        waiting = [each for each in loaded if not is_precise(each.ns, *limits)]
        if not waiting:
            break
        number += 1
        began = time.monotonic()
        random.shuffle(waiting)
        for job, ns in waiting:
            ns.append(job.time().ns)
        write_json(options.out, results)
        seconds = time.monotonic() - began
        tell(
            f"round {number} of {limits[0]} to {limits[1]}: {len(waiting)} models, {seconds:.1f} s"
        )
    write_json(options.out, results)


def read_perf_test(folder: Path, results: Json) -> None:
    """Read the times that onnxruntime_perf_test wrote, one file per model.

    A line is name, seconds, memory, load, run. Run 0 begins a new round, whose median is used.
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
    """Show progress on stderr; on a terminal, in a single line."""
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
    parser.add_argument(
        "--max-rounds", "--most-rounds", type=int, default=48, help="maximum rounds; 48"
    )
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
    """Return the exit status: 0 when done, 2 for wrong input, 130 when interrupted."""
    try:
        run(parse(words))
    except KitError as error:
        print(f"run_kit.py: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("run_kit.py: interrupted; the same command resumes", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
