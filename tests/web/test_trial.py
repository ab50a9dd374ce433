"""The server of `try`: which networks of a run a page gets, and what it may send back."""

import hashlib
import json
import shutil
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

pytest.importorskip("aiohttp")
from mobilenas.cli.main import cli
from mobilenas.core.errors import FileError
from mobilenas.core.files import read_json, write_json
from mobilenas.core.folders import RUN, check_folder
from mobilenas.core.records import read_log
from mobilenas.onnx.record import read_export
from mobilenas.pipeline.run_folder import COMPARE_FILE
from mobilenas.report.table import read_networks
from mobilenas.web import site as site_module
from mobilenas.web.records import BrowserMeasurement
from mobilenas.web.runtime import RUNTIME
from mobilenas.web.settings import ServeSettings
from mobilenas.web.trial import WEB_FILE, Trying, trial_of

from .pages import Page, talk


@pytest.fixture(autouse=True)
def without_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site_module, "check_runtime", lambda _: None)


@pytest.fixture
def run(whole_run: Any, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole_run.folder, tmp_path / "run"))


def trying(run: Path) -> Trying:
    return Trying(run, ServeSettings(port=0), threads=4)


def test_a_page_gets_the_network_and_the_best_mobilenet(run: Path) -> None:
    found = trying(run)

    async def browse(page: Page) -> dict[str, Any]:
        assert (await page.get("/trial"))[0] == HTTPStatus.FORBIDDEN
        _, opened = await page.open()
        assert (opened["title"], opened["threads"]) == ("run", 4)
        _, body = await page.get("/trial")
        trial: dict[str, Any] = json.loads(body)
        for model in trial["models"]:
            status, content = await page.get(f"/models/{model['sha256']}")
            assert (status, len(content)) == (HTTPStatus.OK, model["size_bytes"])
            assert hashlib.sha256(content).hexdigest() == model["sha256"]
        return trial

    (trial,) = talk(found.site, browse)
    network, mobilenet = trial["models"]
    assert network["name"] == "fp32"
    assert network["top1"] == read_export(run).files["onnx"].top1
    assert network["labels"] == list(read_export(run).labels)
    assert len(network["mean"]) == len(network["std"]) == 3
    known = [each for each in read_networks(run / COMPARE_FILE) if each.kind == "mobilenet"]
    assert mobilenet["top1"] == max(each.top1 for each in known)
    assert (mobilenet["name"], mobilenet["top1"]) in [(each.name, each.top1) for each in known]
    assert trial["notes"] == [f"No int8: `mobilenas export {run} --formats int8` makes it."]


def test_what_is_not_there_is_said(run: Path) -> None:
    (run / COMPARE_FILE).unlink()
    _, found = trial_of(run)
    assert [model.name for model in found.models] == ["fp32"]
    assert "`mobilenas compare" in found.notes[1]
    (run / "export/export.json").unlink()
    with pytest.raises(FileError, match="`mobilenas export"):
        trial_of(run)


def test_a_measurement_is_kept_in_the_run(run: Path) -> None:
    found = trying(run)
    (key, other) = (model.sha256 for model in found.trial.models)

    async def browse(page: Page) -> list[int]:
        ns = [1_000_000 * n for n in range(1, 12)]
        wrong = ({}, {key: []}, {key: [0]}, {key: [1.5]}, {"0" * 64: [1]}, {key: [1] * 2001})
        early, _ = await page.post("/measurements", {"ns": {key: ns}})
        await page.open()
        bodies = ({key: ns, other: ns}, *wrong)
        return [early, *[(await page.post("/measurements", {"ns": ns}))[0] for ns in bodies]]

    (statuses,) = talk(found.site, browse)
    assert statuses[:2] == [HTTPStatus.FORBIDDEN, HTTPStatus.OK]
    assert set(statuses[2:]) == {HTTPStatus.UNPROCESSABLE_ENTITY}
    (line,) = read_log(run / WEB_FILE, BrowserMeasurement)
    assert found.kept == [line]
    assert (line.runtime, line.threads, line.device["cpu"]) == (RUNTIME, 4, "Pixel 7")
    latency = line.latencies["fp32"]
    assert (latency.file, latency.sha256, latency.images) == ("export/model.onnx", key, 11)
    assert (latency.median_ms, latency.p90_ms) == (6.0, 10.0)
    assert latency.images_per_second == pytest.approx(1000 / 6)
    assert list(line.latencies)[1] == found.trial.models[1].name
    # the run can still be replaced
    check_folder(run, RUN, read_json, overwrite=True)


def test_a_file_outside_of_the_run_is_not_served(run: Path) -> None:
    record = read_json(run / "export/export.json")
    files: Any = record["files"]
    files["onnx"]["path"] = "../secret.onnx"
    write_json(run / "export/export.json", record)
    with pytest.raises(FileError, match="must name a file in"):
        trying(run)


def test_the_command_serves_until_nobody_asks(run: Path) -> None:
    done = CliRunner().invoke(cli, ["try", str(run), "--port", "0", "--idle", "1", "--json"])
    assert (done.exit_code, json.loads(done.stdout)["measurements"]) == (0, [])
    opened, stopped = done.stderr.splitlines()
    assert opened.startswith("Open http://127.0.0.1:")
    assert stopped == "Stopped: no request from a page in 1 s"
    refused = CliRunner().invoke(cli, ["try", str(run.parent), "--port", "0"])
    assert (refused.exit_code, len(refused.stderr.splitlines())) == (2, 1)
    assert "has no export/export.json" in refused.stderr
