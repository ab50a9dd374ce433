"""What the benchmarks share: images, interleaved timing, peak memory of a process of its own."""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from mobilenas.core.allocator import keep_freed_memory
from mobilenas.core.files import read_jsonl
from mobilenas.data import ImageData, Split, TensorStore
from mobilenas.train import Recipe, parameter_groups

keep_freed_memory()  # as the commands do

CLASSES = 47
WARM_UP_ROUNDS = 4


Line = dict[str, Any]
"""A line of a table of trained networks (docs/results/README.md)."""


def table_lines(path: Path) -> list[Line]:
    """Return the lines of a table, the first of which says what they have in common."""
    return cast(list[Line], read_jsonl(path))


def make_data(side: int, images: int) -> ImageData:
    """Random pixels: speed does not depend on what is seen."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (images, 3, side, side), generator=generator).to(torch.uint8)
    labels = torch.arange(images) % CLASSES
    split = Split(TensorStore(pixels, side), torch.arange(images), labels)
    return ImageData(
        name="random pixels",
        classes=tuple(str(number) for number in range(CLASSES)),
        image_size=side,
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        flip=False,
        train=split,
        val=split,
        test=split,
        fingerprint="",
        split_rule="none",
    )


def two_steps(model: nn.Module, x: Tensor, y: Tensor, *, rate: float) -> Callable[[], None]:
    """Return two steps of an ordinary training."""
    model.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(
        parameter_groups(model, Recipe(epochs=1).weight_decay), lr=rate, momentum=0.9, nesterov=True
    )

    def step() -> None:
        for _ in range(2):
            loss = functional.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return step


def seconds(
    workloads: Mapping[str, Callable[[], object]],
    rounds: int,
    now: Callable[[], float] = time.process_time,
) -> dict[str, list[float]]:
    """Seconds of each workload in each round but the first few; of the processor by default."""
    times: dict[str, list[float]] = {name: [] for name in workloads}
    for number in range(WARM_UP_ROUNDS + rounds):
        for name, step in workloads.items():
            before = now()
            step()
            if number >= WARM_UP_ROUNDS:
                times[name].append(now() - before)
    return times


def peak_mib(script: str, name: str, options: list[str]) -> float:
    """Peak memory of a workload in a process of its own, above what it held before."""
    command = [sys.executable, script, "--only", name, *options]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout)["mib"])


def only(step: Callable[[], None]) -> None:
    """Run one workload and print its peak memory."""
    Path("/proc/self/clear_refs").write_text("5")  # Linux: start the high-water mark anew
    before = _resident_kib("VmRSS")
    step()
    step()
    print(json.dumps({"mib": (_resident_kib("VmHWM") - before) / 1024}, allow_nan=False))


def _resident_kib(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1])
    raise LookupError(field)


def ratio(first: list[float], second: list[float]) -> list[float]:
    """Ratios round by round."""
    return [a / b for a, b in zip(first, second, strict=True)]


def show(times: Mapping[str, list[float]], ratios: Mapping[str, list[float]]) -> None:
    """Print medians, and ratios with their smallest and largest."""
    for name, times_of in times.items():
        print(f"{name:45} {1e3 * statistics.median(times_of):8.1f} ms")
    for name, values in ratios.items():
        spread = f"{min(values):.3f} to {max(values):.3f}"
        print(f"{name:45} {statistics.median(values):8.3f}   ({spread})")
