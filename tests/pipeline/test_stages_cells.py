"""All stages over a run with cells and no budget, and what of it differs from a chain's."""

import random
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mobilenas.core.errors import InternalError
from mobilenas.core.files import read_json, write_json
from mobilenas.core.progress import NullReporter
from mobilenas.core.settings import to_plain
from mobilenas.cost.budget import Budget
from mobilenas.cost.budgets import Budgets
from mobilenas.cost.networks import costs
from mobilenas.onnx.recount import count_onnx
from mobilenas.pipeline import baselines, training
from mobilenas.pipeline import stages as pipeline
from mobilenas.pipeline.request import Request
from mobilenas.pipeline.run_folder import open_run
from mobilenas.pipeline.stages import run_all
from mobilenas.pipeline.starting import start
from mobilenas.report.table import read_networks
from mobilenas.spaces.cell.genotypes import CELL_NETWORKS, parse_genotype
from mobilenas.spaces.cell.space import CellChoice, CellSpace
from mobilenas.spaces.networks import arch_from_dict, read_arch
from mobilenas.train import load_weights

SPACE = CellSpace(image_size=16, in_channels=3, classes=5, layers=3, channels=8)


def run_of(folder: Path, found: CellChoice, *budgets: Budget, said: list[str]) -> Any:
    """A run over `SPACE` whose search is done."""
    write_json(folder / "arch.json", {"arch": SPACE.arch(found).to_dict()})
    return SimpleNamespace(
        settings=SimpleNamespace(
            budgets=budgets,
            seed=0,
            random=2,
            random_search=False,
            equal_time=False,
            scratch_control=False,
            pretrained=None,
            baselines=("mobilenet_v3_small",),
            search=SimpleNamespace(constraint="lagrangian"),
            channel_sizes=None,
        ),
        budgets=Budgets(SPACE, budgets),
        data=SimpleNamespace(image_size=16, classes=tuple("abcde")),
        space=SPACE,
        folder=folder,
        latency=None,
        image_sizes=(),
        image_size=16,
        seeds=range(1),
        seed_folder=lambda seed: folder,
        reporter=SimpleNamespace(info=said.append),
    )


@pytest.mark.parametrize("given", [None, 30_000])
def test_without_budgets_all_is_held_to_the_flops_of_what_was_found(
    tmp_path: Path, given: int | None
) -> None:
    said: list[str] = []
    budgets = () if given is None else (Budget(cost="params", limit=given),)
    run = run_of(tmp_path, SPACE.random(random.Random(0)), *budgets, said=said)
    found, *others = baselines.compared_networks(run, None, [])
    assert found.arch == read_arch(tmp_path / "arch.json")
    cost, limit = ("params", given) if given else ("flops", costs(found.arch).flops)
    drawn = [getattr(costs(other.arch), cost) for other in others if other.kind == "random"]
    scaled = [getattr(costs(other.arch), cost) for other in others if other.kind == "mobilenet"]
    assert len(drawn) == 2
    assert scaled
    assert all(0.9 * limit <= value <= limit for value in drawn)
    assert all(0.5 * limit <= value <= limit for value in scaled)
    assert said == []


def test_a_find_like_no_other_is_compared_with_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mobilenas.cost.budgets._MAX_DRAWS", 20)
    said: list[str] = []
    run = run_of(tmp_path, SPACE.smallest(), said=said)
    kinds = {network.kind for network in baselines.compared_networks(run, None, [])}
    assert kinds == {"searched", "mobilenet"}
    (message,) = said
    assert message.startswith("none of 20 random networks meets flops <= ")
    assert message.endswith(": random networks are skipped")


@pytest.mark.parametrize("auxiliary", [False, True])
def test_the_built_module_is_counted_without_its_auxiliary_classifier(auxiliary: bool) -> None:
    arch = replace(CELL_NETWORKS["darts_v2"](16, 5), layers=3, channels=4, auxiliary=auxiliary)
    exact = costs(arch)
    pipeline._check_built(arch, exact)
    with pytest.raises(InternalError, match=f"{exact.params} params, the cost model says"):
        pipeline._check_built(arch, replace(exact, params=exact.params + 1))


REQUEST: dict[str, Any] = {
    "space": "cell",
    "method": "pc-darts",
    "epochs": 1,
    "search_epochs": 2,
    "warmup": 1,
    "layers": 3,
    "channels": 8,
    "search_layers": 3,
    "search_channels": 8,
    "auxiliary": True,
    "drop_path": 0.2,
    "random": 1,
    "baselines": [],
}


@pytest.fixture(scope="module")
def whole(
    byte_clock: None,
    no_estimate: None,
    image_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("cells") / "run"
    request = Request(data=str(image_folder), **REQUEST)
    run = start(folder, request, command="mobilenas test", reporter=NullReporter())
    return folder, to_plain(run_all(run))


def test_a_run_over_cells_goes_all_the_way(whole: tuple[Path, dict[str, Any]]) -> None:
    folder, result = whole
    record, arch = read_json(folder / "arch.json"), read_arch(folder / "arch.json")
    exact = costs(arch)
    assert parse_genotype(record["genotype"]) == arch_from_dict(record["arch"]).genotype
    assert (record["arch"]["auxiliary"], record["arch"]["drop_path"]) == (True, 0.2)
    assert record["costs"] == {name: getattr(exact, name) for name in record["costs"]}
    assert record["budgets"] == result["budgets"] == []
    assert set(record["discretization_gap"]) >= {"operations_discrete", "edges_discrete"}
    counted = count_onnx(folder / "export/model.onnx")
    assert (counted.flops, counted.params) == (exact.flops, exact.params)
    assert read_json(folder / "export/export.json")["parity"]["top1_agreement"] == 100
    weights = load_weights(arch, folder / "model.safetensors")
    assert weights.auxiliary is not None
    report = (folder / "report.html").read_text(encoding="utf-8")
    assert "Normal cell" in report
    assert "There was no budget" in report


def test_what_it_is_compared_with_keeps_to_its_flops(whole: tuple[Path, dict[str, Any]]) -> None:
    folder, result = whole
    found, *others = to_plain(read_networks(folder / "compare.json"))
    assert found["kind"] == "searched"
    assert found["flops"] == result["flops"]
    for entry in (found, *others):
        assert entry["flops"] <= result["flops"]
        assert entry["flops"] == costs(arch_from_dict(entry["arch"])).flops
        assert entry["flops"] == count_onnx(folder / entry["onnx"]).flops
        assert entry["predicted_ms"] is None


def test_a_finished_run_over_cells_is_read_not_repeated(
    whole: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("this is done already")

    for name in ("search", "write_onnx", "time_run", "file_top1", "file_misclassified"):
        monkeypatch.setattr(pipeline, name, refuse)
    monkeypatch.setattr(training, "train", refuse)
    folder, result = whole
    assert to_plain(run_all(open_run(folder, NullReporter()))) == result
