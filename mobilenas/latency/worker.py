"""The process that measures: no torch, fixed threads, models side by side.

`python -m mobilenas.latency.worker` reads one JSON object a line from stdin and answers each with
one line, until stdin ends. It has nothing to do but wait while its parent works, so that the
parent's work is not in the times:

    {"threads": 1, "provider": "...", "warmup": 5}   the first line; answer {}
    {"path": "...", "held": true}                    load; {"run_ns": ...} or {"failed": "reason"}
    {"order": [4, 0, 2]}                             time what is loaded; {"timings": [[ns, false]]}
"""

import functools
import gc
import json
import math
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobilenas.core.errors import first_line
from mobilenas.latency.clock import Timing, timed
from mobilenas.onnx.session import LOAD_ERRORS, RefusedError, share, shared_session

TIMING_NS = 1_000_000
"""A timing lasts at least this long, in runs one after another: shorter ones are clock noise."""

_WARMUP_NS = 1_000_000_000
_DTYPES: dict[str, type[np.generic]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(uint8)": np.uint8,
    "tensor(int8)": np.int8,
}


class Bench:
    """The loaded models, in the order they came."""

    def __init__(self, threads: int, provider: str, warmup: int) -> None:
        self._threads, self._provider, self._warmup = threads, provider, warmup
        self._rng = np.random.default_rng(0)
        self._values: dict[str, NDArray[Any]] = {}
        self._jobs: list[tuple[Any, Callable[[], Any], dict[str, NDArray[Any]], int]] = []

    def load(self, path: Path, *, held: bool = True) -> int:
        """Load and warm up a model: nanoseconds of its fastest run; RefusedError if it has none.

        One that is not held is loaded again from its file for every timing, to save memory.
        """
        load = functools.partial(shared_session, path, self._threads, self._provider)
        runner = load()
        feed = {entry.name: self._input(entry) for entry in runner.get_inputs()}
        stop = time.perf_counter_ns() + _WARMUP_NS
        try:
            fastest = self._time(runner, feed, 1).ns
            for _ in range(1, self._warmup):
                if time.perf_counter_ns() > stop:
                    break
                fastest = min(fastest, self._time(runner, feed, 1).ns)
        except LOAD_ERRORS as error:
            raise RefusedError(f"does not run in onnxruntime: {first_line(error)}") from error
        self._jobs.append((runner if held else None, load, feed, math.ceil(TIMING_NS / fastest)))
        return fastest

    def time(self, order: list[int]) -> list[Timing]:
        """Time one run of each model, in this order."""
        times = []
        for index in order:
            runner, load, feed, repeats = self._jobs[index]
            if runner is None:
                runner = load()
                runner.run(None, feed)  # the first run of all sets memory up
            # An untimed run: its weights and inputs are back in the processor's caches.
            runner.run(None, feed)
            times.append(self._time(runner, feed, repeats))
        return times

    def _time(self, runner: Any, feed: dict[str, NDArray[Any]], repeats: int) -> Timing:
        return timed(lambda: runner.run(None, feed), repeats, self._threads)

    def _input(self, entry: Any) -> NDArray[Any]:
        first, *rest = entry.shape or [1]
        batch = first if isinstance(first, int) else 1  # a symbolic batch is one image
        if entry.type not in _DTYPES or not all(isinstance(size, int) for size in rest):
            raise RefusedError(
                f"has input {entry.name!r} of {entry.type} {entry.shape}; only float and 8-bit "
                "inputs with fixed sizes can be timed"
            )
        shape = (batch, *rest) if entry.shape else ()
        return self._random(entry.type, math.prod(shape)).reshape(shape)

    def _random(self, kind: str, count: int) -> NDArray[Any]:
        # All models read the same memory: an input of its own for each would be as much as weights.
        values = self._values.get(kind)
        if values is None or values.size < count:
            size = max(count, 2 * values.size if values is not None else 0)
            values = self._rng.uniform(0, 100, size).astype(_DTYPES[kind])
            self._values[kind] = values
        return values[:count]


def main() -> int:
    """Answer requests until there are no more."""
    # Whatever a library prints to stdout goes to stderr; the answers have a file of their own.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    settings = json.loads(sys.stdin.readline())
    share(settings["threads"], settings["provider"])
    bench = Bench(**settings)
    answer: dict[str, Any] = {}
    gc.disable()
    try:
        while True:
            print(json.dumps(answer), file=answers, flush=True)
            line = sys.stdin.readline()
            if not line:
                return 0
            answer = _answer(bench, json.loads(line))
    except (BrokenPipeError, KeyboardInterrupt):
        return 1  # the parent is gone or going


def _answer(bench: Bench, request: dict[str, Any]) -> dict[str, Any]:
    if "order" in request:
        return {"timings": bench.time(request["order"])}
    try:
        return {"run_ns": bench.load(Path(request["path"]), held=request["held"])}
    except RefusedError as error:
        return {"failed": str(error)}


if __name__ == "__main__":
    sys.exit(main())
