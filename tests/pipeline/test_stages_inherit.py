"""A run whose searched networks start from the supernet's weights, up to what is compared."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from mobilenas.core.errors import FileError
from mobilenas.core.files import load_checkpoint, read_json, read_jsonl
from mobilenas.core.progress import NullReporter
from mobilenas.cost.budgets import Budgets
from mobilenas.data import DataSettings, ImageData
from mobilenas.pipeline import run_folder as runs
from mobilenas.pipeline import training
from mobilenas.pipeline.baselines import compared_networks, searched_arch
from mobilenas.pipeline.run_folder import Run, create_run, open_run
from mobilenas.pipeline.settings import RunSettings
from mobilenas.pipeline.stages import search_stage, train_stage
from mobilenas.search import FinalistSettings, SearchSettings, finalists, searched_choice
from mobilenas.spaces.base import Arch
from mobilenas.spaces.mobile.arch import MobileArch
from mobilenas.spaces.mobile.inherit import inherited
from mobilenas.spaces.mobile.space import Choice, MobileSpace
from mobilenas.spaces.mobile.supernet import SuperNetwork
from mobilenas.train import Recipe

NO_FINALISTS = FinalistSettings(count=0, epochs=1)
Begin = Callable[..., Run]
Starts = list[tuple[str, dict[str, Tensor] | None]]


@pytest.fixture
def begin(
    micro_budgets: Budgets,
    micro_images: ImageData,
    micro_space: MobileSpace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Begin:
    """Start a small run in a folder, or open the one there."""
    monkeypatch.setattr(runs, "usable_space", lambda *_: micro_space)
    monkeypatch.setattr(runs, "load_data", lambda *_: micro_images)

    def begin(name: str = "run", **changes: Any) -> Run:
        if (tmp_path / name).exists():
            return open_run(tmp_path / name, NullReporter())
        settings = RunSettings(
            data=DataSettings(source="digits"),
            budgets=micro_budgets.budgets,
            search=SearchSettings(epochs=1, warmup=1, batch_size=16),
            finalists=FinalistSettings(count=2, epochs=1),
            recipe=Recipe(epochs=2, batch_size=32, learning_rate=0.05, warmup_epochs=0.0),
            baselines=(),
            random=0,
            inherit=True,
        )
        return create_run(
            tmp_path / name,
            replace(settings, **changes),
            data=micro_images,
            command="mobilenas test",
            reporter=NullReporter(),
        )

    return begin


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Starts:
    """Where each training of a finalist or the searched network starts, with its folder's name."""
    found: Starts = []

    def watched(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **more: Any) -> Any:
            network = more["network"]
            weights = network and {k: v.clone() for k, v in network.state_dict().items()}
            found.append((more["folder"].name, weights))
            return function(*given, **more)

        return call

    monkeypatch.setattr(finalists, "train_part", watched(finalists.train_part))
    monkeypatch.setattr(training, "train", watched(training.train))
    return found


def sliced(run: Run, arch: Arch) -> dict[str, Tensor]:
    """Slices for a candidate of the supernet in the run's folder."""
    folder, space = run.folder / "search", run.space
    assert isinstance(space, MobileSpace)
    net = SuperNetwork(space, run.settings.search.sampler)
    net.load_state_dict(load_checkpoint(folder / "checkpoint.pt")["searcher"]["net"])
    choice = searched_choice(folder, space, arch)
    assert isinstance(choice, Choice)
    return inherited(net, choice, run.settings.seed).state_dict()


def equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Whether all weights are equal; norms have statistics of the images, not the supernet's."""
    weights = [key for key in one if "running" not in key and "tracked" not in key]
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in weights)


def test_finalists_and_the_final_training_start_from_the_slices(
    begin: Begin, started: Starts
) -> None:
    run = begin()
    search_stage(run)
    record = read_json(run.folder / "search/finalists.json")
    expected = [sliced(run, MobileArch.from_dict(plain)) for plain in record["archs"]]
    assert sorted(name for name, _ in started) == ["0", "0", "1", "1"]  # in two rungs
    for name, weights in started:
        assert weights is not None and equal(weights, expected[int(name)])
    started.clear()
    train_stage(begin())  # opened anew, as by `mobilenas train`
    ((name, weights),) = started
    assert name == "train" and weights is not None
    assert equal(weights, sliced(run, searched_arch(run.folder)))
    # which go on with the winner's epochs
    logs = [
        read_jsonl(run.folder / f / "log.jsonl")
        for f in (f"search/finalists/{record['winner']}", "train")
    ]
    assert logs[1][: len(logs[0])] == logs[0]


def test_without_finalists_the_final_training_starts_from_the_slices(
    begin: Begin, started: Starts
) -> None:
    run = begin(finalists=NO_FINALISTS)
    search_stage(run)
    assert started == []
    train_stage(begin())
    ((_, weights),) = started
    assert weights is not None and equal(weights, sliced(run, searched_arch(run.folder)))
    first = read_jsonl(run.folder / "train/log.jsonl")[0]["loss"]
    scratch = begin("scratch", finalists=run.settings.finalists, inherit=False)
    search_stage(scratch)
    train_stage(scratch)
    assert started[-1] == ("train", None)
    assert searched_arch(scratch.folder) == searched_arch(run.folder)
    assert read_jsonl(scratch.folder / "train/log.jsonl")[0]["loss"] != first


@pytest.mark.parametrize("inherit", [True, False])
def test_the_same_network_from_scratch_is_compared_exactly_where_it_is_inherited(
    begin: Begin, inherit: bool
) -> None:
    run = begin(inherit=inherit, seeds=2, finalists=NO_FINALISTS)
    archs = {}
    for seed in run.seeds:
        search_stage(run, seed)
        archs[seed] = searched_arch(run.seed_folder(seed))
    wanted = [("searched", seed) for seed in (0, 1)]
    wanted += [("scratch", seed) for seed in (0, 1)] if inherit else []
    given = compared_networks(run, None, [])
    assert [(one.kind, one.seed) for one in given] == wanted
    assert all(one.name == one.kind and one.arch == archs[one.seed] for one in given)
    there = [SimpleNamespace(name=one.name, kind=one.kind, seed=one.seed) for one in given]
    assert compared_networks(run, None, there) == []


@pytest.mark.parametrize("after", [0, 1])
def test_a_killed_final_training_goes_on_to_the_same_bytes(begin: Begin, after: int) -> None:
    class Kill(NullReporter):
        def step(self, done: int, figures: dict[str, str]) -> None:
            if done > after:
                raise KeyboardInterrupt

    whole, killed = (begin(name, finalists=NO_FINALISTS) for name in ("whole", "killed"))
    for run in (whole, killed):
        search_stage(run)
    train_stage(whole)
    killed.reporter = Kill()
    with pytest.raises(KeyboardInterrupt):
        train_stage(killed)
    if not after:  # killed before its first checkpoint
        shutil.rmtree(killed.folder / "train")
    train_stage(begin("killed"))
    files = [(run.folder / "model.safetensors").read_bytes() for run in (whole, killed)]
    assert files[0] == files[1]


def test_a_supernet_that_is_gone_is_named(begin: Begin) -> None:
    run = begin(finalists=NO_FINALISTS)
    search_stage(run)
    (run.folder / "search/checkpoint.pt").unlink()
    with pytest.raises(FileError, match=r"search/checkpoint\.pt does not exist"):
        train_stage(run)
    assert not (run.folder / "train").exists()
