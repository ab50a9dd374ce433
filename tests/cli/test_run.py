"""`mobilenas run` from images to report as a program of its own, and its interruption."""

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from mobilenas.cli.main import cli
from mobilenas.onnx.recount import count_onnx
from mobilenas.pipeline import dry_run

PROGRAM = (sys.executable, "-m", "mobilenas")
TINY = (
    *("--flops", "300k", "--threads", "1", "--epochs", "1"),
    *("--search-epochs", "2", "--finalists", "2", "--random", "1", "--baselines", "none"),
)
MAIN = """
# a shell's background jobs ignore SIGINT, and their children inherit that
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
from mobilenas.cli.main import main
from mobilenas.pipeline import stages
stages.estimate = lambda _: {"search": 42.0}
sys.exit(main())
"""


def mobilenas(*words: object, cwd: Path, status: int = 0) -> subprocess.CompletedProcess[str]:
    command = [*PROGRAM, *map(str, words)]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    for char in "\r\x1b":
        assert char not in done.stdout + done.stderr
    return done


def answer(*words: str, cwd: Path, status: int = 0) -> Result:
    """As `mobilenas`, in this process, where warnings are errors."""
    with contextlib.chdir(cwd):
        result = CliRunner().invoke(cli, words)
    assert result.exit_code == status, result.output
    return result


@pytest.fixture(scope="module")
def job(image_folder: Path) -> tuple[str, ...]:
    """The words of a small run, but for its folder."""
    return ("run", "--data", str(image_folder), *TINY)


Stop = Callable[[Path, signal.Signals], subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def stop(struck: Any, job: tuple[str, ...]) -> Stop:
    """Start the run `whole` in a folder and send it a signal in the second epoch of its search."""

    def stop(folder: Path, by: signal.Signals) -> subprocess.CompletedProcess[str]:
        at = {"at": "search/checkpoint.pt", "nth": 2}
        done: subprocess.CompletedProcess[str]
        done = struck(MAIN, *job, "--out", "whole", **at, by=by, cwd=folder)
        return done

    return stop


def check_stopped(done: subprocess.CompletedProcess[str], status: int) -> None:
    assert (done.returncode, done.stdout) == (status, "")
    assert "search 1/2" in done.stderr
    assert "mobilenas run --out whole --resume" in done.stderr.splitlines()[-1]


@pytest.fixture(scope="module")
def folder(stop: Stop, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the run `whole` is, which was interrupted and resumed."""
    folder = tmp_path_factory.mktemp("runs")
    check_stopped(stop(folder, signal.SIGINT), 130)
    done = mobilenas("run", "--out", "whole", "--resume", "--json", cwd=folder)
    assert json.loads(done.stdout) == json.loads((folder / "whole/result.json").read_text())
    searched = [line for line in done.stderr.splitlines() if line.startswith("search ")]
    assert len(searched) == 1
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("sent", "status"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_other_signals_stop_a_run_alike(
    stop: Stop, tmp_path: Path, sent: signal.Signals, status: int
) -> None:
    check_stopped(stop(tmp_path, sent), status)


def test_the_result_holds_what_scripts_read(folder: Path) -> None:
    result = json.loads((folder / "whole/result.json").read_text())
    (budget,) = result["budgets"]
    assert budget["holds"]
    assert budget["recounted"] == budget["predicted"] == result["flops"] <= 300_000
    assert count_onnx(folder / "whole/export/model.onnx").flops == result["flops"]
    for name in result["files"].values():
        assert (folder / "whole" / name).is_file(), name


def test_a_run_that_is_done_is_shown_again(folder: Path) -> None:
    done = answer("run", "--out", "whole", "--resume", "--quiet", cwd=folder)
    assert done.stderr == ""
    for word in (
        "searched",
        "random",
        "300,000",
        "yes",
        "whole/report.html",
        "whole/export/model.onnx",
    ):
        assert word in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_the_same_request_resumes_and_another_is_refused(
    folder: Path, job: tuple[str, ...]
) -> None:
    answer(*job, "--out", "whole", "--resume", "--quiet", cwd=folder)
    kept = (folder / "whole/result.json").read_bytes()
    for words in (("--resume", "--seed", "7"), ()):
        done = answer(*job, "--out", "whole", *words, cwd=folder, status=2)
        (line,) = done.stderr.splitlines()
        assert "whole holds" in line
    assert (folder / "whole/result.json").read_bytes() == kept


def test_every_stage_answers_on_the_run(folder: Path) -> None:
    arch = json.loads(answer("search", "--out", "whole", "--resume", "--json", cwd=folder).stdout)
    assert arch == json.loads((folder / "whole/arch.json").read_text())
    expected = {
        "train": {"epochs", "val_top1"},
        "export": {"files", "parity"},
        "report": {"report"},
    }
    for name, keys in expected.items():
        done = answer(name, "whole", "--json", "--quiet", cwd=folder)
        assert keys <= set(json.loads(done.stdout)), name
        assert answer(name, "whole", "--quiet", cwd=folder).stdout
    networks = json.loads(answer("compare", "whole", "--json", cwd=folder).stdout)
    assert {network["kind"] for network in networks} == {"searched", "random"}
    counted = json.loads(answer("profile", "flops", "whole", "--json", cwd=folder).stdout)
    assert counted["flops"] == arch["costs"]["flops"]
    assert "blocks.0" in answer("search", "--out", "whole", "--resume", cwd=folder).stdout


def test_a_broken_budget_is_status_3(folder: Path) -> None:
    path = folder / "whole/run.json"
    kept = path.read_text()
    record = json.loads(kept)
    record["settings"]["budgets"][0]["limit"] = 1000
    path.write_text(json.dumps(record))
    try:
        done = answer("run", "--out", "whole", "--resume", "--quiet", cwd=folder, status=3)
        assert "NO" in done.stdout
    finally:
        path.write_text(kept)


def test_a_dry_run_needs_no_budget(tmp_path: Path) -> None:
    words = ("search", "--data", "digits", "--dry-run", "--quiet")
    shown = answer(*words, cwd=tmp_path).stdout
    assert max(map(len, shown.splitlines())) <= 80
    (own,) = [line for line in shown.splitlines() if "(yours)" in line]
    assert own.startswith("8 (yours)  53.76k to ")
    assert "--flops, --params, --memory" in shown
    assert json.loads(answer(*words, "--json", cwd=tmp_path).stdout)["image_size"] == 8
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["run", "search"])
def test_a_dry_run_trains_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    words = (command, "--data", "digits", "--flops", "300k", "--dry-run")
    ranges = json.loads(answer(*words, "--json", cwd=tmp_path).stdout)
    assert set(ranges) == {"flops", "params", "memory", "remarks", "seconds"}
    assert ranges["flops"]["smallest"] < 300_000 < ranges["flops"]["largest"]
    monkeypatch.setattr(dry_run, "estimate", lambda _: {"search": 42.0})
    shown = answer(*words, cwd=tmp_path).stdout
    assert "Reachable" in shown and "42 s" in shown
    assert list(tmp_path.iterdir()) == []


def test_a_reader_that_leaves_is_no_error(folder: Path) -> None:
    command = [*PROGRAM, "profile", "flops", "mobilenet_v3_small"]
    with subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 1
