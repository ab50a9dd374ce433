"""Latency of files in other runtimes, measured in this process."""

import os

import numpy as np
from numpy.typing import NDArray

from mobilenas.latency.kit_runner import timed
from mobilenas.latency.measured import Measured
from mobilenas.onnx.other_runtimes import RUNTIMES, Runner

_RUNS = 50


def latency(form: str, run: Runner, image: NDArray[np.float32]) -> Measured:
    """Return the latency of one image, after one untimed run; not interleaved with other files."""
    run(image)
    threads = (os.cpu_count() or 1) if RUNTIMES[form].all_cores else 1
    timings = [timed(lambda: run(image), 1, threads) for _ in range(_RUNS)]
    return Measured.of([each.ns for each in timings], [each.disturbed for each in timings])
