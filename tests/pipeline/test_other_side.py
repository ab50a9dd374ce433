"""A run whose searched network takes images of another side than the run began with."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mobilenas.core.errors import DataError
from mobilenas.core.files import read_json, write_json
from mobilenas.core.progress import NullReporter
from mobilenas.core.settings import to_plain
from mobilenas.cost.networks import costs
from mobilenas.data import DataSettings, ImageData, load_data
from mobilenas.onnx.export import read_props
from mobilenas.onnx.metadata import ModelMetadata
from mobilenas.onnx.predict import predict
from mobilenas.onnx.recount import count_onnx
from mobilenas.pipeline import run_folder
from mobilenas.pipeline.baselines import searched_arch
from mobilenas.pipeline.export_settings import FormatSettings
from mobilenas.pipeline.formats import write_formats
from mobilenas.pipeline.request import Request
from mobilenas.pipeline.run_folder import Run, open_run
from mobilenas.pipeline.stages import compared_run, export_stage, run_all, search_stage
from mobilenas.pipeline.starting import start
from mobilenas.report.table import read_networks
from mobilenas.spaces.mobile.arch import MobileArch
from mobilenas.train import evaluate, load_weights

OWN, OTHER = 8, 16
pytestmark = pytest.mark.usefixtures("byte_clock", "no_estimate")


class Told(NullReporter):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def info(self, message: str) -> None:
        self.messages.append(message)


@pytest.fixture(scope="module")
def told() -> Told:
    return Told()


@pytest.fixture(scope="module")
def run(
    image_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
    told: Told,
    byte_clock: None,
    no_estimate: None,
) -> Run:
    """A whole run whose arch.json was given another side after the search."""
    few: dict[str, Any] = {"epochs": 2, "search_epochs": 1, "finalists": 0, "random": 1}
    request = Request(data=str(image_folder), flops=300_000, precision="int8", baselines=(), **few)
    folder = tmp_path_factory.mktemp("runs") / "run"
    run = start(folder, request, command="test", reporter=told)
    search_stage(run)
    arch = searched_arch(folder)
    assert isinstance(arch, MobileArch)
    other = replace(arch, image_size=OTHER)
    changed = {"arch": other.to_dict(), "costs": to_plain(costs(other))}
    write_json(folder / "arch.json", read_json(folder / "arch.json") | changed)
    run = open_run(folder, told)
    run_all(run)
    return run


@pytest.fixture(scope="module")
def images(image_folder: Path) -> ImageData:
    return load_data(DataSettings(source=str(image_folder), image_size=OTHER))


def test_the_same_images_are_read_once_at_a_side_and_told_of_once(
    run: Run, images: ImageData, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run.at(OWN) is run
    monkeypatch.setattr(run_folder, "load_data", None)
    data = run.at(OTHER).data
    assert data.train.images([0, 3]).equal(images.train.images([0, 3]))
    assert data.test.labels.equal(run.data.test.labels)
    assert (data.mean, data.std) == (images.mean, images.std) != (run.data.mean, run.data.std)
    assert told.messages.count(f"images are read at {OTHER}x{OTHER}") == 1
    assert sum("classes (images in" in message for message in told.messages) == 2  # two openings


def test_its_file_takes_images_of_its_side(run: Run, images: ImageData) -> None:
    path, arch = run.folder / "export/model.onnx", searched_arch(run.folder)
    described = ModelMetadata.from_strings(read_props(path), str(path))
    assert described.image_size == OTHER
    assert (described.mean, described.std) == (images.mean, images.std)
    assert count_onnx(path).flops == costs(arch).flops
    model = load_weights(arch, run.folder / "model.safetensors")
    top1 = evaluate(model, images.test, images).top1
    one_image = 100 / len(images.test)
    exported = export_stage(run)
    assert exported.files["onnx"].top1 == pytest.approx(top1, abs=1.5 * one_image)
    found = read_json(run.folder / "export/misclassified.json")
    assert found["top1"] == exported.files["onnx"].top1


def test_files_in_other_forms_are_made_and_checked_at_its_side(run: Run) -> None:
    record = write_formats(open_run(run.folder, NullReporter()), FormatSettings(formats=("fp16",)))
    assert record.files["fp16"].checks is not None
    assert abs(record.files["fp16"].top1 - record.files["onnx"].top1) < 10
    assert count_onnx(run.folder / "export/model.fp16.onnx").flops == record_flops(run)


def record_flops(run: Run) -> int:
    return costs(searched_arch(run.folder)).flops


def test_networks_of_two_sides_are_compared(run: Run) -> None:
    entries = {e.name: e for e in read_networks(run.folder / "compare.json")}
    sides = {name: entry.arch and entry.arch["image_size"] for name, entry in entries.items()}
    assert sides == {"searched": OTHER, "random-1": OWN}
    assert entries["searched"].flops == record_flops(run)
    drawn = compared_run(run, "random-1")
    file = export_stage(drawn).files["onnx"]
    assert file.top1 == pytest.approx(entries["random-1"].top1_fp32, abs=3.4)
    path = str(drawn.folder / file.path)
    assert ModelMetadata.from_strings(read_props(Path(path)), path).image_size == OWN


def test_prediction_resizes_to_its_side(run: Run, image_folder: Path) -> None:
    paths = sorted(image_folder.glob("test/*/*.png"))
    found = predict(run.folder / "export/model.onnx", paths)
    right = sum(each.labels[0][0] == each.path.parent.name for each in found)
    assert 100 * right / len(paths) == pytest.approx(export_stage(run).files["onnx"].top1)


def test_other_images_are_refused_at_any_side(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    others = load_data(DataSettings(source="digits", image_size=OTHER))
    monkeypatch.setattr(run_folder, "load_data", lambda *_: others)
    with pytest.raises(DataError, match="are not those"):
        _ = open_run(run.folder, NullReporter()).at(OTHER).data
