"""The files of a run folder are read with their types and ranges; paths in them stay inside."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mobilenas.core.errors import FileError
from mobilenas.core.files import inside, read_json, write_json, write_list
from mobilenas.core.records import BudgetRow, read_log, read_record, write_records
from mobilenas.core.settings import from_plain, to_plain
from mobilenas.latency.profile import Profile, read_profile, write_profile
from mobilenas.onnx.record import read_export
from mobilenas.pipeline.ablation import read_request
from mobilenas.pipeline.request import Request
from mobilenas.pipeline.sweep import read_sweep
from mobilenas.report.records import EntryRecord
from mobilenas.report.table import read_compared, read_networks
from mobilenas.search.records import check_costs
from mobilenas.train import TrainResult
from mobilenas.train.records import TrainLine

NETWORK = {
    "name": "searched",
    "kind": "searched",
    "seed": 0,
    "top1": 90.5,
    "flops": 1000,
    "params": 100,
    "memory": 10,
    "size_bytes": 500,
    "latency_ms": 0.5,
    "predicted_ms": None,
    "onnx": "export/model.onnx",
}
FILE = {"path": "export/model.onnx", "top1": 90.5, "size_bytes": 500, "latency_ms": 0.5}
EXPORT = {
    "files": {"onnx": FILE},
    "deployed": "onnx",
    "parity": {"max_abs_difference": 1e-6, "top1_agreement": 100.0, "images": 9},
    "labels": ["a"],
    "timing": {"provider": "CPUExecutionProvider", "threads": 1, "profile": None},
}
OUTSIDE = ["/elsewhere/model.onnx", "../model.onnx", "export/../../x", "", "link/model.onnx"]


def refusal(read: Callable[[Path], object], path: Path) -> str:
    with pytest.raises(FileError) as raised:
        read(path)
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize("value", [-1, 100.5, 1e99, "19.5", True, None, [90.5]])
def test_an_accuracy_is_a_percent_wherever_it_is_read(tmp_path: Path, value: Any) -> None:
    path = tmp_path / "compare.json"
    write_list(path, [NETWORK | {"top1": value}])
    assert f"{path}: networks[0].top1 is {value!r}" in refusal(read_networks, path)
    path = tmp_path / "train.json"
    trained = {"epochs": 1, "best_epoch": 1, "last_val_top1": 1.0, "seconds": 1.0, "params": 1}
    write_json(path, trained | {"val_top1": value})
    told = refusal(lambda file: read_record(file, TrainResult), path)
    assert f"{path}: val_top1 is {value!r}" in told
    write_json(
        tmp_path / "export/export.json", EXPORT | {"files": {"onnx": FILE | {"top1": value}}}
    )
    assert f"files.onnx.top1 is {value!r}" in refusal(read_export, tmp_path)
    log = tmp_path / "log.jsonl"
    line = {"epoch": 1, "loss": 1.0, "val_top1": value, "lr": 0.1, "seconds": 1.0}
    log.write_text(json.dumps(line) + "\n")
    told = refusal(lambda file: read_log(file, TrainLine), log)
    assert f"{log}, line 1: val_top1 is {value!r}" in told


@pytest.mark.parametrize("text", ["NaN", "1e308", "-Infinity", "9" * 400])
def test_a_number_that_is_none_is_named_with_its_place(tmp_path: Path, text: str) -> None:
    path = tmp_path / "compare.json"
    path.write_text(json.dumps([NETWORK]).replace("90.5", text))
    assert f"{path}: [0].top1 is " in refusal(read_networks, path)


def test_whole_limits_stay_whole() -> None:
    limits = [from_plain(BudgetRow, {"cost": "flops", "limit": n}, "").limit for n in (90, 1.5)]
    assert limits == [90, 1.5]
    assert isinstance(limits[0], int)


def test_what_is_not_known_is_left_out_or_null_as_the_format_says(tmp_path: Path) -> None:
    path = tmp_path / "compare.json"
    write_list(path, [NETWORK])
    read = read_networks(path)
    write_records(path, read)
    assert json.loads(path.read_text()) == [NETWORK]
    assert read[0].train_seconds is None


@pytest.mark.parametrize("outside", OUTSIDE)
def test_files_that_a_run_names_lie_in_it(tmp_path: Path, outside: str) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "link").symlink_to(tmp_path)
    write_list(run / "compare.json", [NETWORK | {"onnx": outside}])
    assert f"names {outside!r}; it must name a file in {run}" in refusal(
        read_networks, run / "compare.json"
    )
    for key in ("path", "required_operators"):
        record = EXPORT | {"files": {"onnx": FILE | {key: outside}}}
        write_json(run / "export/export.json", record)
        assert f"names {outside!r}" in refusal(read_export, run)


def test_a_comparison_names_files_anywhere(tmp_path: Path) -> None:
    write_list(tmp_path / "compare.json", [NETWORK | {"onnx": "/elsewhere/model.onnx"}])
    assert len(read_compared(tmp_path / "compare.json")) == 1


def test_a_link_that_stays_inside_is_followed(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "here")
    assert inside(tmp_path, "link/model.onnx", "a file") == tmp_path / "link/model.onnx"
    (tmp_path / "round").symlink_to(tmp_path / "round")
    for wrong in ("round/x", "a\0b", "x" * 5000):
        with pytest.raises(FileError, match="a file names"):
            inside(tmp_path, wrong, "a file")


@pytest.mark.parametrize("name", ["../elsewhere", "/elsewhere", "a/../../b", ""])
def test_a_sweep_writes_no_run_outside_its_folder(tmp_path: Path, name: str) -> None:
    plain = to_plain(Request(data="digits", flops=300_000))
    write_json(tmp_path / "sweep.json", {"command": "c", "requests": {name: plain}})
    path = tmp_path / "sweep.json"
    assert f"requests names {name!r}" in refusal(read_sweep, path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": "0"}, "request.seed is '0'; it must be int"),
        ({"flops": 1.5}, "request.flops is 1.5; it must be int or null"),
        ({"baselines": "all"}, "request.baselines is 'all'; it must be a list"),
    ],
)
def test_a_request_is_read_with_its_types(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    plain = to_plain(Request(data="digits", flops=300_000)) | change
    record = {"command": "c", "request": plain, "variants": ["mobilenas"], "control": "mobilenas"}
    write_json(tmp_path / "r.json", record)
    told = refusal(read_request, tmp_path / "r.json")
    assert message in told


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (
            "depth",
            10**9,
            "spaces[0].stages[0].depth is 1000000000; it must be int between 1 and 32",
        ),
        ("widths", [8] * 17, "spaces[0].stages[0].widths has 17 items; there must be between"),
        ("stride", 0, "spaces[0].stages[0].stride is 0; it must be int between 1 and 2"),
    ],
)
def test_a_profile_of_a_space_without_end_is_refused_at_once(
    tmp_path: Path, made_up_profile: Profile, name: str, value: Any, message: str
) -> None:
    path = tmp_path / "profile.json"
    write_profile(made_up_profile, path)
    plain = read_json(path)
    plain["spaces"][0]["stages"][0][name] = value
    write_json(path, plain)
    assert message in refusal(read_profile, path)


def test_an_ablation_names_what_was_left_out(tmp_path: Path) -> None:
    entry = {
        "seed": 0,
        "arch": {},
        "choice": {},
        "costs": {"flops": 1, "params": 1, "memory": 1},
        "val_top1": 1.0,
        "top1": 1.0,
        "gap": None,
        "skips": {},
        "alarms": [],
        "seconds": {"search": 1.0, "train": 1.0},
    }
    path = tmp_path / "entry.json"

    def read(file: Path) -> Any:
        return read_record(file, EntryRecord)

    write_json(path, entry)
    assert f"{path}: skips has 0 items" in refusal(read, path)
    write_json(path, entry | {"skips": {"blocks": 0}})
    assert read(path).skips == {"blocks": 0}


@pytest.mark.parametrize(
    ("costs", "message"),
    [
        ({"params": 1, "memory": 1}, "costs lacks 'flops'"),
        ({"flops": 1.5, "params": 1, "memory": 1}, "costs.flops is 1.5; it must be int"),
    ],
)
def test_every_network_has_whole_costs(costs: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_costs(costs)
