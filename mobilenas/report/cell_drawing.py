"""Draws a cell as inline SVG, by graphviz if it is installed, else by matplotlib."""

import shutil
import subprocess
from typing import TYPE_CHECKING

from markupsafe import Markup

from mobilenas.report.plots import COLOURS, GREY, INK, figure_svg, page_style, page_svg
from mobilenas.spaces.cell.arch import INPUTS, Cell

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_INPUT_NAMES = ("c_{k-2}", "c_{k-1}")
_OUTPUT_NAME = "c_k"
_COLOURS = {"sep": COLOURS[1], "dil": COLOURS[2], "avg": COLOURS[0], "max": COLOURS[0]}
_SKIP_COLOUR = COLOURS[3]
_EMPTY = "empty"
_DOT_SECONDS = 20


def draw_cell(cell: Cell, name: str) -> Markup:
    """Draw inputs, nodes, output, and edges with their operations, coloured by kind.

    An empty node is faint and dashed, because the concatenation omits it.
    """
    program, own = shutil.which("dot"), name.lower().replace(" ", "-")
    drawn = _by_graphviz(program, cell) if program else None
    if drawn is None:
        return _by_matplotlib(cell, own, name)
    return page_svg(drawn, own, name, sized=True)


def cell_dot(cell: Cell) -> str:
    """Return a cell in graphviz's DOT language."""
    lines = [
        'rankdir=LR; bgcolor="transparent"',
        "node [shape=box, style=rounded, width=0.4, height=0.3]",
        "edge [arrowsize=0.7]",
        *(
            f'{what} [fontname="sans-serif", fontsize={size}, color="{INK}", fontcolor="{INK}"]'
            for what, size in (("node", 11), ("edge", 10))
        ),
    ]
    nodes = (f"{n}" if edges else f"{n} {_EMPTY}" for n, edges in enumerate(cell.nodes))
    names = [f'"{name}"' for name in (*_INPUT_NAMES, *nodes, _OUTPUT_NAME)]
    lines += names[:INPUTS]
    for name, edges in zip(names[INPUTS:-1], cell.nodes, strict=True):
        looks = "" if edges else f' [style="rounded,dashed", color="{GREY}", fontcolor="{GREY}"]'
        lines.append(name + looks)
        lines += [
            f'{names[edge.input]} -> {name} [label="{_short(edge.operation)}", '
            f'color="{_colour(edge.operation)}", penwidth=1.6]'
            for edge in edges
        ]
    lines += [f"{names[place]} -> {names[-1]} [style=dotted]" for place in cell.outputs]
    return "digraph cell {\n" + "".join(f"  {line};\n" for line in lines) + "}\n"


def _short(operation: str) -> str:
    """Abbreviate an operation: `sep_conv_3x3` to `sep 3x3`, `skip_connect` to `skip`."""
    first, *_, last = operation.split("_")
    return f"{first} {last}" if last[0].isdigit() else first


def _colour(operation: str) -> str:
    return _COLOURS.get(operation.partition("_")[0], _SKIP_COLOUR)


def _by_graphviz(program: str, cell: Cell) -> str | None:
    """Return graphviz's SVG; None if graphviz fails."""
    try:
        done = subprocess.run(
            [program, "-Tsvg"],
            input=cell_dot(cell),
            capture_output=True,
            encoding="utf-8",
            check=True,
            timeout=_DOT_SECONDS,
        )
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return done.stdout if "<svg" in done.stdout else None


# inches
_ROW, _COLUMN, _GROUP_GAP = 0.25, 1.0, 0.12
_HALF_WIDTH, _HALF_HEIGHT, _MARGIN = 0.19, 0.11, 0.06
_INPUT_HALF_WIDTH, _INPUT_COLUMN = 0.27, 0.66


class _Stairs:
    """Layout with a row for every edge and a column for every index, so that labels do not overlap.

    A node is at the end of its edges' rows; edges that read it start at the line below it.
    """

    def __init__(self, cell: Cell) -> None:
        self.cell = cell
        left = _INPUT_HALF_WIDTH + _MARGIN
        nodes = range(len(cell.nodes) + 1)  # and the output
        second = left + _INPUT_COLUMN
        self.x = [left, second, *(second + _COLUMN * (n + 1) for n in nodes)]
        self.top = _MARGIN + _HALF_HEIGHT
        self.rows: list[list[float]] = []
        y = self.top + _GROUP_GAP
        for edges in cell.nodes:
            self.rows.append([y + _ROW * (n + 1) for n in range(max(1, len(edges)))])
            y = self.rows[-1][-1] + _GROUP_GAP
        self.bottom = y + _ROW
        self.size = (self.x[-1] + _INPUT_HALF_WIDTH + _MARGIN, self.bottom + self.top)

    def last_use(self, place: int) -> float | None:
        """Return the row of the last edge that reads an index, or that of the output."""
        if place in self.cell.outputs:
            return self.bottom
        uses = [
            y
            for edges, rows in zip(self.cell.nodes, self.rows, strict=True)
            for edge, y in zip(edges, rows, strict=False)
            if edge.input == place
        ]
        return max(uses, default=None)


def _by_matplotlib(cell: Cell, own: str, name: str) -> Markup:
    from matplotlib.figure import Figure

    stairs = _Stairs(cell)
    width, height = stairs.size
    with page_style():
        fig = Figure(figsize=stairs.size)
        axes = fig.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        axes.set_xlim(0, width)
        axes.set_ylim(height, 0)
        for place, x in enumerate(stairs.x[:-1]):
            _place(axes, stairs, place, x)
        for number, (edges, rows) in enumerate(zip(cell.nodes, stairs.rows, strict=True)):
            end = stairs.x[number + INPUTS] - _HALF_WIDTH
            for edge, y in zip(edges, rows, strict=False):
                colour = _colour(edge.operation)
                _arrow(axes, [stairs.x[edge.input]], end, y, colour, _short(edge.operation))
        joined = [stairs.x[place] for place in cell.outputs]
        _arrow(axes, joined, stairs.x[-1] - _INPUT_HALF_WIDTH, stairs.bottom, INK, "")
        _box(axes, stairs.x[-1], (stairs.bottom, stairs.bottom), _OUTPUT_NAME, _INPUT_HALF_WIDTH)
        return figure_svg(fig, own, name, sized=True)


def _place(axes: "Axes", stairs: _Stairs, place: int, x: float) -> None:
    """Draw an input or node, and the line below it where edges start."""
    if place < INPUTS:
        begin = stairs.top
        _box(axes, x, (begin, begin), _INPUT_NAMES[place], _INPUT_HALF_WIDTH)
    else:
        rows = stairs.rows[place - INPUTS]
        begin = rows[-1]
        empty = not stairs.cell.nodes[place - INPUTS]
        _box(axes, x, (rows[0], begin), str(place - INPUTS), _HALF_WIDTH, empty=empty)
    last = stairs.last_use(place)
    if last is not None:
        axes.plot([x, x], [begin + _HALF_HEIGHT, last], color=INK, alpha=0.45, linewidth=1)


def _box(
    axes: "Axes",
    x: float,
    rows: tuple[float, float],
    label: str,
    half_width: float,
    *,
    empty: bool = False,
) -> None:
    from matplotlib.patches import FancyBboxPatch

    first, last = rows
    corner = (x - half_width, first - _HALF_HEIGHT)
    size = (2 * half_width, last - first + 2 * _HALF_HEIGHT)
    colour = GREY if empty else INK
    axes.add_patch(
        FancyBboxPatch(
            corner,
            *size,
            boxstyle="round,pad=0,rounding_size=0.06",
            fill=False,
            edgecolor=colour,
            linestyle="--" if empty else "-",
            linewidth=1,
        )
    )
    middle = (first + last) / 2
    axes.text(x, middle, label, ha="center", va="center_baseline", color=colour)
    if empty:
        axes.text(
            x - half_width - 0.08, middle, _EMPTY, ha="right", va="center_baseline", color=colour
        )


def _arrow(
    axes: "Axes", starts: list[float], end: float, y: float, colour: str, label: str
) -> None:
    """Draw an arrow that starts at the lines at `starts`; its label is before the head."""
    axes.plot(starts, [y] * len(starts), color=colour, marker="o", markersize=3.5, linestyle="")
    axes.annotate(
        "",
        (end, y),
        (starts[0], y),
        arrowprops={
            "arrowstyle": "-|>,head_width=0.18,head_length=0.36",
            "color": colour,
            "linewidth": 1.6,
            "shrinkA": 0,
            "shrinkB": 0,
        },
    )
    axes.text(end - 0.08, y - 0.025, label, ha="right", va="bottom", fontsize=8.5)
