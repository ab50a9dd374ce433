import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from mobilenas.core.settings import from_plain
from mobilenas.report.diagnostics_plots import _nodes, diagnostics_plots
from mobilenas.search.records import SearchLine

TITLES = [
    "Skip connections",
    "Gradient norm of the alphas",
    "Gradient norm of the weights",
    "Estimate of the discretization gap",
    "Entropy of each decision",
    "How often each channel was chosen",
]

Lines = Callable[..., list[SearchLine]]


@pytest.fixture
def lines(log_line: dict[str, Any]) -> Lines:
    return lambda *changes: [from_plain(SearchLine, log_line | change, "") for change in changes]


def made_log(epochs: int = 12, warmup: int = 3) -> list[dict[str, Any]]:
    def record(epoch: int) -> dict[str, Any]:
        trains, left = epoch > warmup, 1 - epoch / epochs
        return {
            "epoch": epoch,
            "loss": 1.0,
            "entropies": {
                kind: [round(2 * left * (1 + edge) / 14, 4) for edge in range(14)]
                for kind in ("normal", "reduce")
            },
            "skips": {"normal": epoch // 4, "reduce": 1},
            "gap_estimate": 0.1 * epoch if trains and epoch % 5 == 0 else None,
            "alpha_gradient_norm": 0.02 * left if trains else None,
            "weight_gradient_norm": 5 * left,
            "channels": {
                f"cells.{cell}.{place}": [round(c / (8 * 2**cell), 3) for c in range(8 * 2**cell)]
                for cell in range(2)
                for place in range(3)
            },
            "alarms": [],
        }

    return [record(epoch) for epoch in range(1, epochs + 1)]


def shades(svg: str) -> dict[float, str]:
    """The path of each opacity of the heatmap's colour, the key's among them."""
    found = re.findall(r'<path d="([^"]*)"[^>]*style="fill: #3d87cc; opacity: ([\d.]+)', svg)
    return {float(opacity): path for path, opacity in found}


def test_every_diagnostic_of_a_cell_search_is_drawn(lines: Lines) -> None:
    plots = diagnostics_plots(lines(*made_log()), warmup=3)
    assert [title for title, _ in plots] == TITLES
    entropies, channels = plots[-2][1], plots[-1][1]
    for node in range(4):
        assert f"normal, node {node}" in entropies and f"reduce, node {node}" in entropies
    assert "node 4" not in entropies
    assert "1.83 nats" in entropies  # the largest: 2 x 11/12
    assert ">cells.0<" in channels and ">cells.1<" in channels
    assert ">reduce<" in plots[0][1]


def test_edges_belong_to_nodes_with_one_more_input_each() -> None:
    assert [_nodes(edges) for edges in (0, 2, 14)] == [[], [2], [2, 3, 4, 5]]


def test_drawings_are_well_formed_and_follow_the_pages_colours(lines: Lines) -> None:
    identifiers: list[str] = []
    for _, svg in diagnostics_plots(lines(*made_log())):
        root = ElementTree.fromstring(svg)
        assert root.get("role") == "img" and root.get("aria-label")
        assert "currentColor" in svg and "#010203" not in svg
        assert "<image" not in svg  # no pixels: these would not follow the page
        own = [element.get("id", "") for element in root.iter() if element.get("id")]
        assert set(re.findall(r'(?:href="|url\()#([\w-]+)', svg)) <= set(own)
        identifiers += own
    assert len(identifiers) == len(set(identifiers))


def test_a_heatmaps_opacity_is_the_share_of_the_largest(lines: Lines) -> None:
    rows = [[0.0, 0.5, 1.0, 1.5, 2.0]] * 3
    log = [{"epoch": n + 1, "entropies": {"normal": [row[n] for row in rows]}} for n in range(5)]
    _, (_, svg) = diagnostics_plots(lines(*log))
    assert shades(svg).keys() >= {0.25, 0.5, 0.75}
    # one box a row: moves to 3 corners
    assert [shades(svg)[part].count("M") for part in (0.25, 0.5, 0.75)] == [3, 3, 3]


def test_equal_neighbours_are_one_box(lines: Lines) -> None:
    half = {"epoch": 1, "channels": {"cells.0.0": [1.0, *[0.5] * 30, 1.0], "cells.0.1": [0.5] * 8}}
    _, (_, svg) = diagnostics_plots(lines(half))
    assert shades(svg)[0.5].count("M") == 2
    long = diagnostics_plots(lines(*made_log(epochs=600)), warmup=100)
    assert sum(len(svg) for _, svg in long) < 500_000


@pytest.mark.parametrize(("log", "titles"), [([], []), ([{"epoch": 1}], TITLES[2:3])])
def test_a_log_without_diagnostics_has_no_drawings(
    log: list[dict[str, Any]], titles: list[str], lines: Lines
) -> None:
    assert [title for title, _ in diagnostics_plots(lines(*log), warmup=1)] == titles


def test_only_what_the_log_has_is_drawn(lines: Lines) -> None:
    first = lines(*made_log(epochs=12)[:1])  # warm-up: the alphas have no gradient and no gap
    assert [title for title, _ in diagnostics_plots(first, 3)] == [
        TITLES[0],
        TITLES[2],
        *TITLES[4:],
    ]
    full = [replace(line, channels={}) for line in lines(*made_log())]
    assert TITLES[-1] not in [title for title, _ in diagnostics_plots(full)]


def test_a_chain_names_its_decisions(lines: Lines) -> None:
    log = [
        {
            "epoch": epoch,
            "entropies": {"width": [0.7] * 3, "kernel": [1.0 / epoch] * 9},
            "skips": {"blocks": 2},
        }
        for epoch in (1, 2)
    ]
    (_, skips), _, (_, entropies) = diagnostics_plots(lines(*log))
    assert ">width<" in entropies and ">kernel<" in entropies and "node" not in entropies
    assert ">blocks<" in skips


def test_a_figure_of_a_few_epochs_is_one_line(lines: Lines) -> None:
    log = lines(*made_log(epochs=40))
    (gap,) = (svg for title, svg in diagnostics_plots(log) if title == TITLES[3])
    paths = re.findall(r'<path d="([^"]*)"[^>]*style="fill: none; stroke: #e07b1a', gap)
    assert max(path.count("L") for path in paths) == 7  # 8 estimates


def test_drawings_are_the_same_each_time_and_leave_matplotlib_alone(lines: Lines) -> None:
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    first = diagnostics_plots(lines(*made_log()))
    assert diagnostics_plots(lines(*made_log())) == first
    assert dict(mpl.rcParams) == before
