"""The report's tables of exported files and of latencies."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from mobilenas.core.files import write_json, write_text
from mobilenas.report.exports import exported_files, latencies
from mobilenas.report.files import RunFiles

NNAPI = {
    "target": "nnapi",
    "available": False,
    "verdict": "no",
    "recommendation": "no",
    "nodes": 119,
    "supported": 93,
    "partitions": 27,
    "unsupported": {"HardSigmoid": 26},
    "dynamic": 0,
    "unchecked": [],
    "caveat": "it sees no device",
    "split_by": [],
    "note": "",
}
XNNPACK = NNAPI | {
    "target": "xnnpack",
    "verdict": "unknown",
    **dict.fromkeys(("nodes", "supported", "partitions")),
    "unsupported": {},
    "caveat": "",
}
CHECKS = {
    "size_bytes": 4200,
    "opset": 18,
    "static": True,
    "operators": {},
    "unaligned": [],
    "reorders": {},
    "peak_memory_bytes": 100,
    "max_abs_difference": 0.31,
    "top1_agreement": 98.4,
    "images": 64,
}
MADE = {
    "method": "static QDQ",
    "weights": "per-channel",
    "calibration": "minmax",
    "calibration_images": 128,
    "corrections": ["equalize"],
    "qat_epochs": 0,
    "seed": 3,
}
RUN = {
    "command": "c",
    "seed": 0,
    "budgets": [],
    "data": {
        "source": "digits",
        "classes": ["a"],
        "counts": {"test": 10},
        "image_size": 8,
        "fingerprint": "f",
        "split_rule": "r",
    },
    "versions": {},
    "machine": {"platform": "p", "processor": "p", "cuda": None},
}
CALIBRATION = {
    "mape_percent": 3.25,
    "flops_mape_percent": 40.5,
    "max_error_percent": 9.0,
    "kendall_tau": 0.91,
    "networks": 20,
    "held_out": 12,
}


def file(name: str, top1: float, **more: Any) -> dict[str, Any]:
    return {"path": f"export/{name}", "top1": top1, "size_bytes": 4200, "latency_ms": 0.25} | more


def network(**given: Any) -> dict[str, Any]:
    costs = dict.fromkeys(("seed", "flops", "params", "memory", "size_bytes", "latency_ms"), 1)
    named = {"name": "n", "kind": "searched", "top1": 50.0, "onnx": "model.onnx"}
    return named | {"predicted_ms": None} | costs | given


def write_export(folder: Path, *, profile: str | None = None, **files: Any) -> None:
    record = {
        "files": {"onnx": file("model.onnx", 80.0)} | files,
        "parity": {"max_abs_difference": 1e-6, "top1_agreement": 100.0, "images": 256},
        "timing": {"threads": 1, "provider": "CPUExecutionProvider", "profile": profile},
        "quantization": MADE,
        "deployed": "onnx",
        "labels": ["a"],
    }
    write_json(folder / "export/export.json", record)


def test_what_a_file_loses_stands_beside_it(tmp_path: Path) -> None:
    write_export(tmp_path, int8=file("model.int8.onnx", 79.25, checks=CHECKS))
    page = exported_files(RunFiles(folder=tmp_path))
    assert "<td>model.onnx</td><td>80.00</td><td>-</td>" in page
    row = "<td>model.int8.onnx</td><td>79.25</td><td>0.75</td><td>4.2</td><td>0.250</td>"
    assert f"{row}<td>98.4</td><td>3.1e-01</td>" in page
    told = "ranges from 128 images, by minmax, weights per-channel, equalize, seed 3."
    assert f"INT8: static QDQ, {told}" in page
    assert 'class="bad"' not in page


def test_files_of_a_compared_network_are_those_of_any_seed(tmp_path: Path) -> None:
    write_export(tmp_path)
    made = {
        "method": "static QDQ",
        "calibration_images": 9,
        "calibration": "minmax",
        "seed": 1,
        "weights": "per-tensor",
        "corrections": [],
        "qat_epochs": 2,
    }
    int8 = file("model.int8.onnx", 71.0, quantization=made)
    write_export(tmp_path / "compare/v2-0", int8=int8)
    entries = [
        network(name="searched", kind="searched", onnx="export/model.onnx"),
        network(name="v2 x0.3", kind="mobilenet", onnx="compare/v2-0/model.onnx"),
        network(name="v2 x0.3", kind="mobilenet", onnx="compare/v2-1/model.onnx"),
    ]
    write_text(tmp_path / "compare.json", json.dumps(entries))
    own, others = exported_files(RunFiles(folder=tmp_path)).split("The same files of v2 x0.3")
    assert "model.int8.onnx" not in own
    assert "<td>model.int8.onnx</td><td>71.00</td><td>9.00</td>" in others
    told = "ranges from 9 images, by minmax, weights per-tensor, no correction, 2 epochs"
    assert f"model.int8.onnx: static QDQ, {told} of quantization-aware training, seed 1." in others


def test_a_large_drop_is_told_first(tmp_path: Path) -> None:
    write_export(tmp_path, int8=file("model.int8.onnx", 71.0))
    page = exported_files(RunFiles(folder=tmp_path))
    assert page.startswith('<p class="bad">int8 loses 9.00 points')


def test_what_targets_make_of_the_files(tmp_path: Path) -> None:
    targets = {"nnapi": NNAPI, "xnnpack": XNNPACK}
    write_export(tmp_path, fp16=file("model.fp16.onnx", 80.0, targets=targets))
    page = exported_files(RunFiles(folder=tmp_path))
    cells = re.findall(r"<td[^>]*>(.*?)</td>", page[page.index("nodes it runs") :])
    assert cells == [
        *("model.fp16.onnx", "nnapi", "no", "93", "119", "27", "HardSigmoid (26)"),
        *("model.fp16.onnx", "xnnpack", "unknown", "-", "-", "-", "-"),
    ]
    assert page.count("it sees no device.") == 1


def write_run(folder: Path, *, here: bool, precision: str = "fp32") -> RunFiles:
    write_json(folder / "run.json", RUN | {"settings": {"precision": precision}})
    calibration = {"fp32": CALIBRATION}
    profile = {"name": "shelf-1", "threads": 2, "calibration": calibration}
    write_json(folder / "profile.json", profile)
    write_export(folder, profile="shelf-1" if here else None)
    entries = [
        network(name="searched", predicted_ms=1.1, latency_ms=1.0),
        network(name="wide", predicted_ms=1.8, latency_ms=2.0),
        network(name="unknown", predicted_ms=None, latency_ms=9.0),
    ]
    write_text(folder / "compare.json", json.dumps(entries))
    stage = {"before_reestimation": 50.0, "after_reestimation": 50.0}
    gap = {"supernet": stage, "operations_discrete": stage, "points": 0.0, "points_before": 0.0}
    kept = {"choices": [{}], "gap": gap, "seconds": 1.0}
    rounds = [{"predicted_ms": [1.0, 1.25], "measured_ms": [1.125, 1.5]}]
    write_json(folder / "search/candidates.json", kept | {"measurements": rounds})
    return RunFiles(folder=folder)


def test_predicted_stands_beside_measured_where_both_are_of_one_device(tmp_path: Path) -> None:
    page = latencies(write_run(tmp_path, here=True))
    assert "12 networks that the calibration did not see" in page
    assert "off by 3.2 % on average (FLOPs alone: 40.5 %), at most 9.0 %" in page
    assert "<td>searched</td><td>1.100</td><td>1.00</td><td>+10.0</td>" in page
    assert "<td>wide</td><td>1.800</td><td>2.00</td><td>-10.0</td>" in page
    assert "off by 10.0 % on average" in page
    assert "unknown" not in page and "<svg" in page
    assert "<td>1</td><td>1.000, 1.250</td><td>1.125, 1.500</td>" in page


def test_another_devices_predictions_are_not_held_against_this_machine(tmp_path: Path) -> None:
    page = latencies(write_run(tmp_path, here=False))
    assert "shelf-1 is of another device" in page
    assert "<svg" not in page and "<table" not in page


def test_errors_that_are_not_known_are_not_told(tmp_path: Path) -> None:
    page = latencies(write_run(tmp_path, here=True, precision="int8"))
    assert "not calibrated, its errors are not known" in page


@pytest.mark.parametrize("stage", ["export/export.json", "compare.json"])
def test_what_is_not_measured_yet_names_its_command(tmp_path: Path, stage: str) -> None:
    files = write_run(tmp_path, here=True)
    (tmp_path / stage).unlink()
    assert "<code>mobilenas compare</code> makes it" in latencies(files)
