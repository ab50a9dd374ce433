import copy
import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from mobilenas.channels import search as channel_search
from mobilenas.channels.limits import Limits
from mobilenas.channels.search import search_channels
from mobilenas.channels.settings import ChannelSettings, weights_of
from mobilenas.channels.start import base_of, kept_network, start_network
from mobilenas.channels.trial import TrialTrainer
from mobilenas.core.errors import BudgetError, FileError, MobileNASError
from mobilenas.core.files import load_checkpoint, read_jsonl, write_bytes, write_json
from mobilenas.core.progress import NullReporter
from mobilenas.cost.budget import Budget
from mobilenas.cost.budgets import Budgets
from mobilenas.data import ImageData
from mobilenas.search import FinalistSettings
from mobilenas.spaces.channels.space import Base, ChannelsArch, ChannelsSpace
from mobilenas.spaces.mobile.arch import Block, Head, MobileArch, Stem
from mobilenas.train import Recipe, train

ARCH = MobileArch(
    image_size=8,
    in_channels=3,
    classes=5,
    stem=Stem(channels=16, stride=1, activation="relu"),
    blocks=(
        Block(kernel=3, hidden=48, out=16, stride=1, squeeze=8, activation="relu"),
        Block(kernel=3, hidden=64, out=24, stride=2, squeeze=0, activation="relu"),
    ),
    head=Head(channels=64, hidden=0, activation="relu", dropout=0.1),
)
SPACE = ChannelsSpace(base=Base.of(ARCH))
BUDGET = Budget(cost="flops", limit=SPACE.base.graph.flops({}) // 2)
SETTINGS = ChannelSettings(model="arch.json", trials=4, epochs=2)
RECIPE = Recipe(epochs=2, batch_size=10, learning_rate=0.3)


def found(
    data: ImageData,
    folder: Path,
    settings: ChannelSettings = SETTINGS,
    *,
    count: int = 1,
    budgets: Sequence[Budget] = (BUDGET,),
    measure: Any = None,
) -> tuple[Any, list[dict[str, Any]]]:
    result = search_channels(
        Budgets(SPACE, budgets),
        data,
        settings,
        FinalistSettings(count=count, epochs=1),
        RECIPE,
        folder=folder,
        seed=3,
        device="cpu",
        reporter=NullReporter(),
        measure=measure,
    )
    return result, read_jsonl(folder / "log.jsonl")


def test_every_trial_keeps_the_budget_and_uses_it(micro_images: ImageData, tmp_path: Path) -> None:
    result, log = found(micro_images, tmp_path)
    assert [line["trial"] for line in log] == [0, 1, 2, 3]
    assert log[0]["accepted"] and log[0]["changes"] == {}
    assert [line["temperature"] for line in log] == [5.0, 3.75, 2.5, 1.25]
    for line in log:
        assert 0.9 * BUDGET.limit < line["costs"]["flops"] <= BUDGET.limit
        assert line["costs"]["params"] == SPACE.base.graph.params(line["sizes"])
        assert set(line["quality"]) == set(line["sizes"]) == set(SPACE.start())
    assert len({tuple(line["sizes"].values()) for line in log}) > 1
    best = max((line for line in log if line["accepted"]), key=lambda line: line["val_top1"])
    assert best["val_top1"] >= log[0]["val_top1"]
    assert result.sizes in [line["sizes"] for line in log if line["accepted"]]


def test_the_same_seed_gives_the_same_search(micro_images: ImageData, tmp_path: Path) -> None:
    (one, first), (other, second) = (found(micro_images, tmp_path / name) for name in "ab")
    assert one.sizes == other.sizes
    for a, b in zip(first, second, strict=True):
        assert {k: v for k, v in a.items() if k != "seconds"} == {
            k: v for k, v in b.items() if k != "seconds"
        }


def test_a_search_that_stopped_ends_as_one_that_did_not(
    micro_images: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, log = found(micro_images, tmp_path / "whole", count=2)

    class Stop(NullReporter):
        def step(self, done: int, figures: dict[str, str]) -> None:
            if done == 2:
                raise KeyboardInterrupt

    broken = tmp_path / "broken"
    with monkeypatch.context() as patch:
        patch.setattr(f"{__name__}.NullReporter", Stop)
        with pytest.raises(KeyboardInterrupt):
            found(micro_images, broken, count=2)
    assert len(read_jsonl(broken / "log.jsonl")) == 2
    result, again = found(micro_images, broken, count=2)
    assert result.sizes == whole.sizes
    assert [line["sizes"] for line in again] == [line["sizes"] for line in log]
    assert [line["loss"] for line in again] == [line["loss"] for line in log]
    weights = [
        load_checkpoint(tmp_path / name / "checkpoint.pt")["trainer"]["network"]  # type: ignore[index]
        for name in ("whole", "broken")
    ]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_a_folder_of_another_search_is_refused(micro_images: ImageData, tmp_path: Path) -> None:
    found(micro_images, tmp_path, replace(SETTINGS, trials=1))
    with pytest.raises(FileError, match=r"checkpoint.pt belongs to another search"):
        found(micro_images, tmp_path, replace(SETTINGS, trials=2))


def test_a_constant_metric_moves_all_groups_alike(micro_images: ImageData, tmp_path: Path) -> None:
    settings = replace(SETTINGS, metric="constant", schedule="greedy")
    _, log = found(micro_images, tmp_path, settings)
    for line in log[1:]:
        changes = list(line["changes"].values())
        assert changes == pytest.approx(changes[:1] * len(changes))
        assert line["pushed"] == []
        # so the proportions stay, but for rounding to a step
        for name, size in line["sizes"].items():
            assert abs(size - log[0]["sizes"][name]) <= 8 or size == 8
    told = [line["changes"]["stem.0"] for line in log[1:]]
    assert told == pytest.approx([0.8, 0.64, 0.512])


def test_the_finalists_have_the_start_among_them(micro_images: ImageData, tmp_path: Path) -> None:
    result, log = found(micro_images, tmp_path, count=3)
    assert 2 <= result.candidates <= 3
    archs = [
        ChannelsArch.from_dict(arch)
        for arch in json.loads((tmp_path / "finalists.json").read_text())["archs"]
    ]
    assert archs[-1].sizes == log[0]["sizes"]
    assert result.sizes in [dict(arch.sizes) for arch in archs]
    assert set(result.seconds) == {"trials", "finalists"}


def test_greedy_takes_worse_trials_back(
    micro_images: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    falling = iter([60.0, 50.0, 55.0, 70.0])

    def evaluate(self: TrialTrainer, split: Any) -> Any:
        from types import SimpleNamespace

        return SimpleNamespace(top1=next(falling))

    monkeypatch.setattr(TrialTrainer, "evaluate", evaluate)
    _, log = found(micro_images, tmp_path, replace(SETTINGS, schedule="greedy"))
    assert [line["accepted"] for line in log] == [True, False, False, True]


def test_small_starts_are_all_alike(micro_images: ImageData, tmp_path: Path) -> None:
    _, log = found(micro_images, tmp_path, replace(SETTINGS, trials=1, start="small"))
    sizes = list(log[0]["sizes"].values())
    # at their largest where the budget reaches further than the others'
    assert max(sizes) - min(size for size in sizes if size > 16) <= 16


def test_latency_is_kept_by_measuring(micro_images: ImageData, tmp_path: Path) -> None:
    flops = SPACE.base.graph.flops
    asked = list[float]()

    def measure(archs: Sequence[ChannelsArch]) -> list[float]:
        # a device on which half a ms goes by for nothing
        asked.extend(0.5 + flops(arch.sizes) / 1e6 for arch in archs)
        return asked[-len(archs) :]

    limit = 0.5 + BUDGET.limit / 1e6
    budgets = [Budget(cost="latency", limit=limit)]
    _, log = found(micro_images, tmp_path, budgets=budgets, measure=measure)
    for line in log:
        assert line["costs"]["latency"] == pytest.approx(0.5 + flops(line["sizes"]) / 1e6)
        assert 0.85 * limit < line["costs"]["latency"] <= limit
    assert len(asked) < 8 * len(log)


def test_a_latency_budget_needs_the_profile_s_machine() -> None:
    budgets = Budgets(SPACE, [Budget(cost="latency", limit=1.0)])
    with pytest.raises(BudgetError, match="this is another one"):
        Limits(budgets, None)
    with pytest.raises(BudgetError, match="no channel sizes"):
        Limits(budgets, lambda archs: [50.0 for _ in archs]).keep(SPACE.start())


def trained(data: ImageData, settings: ChannelSettings = SETTINGS) -> TrialTrainer:
    sizes = Budgets(SPACE, [BUDGET]).scale(SPACE.start())
    trial = TrialTrainer(SPACE.arch(sizes), data, RECIPE, settings, seed=0, device="cpu")
    trial.run_epoch()
    return trial


def test_a_change_keeps_weights_and_momentum_and_has_a_teacher(micro_images: ImageData) -> None:
    before = trained(micro_images)
    larger = {name: size + 8 for name, size in before.arch.sizes.items()}
    after = before.changed(SPACE, larger)
    image = torch.rand(2, 3, 8, 8)
    with torch.no_grad():
        was, now = before.inner.eval()(image), after.inner.eval()(image)
    assert torch.allclose(was, now, atol=1e-4)
    assert after.teacher is before.model
    assert after.epochs_done == 1
    buffers = [state["momentum_buffer"] for state in after._optimizer.state.values()]
    assert len(buffers) == len(list(after.inner.parameters()))
    assert any(bool(buffer.any()) for buffer in buffers)


def test_distillation_pulls_towards_the_teacher(micro_images: ImageData) -> None:
    before = trained(micro_images)
    sizes = dict(before.arch.sizes)
    images, logits = torch.rand(4, 3, 8, 8), torch.zeros(4, 5)
    with torch.no_grad():
        wanted = before.model(images)
    guided = before.changed(SPACE, sizes)
    assert float(guided._guidance(images, wanted)) == pytest.approx(0.0, abs=1e-5)
    assert float(guided._guidance(images, logits)) > 0
    alone = trained(micro_images, replace(SETTINGS, distill=0.0)).changed(SPACE, sizes)
    assert alone.teacher is None and alone._guidance(images, logits) == 0.0


def test_a_model_comes_with_its_weights(
    micro_images: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.torch import save

    from mobilenas.spaces.networks import build

    torch.manual_seed(0)  # of some weights both trials have the same sizes: one finalist
    network = build(ARCH)
    write_json(tmp_path / "run/arch.json", {"arch": ARCH.to_dict()})
    write_bytes(tmp_path / "run/model.safetensors", save(network.state_dict()))
    own = weights_of(str(tmp_path / "run"), None)
    assert own == tmp_path / "run/model.safetensors"
    assert base_of(str(tmp_path / "run"), micro_images) == SPACE.base
    given = start_network(SPACE.base, own)
    assert given is not None
    image = torch.rand(2, 3, 8, 8)
    with torch.no_grad():
        assert torch.equal(given.eval()(image), network.eval()(image))
    settings = replace(SETTINGS, trials=2, weights=own)
    kept = kept_network(SPACE.arch(SPACE.start()), settings)
    assert kept is not None
    with torch.no_grad():
        assert torch.allclose(kept.eval()(image), network.eval()(image), atol=1e-5)
    assert kept_network(SPACE.arch(SPACE.start()), SETTINGS) is None
    starts: dict[str, Any] = {}

    def spy(arch: ChannelsArch, *rest: Any, network: Any, **options: Any) -> Any:
        starts[options["stage"]] = (arch, copy.deepcopy(network.state_dict()))
        return train(arch, *rest, network=network, **options)

    monkeypatch.setattr(channel_search, "train", spy)
    _, log = found(micro_images, tmp_path / "search", settings, count=2)
    assert all(line["costs"]["flops"] <= BUDGET.limit for line in log)
    assert starts.keys() == {"finalist 1", "finalist 2"}
    for arch, start in starts.values():
        expected = kept_network(arch, settings)
        assert expected is not None
        values = expected.state_dict()
        assert all(torch.equal(value, values[name]) for name, value in start.items())
    assert start_network(SPACE.base, None) is None
    assert weights_of("torchvision:resnet18", Path("given")) == Path("given")


def test_models_that_do_not_fit_the_images_are_refused(
    micro_images: ImageData, tmp_path: Path
) -> None:
    file = tmp_path / "arch.json"
    write_json(file, {"arch": replace(ARCH, classes=7).to_dict()})
    with pytest.raises(MobileNASError, match=r"classes is 7 in .*arch.json and 5 in bands"):
        base_of(str(file), micro_images)
    write_json(file, {"arch": SPACE.arch(SPACE.smallest()).to_dict()})
    with pytest.raises(FileError, match=r"arch\.json holds channel sizes of"):
        base_of(str(file), micro_images)
    with pytest.raises(
        MobileNASError, match=r"model is 'nothing': no pretrained network, run folder or arch\.json"
    ):
        base_of("nothing", micro_images)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"trials": 0}, "trials is 0"),
        ({"schedule": "hot"}, "schedule is 'hot'; it must be one of annealed, greedy"),
        (
            {"weight_transfer": "all"},
            "weight_transfer is 'all'; it must be one of svd",
        ),
        ({"gamma": 1.0}, "gamma is 1.0"),
        ({"distill_temperature": 0}, "distill_temperature is 0"),
    ],
)
def test_settings_are_checked(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(MobileNASError, match=message):
        replace(SETTINGS, **wrong)


def test_metropolis_accepts_a_drop_as_often_as_it_says(
    micro_images: ImageData, tmp_path: Path
) -> None:
    from mobilenas.channels.search import _Search

    search = _Search(
        Budgets(SPACE, [BUDGET]), micro_images, SETTINGS, RECIPE, tmp_path, 0, "cpu", None
    )
    search.log = [
        SimpleNamespace(val_top1=50.0, accepted=True),
        SimpleNamespace(val_top1=20.0, accepted=False),
    ]
    source = random.Random(0)
    taken = sum(search._accepts(48.0, 2.0, source) for _ in range(4000)) / 4000
    assert taken == pytest.approx(0.368, abs=0.025)  # exp(-2 / 2)
    assert search._accepts(50.0, 0.0, source) and not search._accepts(49.9, 0.0, source)


def test_networks_are_plain_modules() -> None:
    given = start_network(SPACE.base, None)
    assert given is None
    assert isinstance(SPACE.base.module(), nn.Module)
