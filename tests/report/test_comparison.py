"""The result in one sentence."""

import json
from pathlib import Path
from typing import Any

import pytest

from mobilenas.baselines.records import NetworkRecord
from mobilenas.core.files import write_json
from mobilenas.core.records import BudgetRow
from mobilenas.core.settings import from_plain
from mobilenas.report.comparison import comparison, headline, limit_text, result
from mobilenas.report.files import RunFiles
from mobilenas.report.table import verdict


def entry(name: str, kind: str, top1: float, seed: int = 0) -> dict[str, Any]:
    return {
        "name": name,
        "predicted_ms": None,
        "kind": kind,
        "seed": seed,
        "flops": 1_900_000,
        "params": 100_000,
        "memory": 40_000,
        "onnx": "export/model.onnx",
        "size_bytes": 400_000,
        "latency_ms": 0.5,
        "top1": top1,
    }


RUN = {
    "command": "c",
    "settings": {},
    "seed": 0,
    "data": {
        "source": "digits",
        "classes": ["a"],
        "counts": {"test": 10},
        "image_size": 8,
        "fingerprint": "f",
        "split_rule": "r",
    },
    "versions": {},
    "machine": {"platform": "p", "processor": "p", "cuda": None},
}
FOUND = entry("searched", "searched", 91.5)
NETWORKS = [
    FOUND,
    entry("mobilenet_v2 x0.1", "mobilenet", 90.0),
    entry("mobilenet_v3_small x0.2", "mobilenet", 90.5),
    entry("random-1", "random", 99.0),
]
RECORDS = [from_plain(NetworkRecord, network, "") for network in NETWORKS]
BUDGETS = [{"cost": "flops", "limit": 2_000_000}, {"cost": "latency", "limit": 1.5}]


ROWS = [from_plain(BudgetRow, budget, "") for budget in BUDGETS]


def test_it_is_the_verdict_under_the_budgets() -> None:
    assert verdict(RECORDS).startswith("The searched network (1.9M FLOPs) reaches 91.50 % top-1: ")
    under = "With at most 2M FLOPs and 1.5 ms, the searched"
    assert headline(ROWS, RECORDS) == verdict(RECORDS).replace("The searched", under, 1)
    assert headline([], RECORDS) == verdict(RECORDS)
    assert "holds no searched network" in headline(ROWS, RECORDS[1:])


def test_no_figure_is_told_twice_at_the_top(tmp_path: Path) -> None:
    write_json(tmp_path / "run.json", RUN | {"budgets": BUDGETS[:1]})
    (tmp_path / "compare.json").write_text(json.dumps(NETWORKS), encoding="utf-8")
    top = result(RunFiles(folder=tmp_path))
    assert top.count("91.50") == top.count("mobilenet_v3_small") == 1


def test_more_epochs_are_told_with_the_row(tmp_path: Path) -> None:
    longer = {"network": "mobilenet_v2 x0.1", "epochs": 31, "recipe_epochs": 15}
    for more in ([], [entry("equal-time", "equal-time", 92.0) | longer]):
        (tmp_path / "compare.json").write_text(json.dumps(NETWORKS + more), encoding="utf-8")
        shown = comparison(RunFiles(folder=tmp_path))
        assert ("trained by one recipe." in shown) == (not more)
        assert ("<td>equal-time (31 epochs, not 15)</td>" in shown) == bool(more)
        assert ("is mobilenet_v2 x0.1, 31 epochs: the best MobileNet" in shown) == bool(more)


def test_two_recipes_are_told(tmp_path: Path) -> None:
    (tmp_path / "compare.json").write_text(json.dumps(NETWORKS), encoding="utf-8")
    settings = RUN["settings"] | {"scratch_recipe": {"learning_rate": 0.5}}
    write_json(tmp_path / "run.json", RUN | {"settings": settings, "budgets": []})
    shown = comparison(RunFiles(folder=tmp_path))
    assert "trained by one recipe." not in shown
    assert "MobileNets were trained by one recipe, the networks of the space by another" in shown


def test_the_same_network_from_scratch_is_told_with_the_row(tmp_path: Path) -> None:
    networks = [*NETWORKS, entry("scratch", "scratch", 90.2)]
    (tmp_path / "compare.json").write_text(json.dumps(networks), encoding="utf-8")
    shown = comparison(RunFiles(folder=tmp_path))
    assert "<td>scratch</td>" in shown
    assert "trained by one recipe." in shown
    assert shown.count("scratch is the searched network from scratch; searched starts from") == 1


@pytest.mark.parametrize(
    ("cost", "limit", "told"),
    [
        ("flops", 300_000, "300k FLOPs"),
        ("params", 1_500_000, "1.5M params"),
        ("memory", 64_000, "64k bytes of activations"),
        ("latency", 8.0, "8 ms"),
    ],
)
def test_limits_are_told_as_they_are_written(cost: str, limit: float, told: str) -> None:
    assert limit_text(BudgetRow(cost=cost, limit=limit)) == told
