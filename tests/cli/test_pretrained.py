"""The table of pretrained networks."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from mobilenas.cli.main import cli
from mobilenas.train.pretrained import SOURCES, cached


def answer(*words: str) -> str:
    result = CliRunner().invoke(cli, ["pretrained", *words])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_table_says_what_there_is_and_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", "/nowhere")
    lines = answer().splitlines()
    rows = {line.split()[0]: line.split() for line in lines if line and not line.startswith(" ")}
    assert set(SOURCES) <= set(rows)
    told = " ".join(" ".join(lines).split())
    url = SOURCES["mobilenet_v2"].url
    assert "mobilenet_v2 3.505M 300.8M 224 72.2 BSD-3-Clause no" in told
    assert f"mobilenet_v2: save {url} as {cached(url)}, or name a file: --weights FILE" in told


def test_json_has_every_field() -> None:
    found = json.loads(answer("--json"))
    assert list(found) == list(SOURCES)
    for name, row in found.items():
        source = SOURCES[name]
        assert (row["params"], row["flops"], row["top1"]) == (
            source.params,
            source.flops,
            source.top1,
        )
        assert (row["license"], row["origin"]) == (source.license, source.origin)
        assert row["file"] == (None if (file := source.find()) is None else str(file))


def test_the_table_needs_no_torch(tmp_path: Path) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "mobilenas", "pretrained"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "mobilenet_v2" in done.stdout
    assert "mobilenas.train.pretrained" in imported
    assert "torch" not in imported
