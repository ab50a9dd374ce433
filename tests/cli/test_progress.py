"""Progress for terminals and pipes, tables, endings."""

import io
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from msgspec import structs
from rich.console import Console

from mobilenas.cli import live, main, render
from mobilenas.cli.options import allow_model_option
from mobilenas.cli.plain import PlainReporter
from mobilenas.cli.progress import make_reporter
from mobilenas.cli.session import Interrupted, resume_command, working
from mobilenas.core.progress import NullReporter
from mobilenas.report.records import BudgetCheck
from mobilenas.report.table import Row


def test_a_pipe_gets_one_line_a_step(capsys: pytest.CaptureFixture[str]) -> None:
    with PlainReporter() as reporter:
        reporter.start("train", 2)
        reporter.step(1, {"loss": "0.5", "val top-1": "71.3 %"})
        reporter.step(2, {"loss": "0.4"})
        reporter.info("a remark")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == (
        "train 1/2, loss 0.5, val top-1 71.3 %, 0 s\ntrain 2/2, loss 0.4, 0 s\na remark\n"
    )


def test_a_pipe_gets_ten_lines_for_a_long_count(capsys: pytest.CaptureFixture[str]) -> None:
    with PlainReporter() as reporter:
        reporter.start("reading images", 5000)
        for done in range(1, 5001):
            reporter.step(done, {})
    assert len(capsys.readouterr().err.splitlines()) == 10


def test_remarks_are_not_said_before_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="bad"), PlainReporter() as reporter:
        reporter.info("a remark")
        raise ValueError("bad")
    assert capsys.readouterr().err == ""
    with PlainReporter() as reporter:
        reporter.info("a remark")
    assert capsys.readouterr().err == "a remark\n"


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(
        live,
        "Console",
        lambda **_: Console(file=screen, force_terminal=True, width=80, highlight=False),
    )
    with live.LiveReporter() as reporter:
        reporter.start("search [1]", 2)
        reporter.step(1, {"loss": "0.5"})
        reporter.info("a [remark]")
        reporter.step(2, {"loss": "0.4"})
        reporter.start("train", 1)
    text = screen.getvalue()
    assert "a [remark]" in text
    assert "search [1] 2/2, loss 0.4, 0 s" in text
    assert "train 0/1, 0 s" in text


def test_quiet_says_nothing() -> None:
    with make_reporter(quiet=True) as reporter:
        assert isinstance(reporter, NullReporter)
    with make_reporter(quiet=False) as reporter:
        assert isinstance(reporter, PlainReporter)


def test_an_interruption_names_the_command_that_goes_on(tmp_path: Path) -> None:
    ctx = click.Context(click.Command("run"))
    ctx.params = {"out": tmp_path / "my run", "resume": False, "overwrite": False}
    again = resume_command(ctx, "run")
    assert again == f"mobilenas run --out '{tmp_path}/my run' --resume"
    with pytest.raises(Interrupted, match="before"), working(again, tmp_path, quiet=True):
        raise KeyboardInterrupt
    (tmp_path / "run.json").write_text("{}", encoding="utf-8")
    message = "resume with: mobilenas run --out "
    with pytest.raises(Interrupted, match=message), working(again, tmp_path, quiet=True):
        raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--model", "nets:build"], " --allow-model nets:build"),
        (["--model", "torchvision:resnet18"], ""),
        (["--model", "."], ""),
        (["--allow-model", "a.b:c"], " --allow-model a.b:c"),
        ([], ""),
    ],
)
def test_an_interruption_says_what_the_run_s_files_may_import(
    tmp_path: Path, words: list[str], told: str
) -> None:
    (tmp_path / "run.json").write_text("{}", encoding="utf-8")

    @click.command()
    @click.option("--model")
    @allow_model_option
    def command(model: str | None) -> None:
        with working("again", tmp_path, quiet=True):
            raise KeyboardInterrupt

    result = CliRunner().invoke(command, words)
    assert result.exit_code == 130
    assert result.stderr.endswith(f"again{told}\n"), result.stderr


@pytest.mark.parametrize(
    ("ending", "status", "line"),
    [
        (KeyboardInterrupt(), 130, "\nmobilenas: interrupted\n"),
        (Interrupted("interrupted; go on"), 130, "mobilenas: interrupted; go on\n"),
        (main.MobileNASError("two\nlines"), 2, "mobilenas: error: two lines\n"),
        (RuntimeError("a bug"), 1, ""),
    ],
)
def test_endings(ending: BaseException, status: int, line: str) -> None:
    @click.group(cls=main.Commands)
    def group() -> None:
        raise ending

    result = CliRunner().invoke(group, ["run", "--help"])
    assert (result.exit_code, result.stderr) == (status, line)


def test_a_budget_that_does_not_hold_is_status_3(capsys: pytest.CaptureFixture[str]) -> None:
    row = BudgetCheck(cost="memory", limit=1000, predicted=1200, recounted=None, holds=False)
    assert render.status_of([row]) == 3
    assert render.status_of([structs.replace(row, holds=True)]) == 0
    render.show_budget_check([row])
    words = capsys.readouterr().out.split()
    assert words[-6:] == ["memory", "(bytes)", "1,000", "1,200", "-", "NO"]


def test_the_comparison_fits_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    row = Row(
        name="mobilenet_v3_small x0.35",
        kind="mobilenet",
        networks=5,
        flops=300_774_272,
        params=3_504_872,
        size_bytes=14_123_456,
        latency_ms=12.345678,
        latency_interval_ms=0.0123,
        unsteady=False,
        top1_mean=97.23,
        top1_std=0.41,
        top1_best=98.0,
    )
    render.show_networks([row])
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    for word in ("300.8M", "3.505M", "14.12M", " ± 0.01", "97.2 ± 0.4"):
        assert word in out
