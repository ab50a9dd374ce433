"""`mobilenas run` from images to report as a program of its own, and its interruption."""

import contextlib
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from mobilenas.cli.main import cli
from mobilenas.onnx.recount import count_onnx

PROGRAM = (sys.executable, "-m", "mobilenas")
TINY = (
    *("--data", "digits", "--flops", "300k", "--threads", "1", "--epochs", "1"),
    *("--search-epochs", "2", "--finalists", "2", "--random", "1", "--baselines", "none"),
)

pytestmark = pytest.mark.slow


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
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the run `whole` is."""
    folder = tmp_path_factory.mktemp("runs")
    done = mobilenas("run", *TINY, "--out", "whole", "--json", cwd=folder)
    assert json.loads(done.stdout) == json.loads((folder / "whole/result.json").read_text())
    lines = done.stderr.splitlines()
    assert len([line for line in lines if line.startswith("search ")]) == 2
    return folder


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
        "found",
        "random",
        "300,000",
        "yes",
        "whole/report.html",
        "whole/export/model.onnx",
    ):
        assert word in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_the_same_request_resumes_and_another_is_refused(folder: Path) -> None:
    answer("run", *TINY, "--out", "whole", "--resume", "--quiet", cwd=folder)
    kept = (folder / "whole/result.json").read_bytes()
    for words in (("--resume", "--seed", "7"), ()):
        done = answer("run", *TINY, "--out", "whole", *words, cwd=folder, status=2)
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
    assert {network["kind"] for network in networks} == {"found", "random"}
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


def test_a_dry_run_trains_nothing(tmp_path: Path) -> None:
    words = ("search", "--data", "digits", "--flops", "300k", "--dry-run")
    ranges = json.loads(mobilenas(*words, "--json", cwd=tmp_path).stdout)
    assert set(ranges) == {"flops", "params", "memory", "remarks", "seconds"}
    assert ranges["flops"]["smallest"] < 300_000 < ranges["flops"]["largest"]
    assert "Reachable" in mobilenas(*words, cwd=tmp_path).stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("sent", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_run_that_is_stopped_names_the_command_that_goes_on(
    struck: Any, tmp_path: Path, sent: signal.Signals, status: int
) -> None:
    program = """
# a shell's background jobs ignore SIGINT, and their children inherit that
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
from mobilenas.cli.main import main
sys.exit(main())
"""
    words = ("run", *TINY, "--random", "0", "--out", "cut")
    strike = {"at": "search/checkpoint.pt", "nth": 2, "by": sent}
    done = struck(program, *words, **strike, cwd=tmp_path)
    assert done.returncode == status
    assert done.stdout == ""
    assert "search 1/2" in done.stderr
    assert done.stderr.splitlines()[-1] == (
        "mobilenas: interrupted; resume with: mobilenas run --out cut --resume"
    )
    again = mobilenas("run", "--out", "cut", "--resume", "--json", cwd=tmp_path)
    assert json.loads(again.stdout)["budgets"][0]["holds"]
    assert "search 1/2" not in again.stderr


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
