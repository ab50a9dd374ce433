import json
import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mobilenas.core.errors import FileError
from mobilenas.core.files import load_checkpoint, read_json, read_jsonl, save_checkpoint
from mobilenas.core.progress import NullReporter
from mobilenas.cost.budget import Budget
from mobilenas.cost.budgets import Budgets
from mobilenas.data import ImageData
from mobilenas.latency.cost_model import Latency
from mobilenas.latency.profile import Profile
from mobilenas.search import FinalistSettings, SearchResult, SearchSettings, finalists, search
from mobilenas.search.candidates import candidates
from mobilenas.search.collapse_monitor import CollapseMonitor
from mobilenas.search.loop import Searcher
from mobilenas.search.records import SearchLine
from mobilenas.search.run import measured_candidates
from mobilenas.spaces.mobile.arch import MobileArch
from mobilenas.spaces.mobile.program import ArchProgram
from mobilenas.spaces.mobile.space import MobileSpace
from mobilenas.spaces.mobile.table import CostTable
from mobilenas.train import Evaluation, Recipe, Trainer

SETTINGS = SearchSettings(epochs=3, warmup=1, batch_size=16)
FINALISTS = FinalistSettings(count=3, epochs=1)
RECIPE = Recipe(epochs=2, batch_size=16, learning_rate=0.05, warmup_epochs=0.0)


class KilledError(Exception):
    """Stands for a kill between two files."""


class Kill(NullReporter):
    """Kills at the n-th step of a stage."""

    def __init__(self, stage: str, after: int) -> None:
        self.wanted, self.after, self.stage = stage, after, ""

    def start(self, stage: str, total: int) -> None:
        self.stage = stage

    def step(self, done: int, figures: dict[str, str]) -> None:
        if (self.stage, done) == (self.wanted, self.after):
            raise KilledError


def run(
    budgets: Budgets, data: ImageData, folder: Path, reporter: Any = None, **changes: Any
) -> SearchResult:
    given = {"settings": SETTINGS, "finalists": FINALISTS, "recipe": RECIPE, "seed": 0} | changes
    positional = [given.pop(name) for name in ("settings", "finalists", "recipe")]
    reporter = reporter or NullReporter()
    return search(
        budgets, data, *positional, folder=folder, device="cpu", reporter=reporter, **given
    )


@pytest.fixture(scope="module")
def done(
    tiny_budgets: Budgets, tiny_images: ImageData, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, SearchResult]:
    folder = tmp_path_factory.mktemp("search")
    return folder, run(tiny_budgets, tiny_images, folder)


@pytest.fixture
def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("this trains")

    monkeypatch.setattr(Searcher, "run_epoch", refuse)
    monkeypatch.setattr(Trainer, "run_epoch", refuse)


def test_the_found_network_keeps_the_budget_and_uses_it(
    done: tuple[Path, SearchResult], tiny_budgets: Budgets
) -> None:
    folder, result = done
    assert 0.9 <= tiny_budgets.utilization(result.choice) <= 1
    assert result.candidates == FINALISTS.count
    assert result.seconds.keys() == {"supernet", "candidates", "finalists"}
    assert all(seconds > 0 for seconds in result.seconds.values())
    record = read_json(folder / "finalists.json")
    assert record["archs"][record["winner"]] == tiny_budgets.space.arch(result.choice).to_dict()
    log = read_jsonl(folder / "log.jsonl")
    assert [line["epoch"] for line in log] == [1, 2, 3]


def test_the_winner_has_the_best_score_of_the_last_rung(done: tuple[Path, SearchResult]) -> None:
    record = read_json(done[0] / "finalists.json")
    last = max(score["rung"] for score in record["scores"])
    scores = {s["arch"]: s["val_top1"] for s in record["scores"] if s["rung"] == last}
    assert scores[record["winner"]] == max(scores.values())


@pytest.mark.usefixtures("no_training")
def test_a_finished_search_is_read_and_not_done_again(
    done: tuple[Path, SearchResult], tiny_budgets: Budgets, tiny_images: ImageData
) -> None:
    folder, result = done
    again = run(tiny_budgets, tiny_images, folder)
    assert again.choice == result.choice
    assert again.gap == result.gap
    assert again.seconds["supernet"] == result.seconds["supernet"]
    assert again.seconds["finalists"] == result.seconds["finalists"]


@pytest.mark.usefixtures("no_training")
@pytest.mark.parametrize(
    "changes",
    [
        {"settings": replace(SETTINGS, epochs=4)},
        {"settings": replace(SETTINGS, rho=0.2)},
        {"finalists": replace(FINALISTS, count=4)},
        {"recipe": replace(RECIPE, learning_rate=0.06)},
        {"seed": 1},
    ],
    ids=["epochs", "rho", "finalists", "recipe", "seed"],
)
def test_other_settings_in_the_same_folder_are_refused(
    done: tuple[Path, SearchResult],
    tiny_budgets: Budgets,
    tiny_images: ImageData,
    changes: dict[str, Any],
) -> None:
    with pytest.raises(FileError, match=r"checkpoint\.pt belongs to another search"):
        run(tiny_budgets, tiny_images, done[0], **changes)


@pytest.mark.usefixtures("no_training")
def test_other_images_or_budgets_in_the_same_folder_are_refused(
    done: tuple[Path, SearchResult], tiny_budgets: Budgets, tiny_images: ImageData
) -> None:
    with pytest.raises(FileError, match="another search"):
        run(tiny_budgets, replace(tiny_images, fingerprint="other"), done[0])
    (budget,) = tiny_budgets.budgets
    other = Budgets(tiny_budgets.space, [replace(budget, limit=budget.limit + 1)])
    with pytest.raises(FileError, match="another search"):
        run(other, tiny_images, done[0])


@pytest.mark.parametrize(
    ("stage", "after"),
    [
        ("search", 1),
        ("finalists", 1),
        pytest.param("search", 3, marks=pytest.mark.slow),
        pytest.param("finalists", 4, marks=pytest.mark.slow),
    ],
)
def test_a_killed_search_ends_as_one_that_was_not(
    done: tuple[Path, SearchResult],
    tiny_budgets: Budgets,
    tiny_images: ImageData,
    tmp_path: Path,
    stage: str,
    after: int,
) -> None:
    with pytest.raises(KilledError):
        run(tiny_budgets, tiny_images, tmp_path, Kill(stage, after))
    result = run(tiny_budgets, tiny_images, tmp_path)
    assert result.choice == done[1].choice
    assert result.gap == done[1].gap
    assert read_json(tmp_path / "finalists.json") == read_json(done[0] / "finalists.json")


@pytest.mark.usefixtures("no_training")
@pytest.mark.parametrize("name", ["checkpoint.pt", "finalists/0/checkpoint.pt"])
def test_a_checkpoint_cut_in_half_is_named(
    done: tuple[Path, SearchResult],
    tiny_budgets: Budgets,
    tiny_images: ImageData,
    tmp_path: Path,
    name: str,
) -> None:
    shutil.copytree(done[0], tmp_path, dirs_exist_ok=True)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(FileError, match="truncated or damaged") as caught:
        run(tiny_budgets, tiny_images, tmp_path)
    assert str(tmp_path / name) in str(caught.value)


@pytest.mark.usefixtures("no_training")
@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda kept: kept.pop("gap"), "it lacks 'gap'"),
        (lambda kept: kept.update(seconds="1"), "seconds"),
        (lambda kept: kept.update(choices=[]), "choices has 0 items"),
        (lambda kept: kept["choices"][1].pop("start"), r"choices\[1\] lacks 'start'"),
        (lambda kept: kept["choices"][1].update(kernel=[0]), r"choices\[1\] is not a network"),
        (
            lambda kept: kept["choices"][0]["width"].__setitem__(0, 99),
            r"choices\[0\]\.width\[0\] is 99",
        ),
        (
            lambda kept: kept["choices"][0]["keep"].__setitem__(0, False),
            r"choices\[0\] is not a net",
        ),
    ],
    ids=["no gap", "text", "empty", "no start", "short", "out of range", "no first block"],
)
def test_candidates_that_are_no_networks_of_the_space_are_refused_by_name(
    done: tuple[Path, SearchResult],
    tiny_budgets: Budgets,
    tiny_images: ImageData,
    tmp_path: Path,
    change: Callable[[dict[str, Any]], None],
    named: str,
) -> None:
    shutil.copytree(done[0], tmp_path, dirs_exist_ok=True)
    kept = json.loads((tmp_path / "candidates.json").read_text())
    change(kept)
    (tmp_path / "candidates.json").write_text(json.dumps(kept))
    with pytest.raises(FileError, match=rf"candidates\.json: {named}"):
        run(tiny_budgets, tiny_images, tmp_path)


@pytest.mark.usefixtures("no_training")
def test_a_checkpoint_of_another_release_is_named(
    done: tuple[Path, SearchResult], tiny_budgets: Budgets, tiny_images: ImageData, tmp_path: Path
) -> None:
    state = load_checkpoint(done[0] / "checkpoint.pt")
    assert state is not None
    groups = state["searcher"]["weight_optimizer"]["param_groups"]
    groups[0]["params"].append(groups[1]["params"].pop())
    save_checkpoint(tmp_path / "checkpoint.pt", state)
    with pytest.raises(
        FileError, match=r"checkpoint\.pt is not what this release writes .* delete it"
    ):
        run(tiny_budgets, tiny_images, tmp_path)


class Remarks(NullReporter):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def info(self, message: str) -> None:
        self.said.append(message)


# of 40 validation images of five classes: 12 right are no better than chance, 13 are
@pytest.mark.parametrize(("top1", "chance"), [(0.0, True), (30.0, True), (32.5, False)])
def test_a_search_that_guesses_is_said_once_and_kept(
    tiny_budgets: Budgets,
    tiny_images: ImageData,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    top1: float,
    chance: bool,
) -> None:
    guessed = Evaluation(top1=top1, loss=1.6, predictions=torch.zeros(40, dtype=torch.int64))
    monkeypatch.setattr(Searcher, "top1", lambda *_: top1)
    monkeypatch.setattr(Trainer, "evaluate", lambda *_: guessed)
    monkeypatch.setattr(CollapseMonitor, "update", lambda *_: [])
    remarks = Remarks()
    result = run(tiny_budgets, tiny_images, tmp_path, remarks)
    subjects = ["the supernet is", "the finalists are"]
    figures = f"no better than chance: {top1:.1f} % of 40 images, where guessing gets 20.0 %; "
    expected = [f"{subject} {figures}" for subject in subjects] if chance else []
    for told in (result.alarms, [remark.removeprefix("epoch 3: ") for remark in remarks.said]):
        assert len(told) == len(expected)
        assert all(line.startswith(start) for line, start in zip(told, expected, strict=True))


def test_an_alarm_is_said_when_it_is_first_raised_and_not_again(
    tiny_budgets: Budgets, tiny_images: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def update(_: CollapseMonitor, record: SearchLine) -> list[str]:
        return [f"all is lost: {record.epoch} of 3 epochs", "and more: so it is"][: record.epoch]

    monkeypatch.setattr(CollapseMonitor, "update", update)
    monkeypatch.setattr(Searcher, "top1", lambda *_: 100.0)
    remarks = Remarks()
    result = run(
        tiny_budgets, tiny_images, tmp_path, remarks, finalists=FinalistSettings(count=0, epochs=1)
    )
    assert remarks.said == ["epoch 1: all is lost: 1 of 3 epochs", "epoch 2: and more: so it is"]
    assert result.alarms == ["all is lost: 3 of 3 epochs", "and more: so it is"]


@pytest.mark.parametrize("count", [0, 1])
def test_without_finalists_the_likeliest_network_wins(
    tiny_budgets: Budgets,
    tiny_images: ImageData,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    count: int,
) -> None:
    monkeypatch.setattr(finalists, "train_part", None)
    result = run(
        tiny_budgets, tiny_images, tmp_path, finalists=FinalistSettings(count=count, epochs=1)
    )
    assert result.candidates == 1
    searcher = Searcher(tiny_budgets, tiny_images, SETTINGS, seed=0)
    state = load_checkpoint(tmp_path / "checkpoint.pt")
    assert state is not None
    searcher.load_state_dict(state["searcher"])
    assert result.choice == ArchProgram(tiny_budgets, searcher.alphas.scores()).best()
    assert not (tmp_path / "finalists.json").exists()


def test_candidates_are_distinct_and_all_keep_the_budget(
    tiny_budgets: Budgets, tiny_images: ImageData
) -> None:
    searcher = Searcher(tiny_budgets, tiny_images, SETTINGS, seed=0)
    source = random.Random(0)
    for logits in searcher.alphas.parameters():
        logits.data.add_(source.random())  # the same for all options: flat
    found = candidates(searcher, searcher.budgets, 4)
    assert len(set(found)) == len({tiny_budgets.space.arch(choice) for choice in found}) == 4
    assert all(tiny_budgets.is_feasible(choice) for choice in found)
    assert candidates(searcher, searcher.budgets, 4) == found
    searcher.seed += 1
    assert not set(candidates(searcher, searcher.budgets, 4)) & set(found)


def test_the_likeliest_is_among_them_once_the_alphas_have_decided(
    tiny_budgets: Budgets, tiny_images: ImageData
) -> None:
    searcher = Searcher(tiny_budgets, tiny_images, SETTINGS, seed=0)
    best = ArchProgram(tiny_budgets, searcher.alphas.scores()).best()
    assert candidates(searcher, tiny_budgets, 1) == [best]
    assert best not in candidates(searcher, tiny_budgets, 3)
    for logits in searcher.alphas.parameters():
        logits.data[..., 0] += 30.0  # sure of the cheapest, which leave most of the budget
    first, *others = candidates(searcher, tiny_budgets, 3)
    assert first == ArchProgram(tiny_budgets, searcher.alphas.scores()).best()
    assert len(others) == 2 and all(map(tiny_budgets.is_feasible, others))


@pytest.mark.parametrize(
    ("warmup", "prior", "what"),
    [
        (0, False, "the finalists are random networks"),
        (1, False, "the finalists are random networks"),
        (1, True, "the prior proposes the finalists"),
    ],
)
def test_a_search_that_is_all_warm_up_says_so(
    tiny_budgets: Budgets,
    tiny_images: ImageData,
    tmp_path: Path,
    warmup: int,
    prior: bool,
    what: str,
) -> None:
    remarks, settings = Remarks(), replace(SETTINGS, epochs=1, warmup=warmup, prior=prior)
    run(tiny_budgets, tiny_images, tmp_path, remarks, settings=settings)
    told = f"it trains weights, and {what}"
    assert sum(told in remark for remark in remarks.said) == warmup


def test_rank_writes_the_ranking(
    done: tuple[Path, SearchResult], tiny_budgets: Budgets, tiny_images: ImageData
) -> None:
    run(tiny_budgets, tiny_images, done[0], rank=3)
    quality = json.loads((done[0] / "rank.json").read_text())
    assert quality["networks"] == 3
    assert quality["epochs"] == FINALISTS.compared_at(3, RECIPE.epochs)[-1]


class Stopwatch:
    """Measures archs: so much above what the profile foretells, and remembers how often."""

    def __init__(self, latency: Latency, over: Sequence[float]) -> None:
        self.latency, self.over, self.calls = latency, over, 0

    def __call__(self, archs: Sequence[MobileArch]) -> list[float]:
        factor = self.over[min(self.calls, len(self.over) - 1)]
        self.calls += 1
        return [factor * self.latency.arch(arch) for arch in archs]


@pytest.fixture
def on_time(micro_space: MobileSpace, made_up_profile: Profile) -> tuple[Budgets, Latency]:
    latency, source = Latency(made_up_profile, "fp32"), random.Random(0)
    table = CostTable(micro_space, "latency", latency)
    middle = sorted(table.exact(micro_space.random(source)) for _ in range(51))[25]
    return Budgets(micro_space, [Budget(cost="latency", limit=middle)], latency), latency


def test_candidates_that_are_measured_to_be_slower_tighten_the_budget(
    on_time: tuple[Budgets, Latency], micro_images: ImageData
) -> None:
    budgets, latency = on_time
    searcher = Searcher(budgets, micro_images, SETTINGS, seed=0)
    limit, watch = budgets.budgets[0].limit, Stopwatch(latency, [1.15])
    found, rounds = measured_candidates(searcher, 2, watch)
    assert found and watch.calls == len(rounds) == 2
    assert max(rounds[0].measured_ms) > limit >= max(rounds[1].measured_ms)
    assert all(1.15 * latency.arch(budgets.space.arch(choice)) <= limit for choice in found)


def test_candidates_that_keep_the_budget_are_measured_once(
    on_time: tuple[Budgets, Latency], micro_images: ImageData
) -> None:
    budgets, latency = on_time
    searcher, watch = Searcher(budgets, micro_images, SETTINGS, seed=0), Stopwatch(latency, [0.99])
    assert measured_candidates(searcher, 2, watch)[0] == candidates(searcher, budgets, 2)
    assert watch.calls == 1


def test_the_budget_is_tightened_three_times_at_most(
    on_time: tuple[Budgets, Latency], micro_images: ImageData
) -> None:
    budgets, _ = on_time
    searcher = Searcher(budgets, micro_images, SETTINGS, seed=0)
    # always 3 % over what was asked for, whatever the network
    limit, calls = budgets.budgets[0].limit, []

    def stubborn(archs: Sequence[MobileArch]) -> list[float]:
        calls.append(len(archs))
        return [1.03 * limit for _ in archs]

    found, rounds = measured_candidates(searcher, 2, stubborn)
    assert found and 1 < len(rounds) == len(calls) <= 4
