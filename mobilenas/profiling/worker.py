"""The process that measures: no torch, fixed threads, models in interleaved rounds.

`python -m mobilenas.profiling.worker` reads one JSON request from stdin and writes one JSON answer.
"""

import gc
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobilenas.errors import FileError
from mobilenas.profiling.session import session

_DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


def measure(request: dict[str, Any]) -> list[list[int]]:
    """Nanoseconds of each round, one list a model; FileError where a model cannot be run.

    `request` has paths, threads, rounds, warmup and limit_s. When limit_s is over, no further round
    begins, so that all models have equally many; there is always one.
    """
    stop = time.monotonic() + request["limit_s"]
    rng = np.random.default_rng(0)
    jobs = [_job(Path(path), request["threads"], rng) for path in request["paths"]]
    for runner, feed in jobs:
        for _ in range(request["warmup"]):
            runner.run(None, feed)
            if time.monotonic() > stop:
                break
    times: list[list[int]] = [[] for _ in jobs]
    gc.disable()
    for number in range(request["rounds"]):
        if number and time.monotonic() > stop:
            break
        # A fresh order each round: no model always follows the same one.
        for index in rng.permutation(len(jobs)):
            runner, feed = jobs[index]
            start = time.perf_counter_ns()
            runner.run(None, feed)
            times[index].append(time.perf_counter_ns() - start)
    return times


def _job(
    path: Path, threads: int, rng: np.random.Generator
) -> tuple[Any, dict[str, NDArray[np.floating[Any]]]]:
    runner = session(path, threads)
    feed = {}
    for entry in runner.get_inputs():
        first, *rest = entry.shape
        batch = first if isinstance(first, int) else 1  # a symbolic batch is one image
        if entry.type not in _DTYPES or not all(isinstance(size, int) for size in rest):
            raise FileError(
                f"{path}: input {entry.name!r} is {entry.type} {entry.shape}; only float inputs "
                "with fixed sizes can be timed"
            )
        feed[entry.name] = rng.standard_normal((batch, *rest)).astype(_DTYPES[entry.type])
    return runner, feed


def main() -> int:
    """Answer one request; what the caller can mend comes back as {"error": message}."""
    try:
        answer: dict[str, Any] = {"nanoseconds": measure(json.load(sys.stdin))}
    except FileError as error:
        answer = {"error": str(error)}
    json.dump(answer, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
