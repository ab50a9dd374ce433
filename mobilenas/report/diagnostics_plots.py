"""Plots of a search's diagnostics: the parts of its log other than losses and costs."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from markupsafe import Markup

from mobilenas.report.plots import (
    AROUND_CURVE,
    COLOURS,
    INK,
    Style,
    curve,
    figure_svg,
    locator,
    new_axes,
    page_style,
    plain,
)
from mobilenas.search.records import SearchLine
from mobilenas.spaces.cell.space import KINDS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Log = Sequence[SearchLine]

_WIDTH, _ROW, _AROUND = 3.4, 0.1, 0.95
"""Inches: width of a heatmap, height of its rows, and space for axis and legend."""
SHADES = 16
"""Number of opacity levels."""
_COLOUR = COLOURS[1]
_CURVES = (
    ("Gradient norm of the alphas", "alpha_gradient_norm", "norm"),
    ("Gradient norm of the weights", "weight_gradient_norm", "norm"),
    ("Estimate of the discretization gap", "gap_estimate", "points of top-1"),
)


def diagnostics_plots(log: Log, warmup: int = 0) -> list[tuple[str, Markup]]:
    """Return a plot (title, SVG) of each diagnostic in the log; warm-up epochs are shaded.

    Epochs without a diagnostic are omitted from its plot.
    """
    plots: list[tuple[str, Markup]] = []
    with page_style():
        if records := _having(log, "skips"):
            plots.append(("Skip connections", _skips(records, warmup)))
        for title, name, unit in _CURVES:
            if records := _having(log, name):
                lines = {unit: [getattr(record, name) for record in records]}
                epochs = [record.epoch for record in records]
                plots.append((title, curve(title, epochs, lines, None, warmup)))
        # tall plots last, side by side
        if records := _having(log, "entropies"):
            plots.append(("Entropy of each decision", _entropies(records)))
        if records := _having(log, "channels"):
            plots.append(("How often each channel was chosen", _channels(records[-1].channels)))
    return plots


def _having(log: Log, name: str) -> Log:
    return [record for record in log if getattr(record, name) not in (None, {})]


def _entropies(log: Log) -> Markup:
    """Draw a heatmap with a column per epoch and a row per decision, grouped by node."""
    rows: list[list[float]] = []
    groups: list[tuple[str, int]] = []
    for kind, first in log[0].entropies.items():
        rows += [[r.entropies[kind][edge] for r in log] for edge in range(len(first))]
        if kind in KINDS:
            groups += [(f"{kind}, node {n}", size) for n, size in enumerate(_nodes(len(first)))]
        else:
            groups.append((kind, len(first)))
    largest = max((max(row) for row in rows), default=0.0)
    epochs = [record.epoch for record in log]
    bounds = [*(epoch - 0.5 for epoch in epochs), epochs[-1] + 0.5]
    fig = _heatmap(rows, groups, bounds, largest or 1.0, "epoch", f"0|{largest:.2f} nats")
    return figure_svg(fig, "entropies", "Entropy of each decision by epoch")


def _nodes(edges: int) -> list[int]:
    """Return the number of edges of each node: node n reads two inputs and n nodes."""
    sizes: list[int] = []
    while sum(sizes) < edges:
        sizes.append(min(2 + len(sizes), edges - sum(sizes)))
    return sizes


def _channels(channels: Mapping[str, Sequence[float]]) -> Markup:
    """Draw a heatmap with a row per sampler, grouped by cell, and a column per channel."""
    grouped = groupby(channels, key=lambda name: name.rpartition(".")[0] or name)
    groups = [(label, len(list(names))) for label, names in grouped]
    bounds = list(range(max(map(len, channels.values())) + 1))
    fig = _heatmap(list(channels.values()), groups, bounds, 1.0, "channel", "never|in every step")
    return figure_svg(fig, "channels", "How often each channel was chosen at the last epoch")


def _skips(log: Log, warmup: int) -> Markup:
    """Draw the skip connections of each cell; the second line is dashed, so both are visible."""
    fig, axes = new_axes(_WIDTH, 2.2, AROUND_CURVE)
    epochs = [record.epoch for record in log]
    if warmup:
        axes.axvspan(0.5, min(warmup, epochs[-1]) + 0.5, color=INK, alpha=0.07, linewidth=0)
    for kind, colour, style in zip(log[0].skips, COLOURS, ("-", "--"), strict=False):
        counts = [record.skips[kind] for record in log]
        axes.step(epochs, counts, where="mid", color=colour, linestyle=style, label=plain(kind))
    axes.set_xlim(0.5, epochs[-1] + 0.5)
    axes.set_ylim(-0.2, max(1, *(max(record.skips.values()) for record in log)) + 0.3)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(locator(6))
    axes.yaxis.set_major_locator(locator(6))
    axes.legend()
    return figure_svg(fig, "skips", "Skip connections of each cell by epoch")


def _heatmap(
    rows: Sequence[Sequence[float]],
    groups: Sequence[tuple[str, int]],
    bounds: Sequence[float],
    largest: float,
    label: str,
    key: str,
) -> "Figure":
    """Draw a heatmap from the top down, column n from bounds[n] to bounds[n + 1].

    `groups` of rows have labels. Values are opacities of one colour; 0 is a faint grey.
    """
    from matplotlib.patches import Patch

    fig, axes = new_axes(_WIDTH, _AROUND + _ROW * len(rows))
    axes.grid(visible=False)
    shade(axes, rows, bounds, largest)
    middles, begin = [], 0
    for _, size in groups:
        axes.axhline(begin, color=INK, linewidth=0.5, alpha=0.5)
        middles.append(begin + size / 2)
        begin += size
    axes.set_yticks(middles, [plain(name) for name, _ in groups], fontsize=7)
    axes.tick_params(axis="y", length=0)
    axes.set_xlim(bounds[0], bounds[-1])
    axes.set_ylim(begin, 0)
    axes.set_xlabel(label)
    axes.xaxis.set_major_locator(locator(6))
    ends = zip(key.split("|"), (0, SHADES), strict=True)
    fig.legend(
        handles=[Patch(**paint(depth), label=name) for name, depth in ends],
        loc="outside lower center",
        ncols=2,
    )
    return fig


def shade(
    axes: "Axes",
    rows: Sequence[Sequence[float]],
    bounds: Sequence[float],
    largest: float,
    colour: str = _COLOUR,
) -> None:
    """Draw rows of values as opacities of a colour; `largest` is opaque, 0 is a faint grey.

    All squares of one opacity are one path, and equal neighbours one rectangle, to keep the page
    small.
    """
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    boxes: dict[int, list[Path]] = {}
    for y, row in enumerate(rows):
        depths = [round(SHADES * min(1.0, max(0.0, value) / largest)) for value in row]
        for depth, columns in groupby(range(len(row)), key=depths.__getitem__):
            run = list(columns)
            left, right = bounds[run[0]], bounds[run[-1] + 1]
            corners = [(left, y), (right, y), (right, y + 1), (left, y + 1), (left, y)]
            boxes.setdefault(depth, []).append(Path(corners, closed=True))
    for depth, paths in boxes.items():
        axes.add_patch(PathPatch(Path.make_compound_path(*paths), **paint(depth, colour)))


def paint(depth: int, colour: str = _COLOUR) -> Style:
    """Return the style of a patch with an opacity of 0 to `SHADES`."""
    if not depth:
        return {"color": INK, "alpha": 0.06, "linewidth": 0}
    return {"color": colour, "alpha": depth / SHADES, "linewidth": 0}
