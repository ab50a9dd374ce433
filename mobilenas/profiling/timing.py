"""Latency of ONNX files, measured side by side in one process of their own."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mobilenas.errors import FileError, MobileNASError
from mobilenas.profiling.session import PROVIDER

_GRACE_S = 60.0


@dataclass(frozen=True, kw_only=True)
class Timing:
    """How long one model takes for one input."""

    median_ms: float
    """Median over the rounds."""
    minimum_ms: float
    """Fastest round: the least disturbed one."""
    spread_ms: float
    """Third quartile minus first quartile."""
    rounds: int
    """Rounds that were measured; fewer than asked for where the time was over."""
    threads: int
    """Threads of onnxruntime."""
    provider: str
    """onnxruntime's execution provider."""


def time_models(
    paths: list[Path],
    *,
    threads: int = 1,
    rounds: int = 32,
    warmup: int = 5,
    limit_s: float = 300.0,
) -> list[Timing]:
    """Time models in interleaved rounds, so that drift hits all alike; FileError names a bad file.

    No round begins after `limit_s` seconds; `Timing.rounds` says how many there were.
    """
    for name, value, low in (("threads", threads, 1), ("rounds", rounds, 1), ("warmup", warmup, 0)):
        if value < low:
            raise MobileNASError(f"{name} is {value}; it must be at least {low}")
    if not paths:
        return []
    request = {
        "paths": [str(path) for path in paths],
        "threads": threads,
        "rounds": rounds,
        "warmup": warmup,
        "limit_s": limit_s,
    }
    answer = _ask_worker(request)
    if "error" in answer:
        raise FileError(answer["error"])
    return [_summary(nanoseconds, threads) for nanoseconds in answer["nanoseconds"]]


def _summary(nanoseconds: list[int], threads: int) -> Timing:
    milliseconds = np.array(nanoseconds) / 1e6
    first, median, third = np.percentile(milliseconds, (25, 50, 75))
    return Timing(
        median_ms=float(median),
        minimum_ms=float(milliseconds.min()),
        spread_ms=float(third - first),
        rounds=len(nanoseconds),
        threads=threads,
        provider=PROVIDER,
    )


def _ask_worker(request: dict[str, Any]) -> dict[str, Any]:
    # The worker runs this same package, wherever the caller's working directory is.
    home = str(Path(__file__).resolve().parents[2])
    inherited = os.environ.get("PYTHONPATH")
    environment = os.environ | {
        "OMP_NUM_THREADS": str(request["threads"]),
        "PYTHONPATH": os.pathsep.join([home, inherited] if inherited else [home]),
    }
    names = f"{len(request['paths'])} models, the first {request['paths'][0]}"
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "mobilenas.profiling.worker"],
            input=json.dumps(request),
            capture_output=True,
            text=True,
            env=environment,
            timeout=request["limit_s"] + _GRACE_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise MobileNASError(
            f"timing of {names}, did not finish in {error.timeout:.0f} s"
        ) from error
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise MobileNASError(
            f"timing of {names}, ended with exit status {done.returncode}: {reason}"
        )
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer
