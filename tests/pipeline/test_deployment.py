"""Latencies of a run: one for each file, its interval beside it, and nothing spoiled is kept."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec import structs

from mobilenas.core.files import read_json, read_list, write_json, write_list
from mobilenas.core.progress import NullReporter
from mobilenas.core.settings import to_plain
from mobilenas.cost.budget import Budget
from mobilenas.latency.measured import Measured
from mobilenas.onnx.record import read_export
from mobilenas.pipeline import deployment
from mobilenas.pipeline import stages as pipeline
from mobilenas.pipeline.deployment import renew_times, time_entries, time_run
from mobilenas.report.table import read_networks

FOUND, OTHER = "export/model.onnx", "compare/other/model.onnx"


class Timer:
    """Says how long files take, and keeps which were timed together."""

    def __init__(self) -> None:
        self.median_ms = 1.0
        self.unsteady = False
        self.calls: list[list[str]] = []

    def __call__(self, run: Any, paths: list[Path]) -> dict[Path, Measured]:
        self.calls.append([str(path.relative_to(run.folder)) for path in paths])
        self.median_ms += 0.25  # no two measurements are the same
        time = Measured.of([1e6 * self.median_ms, 1.01e6 * self.median_ms] * 8)
        return {path: replace(time, unsteady=self.unsteady) for path in paths}


class Heard(NullReporter):
    """Keeps what was done of how much."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.stage, self.total = "", 0

    def start(self, stage: str, total: int) -> None:
        self.stage, self.total = stage, total

    def step(self, done: int, figures: dict[str, str]) -> None:
        self.lines.append(f"{self.stage} {done}/{self.total}")


@pytest.fixture
def timer(monkeypatch: pytest.MonkeyPatch) -> Timer:
    timer = Timer()
    monkeypatch.setattr(deployment, "measure_latency", timer)
    return timer


@pytest.fixture
def run(tmp_path: Path) -> Any:
    for name in (FOUND, OTHER):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(b"a model")
    figures = {"top1": 90.0, "size_bytes": 7, "latency_ms": 7.0}
    files = {"onnx": {"path": FOUND} | figures}
    files["litert"] = {"path": "export/model.tflite"} | figures
    parity = {"max_abs_difference": 0.0, "top1_agreement": 100.0, "images": 9}
    timing = {"provider": "CPUExecutionProvider", "threads": 1, "profile": None}
    exported = {"files": files, "parity": parity, "timing": timing, "deployed": "onnx"}
    exported["labels"] = ["a"]
    write_json(tmp_path / "export/export.json", exported)
    names = {"kind": "searched", "name": "searched", "seed": 0, "top1": 90.0, "memory": 1}
    names |= {"predicted_ms": None}
    figures = {"flops": 1, "params": 1, "size_bytes": 7, "latency_ms": 0.0}
    entries = [names | figures | {"onnx": FOUND}, names | figures | {"onnx": OTHER}]
    write_list(tmp_path / "compare.json", entries)
    return SimpleNamespace(folder=tmp_path, reporter=NullReporter(), latency=None, space=None)


def latencies(run: Any) -> tuple[dict[str, Any], list[Any]]:
    files = read_json(run.folder / "export/export.json")["files"]
    return files, read_list(run.folder / "compare.json")


def test_a_file_has_one_latency_and_its_interval_in_every_record(run: Any, timer: Timer) -> None:
    time_run(run, read_export(run.folder))
    files, (found, other) = latencies(run)
    assert timer.calls == [[FOUND, OTHER]]
    fields = ("latency_ms", "latency_interval_ms", "latency_iqr_ms", "unsteady")
    assert {name: files["onnx"][name] for name in fields} == {name: found[name] for name in fields}
    assert other["latency_ms"] == found["latency_ms"] == pytest.approx(1.25625)
    assert found["latency_interval_ms"] > 0 and found["unsteady"] is False
    assert files["litert"]["latency_ms"] == 7.0


def test_what_was_unsteady_is_measured_again_and_what_was_not_is_kept(
    run: Any, timer: Timer
) -> None:
    timer.unsteady = True
    renew_times(run)  # of an older release, which did not say how steady it was
    renew_times(run)
    timer.unsteady = False
    renew_times(run)
    renew_times(run)
    assert len(timer.calls) == 3
    assert latencies(run)[1][0]["unsteady"] is False


def test_what_a_kill_left_apart_is_measured_together(run: Any, timer: Timer) -> None:
    renew_times(run)
    files, (found, other) = latencies(run)
    write_list(run.folder / "compare.json", [found | {"latency_ms": 9.0}, other])
    renew_times(run)
    files, (found, other) = latencies(run)
    assert files["onnx"]["latency_ms"] == found["latency_ms"] == other["latency_ms"] != 9.0


def test_a_file_alone_in_the_comparison_is_not_measured_again(run: Any, timer: Timer) -> None:
    heard = Heard()
    run.reporter = heard
    found, other = read_networks(run.folder / "compare.json")
    (run.folder / "compare.json").unlink()
    exported, _ = time_run(run, read_export(run.folder))
    time_entries(run, exported, [found])
    assert timer.calls == [[FOUND]]
    files, (again,) = latencies(run)
    assert again["latency_ms"] == files["onnx"]["latency_ms"] == pytest.approx(1.25625)
    assert again["unsteady"] is False
    time_entries(run, exported, [found, other])
    assert timer.calls == [[FOUND], [FOUND, OTHER]]
    assert heard.lines == ["latency 1/1", "latency 2/2"]


def test_a_file_that_was_unsteady_is_measured_again_with_the_comparison(
    run: Any, timer: Timer
) -> None:
    timer.unsteady = True
    exported, networks = time_run(run, read_export(run.folder))
    timer.unsteady = False
    time_entries(run, exported, networks[:1])
    assert len(timer.calls) == 2
    assert latencies(run)[1][0]["unsteady"] is False


def test_a_run_that_was_not_exported_has_nothing_to_measure(run: Any, timer: Timer) -> None:
    (run.folder / "export/export.json").unlink()
    renew_times(run)
    assert timer.calls == []


@pytest.mark.parametrize(
    ("latency_ms", "interval_ms", "unsteady", "holds"),
    [
        (0.9, 0.01, False, True),
        (1.005, 0.01, False, True),  # the interval reaches the budget
        (1.02, 0.01, False, False),
        (0.9, 0.01, True, None),
        (5.0, 0.01, True, None),
        (0.9, 0.01, None, None),  # an older release did not say
    ],
)
def test_no_budget_is_called_kept_or_broken_by_an_unsteady_measurement(
    run: Any,
    monkeypatch: pytest.MonkeyPatch,
    latency_ms: float,
    interval_ms: float,
    unsteady: bool | None,
    holds: bool | None,
) -> None:
    exported = read_export(run.folder)
    file = structs.replace(
        exported.files["onnx"],
        latency_ms=latency_ms,
        latency_interval_ms=interval_ms,
        unsteady=unsteady,
    )
    exported = structs.replace(exported, files={"onnx": file})
    costs = {"flops": 1, "params": 1, "memory": 1, "latency": 0.8}
    monkeypatch.setattr(pipeline, "export_stage", lambda run: exported)
    monkeypatch.setattr(pipeline, "count_onnx", lambda path: SimpleNamespace(flops=1, params=1))
    monkeypatch.setattr(pipeline, "searched_record", lambda folder: SimpleNamespace(costs=costs))
    monkeypatch.setattr(pipeline, "is_current_device", lambda profile: True)
    run.latency = SimpleNamespace(profile=None)
    run.settings = SimpleNamespace(budgets=[Budget(cost="latency", limit=1.0)])
    (row,) = to_plain(pipeline.verify_budgets(run))
    assert row["holds"] is holds
    assert (row["measured"], row["measured_interval"]) == (latency_ms, interval_ms)
