"""All stages over the channel sizes of a model that a run folder brings, weights and all."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from mobilenas.baselines.networks import BaselineSettings
from mobilenas.core.files import read_json, read_jsonl
from mobilenas.core.progress import NullReporter
from mobilenas.core.settings import to_plain
from mobilenas.cost.networks import costs
from mobilenas.pipeline.baselines import compared_networks
from mobilenas.pipeline.request_channels import ChannelsRequest
from mobilenas.pipeline.run_folder import open_run
from mobilenas.pipeline.stages import run_all
from mobilenas.pipeline.starting import start
from mobilenas.report.table import read_networks
from mobilenas.spaces.channels.space import Base, ChannelsArch
from mobilenas.spaces.networks import read_arch
from mobilenas.train import load_weights

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def refined(
    whole_run: Any,
    byte_clock: None,
    no_estimate: None,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    folder = tmp_path_factory.mktemp("channels") / "refined"
    flops = whole_run.result["flops"]
    request = ChannelsRequest(
        model=str(whole_run.folder),
        data=whole_run.request["data"],
        flops=int(0.7 * flops),
        epochs=2,
        trials=3,
        trial_epochs=1,
        finalists=2,
        controls=True,
        random=1,
        baselines=("mobilenet_v3_small",),
    )
    run = start(folder, request, command="mobilenas test", reporter=NullReporter())
    run_all(run)
    return folder


def test_what_a_search_found_is_refined(whole_run: Any, refined: Path) -> None:
    arch = read_arch(refined / "arch.json")
    assert isinstance(arch, ChannelsArch)
    assert arch.base == Base.of(read_arch(whole_run.folder / "arch.json"))  # type: ignore[arg-type]
    result = read_json(refined / "result.json")
    (row,) = result["budgets"]
    assert row["holds"] and row["recounted"] == row["predicted"] <= row["limit"]
    assert all(line["costs"]["flops"] <= row["limit"] for line in log(refined))


def log(folder: Path) -> list[dict[str, Any]]:
    return read_jsonl(folder / "search/log.jsonl")


def test_controls_keep_the_budget_and_train_alike(refined: Path) -> None:
    entries = to_plain(read_networks(refined / "compare.json"))
    kinds = {entry["kind"] for entry in entries}
    assert kinds >= {"searched", "unchanged", "uniform", "constant", "random"}
    limit = read_json(refined / "run.json")["budgets"][0]["limit"]
    base = read_arch(refined / "arch.json").base  # type: ignore[union-attr]
    for entry in entries:
        if entry["kind"] == "unchanged":
            assert entry["flops"] == costs(base.mobile).flops > limit
        else:
            assert entry["flops"] <= limit
        assert entry["memory"] > 0
    # the same start: the metric changes nothing before the first trial
    constant = log(refined / "compare/constant-seed-0")
    assert constant[0]["sizes"] == log(refined)[0]["sizes"]
    assert constant[0]["val_top1"] == log(refined)[0]["val_top1"]


def test_weights_that_came_along_are_where_training_starts(whole_run: Any, refined: Path) -> None:
    given = read_json(refined / "run.json")["settings"]["channel_sizes"]["weights"]
    assert given == str(whole_run.folder / "model.safetensors")
    first = read_jsonl(refined / "train/log.jsonl")[0]
    scratch = read_jsonl(whole_run.folder / "train/log.jsonl")[0]
    assert first["loss"] < scratch["loss"]


def test_random_sizes_that_are_asked_for_later_are_not_forgotten(refined: Path) -> None:
    run = open_run(refined, NullReporter())
    assert run.settings.channel_sizes is not None
    run.settings = replace(
        run.settings,
        channel_sizes=replace(run.settings.channel_sizes, controls=False),
        baselines=(),
    )
    asked = BaselineSettings(mobilenets=(), random=2, random_search=False, equal_time=False)
    kinds = [[c.kind for c in compared_networks(run, words, [])] for words in (None, asked)]
    assert kinds == [["searched", "random"], ["searched", "random", "random"]]


@pytest.mark.parametrize(
    ("controls", "given", "expected"),
    [(False, None, 0), (True, None, 3), (False, 1, 1), (True, 0, 0)],
)
def test_random_sizes_are_trained_where_asked_for_or_with_the_controls(
    controls: bool, given: int | None, expected: int
) -> None:
    request = ChannelsRequest(
        model="torchvision:mobilenet_v2", flops=1, controls=controls, random=given
    )
    assert request.settings(100).random == expected


def test_the_run_opens_again_and_its_weights_fit(refined: Path) -> None:
    run = open_run(refined, NullReporter())
    arch = read_arch(refined / "arch.json")
    model = load_weights(arch, refined / "model.safetensors")
    assert set(model.state_dict()) == set(load_file(refined / "model.safetensors"))
    assert to_plain(run_all(run)) == read_json(refined / "result.json")
