"""`mobilenas report`: a run, a sweep, or neither."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mobilenas.cli.main import cli
from mobilenas.core.files import write_json

RUN = {
    "command": "mobilenas run",
    "settings": {"search": {"constraint": "lagrangian", "strength": 1.0}},
    "seed": 0,
    "budgets": [{"cost": "flops", "limit": 1000}],
    "data": {
        "source": "digits",
        "classes": ["a", "b"],
        "counts": {"train": 10, "val": 5, "test": 5},
        "image_size": 8,
        "fingerprint": "f",
        "split_rule": "r",
    },
    "versions": {},
    "machine": {"platform": "p", "processor": "q", "cuda": None},
}


@pytest.fixture(autouse=True)
def _sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_json(Path("sweep/one/run.json"), RUN)


def invoke(*words: str) -> Result:
    return CliRunner().invoke(cli, ["report", *words])


@pytest.mark.parametrize(("folder", "title"), [("sweep", "sweep: sweep"), ("sweep/one", "report")])
def test_the_page_is_written_and_named(folder: str, title: str) -> None:
    done = invoke(folder)
    assert (done.exit_code, done.stdout) == (0, f"Report: {folder}/report.html\n")
    assert f"<title>mobilenas {title}" in Path(folder, "report.html").read_text()
    assert json.loads(invoke(folder, "--json", "--quiet").stdout) == {
        "report": f"{folder}/report.html"
    }


def test_a_folder_without_runs_is_one_line() -> None:
    done = invoke("nothing")
    assert done.exit_code == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("mobilenas: error: nothing holds no run")
