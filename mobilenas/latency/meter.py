"""Measures the latency of many models side by side, in a separate process."""

import hashlib
import json
import math
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
import numpy as np

from mobilenas.core.errors import FileError, MobileNASError
from mobilenas.core.progress import NullReporter, Reporter
from mobilenas.core.records import Json
from mobilenas.latency.cache import Cache, Rounds
from mobilenas.latency.drift import remove_drift
from mobilenas.latency.kit_runner import TIMING_NS, Timing
from mobilenas.latency.measured import Failed, Measured
from mobilenas.latency.settings import MeasureSettings
from mobilenas.onnx.session import check_machine
from mobilenas.onnx.settings import PROVIDER

Source = Callable[[], bytes] | Path
"""A model: its ONNX file, or a function that makes its bytes."""

_PATIENCE_S = 60.0
"""A worker that does not answer for this long beyond its expected time hangs."""
_BUSY = 50
"""Work may take this many times as long as expected, because of other programs and retries."""
_HELD_BYTES, _SMALL_BYTES = 800_000_000, 1_000_000
"""Once this much is loaded, models of 1 MB or more are reloaded for every timing. That makes their
times vary more: an interquartile range of 20 % instead of 6 %.
"""
_STAGES = ("timing", "timing what varies", "timing again what was disturbed")
_MAX_DEATHS = 3
"""Maximum number of worker deaths that no model can be blamed for."""


def measure(
    models: Mapping[str, Source],
    *,
    threads: int = MeasureSettings.threads,
    provider: str = PROVIDER,
    rounds: int = MeasureSettings.rounds,
    max_rounds: int = 48,
    tolerance: float = 0.02,
    warmup: int = 5,
    limit_s: float = 7200.0,
    reference: str | None = None,
    cache: Cache | None = None,
    reporter: Reporter | None = None,
) -> dict[str, Measured | Failed]:
    """Time models in interleaved rounds, so that drift affects all alike.

    A model is finished as `Measured.suffices` says, with `rounds`, `max_rounds` and `tolerance`.
    The `reference`, one of the models, is in every round. No round but the first begins after
    `limit_s` seconds. Rounds in the cache count, unless their result is unsteady. Results are in
    the order of `models`.
    """
    check_machine(threads, provider)
    _check_minimum("rounds", rounds, 1)
    _check_minimum("tolerance", tolerance, 0)
    _check_minimum("warmup", warmup, 0)
    if reference is not None and reference not in models:
        raise MobileNASError(f"the reference {reference!r} is not one of the models")
    max_rounds = max(rounds, max_rounds)
    run = _Run(
        models=models,
        settings={"threads": threads, "provider": provider, "warmup": warmup},
        rounds=rounds,
        max_rounds=max_rounds,
        tolerance=tolerance,
        reference=reference,
        log=cache.rounds(provider, threads) if cache else None,
        reporter=reporter or NullReporter(),
    )
    run.measure(limit_s)
    return run.results()


def _check_minimum(name: str, value: float, minimum: int) -> None:
    if not value >= minimum:  # also true for NaN
        raise MobileNASError(f"{name} is {value}; it must be at least {minimum}")


class _Run:
    """State of a measurement: rounds so far, failed and finished models."""

    def __init__(
        self,
        *,
        models: Mapping[str, Source],
        settings: Json,
        rounds: int,
        max_rounds: int,
        tolerance: float,
        reference: str | None,
        log: Rounds | None,
        reporter: Reporter,
    ) -> None:
        self._models, self._settings, self._tolerance = models, settings, tolerance
        self._reference, self._log, self._reporter = reference, log, reporter
        self._min_rounds, self._max_rounds = rounds, max_rounds
        self._rng = np.random.default_rng(0)
        self._rounds: list[dict[str, Timing]] = []
        self._times: dict[str, list[float]] = {name: [] for name in models}
        self._failed: dict[str, str] = {}
        self._done: set[str] = set()
        self._keys: dict[str, str] = {}
        self._run_ns: dict[str, int] = {}
        if log:
            self._recall(log)

    def results(self) -> dict[str, Measured | Failed]:
        """Return the result of each model."""
        return {
            name: Failed(reason=self._failed[name])
            if name in self._failed
            else self._measured(name)
            for name in self._models
        }

    def measure(self, limit_s: float) -> None:
        """Time all models until they are finished, starting a new worker when one dies."""
        stop = time.monotonic() + limit_s
        suspect, deaths = "", 0
        while wanted := self._open():
            if self._reference is not None and self._reference not in [*wanted, *self._failed]:
                wanted.append(self._reference)
            # The suspect first, so that little is lost if it is to blame.
            wanted.sort(key=lambda name: name != suspect)
            try:
                with _Worker(self._settings) as worker, _folder() as folder:
                    self._load(worker, wanted, Path(folder))
                    self._time(worker, stop)
                return
            except _DeathError as death:
                if death.name and death.name == suspect:
                    self._fail(suspect, f"ends the process that measures: {death}")
                    suspect, deaths = "", deaths - 1
                    continue
                suspect, deaths = death.name, deaths + 1
                if deaths > _MAX_DEATHS:
                    raise MobileNASError(
                        f"the measuring process ended {deaths} times: {death}"
                    ) from death

    def _open(self) -> list[str]:
        # Later rounds may change the estimated drift; a model that was finished stays so.
        self._done |= {name for name in self._models if self._enough(name)}
        return [name for name in self._models if name not in (self._failed.keys() | self._done)]

    def _enough(self, name: str) -> bool:
        return len(self._times[name]) >= self._min_rounds and self._measured(name).suffices(
            self._min_rounds, self._max_rounds, self._tolerance
        )

    def _measured(self, name: str) -> Measured:
        disturbed = [times[name].disturbed for times in self._rounds if name in times]
        return Measured.of(self._times[name], disturbed)

    def _load(self, worker: "_Worker", names: list[str], folder: Path) -> None:
        self._reporter.start("loading models", len(names))
        self._run_ns = {}
        held_bytes = 0
        for done, name in enumerate(names, 1):
            source = self._models[name]
            path = source if isinstance(source, Path) else folder / f"{done}.onnx"
            if not isinstance(source, Path):
                path.write_bytes(source())
            size_bytes = path.stat().st_size if path.exists() else 0
            held = size_bytes < _SMALL_BYTES or held_bytes + size_bytes <= _HELD_BYTES
            held_bytes += size_bytes * held
            answer = worker.load(path, name, held=held)
            if held and not isinstance(source, Path):
                path.unlink()
            if answer.failed is not None:
                self._fail(name, answer.failed)
            else:
                self._run_ns[name] = answer.run_ns
            self._reporter.step(done, {})

    def _time(self, worker: "_Worker", stop: float) -> None:
        numbers = {name: number for number, name in enumerate(self._run_ns)}
        stage = ""
        while names := self._open():
            fewest = min(len(self._times[name]) for name in names)
            if fewest and time.monotonic() > stop:
                break
            ends = (0, self._min_rounds, self._max_rounds, 2 * self._max_rounds)
            place = sum(fewest >= end for end in ends[1:3])
            first, total = ends[place], ends[place + 1] - ends[place]
            if stage != (stage := _STAGES[place]):
                self._reporter.start(stage, total)
            if self._reference in numbers and self._reference not in names:
                names.append(self._reference)
            # A random order in each round, so that no model always follows the same one.
            order = [names[index] for index in self._rng.permutation(len(names))]
            begin = time.monotonic()
            expected_s = sum(2 * self._run_ns[name] + TIMING_NS for name in order) / 1e9
            timings = worker.time([numbers[name] for name in order], expected_s)
            self._keep(dict(zip(order, timings, strict=True)))
            round_s = time.monotonic() - begin
            self._tell(names, fewest + 1 - first, total, round_s)

    def _tell(self, names: list[str], done: int, total: int, round_s: float) -> None:
        shown = self._reference or names[0]
        self._reporter.step(
            done,
            {
                "models": str(len(names)),
                shown: f"{np.median(np.array(self._times[shown] or math.nan)) / 1e6:.3g} ms",
                "left": f"{(total - done) * round_s:.0f} s",
            },
        )

    def _recall(self, log: Rounds) -> None:
        for name, source in self._models.items():
            content = _read(source) if isinstance(source, Path) else source()
            self._keys[name] = hashlib.sha256(content).hexdigest()
            reason = log.failure(self._keys[name])
            if reason is not None:
                self._failed[name] = reason
        names: dict[str, list[str]] = {}
        for name, key in self._keys.items():
            names.setdefault(key, []).append(name)
        self._remember(log.among(names.keys()), names)
        # Times spoiled by a busy machine are discarded and measured again.
        if spoiled := {self._keys[name] for name in self._models if self._is_spoiled(name)}:
            log.forget(spoiled)
            self._remember(log.among(names.keys()), names)

    def _remember(self, rounds: list[dict[str, Timing]], names: dict[str, list[str]]) -> None:
        self._rounds = [
            {name: timing for key, timing in timings.items() for name in names[key]}
            for timings in rounds
        ]
        self._remove_drift()

    def _is_spoiled(self, name: str) -> bool:
        return len(self._times[name]) >= 2 * self._max_rounds and self._measured(name).unsteady

    def _keep(self, timings: dict[str, Timing]) -> None:
        self._rounds.append(timings)
        self._remove_drift()
        if self._log:
            self._log.add({self._keys[name]: timing for name, timing in timings.items()})

    def _remove_drift(self) -> None:
        plain = [{name: timing.ns for name, timing in t.items()} for t in self._rounds]
        self._times = {name: [] for name in self._models} | remove_drift(plain)

    def _fail(self, name: str, reason: str) -> None:
        self._failed[name] = reason
        if self._log:
            self._log.fail(self._keys[name], reason)


def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="mobilenas-")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise FileError(f"cannot read {path}: {error.strerror or error}") from error


class _DeathError(Exception):
    """The worker ended, or was killed, before it answered."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(reason)
        self.name = name  # of the model that was being loaded; "" if models were being timed


class _Answer(msgspec.Struct, frozen=True, kw_only=True):
    """An answer of the worker."""

    run_ns: int = 0
    """Duration of a run of the loaded model."""
    failed: str | None = None
    """Why the model was not loaded."""
    timings: list[tuple[int, bool]] = []


class _Worker:
    """The measuring process; answers one request at a time."""

    def __init__(self, settings: Json) -> None:
        # The worker must import this same package, whatever the working directory is.
        home = str(Path(__file__).resolve().parents[2])
        inherited = os.environ.get("PYTHONPATH")
        environment = os.environ | {
            "OMP_NUM_THREADS": str(settings["threads"]),
            "PYTHONPATH": os.pathsep.join([home, inherited] if inherited else [home]),
        }
        self._settings = settings
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed in __exit__)
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "mobilenas.latency.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=environment,
        )

    def __enter__(self) -> "_Worker":
        try:
            self._ask(self._settings, "")
        except _DeathError as death:
            self.__exit__()
            raise MobileNASError(f"the process that measures does not start: {death}") from death
        return self

    def __exit__(self, *error: object) -> None:
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def load(self, path: Path, name: str, *, held: bool) -> "_Answer":
        """Load a model."""
        return self._ask({"path": str(path), "held": held}, name)

    def time(self, order: list[int], expected_s: float) -> list[Timing]:
        """Time the loaded models with these numbers, in this order."""
        answer = self._ask({"order": order}, "", _BUSY * expected_s)
        return [Timing(*each) for each in answer.timings]

    def _ask(self, request: Json, name: str, work_s: float = 0.0) -> "_Answer":
        given, answers = self._process.stdin, self._process.stdout
        assert given is not None and answers is not None  # they are pipes
        patience_s = _PATIENCE_S + work_s
        watch = threading.Timer(patience_s, self._process.kill)
        watch.start()
        try:
            given.write(json.dumps(request) + "\n")
            given.flush()
            line = answers.readline()
        except BrokenPipeError:
            line = ""
        finally:
            late = not watch.is_alive()
            watch.cancel()
        if not line.endswith("\n"):
            raise _DeathError(name, f"no answer in {patience_s:.0f} s" if late else self._end())
        return msgspec.json.decode(line, type=_Answer)

    def _end(self) -> str:
        status = self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        how = f"exit status {status}" if status >= 0 else f"signal {-status}"
        return f"{how}: {lines[-1]}" if lines else how
