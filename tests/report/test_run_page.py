import re
import xml.etree.ElementTree as ElementTree
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from mobilenas.baselines.published import LATENCIES, PUBLISHED
from mobilenas.core.errors import FileError
from mobilenas.core.files import write_json, write_jsonl, write_text
from mobilenas.core.settings import COUNTING_RULE
from mobilenas.cost.networks import costs
from mobilenas.report.run_page import write_report
from mobilenas.spaces.mobile.mobilenets import MOBILENETS

EVIL = '<script src="http://evil.example/x.js">alert(1)</script>'
NAMES = ("mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large")
ARCHS = [MOBILENETS[name](0.25, 32, 4) for name in NAMES]
LIMIT = 2_000_000
SECTIONS = (
    "Comparison",
    "The searched network",
    "Exported files",
    "What it gets wrong",
    "The search over time",
    "Finalists",
    "Discretization gap",
    "Ranking quality",
    "Cost of each layer",
    "How to reproduce",
    "Published on ImageNet",
    "How FLOPs are counted",
)


Line = dict[str, Any]


def write_run(folder: Path, *, constraint: str = "lagrangian") -> None:
    settings = {
        "search": {"warmup": 2, "constraint": constraint},
        "finalists": {"epochs": 2},
        "seeds": 2,
    }
    data = {
        "source": f"images/{EVIL}",
        "classes": [EVIL, "cat & dog", "\u732b", "a'b\"c"],
        "counts": {"train": 1079, "val": 359, "test": 359},
        "image_size": 32,
        "fingerprint": "db34a20d1f3511476ae719154a1eac0db4ee81adde1e4cd72bcd3174f73f8dea",
        "split_rule": "60/20/20 % of each class, seed 0",
    }
    record = {
        "command": f"mobilenas run --data 'images/{EVIL}' --flops 2M --params 200k --out runs/cats",
        "settings": settings,
        "seed": 0,
        "budgets": [{"cost": "flops", "limit": LIMIT}, {"cost": "params", "limit": 200_000}],
        "data": data,
        "versions": {"mobilenas": "0.1.0", "torch": "2.13.0+cpu"},
        "machine": {"platform": "Linux-x86_64", "processor": "x86_64", "cuda": None},
    }
    write_json(folder / "run.json", record)


def write_log(folder: Path, line: Line, epochs: int = 10) -> None:
    records = [
        line
        | {
            "epoch": epoch,
            "loss": 2.3 - 0.1 * epoch,
            "alpha_loss": 2.2 - 0.1 * epoch if epoch > 2 else 0.0,
            "tau": 10 ** (-epoch / epochs),
            "entropy": 14.0 - epoch,
            "expected": {"flops": LIMIT * (1.5 - 0.05 * epoch), "params": 150_000.0},
            "multipliers": {"flops": 0.01 * epoch, "params": 0.0},
            "seconds": 3.0,
        }
        for epoch in range(1, epochs + 1)
    ]
    write_jsonl(folder / "search/log.jsonl", records)


def write_search(folder: Path, line: Line) -> None:
    write_log(folder, line)
    arch = ARCHS[2]
    measured = {"before_reestimation": 41.25, "after_reestimation": 63.5}
    record = {
        "arch": arch.to_dict(),
        "costs": asdict(costs(arch)),
        "counting_rule": COUNTING_RULE,
        "budgets": [
            {"cost": "flops", "limit": LIMIT, "predicted": 1_234_567, "holds": True},
            {"cost": "params", "limit": 200_000, "predicted": 123_456, "holds": True},
        ],
        "discretization_gap": {
            "supernet": measured,
            "operations_discrete": {name: value - 1.75 for name, value in measured.items()},
            "points": 1.75,
            "points_before": 1.75,
        },
        "candidates": 3,
        "seconds": {"supernet": 30.0, "candidates": 4.0, "finalists": 61.0},
        "seed": 0,
    }
    write_json(folder / "arch.json", record)
    scores = [(0, 0, 50.0), (1, 0, 52.0), (2, 0, 55.0), (2, 1, 61.0), (1, 1, 60.0), (2, 2, 71.25)]
    record = {
        "winner": 2,
        "scores": [
            {"arch": a, "rung": r, "epochs": 2 * r + 2, "val_top1": top1} for a, r, top1 in scores
        ],
        "archs": [arch.to_dict() for arch in ARCHS],
    }
    write_json(folder / "search/finalists.json", record)


def write_rank(folder: Path) -> None:
    agreement = {"spearman": 0.61, "kendall": 0.47, "regret": 0.8, "pick_over_mean": 2.5}
    record = {
        "networks": 4,
        "epochs": 6,
        "supernet": agreement,
        "alphas": agreement | {"spearman": -0.07},
        "supernet_top1": [40.0, 42.0, 44.0, 39.0],
        "alpha_score": [-1.0, -2.0, -3.0, -4.0],
        "trained_top1": [70.0, 72.0, 71.0, 69.0],
    }
    write_json(folder / "search/rank.json", record)


def write_export(folder: Path) -> None:
    file = {"path": "export/model.onnx", "top1": 93.04, "size_bytes": 48_000, "latency_ms": 0.21}
    record = {
        "files": {"onnx": file},
        "deployed": "onnx",
        "labels": ["a"],
        "parity": {"max_abs_difference": 2.1e-6, "top1_agreement": 100.0, "images": 256},
        "timing": {"threads": 1, "provider": "CPUExecutionProvider", "profile": None},
    }
    write_json(folder / "export/export.json", record)
    worst = {
        "image": f"test/{EVIL}/7.png",
        "label": EVIL,
        "predicted": "cat & dog",
        "probability": 0.987,
        "probability_of_label": 0.01,
        "png": "iVBORw0KGgo=",
    }
    record = {
        "file": "export/model.onnx",
        "images": 359,
        "top1": 100 * 340 / 359,
        "confusion": {EVIL: {EVIL: 100, "cat & dog": 19}, "\u732b": {"\u732b": 240}},
        "worst": [worst],
    }
    write_json(folder / "export/misclassified.json", record)


def write_compare(folder: Path) -> None:
    import json

    names = [("searched", "searched"), (EVIL, "random-search")]
    names += [(f"{name} x0.25", "mobilenet") for name in NAMES]
    names += [(f"random-{number}", "random") for number in (1, 2, 3)]
    entries = [
        {
            "name": name,
            "predicted_ms": None,
            "kind": kind,
            "seed": seed,
            "flops": 1_900_000 - 71_000 * number - 9000 * seed,
            "params": 120_000,
            "memory": 64_000,
            "size_bytes": 500_000,
            "latency_ms": 0.31,
            "top1": 93 - 1.1 * number - 0.4 * seed,
            "onnx": f"compare/{number}-seed-{seed}/model.onnx",
        }
        for number, (name, kind) in enumerate(names)
        for seed in (0, 1)
    ]
    write_text(folder / "compare.json", json.dumps(entries))


def write_result(folder: Path, *, holds: bool = True) -> None:
    recounted = 1_234_567 if holds else 2_000_001
    budgets = [
        {"cost": "flops", "limit": LIMIT, "predicted": 1_234_567, "recounted": recounted},
        {"cost": "memory", "limit": 90_000, "predicted": 81_920, "recounted": None},
    ]
    rows = [budget | {"holds": holds} for budget in budgets]
    write_json(folder / "result.json", {"budgets": rows})


def write_whole(folder: Path, line: Line) -> None:
    write_search(folder, line)
    for write in (write_run, write_rank, write_export, write_compare, write_result):
        write(folder)


def report(folder: Path) -> str:
    write_report(folder, folder / "report.html")
    return (folder / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, log_line: Line) -> str:
    folder = tmp_path_factory.mktemp("run")
    write_whole(folder, log_line)
    return report(folder)


def section(page: str, title: str) -> str:
    (found,) = re.findall(rf"<section><h2>{title}</h2>(.*?)</section>", page, re.DOTALL)
    return str(found)


def test_every_section_shows_its_figures(whole: str) -> None:
    assert re.findall("<h2>(.*?)</h2>", whole) == list(SECTIONS)
    assert "The searched network meets every budget." in whole
    assert "the searched networks (1.891M to 1.9M FLOPs) reach 92.80" in whole
    expected = {
        "Comparison": ["random (6 networks)", "92.80 ± 0.28", "one is 0.28 points", "<svg"],
        "The searched network": ["block 4: 5x5", "squeeze-excite over"],
        "Exported files": ["93.04", "2.1e-06"],
        "What it gets wrong": ["340 of 359 test images", "<td>19</td><td>16</td>", "98.7 %, test/"],
        "The search over time": ["Entropy", "Temperature", "Multipliers", "supernet 30 s"],
        "Finalists": ["3 (wins)", "val top-1 at epoch 6", "71.25"],
        "Discretization gap": ["1.75 points of validation top-1 are lost", "63.50", "39.50"],
        "Ranking quality": ["0.61", "-0.07", "4 random networks"],
        "Cost of each layer": ["blocks.3.squeeze_excite.reduce", f"{costs(ARCHS[2]).flops:,}"],
        "How to reproduce": [
            "--flops 2M",
            "2.13.0+cpu",
            "db34a20d",
            "60/20/20 %",
            "\u732b",
            "0, 1",
        ],
        "Published on ImageNet": [
            "Nothing here was measured",
            PUBLISHED[0].source,
            LATENCIES[0].device,
            f"{LATENCIES[0].latency_ms:.3f}",
            LATENCIES[0].source,
        ],
        "How FLOPs are counted": [COUNTING_RULE[1:]],
    }
    for title, figures in expected.items():
        for figure in figures:
            assert figure in section(whole, title)


def test_budgets_are_told_as_requested_predicted_and_recounted(whole: str) -> None:
    top = whole[: whole.index("<section>")]
    assert "<td>FLOPs</td><td>yes</td><td>2,000,000</td><td>1,234,567</td><td>1,234,567</td>" in top
    assert "<td>memory, bytes</td><td>yes</td><td>90,000</td><td>81,920</td><td>-</td>" in top


def test_a_budget_that_does_not_hold_stands_first(tmp_path: Path, log_line: Line) -> None:
    write_run(tmp_path)
    write_search(tmp_path, log_line)
    write_result(tmp_path, holds=False)
    page = report(tmp_path)
    assert "does NOT meet every budget" in page
    assert "meets every budget" not in page
    assert "<td>NO</td><td>2,000,000</td><td>1,234,567</td><td>2,000,001</td>" in page


def test_text_is_escaped_and_nothing_comes_from_a_network(whole: str) -> None:
    assert re.findall("<script.*?>", whole) == ["<script>"]  # the one that sorts
    assert "&lt;script src=" in whole
    assert "cat &amp; dog" in whole
    assert "a&#39;b&#34;c" in whole
    tags = re.findall(r"<[^>]*>", whole)
    sources = [found for tag in tags for found in re.findall(r"\bsrc\s*=\s*(.*)", tag)]
    assert sources == ['"data:image/png;base64,iVBORw0KGgo=">']
    assert "default-src 'none'" in whole
    assert all(
        target.startswith("#") for tag in tags for target in re.findall(r'href="(.*?)"', tag)
    )
    assert not [tag for tag in tags if re.search(r"(?<!xmlns=\")(?<!xmlns:xlink=\")https?://", tag)]
    style = whole[whole.index("<style>") : whole.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style


def test_drawings_are_well_formed_and_follow_the_pages_colours(whole: str) -> None:
    drawings = re.findall(r"<svg.*?</svg>", whole, re.DOTALL)
    assert len(drawings) == 11
    identifiers: list[str] = []
    for drawing in drawings:
        root = ElementTree.fromstring(drawing)
        assert root.get("role") == "img"
        assert root.get("aria-label")
        assert "currentColor" in drawing
        assert "#010203" not in drawing
        own = [element.get("id", "") for element in root.iter() if element.get("id")]
        assert set(re.findall(r'(?:href="|url\()#([\w-]+)', drawing)) <= set(own)
        identifiers += own
    assert len(identifiers) == len(set(identifiers))


def test_the_page_suits_phones_and_dark_screens(whole: str) -> None:
    assert '<meta name="viewport" content="width=device-width' in whole
    assert "prefers-color-scheme: dark" in whole
    assert whole.count("<table") == whole.count('<div class="scroll"><table')


def test_it_is_small_and_the_same_each_time(tmp_path: Path, log_line: Line) -> None:
    write_whole(tmp_path, log_line)
    write_log(tmp_path, log_line, epochs=600)
    first = report(tmp_path)
    second = report(tmp_path)
    assert len(second.encode()) < 2_000_000
    assert second == first


def test_matplotlib_settings_are_left_alone(tmp_path: Path, log_line: Line) -> None:
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    write_whole(tmp_path, log_line)
    report(tmp_path)
    assert dict(mpl.rcParams) == before


def test_only_a_run_that_has_begun(tmp_path: Path) -> None:
    write_run(tmp_path)
    page = report(tmp_path)
    first, *others = re.findall("<h2>(.*?)</h2>", page)
    assert (first, *others) == ("Not done yet", *SECTIONS[-3:])
    for what, command in (
        ("compare.json", "compare"),
        ("arch.json", "search"),
        ("export/export.json", "export"),
        ("export/misclassified.json", "export"),
        ("search/log.jsonl", "search"),
        ("search/finalists.json", "search"),
        ("The discretization gap", "search"),
    ):
        told = f"{what} does not exist yet: <code>mobilenas {command}</code> makes it."
        assert page.count(told) == section(page, first).count(told) == 1
    assert "rank.json" not in page  # nobody asked
    assert "<td>not known yet</td><td>2,000,000</td><td>-</td><td>-</td>" in page


def test_a_search_that_is_still_on_its_way(tmp_path: Path, log_line: Line) -> None:
    write_run(tmp_path, constraint="hinge")
    write_log(tmp_path, log_line, epochs=2)
    shown = section(report(tmp_path), "The search over time")
    assert shown.count("<svg") == 6
    assert "The search is not finished" in shown
    assert "The constraint is hinge, which has no multipliers." in shown


def test_one_epoch_is_told_in_words(tmp_path: Path, log_line: Line) -> None:
    write_run(tmp_path)
    write_log(tmp_path, log_line, epochs=1)
    shown = section(report(tmp_path), "The search over time")
    assert "<svg" not in shown
    assert "trained for one epoch: loss 2.20,\nvalidation top-1" in shown


def test_only_a_search(tmp_path: Path, log_line: Line) -> None:
    write_run(tmp_path)
    write_search(tmp_path, log_line)
    page = report(tmp_path)
    assert "<td>yes</td><td>2,000,000</td><td>1,234,567</td><td>-</td>" in page
    assert "meets every budget by prediction; the ONNX file is not counted yet." in page
    assert "The recount on the ONNX file does not exist yet" in page
    (tmp_path / "search/finalists.json").unlink()
    assert "<h2>Finalists</h2>" not in report(tmp_path)  # one candidate entered


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="holds no run"):
        write_report(tmp_path, tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize("text", ["[{}]", "{", '[{"kind": "searched"}]', '{"a": 1}'])
def test_a_damaged_comparison_is_an_error_that_names_it(tmp_path: Path, text: str) -> None:
    write_run(tmp_path)
    (tmp_path / "compare.json").write_text(text)
    with pytest.raises(FileError, match=re.escape(str(tmp_path))):
        report(tmp_path)


def test_a_damaged_log_is_an_error_that_names_its_line(tmp_path: Path) -> None:
    write_run(tmp_path)
    records: list[dict[str, Any]] = [{"epoch": 1}]
    write_jsonl(tmp_path / "search/log.jsonl", records)
    with pytest.raises(FileError, match=r"log\.jsonl, line 1: it lacks"):
        report(tmp_path)
