"""All stages over one small run that `whole_run` made, and what they refuse."""

import json
import shutil
from collections import Counter
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mobilenas.core.errors import FileError
from mobilenas.core.files import read_json, write_list
from mobilenas.core.progress import NullReporter
from mobilenas.core.settings import to_plain
from mobilenas.cost.networks import costs
from mobilenas.data import batches
from mobilenas.onnx.export import evaluate_onnx, export_onnx
from mobilenas.onnx.misclassified import MAX_SHOWN
from mobilenas.onnx.record import EXPORT_FILE
from mobilenas.onnx.recount import count_onnx
from mobilenas.pipeline import network_file
from mobilenas.pipeline import stages as pipeline
from mobilenas.pipeline.run_folder import open_run
from mobilenas.pipeline.stages import (
    compared_run,
    export_stage,
    renew_report,
    run_all,
    verify_budgets,
    write_result,
)
from mobilenas.report.exports import exported_files
from mobilenas.report.files import RunFiles
from mobilenas.report.table import read_networks
from mobilenas.spaces.mobile.arch import MobileArch
from mobilenas.spaces.networks import read_arch
from mobilenas.train import evaluate, load_weights


def arch_of(entry: dict[str, Any]) -> MobileArch:
    return MobileArch.from_dict(entry["arch"])


@pytest.fixture
def copy(whole_run: Any, tmp_path: Path) -> Path:
    """A copy of the run to spoil."""
    return Path(shutil.copytree(whole_run.folder, tmp_path / "copy"))


def test_every_budget_is_verified(whole_run: Any) -> None:
    (row,) = whole_run.result["budgets"]
    assert row == {
        "cost": "flops",
        "limit": whole_run.request["flops"],
        "predicted": whole_run.result["flops"],
        "recounted": whole_run.result["flops"],
        "holds": True,
    }
    assert 0.9 * row["limit"] <= row["predicted"] <= row["limit"]
    counted = count_onnx(whole_run.folder / "export/model.onnx")
    assert counted.flops == whole_run.result["flops"]
    assert counted.params == whole_run.result["params"]


def test_arch_json_says_what_the_arch_costs(whole_run: Any) -> None:
    record = read_json(whole_run.folder / "arch.json")
    exact = costs(read_arch(whole_run.folder / "arch.json"))
    assert record["costs"] == {
        "flops": exact.flops,
        "params": exact.params,
        "memory": exact.memory,
    }
    assert record["budgets"][0]["holds"]
    assert record["budgets"][0]["predicted"] == exact.flops
    assert isinstance(record["discretization_gap"]["points"], float)
    assert record["candidates"] == whole_run.request["finalists"]
    assert record["seconds"].keys() == {"supernet", "candidates", "finalists"}


def test_compare_json_is_a_list_of_the_found_network_and_all_others(whole_run: Any) -> None:
    entries = json.loads((whole_run.folder / "compare.json").read_text())
    kinds = [entry["kind"] for entry in entries]
    assert kinds[0] == "searched"
    assert set(kinds[1:]) == {"mobilenet", "random"}
    assert kinds.count("random") == whole_run.request["random"]
    assert entries == to_plain(read_networks(whole_run.folder / "compare.json"))
    limit = whole_run.request["flops"]
    for entry in entries:
        exact = costs(arch_of(entry))
        assert (entry["flops"], entry["params"]) == (exact.flops, exact.params)
        assert entry["flops"] <= limit
        onnx = whole_run.folder / entry["onnx"]
        assert count_onnx(onnx).flops == entry["flops"]
        assert entry["size_bytes"] == onnx.stat().st_size
        assert entry["latency_ms"] > 0
        assert 0 <= entry["top1"] <= 100
    found, mobilenet, drawn = (entries[kinds.index(k)] for k in ("searched", "mobilenet", "random"))
    assert found["onnx"] == "export/model.onnx"
    assert found["arch"] == read_json(whole_run.folder / "arch.json")["arch"]
    assert mobilenet["name"].startswith("mobilenet_v3_small x0.")
    assert drawn["flops"] >= 0.9 * limit


def test_result_json_has_what_scripts_read(whole_run: Any) -> None:
    result = json.loads((whole_run.folder / "result.json").read_text())
    assert result == {"schema_version": 2} | whole_run.result
    entries = to_plain(read_networks(whole_run.folder / "compare.json"))
    assert result["baselines"] == entries[1:]
    for figure in ("flops", "params", "memory", "latency_ms", "top1"):
        assert result[figure] == entries[0][figure]
    for path in result["files"].values():
        assert (whole_run.folder / path).is_file()


def test_the_reported_accuracy_is_that_of_the_final_weights_on_test_images(whole_run: Any) -> None:
    run = open_run(whole_run.folder, NullReporter())
    model = load_weights(
        read_arch(whole_run.folder / "arch.json"), whole_run.folder / "model.safetensors"
    )
    top1 = evaluate(model, run.data.test, run.data).top1
    export = read_json(whole_run.folder / "export/export.json")
    one_image = 100 / len(run.data.test)
    assert export["files"]["onnx"]["top1"] == pytest.approx(top1, abs=1.5 * one_image)
    assert export["parity"]["top1_agreement"] == 100
    # what is reported is the file's own, one image at a time
    assert whole_run.result["top1"] == export["files"]["onnx"]["top1"]
    for entry in to_plain(read_networks(whole_run.folder / "compare.json")):
        given = batches(run.data.test, run.data, batch_size=50, seed=None)
        assert entry["top1"] == evaluate_onnx(whole_run.folder / entry["onnx"], given)
    assert export["labels"] == list(run.data.classes)


def test_a_file_that_is_another_network_ends_the_run(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoiled(module: torch.nn.Module, path: Path, **options: Any) -> None:
        other = deepcopy(module)
        with torch.no_grad():
            for weight in other.parameters():
                weight.mul_(1.5)
        export_onnx(other, path, **options)

    shutil.rmtree(copy / "export")
    monkeypatch.setattr(network_file, "export_onnx", spoiled)
    told = r"model\.onnx is not the network that was trained: .* differ .* by up to \d"
    with pytest.raises(FileError, match=told):
        pipeline.export_stage(open_run(copy, NullReporter()))
    assert not (copy / "export/model.onnx").exists()


def test_mistakes_are_those_of_the_exported_file(whole_run: Any) -> None:
    record = read_json(whole_run.folder / "export/misclassified.json")
    export = read_json(whole_run.folder / "export/export.json")
    data = open_run(whole_run.folder, NullReporter()).data
    counts = {label: sum(row.values()) for label, row in record["confusion"].items()}
    assert counts == Counter(data.classes[label] for label in data.test.labels.tolist())
    wrong = record["images"] - sum(row.get(name, 0) for name, row in record["confusion"].items())
    assert record["file"] == export["files"]["onnx"]["path"]
    assert record["top1"] == export["files"]["onnx"]["top1"]
    assert record["top1"] == pytest.approx(100 - 100 * wrong / len(data.test))
    assert len(record["worst"]) == min(wrong, MAX_SHOWN)


@pytest.mark.parametrize("field", ["arch", "val_top1"])
def test_a_compared_network_that_lacks_what_its_files_need_is_named(copy: Path, field: str) -> None:
    networks = to_plain(read_networks(copy / "compare.json"))
    network = next(entry for entry in networks if entry["kind"] == "mobilenet")
    del network[field]
    write_list(copy / "compare.json", networks)
    with pytest.raises(FileError, match=f"lacks '{field}'"):
        compared_run(open_run(copy, NullReporter()), network["name"])


def test_a_compared_network_gets_files_of_its_own(copy: Path) -> None:
    entries = to_plain(read_networks(copy / "compare.json"))
    mobilenets = [entry for entry in entries if entry["kind"] == "mobilenet"]
    entry = max(mobilenets, key=lambda entry: entry["val_top1"])
    run, word = open_run(copy, NullReporter()), entry["name"].split()[0]
    assert {e["name"].split()[0] for e in mobilenets} == {word}
    inner = compared_run(run, word)
    assert compared_run(run, entry["name"]).folder == inner.folder
    found = (copy / EXPORT_FILE).read_bytes()
    (file,) = to_plain(export_stage(inner))["files"].values()
    # here by onnxruntime, there by torch
    assert file["top1"] == pytest.approx(entry["top1"], abs=0.3)
    assert count_onnx(inner.folder / file["path"]).flops == entry["flops"]
    assert inner.folder.parent == copy / "compare"
    assert (copy / EXPORT_FILE).read_bytes() == found
    told = f"The same files of {entry['name']}"
    assert told in exported_files(RunFiles(folder=copy))
    page = copy / "report.html"
    before = page.read_bytes()
    renew_report(run, copy / "run.json")
    assert page.read_bytes() == before
    renew_report(run, inner.folder / EXPORT_FILE)
    assert told in page.read_text(encoding="utf-8")
    with pytest.raises(FileError, match=f"no compared network 'resnet'; there are: .*{word} x"):
        compared_run(run, "resnet")


def test_a_run_of_an_older_release_gets_its_mistakes_from_export(copy: Path) -> None:
    kept = {name: (copy / name).read_text() for name in ("export/misclassified.json", EXPORT_FILE)}
    (copy / "export/misclassified.json").unlink()
    pipeline.export_stage(open_run(copy, NullReporter()))
    assert {name: (copy / name).read_text() for name in kept} == kept


def test_test_images_are_looked_at_once_per_network_and_train_nothing(whole_run: Any) -> None:
    entries = to_plain(read_networks(whole_run.folder / "compare.json"))
    tested = [(stage, trains) for stage, split, trains in whole_run.batches if split == "test"]
    assert not any(trains for _, trains in tested)
    # found's file is tested by export
    looks = Counter(stage for stage, _ in tested)
    assert not looks.keys() & {"start", "search", "finalists", "train"}
    assert looks["export"] == 1
    assert sum(looks.values()) == len(entries)
    assert {looks[entry["name"]] for entry in entries[1:]} == {1}
    assert {split for _, split, trains in whole_run.batches if trains} == {"train"}


def test_a_finished_run_trains_nothing_and_gives_the_same_result(
    copy: Path, whole_run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("this is done already")

    for name in ("search", "write_onnx", "time_run", "file_top1"):
        monkeypatch.setattr(pipeline, name, refuse)
    monkeypatch.setattr("mobilenas.train.run.Trainer", refuse)
    assert to_plain(run_all(open_run(copy, NullReporter()))) == whole_run.result


def test_a_budget_that_the_file_breaks_does_not_hold(
    copy: Path, whole_run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = whole_run.request["flops"]
    real = count_onnx(copy / "export/model.onnx")
    monkeypatch.setattr(pipeline, "count_onnx", lambda path: replace(real, flops=limit + 1))
    run = open_run(copy, NullReporter())
    (row,) = to_plain(verify_budgets(run))
    assert row["predicted"] <= limit < row["recounted"] == limit + 1
    assert row["holds"] is False
    assert to_plain(write_result(run))["budgets"] == [row]
    assert json.loads((copy / "result.json").read_text())["budgets"][0]["holds"] is False


def test_memory_is_verified_by_prediction(copy: Path) -> None:
    record = json.loads((copy / "run.json").read_text())
    record["settings"]["budgets"].append({"cost": "memory", "limit": 1})
    (copy / "run.json").write_text(json.dumps(record))
    row = to_plain(verify_budgets(open_run(copy, NullReporter())))[1]
    assert row["recounted"] is None
    assert row["predicted"] > 1
    assert row["holds"] is False


@pytest.mark.parametrize(
    ("missing", "stage", "message"),
    [
        ("arch.json", pipeline.train_stage, "has no arch.json; run `mobilenas search` first"),
        ("arch.json", pipeline.verify_budgets, "has no arch.json; run `mobilenas search` first"),
        ("model.safetensors", pipeline.export_stage, "has no model.safetensors; run `mobilenas tr"),
    ],
)
def test_a_stage_says_which_one_comes_first(
    copy: Path, missing: str, stage: Any, message: str
) -> None:
    (copy / missing).unlink()
    shutil.rmtree(copy / "train")
    (copy / "export/export.json").unlink()
    with pytest.raises(FileError, match=message):
        stage(open_run(copy, NullReporter()))
