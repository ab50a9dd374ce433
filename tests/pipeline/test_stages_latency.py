"""A run under a latency budget, on the machine of its profile and away from it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest

from mobilenas.core.files import read_json
from mobilenas.core.progress import NullReporter
from mobilenas.core.settings import to_plain
from mobilenas.cost.budget import Budget
from mobilenas.latency.building import build_profile
from mobilenas.latency.profile import Profile, write_profile
from mobilenas.pipeline import stages as pipeline
from mobilenas.pipeline.request import ACTIVATION_FOR, Request
from mobilenas.pipeline.run_folder import open_run
from mobilenas.pipeline.starting import start
from mobilenas.search import space_for

pytestmark = pytest.mark.usefixtures("byte_clock", "no_estimate")
slow = pytest.mark.slow

REQUEST: dict[str, Any] = {
    "epochs": 1,
    "search_epochs": 2,
    "finalists": 2,
    "random": 1,
    "baselines": [],
}


@pytest.fixture(scope="module")
def profile(byte_clock: None) -> Profile:
    """Of this machine, by a clock that load does not change."""
    budget = [Budget(cost="flops", limit=300_000)]
    spaces = {
        precision: space_for(budget, image_size=8, classes=5, activation=activation)
        for precision, activation in ACTIVATION_FOR.items()
    }
    built = build_profile(spaces, name="here", rounds=4, networks=12, held_out=6)
    good = {"mape_percent": 5.0, "kendall_tau": 0.9}  # whatever else runs here
    calibration = {key: replace(known, **good) for key, known in built.calibration.items()}
    return replace(built, calibration=calibration)


Ran = Callable[..., dict[str, Any]]


@pytest.fixture
def ran(image_folder: Path, tmp_path: Path) -> Ran:
    """Make a run in the folder `run` and return its result."""

    def ran(profile: Profile, precision: str, **changes: Any) -> dict[str, Any]:
        asked = REQUEST | {"data": str(image_folder)} | changes
        return run_of(tmp_path, profile, asked, precision)

    return ran


def run_of(folder: Path, profile: Profile, asked: dict[str, Any], precision: str) -> dict[str, Any]:
    path = folder / "given.json"
    write_profile(profile, path)
    middle = sorted(n.measured_ms for n in profile.networks[precision])[6]
    request = Request(**asked, latency=middle, profile=str(path), precision=precision)
    run = start(folder / "run", request, command="mobilenas test", reporter=NullReporter())
    path.unlink()  # a run keeps what it was given
    return to_plain(pipeline.run_all(open_run(run.folder, NullReporter())))


def test_the_exported_file_is_measured_on_the_profiles_machine(
    profile: Profile, ran: Ran, tmp_path: Path
) -> None:
    result = ran(profile, "fp32")
    (row,) = result["budgets"]
    assert row["cost"] == "latency"
    assert row["predicted"] <= row["limit"] and row["recounted"] is None
    size_bytes = (tmp_path / "run/export/model.onnx").stat().st_size
    assert row["measured"] == pytest.approx(size_bytes / 1e6)
    assert row["holds"] is (row["measured"] <= row["limit"])
    measured_candidates = read_json(tmp_path / "run/search/candidates.json")["measurements"]
    assert 1 <= len(measured_candidates) <= 4
    found, *others = read_json_list(tmp_path / "run/compare.json")
    assert found["predicted_ms"] == row["predicted"]
    assert found["latency_ms"] == pytest.approx(row["measured"])
    assert [entry["kind"] for entry in others] == ["random"]
    html = (tmp_path / "run/report.html").read_text()
    assert "latency, ms" in html and "profile here" in html


@slow
def test_int8_is_what_the_device_gets(profile: Profile, ran: Ran, tmp_path: Path) -> None:
    result = ran(profile, "int8", random=0)
    export = read_json(tmp_path / "run/export/export.json")
    assert export["deployed"] == "int8" and set(export["files"]) == {"onnx", "int8"}
    quantized = export["files"]["int8"]
    assert result["files"]["int8"] == quantized["path"]
    assert result["top1"] == quantized["top1"]
    model = onnx.load(str(tmp_path / "run" / quantized["path"]))
    assert "QuantizeLinear" in {node.op_type for node in model.graph.node}
    assert onnx.TensorProto.INT8 in {tensor.data_type for tensor in model.graph.initializer}
    found = read_json_list(tmp_path / "run/compare.json")[0]
    assert found["top1"] == quantized["top1"]
    assert found["top1_fp32"] == export["files"]["onnx"]["top1"]
    assert {block["activation"] for block in found["arch"]["blocks"]} == {"relu"}


@slow
def test_for_another_device_the_prediction_decides(
    profile: Profile, ran: Ran, tmp_path: Path
) -> None:
    away = replace(profile, device=profile.device | {"cpu": "of a phone"})
    result = ran(away, "fp32", random=0, baselines=["mobilenet_v2"])
    (row,) = result["budgets"]
    assert "measured" not in row and row["holds"] == (row["predicted"] <= row["limit"])
    assert read_json(tmp_path / "run/search/candidates.json")["measurements"] == []
    assert not [e for e in result["baselines"] if e["kind"] == "mobilenet"]


def read_json_list(path: Path) -> list[dict[str, Any]]:
    return to_plain(pipeline.read_networks(path))
