"""Drawings of a cell: what is in them, by matplotlib and by graphviz."""

import os
import re
import shutil
import sys
import xml.etree.ElementTree as ElementTree
from collections import Counter
from itertools import combinations
from pathlib import Path

import pytest

from mobilenas.report.cell_drawing import _Stairs, cell_dot, draw_cell
from mobilenas.spaces.cell.arch import Cell, Edge
from mobilenas.spaces.cell.genotypes import CELL_NETWORKS, parse_genotype

DARTS = CELL_NETWORKS["darts_v2"]().genotype
# two edges between the same places, an empty node, one that is not concatenated, an unread input
ODD = parse_genotype(
    "Genotype(normal=[[('sep_conv_5x5', 1), ('skip_connect', 1)], [], [('avg_pool_3x3', 2)], "
    "[('max_pool_3x3', 2), ('dil_conv_3x3', 4), ('skip_connect', 4)]], normal_concat=[3, 4, 5], "
    "reduce=[('sep_conv_3x3', 0), ('sep_conv_3x3', 1)], reduce_concat=[2])"
).normal
COLOURS = {"sep": "#3d87cc", "dil": "#a35fc9", "avg": "#e07b1a", "max": "#e07b1a"}
SKIP = "#2f9e77"


@pytest.fixture
def without_graphviz(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda program: None)


def texts(svg: str) -> Counter[str]:
    root = ElementTree.fromstring(svg)
    words = ("".join(element.itertext()).strip() for element in root.iter())
    return Counter(
        word
        for word, element in zip(words, root.iter(), strict=True)
        if element.tag.endswith("}text") and word
    )


def arrows(svg: str, colour: str) -> int:
    """Heads of arrows are the only shapes that are filled with a colour and have no id."""
    return len(re.findall(rf'<path [^>]*style="fill: {colour}; stroke: {colour}', svg))


@pytest.mark.usefixtures("without_graphviz")
@pytest.mark.parametrize("cell", [DARTS.normal, DARTS.reduce, ODD])
def test_every_edge_is_drawn_and_named(cell: Cell) -> None:
    svg = draw_cell(cell, "Normal cell")
    expected = Counter(["c_{k-2}", "c_{k-1}", "c_k"])
    expected += Counter(str(number) for number in range(len(cell.nodes)))
    expected += Counter("empty" for edges in cell.nodes if not edges)
    heads: Counter[str] = Counter()
    for edges in cell.nodes:
        for edge in edges:
            first, *_, last = edge.operation.split("_")
            expected["skip" if first == "skip" else f"{first} {last}"] += 1
            heads[COLOURS.get(first, SKIP)] += 1
    assert texts(svg) == expected
    for colour, number in heads.items():
        assert arrows(svg, colour) == number


@pytest.mark.usefixtures("without_graphviz")
def test_it_follows_the_pages_colours_and_has_its_own_ids() -> None:
    svg = draw_cell(ODD, "Reduction cell")
    root = ElementTree.fromstring(svg)
    assert (root.get("role"), root.get("aria-label")) == ("img", "Reduction cell")
    assert svg.startswith("<svg")
    assert "currentColor" in svg
    assert "#010203" not in svg
    identifiers = [element.get("id") for element in root.iter() if element.get("id")]
    assert all(str(own).startswith("reduction-cell-") for own in identifiers)
    assert re.fullmatch(r"[\d.]+pt", str(root.get("width")))
    assert draw_cell(ODD, "Reduction cell") == svg


def test_places_stand_in_stairs_and_lines_end_where_they_are_last_used() -> None:
    stairs = _Stairs(ODD)
    rows = [y for rows in stairs.rows for y in rows]
    assert rows == sorted(set(rows))
    assert all(b - a > 0.2 for a, b in combinations(rows, 2))  # inches, room for a label
    assert stairs.x == sorted(stairs.x)
    assert all(b - a > 0.9 for a, b in combinations(stairs.x[1:], 2))
    assert [len(rows) for rows in stairs.rows] == [2, 1, 1, 3]
    assert stairs.last_use(0) is None
    assert stairs.last_use(1) == stairs.rows[0][1]
    assert stairs.last_use(2) == stairs.rows[3][0]  # it is not concatenated
    assert stairs.last_use(3) is None  # empty
    assert stairs.last_use(4) == stairs.last_use(5) == stairs.bottom > rows[-1]


def test_graphviz_is_told_the_same() -> None:
    lines = cell_dot(ODD).splitlines()
    edges = [line.strip() for line in lines if "->" in line]
    assert edges == [
        f'"{a}" -> "{b}" [label="{label}", color="{colour}", penwidth=1.6];'
        for a, b, label, colour in (
            ("c_{k-1}", "0", "sep 5x5", COLOURS["sep"]),
            ("c_{k-1}", "0", "skip", SKIP),
            ("0", "2", "avg 3x3", COLOURS["avg"]),
            ("0", "3", "max 3x3", COLOURS["max"]),
            ("2", "3", "dil 3x3", COLOURS["dil"]),
            ("2", "3", "skip", SKIP),
        )
    ] + ['"2" -> "c_k" [style=dotted];', '"3" -> "c_k" [style=dotted];']
    assert sum('"1 empty" [style="rounded,dashed"' in line for line in lines) == 1
    assert '  "c_{k-2}";' in lines
    one = Cell(nodes=((Edge(operation="skip_connect", input=1),),), concat=(2,))
    assert cell_dot(one).count("->") == 2


@pytest.mark.skipif(os.name != "posix", reason="the stand-in is a script with a shebang")
@pytest.mark.parametrize(
    ("answer", "used"),
    [
        ("print(f'<?xml?>\\n<svg width=\"9pt\"><title>told {len(asked)}</title></svg>')", 1),
        ("sys.exit(1)", 0),
        ("print('no drawing')", 0),
    ],
)
def test_a_dot_on_the_path_is_used_where_it_works(
    answer: str, used: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "dot"
    program.write_text(
        f"#!{sys.executable}\nimport sys\nasked = sys.stdin.read()\n"
        f"assert sys.argv[1:] == ['-Tsvg']\n{answer}\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    svg = draw_cell(DARTS.normal, "Normal cell")
    assert svg.startswith('<svg role="img" aria-label="Normal cell"')
    told = f"<title>told {len(cell_dot(DARTS.normal))}</title>"
    assert (told in svg) == bool(used)
    assert ("sep 3x3" in svg) == (not used)


@pytest.mark.skipif(shutil.which("dot") is None, reason="graphviz is not installed")
def test_graphviz_draws_every_edge() -> None:
    svg = draw_cell(DARTS.normal, "Normal cell")
    assert texts(svg)["sep 3x3"] == 5
    assert texts(svg)["skip"] == 2
    assert "currentColor" in svg
    assert "#010203" not in svg
