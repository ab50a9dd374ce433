"""What a job is expected to take, in seconds that a made-up clock counts."""

from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mobilenas.channels.settings import ChannelSettings
from mobilenas.core.errors import MobileNASError
from mobilenas.core.progress import NullReporter
from mobilenas.data import ImageData
from mobilenas.pipeline.estimate import (
    Speeds,
    Stopwatch,
    estimate,
    format_duration,
    format_durations,
    measure_speeds,
    parts,
)
from mobilenas.pipeline.request import Request
from mobilenas.pipeline.run_folder import Run
from mobilenas.pipeline.settings import RunSettings
from mobilenas.search import FinalistSettings
from mobilenas.spaces.mobile.space import MobileSpace

SPEEDS = Speeds(
    weight_step=1.0,
    alpha_step=10.0,
    supernet_image=0.0,
    step=100.0,
    image=0.0,
    export=1e4,
)


def settings(images: int, **given: Any) -> RunSettings:
    asked = {"flops": 100_000, "epochs": 4, "search_epochs": 3, "warmup": 1, "random": 2}
    return Request(**(asked | given)).settings(images)


def ticks() -> Callable[[], float]:
    """A clock that is a second on at every look."""
    return count(0.0).__next__


@pytest.fixture
def run(micro_space: MobileSpace, micro_images: ImageData) -> Run:
    flops = 20_000
    opened = Run(
        folder=Path("nowhere"),
        settings=settings(len(micro_images.train), flops=flops),
        reporter=NullReporter(),
    )
    opened.__dict__ |= {"data": micro_images, "space": micro_space, "latency": None}
    return opened


def test_parts_are_steps_times_their_seconds(micro_images: ImageData) -> None:
    # 100 training images: batches of 32, of the supernet 16 of each half
    asked = settings(100, seeds=2)
    found = parts(asked, micro_images, SPEEDS, mobilenets=3)
    assert found == {
        "search": 2 * (3 * 3 * 1.0 + 2 * 3 * 10.0),
        "finalists": 2 * (2 * 2 + 3) * 3 * 100.0,  # two have two epochs, and one three
        "final training": 2 * 4 * 3 * 100.0,
        "baselines": (2 * 3 + 2) * 4 * 3 * 100.0,
        "export": (2 + 2 * 3 + 2) * 1e4,
    }


def test_a_random_search_takes_the_searchs_time_again(micro_images: ImageData) -> None:
    plain = parts(settings(100), micro_images, SPEEDS, mobilenets=0)
    searched = parts(settings(100, random_search=True), micro_images, SPEEDS, mobilenets=0)
    more = plain["search"] + plain["finalists"] + plain["final training"]
    assert searched["baselines"] - plain["baselines"] == more
    assert searched["export"] - plain["export"] == 1e4
    assert searched["search"] == plain["search"]


@pytest.mark.parametrize("mobilenets", [0, 2])
def test_equal_time_takes_the_searchs_time_where_there_is_a_mobilenet(
    micro_images: ImageData, mobilenets: int
) -> None:
    plain, longer = (
        parts(settings(100, seeds=2, equal_time=asked), micro_images, SPEEDS, mobilenets)
        for asked in (False, True)
    )
    more = plain["search"] + plain["finalists"] + plain["final training"]
    assert longer["baselines"] - plain["baselines"] == (more if mobilenets else 0)
    assert longer["export"] - plain["export"] == (2e4 if mobilenets else 0)
    assert longer["search"] == plain["search"]


def test_what_inherits_is_trained_from_scratch_too(micro_images: ImageData) -> None:
    plain, both = (
        parts(settings(100, seeds=2, inherit=asked), micro_images, SPEEDS, mobilenets=0)
        for asked in (False, True)
    )
    assert both["baselines"] - plain["baselines"] == plain["final training"]
    assert both["export"] - plain["export"] == 2e4


def test_a_ranking_trains_its_networks_as_far_as_finalists(micro_images: ImageData) -> None:
    for finalists in (0, 3):
        plain, ranked = (
            parts(settings(100, finalists=finalists, rank=rank), micro_images, SPEEDS, mobilenets=0)
            for rank in (0, 7)
        )
        # three epochs of three steps
        assert ranked["search"] - plain["search"] == 7 * 3 * 3 * 100.0


def test_without_finalists_there_is_no_round(micro_images: ImageData) -> None:
    for finalists in (0, 1):
        none = parts(settings(100, finalists=finalists), micro_images, SPEEDS, mobilenets=0)
        assert none["finalists"] == 0


def test_finalists_of_channel_sizes_are_whole_trainings(micro_images: ImageData) -> None:
    asked = replace(
        settings(100),
        space="channels",
        channel_sizes=ChannelSettings(model="torchvision:resnet18"),
        finalists=FinalistSettings(count=3, epochs=2),
    )
    assert parts(asked, micro_images, SPEEDS, mobilenets=0)["finalists"] == 3 * 2 * 3 * 100.0


def test_images_that_are_classified_take_time(micro_images: ImageData) -> None:
    slow = Speeds(**{**vars(SPEEDS), "image": 1.0, "supernet_image": 1.0})
    before = parts(settings(100), micro_images, SPEEDS, mobilenets=0)
    after = parts(settings(100), micro_images, slow, mobilenets=0)
    assert after["final training"] - before["final training"] == 4 * len(micro_images.val)
    assert after["export"] - before["export"] == 3 * len(micro_images.test)
    assert after["search"] > before["search"]
    assert after["finalists"] - before["finalists"] == (2 * 2 + 3) * len(micro_images.val)


def test_steps_are_timed_by_the_clock_and_leave_no_trace(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    # of several GPUs, torch warns where the generators of all are saved
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    state = torch.get_rng_state()
    speeds = measure_speeds(run, ticks())
    # one second passes in whatever is timed: an epoch of a step, an epoch of two, all images
    assert (speeds.weight_step, speeds.alpha_step, speeds.export) == (1.0, 0.0, 1.0)
    assert speeds.step == 1 / 2
    assert speeds.image == speeds.supernet_image == 1 / 100
    assert all(seconds > 0 for seconds in estimate(run, ticks()).values())
    assert torch.equal(torch.get_rng_state(), state)
    assert not run.folder.exists()


def test_a_network_that_no_memory_holds_is_refused_before_it_is_built(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("build", "Trainer"):
        patched = f"mobilenas.pipeline.estimate.{name}"
        monkeypatch.setattr(patched, lambda *_, **__: pytest.fail("it was built"))
    monkeypatch.setattr("mobilenas.pipeline.estimate.os", SimpleNamespace(sysconf=lambda _: 64))
    with pytest.raises(MobileNASError, match=r"params, so training it takes .* lower a budget$"):
        estimate(run, ticks())


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.4, "0 s"),
        (45, "45 s"),
        (89.4, "89 s"),
        (90, "2 min"),
        (840, "14 min"),
        (5399, "90 min"),
        (9000, "2.5 h"),
    ],
)
def test_durations_are_read_at_a_glance(seconds: float, words: str) -> None:
    assert format_duration(seconds) == words


def test_the_total_comes_first_and_what_takes_no_time_not_at_all() -> None:
    assert format_durations({"search": 60.0, "finalists": 0.0, "export": 20.0}) == (
        "80 s: search 60 s, export 20 s"
    )


def test_a_stopwatch_charges_every_stage_its_own_time() -> None:
    times = iter([5.0, 7.0, 10.0, 20.0])
    watch = Stopwatch(lambda: next(times))
    for stage in ("search", "export", "search"):
        watch.lap(stage)
    assert watch.seconds == {"search": 12.0, "export": 3.0}
