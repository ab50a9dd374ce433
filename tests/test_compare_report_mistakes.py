"""The confusion of classes, and the mistakes as pictures."""

import re
from pathlib import Path
from typing import Any

import pytest

from mobilenas.compare.report_files import RunFiles
from mobilenas.compare.report_mistakes import mistakes
from mobilenas.files import write_json

PNG = "iVBORw0KGgo="


def shown(folder: Path, confusion: dict[str, dict[str, int]], **more: Any) -> str:
    images = sum(sum(row.values()) for row in confusion.values())
    record = {"file": "export/model.onnx", "images": images, "top1": 50.0, "worst": []}
    write_json(folder / "export/mistakes.json", record | {"confusion": confusion} | more)
    return mistakes(RunFiles(folder=folder))


def opacities(page: str, colour: str) -> list[float]:
    return sorted(map(float, re.findall(rf"fill: {colour}; opacity: ([\d.]+)", page)))


def test_shares_of_a_class_are_opacities(tmp_path: Path) -> None:
    page = shown(tmp_path, {"a": {"a": 6, "b": 2}, "b": {"b": 4, "c": 4}})
    assert "10 of 16 test images" in page
    # right: 3/4 and 1/2 of the images; wrong: 1/4 and 1/2, of which the larger is opaque
    assert set(opacities(page, "#3d87cc")) >= {0.5, 0.75}
    assert 0.5 in opacities(page, "#e07b1a")
    assert "wrong: 50 % of a class" in page
    assert all(f">{name}<" in page for name in "abc")  # c is no test image's class


def test_pairs_are_told_the_most_frequent_first(tmp_path: Path) -> None:
    page = shown(tmp_path, {"a": {"a": 6, "b": 2}, "b": {"b": 4, "c": 4}})
    body = page[page.index("Confused most often") :]
    rows = re.findall(
        r"<tr><td>(.*?)</td><td class=\"left\">(.*?)</td><td>(.*?)</td><td>(.*?)<", body
    )
    assert rows == [("b", "c", "4", "50"), ("a", "b", "2", "25")]


def test_pictures_have_their_words(tmp_path: Path) -> None:
    worst = {
        "image": "test/a/1.png",
        "label": "a",
        "predicted": "b",
        "probability": 0.912,
        "probability_of_label": 0.05,
        "png": PNG,
    }
    page = shown(tmp_path, {"a": {"b": 2}}, worst=[worst])
    assert f'src="data:image/png;base64,{PNG}"' in page
    assert "a taken for b<br>91.2 %, test/a/1.png" in page
    assert "Of 2 mistakes, the 1 of which" in page


def test_a_network_without_mistakes_has_neither_pairs_nor_pictures(tmp_path: Path) -> None:
    page = shown(tmp_path, {"a": {"a": 3}, "b": {"b": 4}})
    assert "7 of 7 test images" in page
    assert "<svg" in page
    assert "Confused" not in page and "<img" not in page


@pytest.mark.parametrize(("classes", "drawn"), [(60, True), (61, False)])
def test_too_many_classes_are_not_drawn(tmp_path: Path, classes: int, drawn: bool) -> None:
    page = shown(tmp_path, {f"class {n}": {f"class {n}": 1, "class 0": 1} for n in range(classes)})
    assert ("<svg" in page) is drawn
    assert ("61 classes are too many" in page) is not drawn
    assert "Confused most often" in page


def test_without_the_file_the_command_is_named(tmp_path: Path) -> None:
    assert "<code>mobilenas export</code> makes it" in mistakes(RunFiles(folder=tmp_path))
