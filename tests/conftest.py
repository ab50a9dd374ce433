"""Settings and the small spaces that several rooms' tests share."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings

from mobilenas.cost import CostTable
from mobilenas.cost.budget import Budget, Budgets
from mobilenas.data import ImageData, Split, TensorStore, batches
from mobilenas.profiling.calibration import NetworkTime
from mobilenas.profiling.measured import Measured
from mobilenas.profiling.profile import Profile
from mobilenas.profiling.units import space_units
from mobilenas.progress import Silent
from mobilenas.spaces import Choice, Head, MobileSpace, Stage, Stem

settings.register_profile("mobilenas", deadline=None, derandomize=True)
settings.load_profile("mobilenas")
torch.set_num_threads(1)


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


@pytest.fixture(scope="session")
def micro_space() -> MobileSpace:
    """Small enough to name every network."""
    stages = (
        Stage(widths=(8, 16), stride=1, depth=2),
        Stage(widths=(16, 24), stride=2, depth=1),
    )
    return space(*stages, image_size=8)


@pytest.fixture(scope="session")
def every_choice(micro_space: MobileSpace) -> list[Choice]:
    slots = micro_space.slots
    decisions = {
        "width": [range(len(stage.widths)) for stage in micro_space.stages],
        "kernel": [range(len(micro_space.kernels)) for _ in slots],
        "expansion": [range(len(slot.expansions)) for slot in slots],
        "squeeze": [range(len(micro_space.squeeze)) for _ in slots],
        "keep": [(True,) if slot.first else (False, True) for slot in slots],
    }
    return [
        Choice(**dict(zip(decisions, picks, strict=True)))
        for picks in product(*(list(product(*options)) for options in decisions.values()))
    ]


@pytest.fixture(scope="session")
def make_images() -> Callable[[int], ImageData]:
    """Noise with a bright band that tells the class; the three splits share no store."""

    def make(side: int) -> ImageData:
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

    return make


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
        spread_ms=0.0,
        interval_ms=0.0,
        rounds=16,
        halves_ms=(median_ms, median_ms),
    )


@pytest.fixture(scope="session")
def made_up_profile(micro_space: MobileSpace) -> Profile:
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


TINY_REQUEST = {
    "data": "digits",
    "flops": 300_000,
    "epochs": 2,
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


class Stages(Silent):
    """Remembers the stage."""

    now = "start"

    def start(self, stage: str, total: int) -> None:
        self.now = stage


@pytest.fixture(scope="session")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> WholeRun:
    from mobilenas import deployment, pipeline
    from mobilenas.request import Request, start
    from mobilenas.search import gap, loop
    from mobilenas.train import trainer

    folder, stages, passes = tmp_path_factory.mktemp("runs") / "whole", Stages(), []
    run = start(folder, Request(**TINY_REQUEST), command="mobilenas test", reporter=stages)
    names = ("train", "val", "test")
    splits = {name: set(getattr(run.data, name).indices.tolist()) for name in names}

    def spy(split: Split, data: ImageData, **options: Any) -> Any:
        (name,) = (n for n, own in splits.items() if own & set(split.indices.tolist()))
        trains = options["seed"] is not None or options.get("augmentation") is not None
        passes.append((stages.now, name, trains))
        return batches(split, data, **options)

    with pytest.MonkeyPatch.context() as patch:
        for module in (deployment, pipeline, gap, loop, trainer):
            patch.setattr(module, "batches", spy)
        result = pipeline.run_all(run)
    return WholeRun(folder=folder, request=TINY_REQUEST, result=result, batches=passes)
