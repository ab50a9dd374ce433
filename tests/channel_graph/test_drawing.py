"""The drawing of a model's groups."""

import xml.etree.ElementTree as ElementTree

import pytest
from torch import Tensor, nn

from mobilenas.channel_graph import extract
from mobilenas.channel_graph.drawing import groups_drawing, layer_names


class Net(nn.Module):
    """A residual block, layers whose names are no XML, and a convolution with groups."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.inside = nn.Sequential()
        self.inside.add_module("a<\x01>&b", nn.Conv2d(16, 32, 1, groups=4))
        self.back = nn.Conv2d(32, 16, 1)
        self.classes = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.back(self.inside(x))
        return self.classes(x.mean((2, 3)))


def test_a_row_a_group_with_a_bar_in_proportion() -> None:
    graph = extract(Net(), image_size=8)
    root = ElementTree.fromstring(groups_drawing(graph, 'of "R&D"'))
    title = root.find("{*}text")
    assert title is not None
    assert title.text == 'of "R&D"'
    rows = root.findall("{*}g")
    assert len(rows) == len(graph.groups) == 4
    for row, group in zip(rows, graph.groups, strict=True):
        name, size, told = ("".join(text.itertext()) for text in row.findall("{*}text"))
        assert name == group.name.replace("\x01", "?")
        assert size == str(group.size)
        bar, tip = row.find("{*}rect"), row.find("{*}title")
        assert bar is not None
        assert tip is not None
        assert float(bar.attrib["width"]) == pytest.approx(240 * group.size / 32)
        assert bar.attrib["fill"] == ("#3d87cc" if group.fixed is None else "#858d99")
        assert tip.text == ", ".join(layer_names(group)).replace("\x01", "?")
        assert told.startswith(f"{len(layer_names(group))}: ")
    written = ["".join(row.itertext()) for row in rows]
    assert written[0].endswith("(fixed: channels of the images)")
    assert written[1].endswith("4: stem, inside.a<?>&b, back, ... (multiple of 4)")


def test_a_layer_is_named_once() -> None:
    groups = {group.name: group for group in extract(Net(), image_size=8).groups}
    assert layer_names(groups["stem"]) == ["stem", "inside.a<\x01>&b", "back", "classes"]
    assert len(groups["stem"].members) == 4


def test_all_text_lies_inside() -> None:
    root = ElementTree.fromstring(groups_drawing(extract(Net(), image_size=8), "x" * 200))
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    for text in root.iter("{http://www.w3.org/2000/svg}text"):
        # 0.6 em a character is the width of common fixed-width fonts
        assert float(text.attrib["x"]) + 0.6 * 11 * len(text.text or "") <= width
        assert float(text.attrib["y"]) < height
