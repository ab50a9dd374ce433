"""What a sweep asks its runs for, and what it refuses before the first begins."""

import json
from pathlib import Path
from typing import Any

import pytest

from mobilenas.core.errors import BudgetError, FileError, MobileNASError
from mobilenas.core.progress import NullReporter
from mobilenas.core.settings import to_plain
from mobilenas.cost.budget import Budget
from mobilenas.pipeline import sweep
from mobilenas.pipeline.settings import RunSettings
from mobilenas.pipeline.sweep import (
    SWEEP_FILE,
    Sweep,
    open_sweep,
    requests_for,
    run_sweep,
    start_sweep,
)

DIGITS = {"data": "digits", "epochs": 1}


def begin(folder: Path, **options: Any) -> Sweep:
    asked = options.pop("asked", DIGITS)
    return start_sweep(folder, asked, command="mobilenas test", reporter=NullReporter(), **options)


def test_every_budget_is_a_request() -> None:
    requests = requests_for(DIGITS | {"params": 9000}, (500_000, 1_500_000, 500_001), ())
    assert list(requests) == ["flops-500k", "flops-1.5M", "flops-500001"]
    for request, flops in zip(requests.values(), (500_000, 1_500_000, 500_001), strict=True):
        assert request.budgets == (
            Budget(cost="flops", limit=flops),
            Budget(cost="params", limit=9000),
        )
        assert (request.epochs, request.constraint) == (1, None)


def test_every_strength_is_a_penalty_under_one_wide_budget() -> None:
    requests = requests_for(DIGITS, (4_000_000,), (0.1, 3.0))
    assert list(requests) == ["strength-0.1", "strength-3"]
    assert [request.strength for request in requests.values()] == [0.1, 3.0]
    for request in requests.values():
        assert (request.flops, request.constraint, request.finalists) == (4_000_000, "penalty", 0)
    asked = DIGITS | {"finalists": 4, "constraint": "penalty", "params": 9000}
    (request,) = requests_for(asked, (), (1.0,)).values()
    assert (request.finalists, request.flops, request.params) == (4, None, 9000)


def test_every_size_is_run_with_every_method() -> None:
    requests = requests_for(DIGITS, (500_000, 1_000_000), (), ("mobilenas", "adarts"))
    assert {name: (one.flops, one.method) for name, one in requests.items()} == {
        "flops-500k-mobilenas": (500_000, "mobilenas"),
        "flops-500k-adarts": (500_000, "adarts"),
        "flops-1M-mobilenas": (1_000_000, "mobilenas"),
        "flops-1M-adarts": (1_000_000, "adarts"),
    }
    requests = requests_for(DIGITS, (4_000_000,), (0.5,), ("da2s",))
    assert {name: one.strength for name, one in requests.items()} == {"strength-0.5-da2s": 0.5}
    requests = requests_for(DIGITS | {"params": 9000}, (), (), ("da2s", "darts"))
    assert list(requests) == ["method-da2s", "method-darts"]


@pytest.mark.parametrize(
    ("asked", "methods", "message"),
    [
        ({}, ("darts", "nas"), "method is 'nas'"),
        ({"method": "adarts"}, ("darts",), "--method and --methods exclude each other"),
    ],
)
def test_methods_that_cannot_be_swept_are_said(
    asked: dict[str, Any], methods: tuple[str, ...], message: str
) -> None:
    with pytest.raises(MobileNASError, match=message):
        requests_for(DIGITS | asked, (500_000,), (), methods)


@pytest.mark.parametrize(
    ("asked", "flops", "strengths", "message"),
    [
        ({}, (), (), "nothing varies: use --flops"),
        ({}, (5, 5), (), "--flops has a value more than once"),
        ({}, (5,), (1.0, 1.0), "--strengths has a value more than once"),
        ({}, (5, 6), (1.0,), "one wide budget; --flops says 2"),
        ({"constraint": "hinge"}, (5,), (1.0,), "of the penalty; --constraint says hinge"),
        ({"space": "cell"}, (), (1.0,), "such as --flops 4M"),
    ],
)
def test_what_cannot_be_swept_is_said(
    asked: dict[str, Any], flops: tuple[int, ...], strengths: tuple[float, ...], message: str
) -> None:
    with pytest.raises(MobileNASError, match=message):
        requests_for(asked, flops, strengths)


def test_a_budget_out_of_reach_is_named_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(BudgetError, match=r"flops-10: flops <= 10"):
        begin(tmp_path / "sweep", flops=(300_000, 10))
    assert not (tmp_path / "sweep").exists()


def test_a_sweep_goes_on_with_what_it_was_asked_for(tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    first = begin(folder, flops=(300_000, 400_000))
    assert open_sweep(folder, NullReporter()).requests == first.requests
    again = begin(folder, flops=(300_000, 400_000), resume=True)
    assert again.requests == first.requests
    with pytest.raises(FileError, match="holds another sweep"):
        begin(folder, flops=(300_000,), resume=True)
    with pytest.raises(FileError, match="--resume"):
        begin(folder, flops=(300_000, 400_000))
    (folder / "flops-400k").mkdir()
    (folder / "flops-400k/arch.json").write_text("old")
    assert list(begin(folder, flops=(300_000,), overwrite=True).requests) == ["flops-300k"]
    assert [path.name for path in folder.iterdir()] == [SWEEP_FILE]


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("mine")
    for path, message in ((tmp_path, "holds no sweep"), (tmp_path / "notes", "is not a directory")):
        with pytest.raises(FileError, match=message):
            begin(path, flops=(300_000,), overwrite=True)
    with pytest.raises(FileError, match="holds no sweep"):
        open_sweep(tmp_path, NullReporter())
    assert (tmp_path / "notes").read_text() == "mine"


@pytest.mark.parametrize("record", [{}, {"requests": {}}, {"command": "c", "requests": {"a": 1}}])
def test_a_damaged_sweep_is_named(tmp_path: Path, record: dict[str, Any]) -> None:
    (tmp_path / SWEEP_FILE).write_text(json.dumps({"schema_version": 2} | record))
    with pytest.raises(FileError, match=r"sweep\.json: (it lacks|requests)"):
        open_sweep(tmp_path, NullReporter())


def test_every_run_is_done_in_its_own_folder_and_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[tuple[str, RunSettings]] = []
    pages: list[bool] = []

    def run_all(run: Any) -> dict[str, Any]:
        pages.append((tmp_path / "sweep/report.html").exists())
        done.append((run.folder.name, run.settings))
        return {"top1": len(done)}

    monkeypatch.setattr(sweep, "run_all", run_all)
    results = to_plain(run_sweep(begin(tmp_path / "sweep", flops=(400_000,), strengths=(0.5, 2.0))))
    assert results == {"strength-0.5": {"top1": 1}, "strength-2": {"top1": 2}}
    assert [(name, settings.search.strength) for name, settings in done] == [
        ("strength-0.5", 0.5),
        ("strength-2", 2.0),
    ]
    assert pages == [False, True]
    assert (tmp_path / "sweep/pareto.json").exists()
    record = json.loads((tmp_path / "sweep/strength-2/run.json").read_text())
    assert record["command"] == "mobilenas test"


def test_runs_share_baselines_where_methods_differ(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = list[Path | None]()

    def run_all(run: Any) -> dict[str, Any]:
        shared.append(run.shared)
        return {}

    monkeypatch.setattr(sweep, "run_all", run_all)
    for folder, methods in (("one", ()), ("several", ("darts", "adarts"))):
        run_sweep(begin(tmp_path / folder, flops=(400_000,), methods=methods))
    assert shared == [None] + 2 * [tmp_path / "several/baselines"]
