"""The confusion of classes, and the mistakes as pictures."""

import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from mobilenas.core.files import write_json
from mobilenas.report.files import RunFiles
from mobilenas.report.misclassified import misclassified

PNG = "iVBORw0KGgo="
TEXT = "{http://www.w3.org/2000/svg}text"


def shown(folder: Path, confusion: dict[str, dict[str, int]], **more: Any) -> str:
    images = sum(sum(row.values()) for row in confusion.values())
    record = {"file": "export/model.onnx", "images": images, "top1": 50.0, "worst": []}
    write_json(folder / "export/misclassified.json", record | {"confusion": confusion} | more)
    return misclassified(RunFiles(folder=folder))


def opacities(page: str, colour: str) -> list[float]:
    return sorted(map(float, re.findall(rf'fill="{colour}" opacity="([\d.]+)"', page)))


def test_shares_of_a_class_are_opacities(tmp_path: Path) -> None:
    page = shown(tmp_path, {"a": {"a": 6, "b": 2}, "b": {"b": 4, "c": 4}})
    assert "10 of 16 test images" in page
    # right: 3/4 and 1/2 of the images; wrong: 1/4 and 1/2, of which the larger is opaque
    assert opacities(page, "#3d87cc") == [0.5, 0.75]
    assert opacities(page, "#e07b1a") == [0.5, 1]
    assert page.count("wrong: 50 %") == 1
    assert all(page.count(f">{name}</text>") == 2 for name in "abc")  # c is no test image's class


NAMES = ("\u732b", "\u0642\u0637\u0629", "\U0001f600", "caf\u00e9", "x<y>&z", "_under", "e\u0301")


def test_names_of_any_script_are_written_as_they_are(tmp_path: Path) -> None:
    page = shown(tmp_path, {name: {name: 3, NAMES[0]: 1} for name in NAMES})
    (drawing,) = re.findall("<svg.*?</svg>", page, re.DOTALL)
    words = [element for element in ElementTree.fromstring(drawing).iter() if element.tag == TEXT]
    assert [list(word.itertext()) for word in words] == [[n, n] for n in NAMES for _ in range(2)]
    assert "?" not in "".join(ElementTree.fromstring(drawing).itertext())


@pytest.mark.parametrize("letter", ["w", "\u732b", "e\u0301"])
def test_long_names_are_cut_in_the_drawing_and_whole_in_its_titles(
    tmp_path: Path, letter: str
) -> None:
    long = 40 * letter
    page = shown(tmp_path, {long: {long: 3, "b": 1}, "b": {"b": 2}})
    (drawing,) = re.findall("<svg.*?</svg>", page, re.DOTALL)
    root = ElementTree.fromstring(drawing)
    title, rest = next(element for element in root.iter() if element.tag == TEXT).itertext()
    assert title == long
    assert long.startswith(rest.rstrip("\u2026")) and rest.endswith("\u2026")
    # room for 16 letters beside two squares, whatever the script
    assert float(root.attrib["width"]) < 16 * 11 * 0.7 + 2 * 26


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
    assert "a, predicted b<br>91.2 %, test/a/1.png" in page
    assert "Of 2 misclassified images, the 1 that the network was most certain of, with" in page
    page = shown(tmp_path, {"a": {"b": 1}}, worst=[worst])
    assert (
        "All misclassified images, those that the network was most certain of first, with" in page
    )


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
    assert "<code>mobilenas export</code> makes it" in misclassified(RunFiles(folder=tmp_path))
