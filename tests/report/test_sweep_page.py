"""The page over several runs, and which of the two a folder gets."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from mobilenas.baselines.records import NetworkRecord
from mobilenas.core.errors import FileError
from mobilenas.core.files import write_json, write_text
from mobilenas.core.settings import from_plain
from mobilenas.report.of_folder import report_of
from mobilenas.report.sweep_page import front, pareto, swept_runs

EVIL = "<b>&"


def entry(name: str, kind: str, flops: int, top1: float, latency_ms: float) -> dict[str, Any]:
    return {
        "name": name,
        "predicted_ms": None,
        "kind": kind,
        "seed": 0,
        "flops": flops,
        "params": 1000,
        "memory": 500,
        "onnx": "model.onnx",
        "size_bytes": 5000,
        "latency_ms": latency_ms,
        "top1": top1,
    }


def write_run(folder: Path, limit: int, entries: list[dict[str, Any]], **search: Any) -> None:
    data = {
        "source": f"images/{EVIL}",
        "classes": ["a", "b"],
        "counts": {"train": 10, "val": 5, "test": 1200},
        "image_size": 16,
        "fingerprint": "f" * 8,
        "split_rule": "r",
    }
    record = {
        "command": f"mobilenas run --flops {limit}",
        "settings": {
            "method": search.pop("method", "darts"),
            "search": {"constraint": "lagrangian", "strength": 1.0} | search,
        },
        "seed": 0,
        "budgets": [{"cost": "flops", "limit": limit}],
        "data": data,
        "versions": {},
        "machine": {"platform": "p", "processor": "p", "cuda": None},
    }
    write_json(folder / "run.json", record)
    if entries:
        write_text(folder / "compare.json", json.dumps(entries))


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    small = [
        entry("searched", "searched", 900, 70.0, 0.3),
        entry("mobilenet_v2 x0.1", "mobilenet", 950, 71.0, 0.1),
        entry("random-1", "random", 1000, 60.0, 0.4),
    ]
    large = [
        entry("searched", "searched", 9000, 80.0, 0.9),
        entry("mobilenet_v2 x0.5", "mobilenet", 9500, 75.0, 0.7),
        entry("random-1", "random", 9900, 81.0, 1.5),
    ]
    folder = tmp_path / "sweep"
    write_run(folder / f"large{EVIL}", 10_000, large, constraint="penalty", strength=0.3)
    write_run(folder / "small", 1000, small)
    write_run(folder / "begun", 5000, [])
    write_text(folder / "small/report.html", "<p>its own</p>")
    return folder


def page(folder: Path) -> str:
    assert report_of(folder) == folder / "report.html"
    return (folder / "report.html").read_text(encoding="utf-8")


def rows(page: str, title: str) -> list[list[str]]:
    (body,) = re.findall(rf"<section><h2>{title}</h2>(.*?)</section>", page, re.DOTALL)
    found = re.findall("<tr.*?>(.*?)</tr>", body)[1:]
    return [re.findall("<td.*?>(.*?)</td>", row) for row in found]


def test_every_run_has_a_row_the_cheapest_first_and_those_not_done_last(sweep: Path) -> None:
    shown = rows(page(sweep), "Runs")
    assert shown[0] == [
        '<a href="small/report.html">small</a>',
        *("1k FLOPs", "70.00", "71.00", "-1.00", "900", "1k", "0.300", "mobilenet_v2 x0.1"),
    ]
    assert shown[1][:5] == [
        "large&lt;b&gt;&amp;",
        "10k FLOPs, penalty 0.3",
        "80.00",
        "75.00",
        "+5.00",
    ]
    assert shown[2] == ["begun", "5k FLOPs", *["-"] * 6, "not compared yet"]


def test_the_first_sentence_counts_and_judges_nothing(sweep: Path) -> None:
    assert (
        "The searched networks (2) have 900 to 9k FLOPs and reach 70.00 to 80.00 % top-1 on the "
        "test "
        "images; 1 of 2 are above the best MobileNet of their run."
    ) in page(sweep)


def test_the_front_is_over_all_runs(sweep: Path) -> None:
    shown = [row[:2] for row in rows(page(sweep), "The front")]
    assert shown == [
        ["searched", "small"],
        ["mobilenet_v2 x0.1", "small"],
        ["searched", "large&lt;b&gt;&amp;"],
        ["random-1", "large&lt;b&gt;&amp;"],
    ]


def test_no_network_of_the_front_is_beaten_at_its_cost_or_less() -> None:
    flops_top1 = [(5, 50), (1, 10), (3, 50), (3, 40), (9, 49), (2, 10), (9, 51)]
    entries = [
        from_plain(NetworkRecord, entry("n", "random", flops, top1, 1.0), "")
        for flops, top1 in flops_top1
    ]
    assert [(e.flops, e.top1) for e in front(entries)] == [(1, 10), (3, 50), (9, 51)]


def test_the_fronts_in_pareto_json(sweep: Path) -> None:
    write_run(sweep / "other", 1000, [entry("searched", "searched", 899, 70.5, 9)], method="da2s")
    record = pareto(swept_runs(sweep, "report.html"))
    large = f"large{EVIL}"
    fronts = structs.asdict(record).items()
    assert {name: [(one.run, one.name) for one in front] for name, front in fronts} == {
        "front": [
            ("other", "searched"),
            ("small", "mobilenet_v2 x0.1"),
            (large, "searched"),
            (large, "random-1"),
        ],
        "searched": [("other", "searched"), (large, "searched")],
        "mobilenets": [("small", "mobilenet_v2 x0.1"), (large, "mobilenet_v2 x0.5")],
    }
    assert [network.method for network in record.front] == ["da2s", None, "darts", None]
    assert record.front[0].onnx == "other/model.onnx"


def test_methods_are_named_where_they_vary(sweep: Path) -> None:
    write_run(sweep / "other", 2000, [], method="da2s")
    requested = {row[0]: row[1] for row in rows(page(sweep), "Runs")}
    assert requested["begun"] == "5k FLOPs, darts"
    assert requested["other"] == "2k FLOPs, da2s"


def test_both_drawings_have_every_network(sweep: Path) -> None:
    drawings = re.findall(r"<svg.*?</svg>", page(sweep), re.DOTALL)
    assert len(drawings) == 2
    for drawing in drawings:
        # six networks, and one mark a kind in the legend
        assert drawing.count("<use ") >= 9
        assert all(f">{name}<" in drawing for name in ("searched", "mobilenet", "random", "front"))


def test_every_command_is_told_once(sweep: Path) -> None:
    write_run(sweep / "again", 5000, [])
    told = re.findall("<pre>(.*?)</pre>", page(sweep), re.DOTALL)[0].splitlines()
    assert sorted(told) == sorted(f"mobilenas run --flops {n}" for n in (1000, 10_000, 5000))


def test_a_sweep_that_has_only_begun(tmp_path: Path) -> None:
    write_run(tmp_path / "one", 1000, [])
    assert "1 run, none of which has been compared yet" in page(tmp_path)


def test_runs_of_different_images_are_refused(sweep: Path) -> None:
    record = json.loads((sweep / "small/run.json").read_text())
    record["data"]["fingerprint"] = "another"
    (sweep / "small/run.json").write_text(json.dumps(record))
    with pytest.raises(FileError, match="begun and small are runs on different images"):
        report_of(sweep)


def test_a_run_that_cannot_be_read_is_named(sweep: Path) -> None:
    write_json(sweep / "small/run.json", {"settings": {}})
    with pytest.raises(FileError, match=r"small/run\.json: it lacks 'command'"):
        report_of(sweep)


def test_a_run_gets_its_own_report(sweep: Path) -> None:
    write_json(sweep / "small/run.json", {"budgets": []})
    (sweep / "small/compare.json").unlink()
    with pytest.raises(FileError, match=r"run\.json: it lacks"):
        report_of(sweep / "small")


@pytest.mark.parametrize("name", ["empty", "not-there"])
def test_a_folder_without_runs_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty/more").mkdir(parents=True)
    with pytest.raises(FileError, match="holds no run: neither it nor a folder in it"):
        report_of(tmp_path / name)
    assert not list(tmp_path.rglob("*.html"))
