"""`--tensorboard`: the numbers of the logs, each once."""

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from mobilenas.cli.main import cli
from mobilenas.core.progress import NullReporter

event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")

LINES = [
    {"epoch": 1, "loss": 2.5, "alarms": [], "expected": {"flops": 100.0}, "gap": None},
    {"epoch": 2, "loss": 1.5, "alarms": [], "expected": {"flops": 90.0}, "gap": 3.0},
]


def write(path: Path, count: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in LINES[:count]))


def read(folder: Path) -> dict[str, list[tuple[int, float]]]:
    events = event_accumulator.EventAccumulator(str(folder)).Reload()
    tags = events.Tags()["scalars"]
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in tags}


def test_every_line_is_there_once_also_after_a_restart(tmp_path: Path) -> None:
    from mobilenas.cli.tensorboard import mirrored

    expected = {
        "epoch": [(1, 1.0), (2, 2.0)],
        "loss": [(1, 2.5), (2, 1.5)],
        "expected/flops": [(1, 100.0), (2, 90.0)],
        "gap": [(2, 3.0)],
    }
    with mirrored(NullReporter(), tmp_path) as reporter:
        reporter.start("search", 2)
        write(tmp_path / "search/log.jsonl", 1)
        reporter.step(1, {})
        assert read(tmp_path / "tensorboard/search")["loss"] == [(1, 2.5)]
        write(tmp_path / "search/log.jsonl", 2)
        reporter.step(2, {})
        write(tmp_path / "compare/random-1-seed-0/train/log.jsonl", 1)
    assert read(tmp_path / "tensorboard/search") == expected
    assert read(tmp_path / "tensorboard/compare.random-1-seed-0.train")["loss"] == [(1, 2.5)]
    with mirrored(NullReporter(), tmp_path) as reporter:
        reporter.step(2, {})
    assert read(tmp_path / "tensorboard/search") == expected


def test_a_run_that_replaces_another_has_its_own_lines(tmp_path: Path) -> None:
    from mobilenas.cli.tensorboard import mirrored

    log = tmp_path / "train/log.jsonl"
    write(log, 2)
    with mirrored(NullReporter(), tmp_path) as reporter:
        reporter.step(1, {})  # reading images, say
        log.write_text(json.dumps({"epoch": 1, "loss": 9.0}) + "\n")
        reporter.step(1, {})
    assert read(tmp_path / "tensorboard/train") == {"epoch": [(1, 1.0)], "loss": [(1, 9.0)]}


def test_a_folder_in_which_nothing_was_done_stays_as_it_is(tmp_path: Path) -> None:
    from mobilenas.cli.tensorboard import mirrored

    write(tmp_path / "train/log.jsonl", 2)
    with mirrored(NullReporter(), tmp_path):
        pass
    assert not (tmp_path / "tensorboard").exists()


def test_without_the_package_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    words = ["run", "--data", "digits", "--flops", "300k", "--out", str(tmp_path / "run")]
    result = CliRunner().invoke(cli, [*words, "--tensorboard"])
    assert result.exit_code != 0
    assert "pip install 'mobilenas[tensorboard]'" in str(result.output) + str(result.exception)
    assert not (tmp_path / "run").exists()
