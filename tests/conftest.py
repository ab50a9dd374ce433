"""Settings and the small spaces that several rooms' tests share."""

import math
import os
import random
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings
from PIL import Image
from threadpoolctl import threadpool_limits

from mobilenas.core.folders import unlock_folders
from mobilenas.core.progress import NullReporter
from mobilenas.core.settings import to_plain
from mobilenas.cost.budget import Budget
from mobilenas.cost.budgets import Budgets
from mobilenas.data import ImageData, Split, TensorStore, batches
from mobilenas.latency import measured, meter
from mobilenas.latency.calibration import NetworkTime
from mobilenas.latency.kit_runner import Timing
from mobilenas.latency.measured import Measured
from mobilenas.latency.profile import Profile
from mobilenas.latency.units import space_units
from mobilenas.spaces.mobile.arch import Head, Stem
from mobilenas.spaces.mobile.space import Choice, MobileSpace, Stage
from mobilenas.spaces.mobile.table import CostTable

settings.register_profile("mobilenas", deadline=None, derandomize=True)
settings.load_profile("mobilenas")
torch.set_num_threads(1)
threadpool_limits(1)
os.environ["OMP_NUM_THREADS"] = "1"  # of processes that tests start: sums depend on it
for name in ("COLUMNS", "LINES", "FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "MOBILENAS_PROFILES"):
    os.environ.pop(name, None)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the tests of a file run in one process, and all tests of the whole run in one.

    Groups with slow tests come first, so that no process is left alone with one at the end.
    """
    groups = {
        item: "whole_run" if "whole_run" in getattr(item, "fixturenames", ()) else item.location[0]
        for item in items
    }
    for item, group in groups.items():
        item.add_marker(pytest.mark.xdist_group(group))
    slow = {group for item, group in groups.items() if item.get_closest_marker("slow")}
    items.sort(key=lambda item: groups[item] not in slow)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Give every test, and the fixtures it makes, a state of torch's global generator of its own.

    Otherwise unseeded weights and images depend on which tests ran before in the same process; and
    from one state for all, what a test builds would be what a fixture built.
    """
    file, _, name = item.location  # the node id has the group, too
    torch.manual_seed(zlib.crc32(f"{file}::{name}".encode()))


@pytest.fixture(scope="session", autouse=True)
def own_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No profile and no measurement of the developer's is seen or changed."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        # its list of fonts takes seconds to make
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        patch.setenv("MPLCONFIGDIR", os.environ.get("MPLCONFIGDIR") or str(cache / "matplotlib"))
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        patch.setenv("XDG_DATA_HOME", str(folder / "data"))
        yield


@pytest.fixture(autouse=True)
def free_folders() -> Iterator[None]:
    """No test keeps a folder that it has worked in."""
    yield
    unlock_folders()


def space(*stages: Stage, image_size: int) -> MobileSpace:
    return MobileSpace(
        image_size=image_size,
        in_channels=3,
        classes=5,
        stem=Stem(channels=8, stride=2, activation="hard_swish"),
        stages=stages,
        head=Head(channels=16, hidden=0, activation="hard_swish", dropout=0.0),
        activation="hard_swish",
        kernels=(3, 5),
        expansions=(1, 3),
        start_kernels=(0, 3),
    )


@pytest.fixture(scope="session")
def tiny_space() -> MobileSpace:
    """Every kind of slot: a first block with and without stride, blocks that may be left out."""
    stages = (
        Stage(widths=(8, 16), stride=1, depth=2),
        Stage(widths=(8, 16, 24), stride=2, depth=3),
        Stage(widths=(16, 24), stride=1, depth=2),
    )
    return space(*stages, image_size=16)


MICRO_SPACE = space(
    Stage(widths=(8, 16), stride=1, depth=2),
    Stage(widths=(16, 24), stride=2, depth=1),
    image_size=8,
)


@pytest.fixture(scope="session")
def micro_space() -> MobileSpace:
    """Small enough to name every network."""
    return MICRO_SPACE


@pytest.fixture(scope="session")
def every_choice(micro_space: MobileSpace) -> list[Choice]:
    slots = micro_space.slots
    decisions = {
        "width": [range(len(stage.widths)) for stage in micro_space.stages],
        "kernel": [range(len(micro_space.kernels)) for _ in slots],
        "expansion": [range(len(slot.expansions)) for slot in slots],
        "squeeze": [range(len(micro_space.squeeze)) for _ in slots],
        "start": [range(len(slot.start_kernels)) for slot in slots],
        "keep": [(True,) if slot.first else (False, True) for slot in slots],
    }
    return [
        Choice(**dict(zip(decisions, picks, strict=True)))
        for picks in product(*(list(product(*options)) for options in decisions.values()))
    ]


def bands(side: int) -> ImageData:
    """Noise with a bright band that tells the class; the three splits share no store."""
    generator = torch.Generator().manual_seed(0)

    def split(images: int) -> Split:
        labels = torch.arange(images) % 5
        pixels = torch.randint(0, 90, (images, 3, side, side), generator=generator)
        for place, label in enumerate(labels.tolist()):
            row = label * side // 5
            pixels[place, :, row : row + side // 8 + 1] += 120
        return Split(TensorStore(pixels.to(torch.uint8), side), torch.arange(images), labels)

    return ImageData(
        name="bands",
        classes=("a", "b", "c", "d", "e"),
        image_size=side,
        mean=(0.25, 0.25, 0.25),
        std=(0.15, 0.15, 0.15),
        flip=False,
        train=split(100),
        val=split(40),
        test=split(30),
        fingerprint=f"bands {side}",
        split_rule="by place",
    )


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The images of side 8 as files, in folders of the three splits."""
    data, folder = bands(8), tmp_path_factory.mktemp("data") / "bands"
    for name in ("train", "val", "test"):
        split = getattr(data, name)
        for number, label in enumerate(split.labels.tolist()):
            path = folder / name / data.classes[label] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = split.store.pixels[number].permute(1, 2, 0).numpy()
            Image.fromarray(pixels).save(path)
    return folder


@pytest.fixture(scope="session")
def make_images() -> Callable[[int], ImageData]:
    """Images for any side."""
    return bands


@pytest.fixture(scope="session")
def tiny_images(make_images: Callable[[int], ImageData]) -> ImageData:
    """For `tiny_space`."""
    return make_images(16)


@pytest.fixture(scope="session")
def micro_images(make_images: Callable[[int], ImageData]) -> ImageData:
    """For `micro_space`."""
    return make_images(8)


def middling(space: MobileSpace) -> Budgets:
    """A FLOPs budget in the middle of uniformly drawn networks."""
    table, source = CostTable(space, "flops"), random.Random(0)
    costs = sorted(table.exact(space.random(source)) for _ in range(101))
    return Budgets(space, [Budget(cost="flops", limit=int(costs[50]))])


@pytest.fixture(scope="session")
def tiny_budgets(tiny_space: MobileSpace) -> Budgets:
    return middling(tiny_space)


@pytest.fixture(scope="session")
def micro_budgets(micro_space: MobileSpace) -> Budgets:
    return middling(micro_space)


def took(median_ms: float) -> Measured:
    return Measured(
        median_ms=median_ms,
        minimum_ms=median_ms,
        iqr_ms=0.0,
        interval_ms=0.0,
        rounds=16,
        halves_ms=(median_ms, median_ms),
    )


def profile_of(micro_space: MobileSpace) -> Profile:
    """Of no device: unit number i takes i + 1 ms, networks twice their sum and half a ms more."""
    units = space_units(micro_space)
    networks = [
        NetworkTime(
            image_size=8, flops=1000 * n, summed_ms=n, measured_ms=2 * n + 0.5, fitted=n <= 2
        )
        for n in range(1, 5)
    ]
    return Profile(
        name="shelf-1",
        device={"cpu": "a processor", "cores": 2},
        runtime="onnxruntime 1.22.0",
        provider="CPUExecutionProvider",
        threads=1,
        opset=18,
        date="2026-01-31T12:00:00+00:00",
        command="mobilenas profile latency",
        references={},
        calibration={},
        networks={},
        spaces=(micro_space,),
        blocks={"fp32": {unit.key: took(index + 1.0) for index, unit in enumerate(units)}},
    ).calibrated({"fp32": tuple(networks)})


class ByteClock(meter._Worker):
    """Loads and runs models as ever, and says that they took a nanosecond a byte of their file."""

    def __init__(self, settings: dict[str, Any]) -> None:
        super().__init__(settings)
        self.sizes: list[int] = []

    def load(self, path: Path, name: str, *, held: bool) -> dict[str, Any]:
        answer = super().load(path, name, held=held)
        if answer.failed is None:
            self.sizes.append(path.stat().st_size)
        return answer

    def time(self, order: list[int], expected_s: float) -> list[Timing]:
        super().time(order, expected_s)
        return [Timing(self.sizes[number], False) for number in order]


@pytest.fixture(scope="module")
def byte_clock() -> Iterator[None]:
    """Latencies that depend on the models alone, see `ByteClock`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(meter, "_Worker", ByteClock)
        yield


@pytest.fixture(scope="module")
def no_estimate() -> Iterator[None]:
    """Runs begin without timing a few steps to say how long they will take."""
    from mobilenas.pipeline import stages

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stages, "estimate", lambda _: {"search": 0.0})
        yield


@pytest.fixture
def idle_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """No real timing is disturbed, and no interval is too wide, whatever else runs."""
    time = meter._Worker.time
    monkeypatch.setattr(
        meter._Worker,
        "time",
        lambda *given: [each._replace(disturbed=False) for each in time(*given)],
    )
    monkeypatch.setattr(measured, "WIDEST", math.inf)


STRIKES = """
import os, signal, sys

def watch(event, arguments):
    global left
    if event == "os.rename" and os.fspath(arguments[1]).endswith(ending):
        left -= 1
        if left == 0:
            signal.raise_signal(number)

ending, left, number = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
del sys.argv[1:4]
sys.addaudithook(watch)
"""


@pytest.fixture(scope="session")
def struck() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a program that gets a signal where a file comes into place.

    `struck(program, *words, at="train/checkpoint.pt", nth=2, by=signal.SIGKILL)` runs Python code;
    the signal comes just before a file whose path ends with `at` is renamed for the nth time.
    """

    def run(
        program: str, *words: object, at: str, nth: int, by: int, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", STRIKES + program, at, nth, int(by), *words]
        return subprocess.run(list(map(str, command)), capture_output=True, text=True, **options)

    return run


@pytest.fixture(scope="session")
def made_up_profile(micro_space: MobileSpace) -> Profile:
    """For `micro_space`."""
    return profile_of(micro_space)


TINY_REQUEST = {
    "flops": 300_000,
    "epochs": 5,
    "search_epochs": 3,
    "finalists": 2,
    "random": 1,
    "baselines": ["mobilenet_v3_small"],
}


@dataclass
class WholeRun:
    """A run that nothing disturbed."""

    folder: Path
    request: dict[str, Any]
    result: dict[str, Any]
    batches: list[tuple[str, str, bool]]
    """Each pass over images: the stage, the split's name, whether it shuffles or varies them."""


class Stages(NullReporter):
    """Remembers the stage."""

    now = "start"

    def start(self, stage: str, total: int) -> None:
        self.now = stage


@pytest.fixture(scope="session")
def whole_run(tmp_path_factory: pytest.TempPathFactory, image_folder: Path) -> WholeRun:
    from mobilenas.pipeline import deployment, quantization
    from mobilenas.pipeline import stages as pipeline
    from mobilenas.pipeline.request import Request
    from mobilenas.pipeline.starting import start
    from mobilenas.search import loop
    from mobilenas.train import trainer

    folder, stages, passes = tmp_path_factory.mktemp("runs") / "whole", Stages(), []
    request = TINY_REQUEST | {"data": str(image_folder)}
    run = start(folder, Request(**request), command="mobilenas test", reporter=stages)
    names = ("train", "val", "test")
    splits = {name: set(getattr(run.data, name).indices.tolist()) for name in names}

    def spy(split: Split, data: ImageData, **options: Any) -> Any:
        (name,) = (n for n, own in splits.items() if own & set(split.indices.tolist()))
        trains = options["seed"] is not None and torch.is_grad_enabled()
        passes.append((stages.now, name, trains))
        return batches(split, data, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(meter, "_Worker", ByteClock)
        patch.setattr(pipeline, "estimate", lambda _: {"search": 0.0})
        for module in (deployment, quantization, loop, trainer):
            patch.setattr(module, "batches", spy)
        # as if nothing else ran, whatever does: what is unsteady is measured again
        measured = deployment.measure_latency
        patch.setattr(
            deployment,
            "measure_latency",
            lambda *given: {p: replace(t, unsteady=False) for p, t in measured(*given).items()},
        )
        result = to_plain(pipeline.run_all(run))
    return WholeRun(folder=folder, request=request, result=result, batches=passes)
