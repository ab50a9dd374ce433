"""The report of a run over cells, without and with budgets."""

import html
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from mobilenas.core.files import write_json, write_jsonl
from mobilenas.cost.networks import costs
from mobilenas.report.run_page import write_report
from mobilenas.spaces.cell.arch import CellArch
from mobilenas.spaces.cell.genotypes import CELL_NETWORKS, format_genotype, parse_genotype

SPARSE = parse_genotype(
    "Genotype(normal=[[('sep_conv_5x5', 1)], [], [('skip_connect', 2), ('dil_conv_3x3', 0)], []], "
    "normal_concat=[2, 3, 4, 5], reduce=[('max_pool_3x3', 0), ('sep_conv_3x3', 1)], "
    "reduce_concat=[2])"
)
ARCH: CellArch = replace(CELL_NETWORKS["darts_v2"](16, 5), layers=8, channels=16, genotype=SPARSE)

Line = dict[str, Any]


def write_run(folder: Path, line: Line, budgets: list[dict[str, Any]]) -> None:
    record = {
        "command": "mobilenas search --space cell --method darts",
        "settings": {"search": {"warmup": 1}, "space": "cell", "finalists": {"epochs": 1}},
        "seed": 0,
        "budgets": budgets,
        "data": {
            "source": "digits",
            "classes": ["0", "1"],
            "counts": {"train": 10, "val": 5, "test": 5},
            "image_size": 16,
            "fingerprint": "f",
            "split_rule": "r",
        },
        "versions": {},
        "machine": {"platform": "p", "processor": "p", "cuda": None},
    }
    write_json(folder / "run.json", record)
    log = [
        line
        | {
            "epoch": epoch,
            "loss": 2.0 - 0.1 * epoch,
            "alpha_loss": 2.0,
            "val_top1": 20.0,
            "tau": 1.0,
            "entropy": 50.0 - epoch,
            "edge_entropy": 1.0,
            "expected": {budget["cost"]: 2.0 * budget["limit"] for budget in budgets},
            "multipliers": {budget["cost"]: 0.1 for budget in budgets},
            "alphas": {"normal": [[0.0]], "reduce": [[0.0]], "normal_edges": [[0.0]]},
            "alarms": ["skip connections dominate"] if epoch == 4 else [],
            "seconds": 1.0,
        }
        for epoch in range(1, 5)
    ]
    write_jsonl(folder / "search/log.jsonl", log)
    gap = {
        name: {"before_reestimation": 60.0 - lost, "after_reestimation": 70.0 - lost}
        for name, lost in (("supernet", 0), ("operations_discrete", 11), ("edges_discrete", 33))
    }
    record = {
        "arch": ARCH.to_dict(),
        "genotype": format_genotype(SPARSE),
        "counting_rule": "r",
        "costs": asdict(costs(ARCH)),
        "budgets": [budget | {"predicted": 7, "holds": True} for budget in budgets],
        "discretization_gap": gap | {"points": 33.0, "points_before": 33.0},
        "candidates": 1,
        "seconds": {"supernet": 30.0},
        "seed": 0,
    }
    write_json(folder / "arch.json", record)


def report(folder: Path) -> str:
    write_report(folder, folder / "report.html")
    return (folder / "report.html").read_text(encoding="utf-8")


def section(page: str, title: str) -> str:
    (found,) = re.findall(rf"<section><h2>{title}</h2>(.*?)</section>", page, re.DOTALL)
    return str(found)


@pytest.mark.parametrize("budgets", [[], [{"cost": "flops", "limit": 9_000_000}]])
def test_cells_are_drawn_named_and_counted(
    tmp_path: Path, budgets: list[dict[str, Any]], log_line: Line
) -> None:
    write_run(tmp_path, log_line, budgets)
    page = report(tmp_path)
    network = section(page, "The searched network")
    drawings = re.findall(r"<svg.*?</svg>", network, re.DOTALL)
    names = [ElementTree.fromstring(drawing).get("aria-label") for drawing in drawings]
    assert names == ["Normal cell", "Reduction cell"]
    assert "8 cells behind the cifar stem; a node has 16 channels in the first and 64" in network
    assert "Reductions: 3 and 6." in network
    assert network.count("The concatenation skips empty nodes") == 1
    (text,) = re.findall("<pre>(.*?)</pre>", network)
    assert parse_genotype(html.unescape(text)) == SPARSE
    assert f"{costs(ARCH).flops:,}" in section(page, "Cost of each layer")
    assert "cells.7.nodes.2.1.project" in section(page, "Cost of each layer")
    identifiers = re.findall(r'\bid="(.*?)"', page)
    assert len(identifiers) == len(set(identifiers))


def test_without_budgets_nothing_is_said_of_them(tmp_path: Path, log_line: Line) -> None:
    write_run(tmp_path, log_line, [])
    page = report(tmp_path)
    top = page[: page.index("<section>")]
    assert "There was no budget" in top
    assert "<table" not in top
    assert "meets every budget" not in page
    searched = section(page, "The search over time")
    assert searched.count("<svg") == 4
    assert "Expected cost" not in searched
    assert '<p class="bad">Alarm: skip connections dominate.</p>' in searched


def test_with_a_budget_it_is_told_like_any_other(tmp_path: Path, log_line: Line) -> None:
    write_run(tmp_path, log_line, [{"cost": "flops", "limit": 9_000_000}])
    page = report(tmp_path)
    assert "There was no budget" not in page
    assert "meets every budget by prediction" in page
    assert section(page, "The search over time").count("<svg") == 6


def test_the_gap_has_a_row_for_edges(tmp_path: Path, log_line: Line) -> None:
    write_run(tmp_path, log_line, [])
    shown = section(report(tmp_path), "Discretization gap")
    assert "33.00 points of validation top-1 are lost" in shown
    assert "<td>supernet</td><td>60.00</td><td>70.00</td>" in shown
    assert "<td>operations discrete</td><td>49.00</td><td>59.00</td>" in shown
    assert "<td>edges discrete</td><td>27.00</td><td>37.00</td>" in shown
