"""What a file gets right and wrong, on a file whose every answer is known."""

import base64
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, save
from PIL import Image

from mobilenas.core.errors import DataError
from mobilenas.data import Split, TensorStore
from mobilenas.onnx import misclassified
from mobilenas.onnx.export import evaluate_onnx
from mobilenas.onnx.misclassified import Misclassified, find_misclassified

CLASSES = ("ant", "bee", "cat")
SIDE = 4
PIXELS = torch.tensor([[10, 1, 2], [3, 10, 2], [9, 1, 4], [0, 8, 7], [9, 1, 5], [1, 2, 10]])
"""Of every image the shade of each channel; the file takes the brightest for the class."""
LABELS = torch.tensor([0, 1, 2, 2, 2, 2])


@pytest.fixture
def brightest(tmp_path: Path) -> Path:
    """Logits are the means of the channels."""
    nodes = [
        helper.make_node("GlobalAveragePool", ["image"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["logits"]),
    ]
    image, logits = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("image", [1, 3, SIDE, SIDE]), ("logits", [1, 3]))
    )
    graph = helper.make_graph(nodes, "brightest", [image], [logits])
    opset = helper.make_opsetid("", 18)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=10)
    save(model, str(tmp_path / "model.onnx"))
    return tmp_path / "model.onnx"


def some_split() -> Split:
    """Every other image of a store, in reverse, so that places and numbers differ."""
    shades = PIXELS.flip(0).repeat_interleave(2, dim=0).to(torch.uint8)
    store = TensorStore(shades[:, :, None, None].expand(-1, -1, SIDE, SIDE), SIDE)
    return Split(store, torch.arange(10, -1, -2), LABELS)


def find(path: Path, names: tuple[str, ...] = ()) -> Misclassified:
    split = some_split()
    images = split.images(torch.arange(len(split))).float()
    parts = zip(images.split(4), LABELS.split(4), strict=True)
    return find_misclassified(path, path.name, parts, split, CLASSES, names)


def test_every_prediction_is_counted_once(brightest: Path) -> None:
    found = find(brightest)
    assert found.images == 6
    assert found.confusion == {
        "ant": {"ant": 1},
        "bee": {"bee": 1},
        "cat": {"ant": 2, "bee": 1, "cat": 1},
    }
    assert found.top1 == pytest.approx(50)
    images = some_split().images(torch.arange(6)).float()
    assert evaluate_onnx(brightest, [(images, LABELS)]) == found.top1


def test_the_most_certain_mistakes_come_first_with_their_pictures(brightest: Path) -> None:
    names = tuple(f"cat/{number}.png" for number in range(12))
    found = find(brightest, names).worst
    # images 2, 4 and 3: by 5, by 4 and by 1 ahead of the right class
    assert [image.image for image in found] == ["cat/6.png", "cat/2.png", "cat/4.png"]
    assert [(m.label, m.predicted) for m in found] == [
        ("cat", "ant"),
        ("cat", "ant"),
        ("cat", "bee"),
    ]
    logits = np.array([9.0, 1.0, 4.0])
    expected = np.exp(logits) / np.exp(logits).sum()
    assert found[0].probability == pytest.approx(expected[0])
    assert found[0].probability_of_label == pytest.approx(expected[2])
    image = Image.open(io.BytesIO(base64.b64decode(found[0].png)))
    assert np.array_equal(np.asarray(image), np.full((SIDE, SIDE, 3), (9, 1, 4)))


def test_only_so_many_are_kept_and_numbers_stand_for_names(
    brightest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(misclassified, "MAX_SHOWN", 2)
    assert [image.image for image in find(brightest).worst] == ["2", "4"]


def test_large_images_are_made_smaller() -> None:
    image = Image.open(
        io.BytesIO(base64.b64decode(misclassified._png(torch.zeros(3, 224, 224).byte())))
    )
    assert image.size == (96, 96)


def test_without_images_there_is_nothing_to_say(brightest: Path) -> None:
    with pytest.raises(DataError, match="there are no images"):
        find_misclassified(brightest, "model.onnx", [], some_split(), CLASSES)
