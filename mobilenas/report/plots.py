"""The report's plots as inline SVG; lines and text have the page's colour, light or dark."""

import io
import re
import warnings
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from mobilenas.baselines.records import NetworkRecord
from mobilenas.core.settings import format_count
from mobilenas.nn.operations import Kernel
from mobilenas.search.records import SearchLine
from mobilenas.spaces.mobile.arch import Block, MobileArch

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

Style = dict[str, Any]
"""Keyword arguments of matplotlib, whose types cannot be checked in a mapping."""

# A placeholder, replaced in the SVG by currentColor, the text colour of the page.
INK = "#010203"
COLOURS = ("#e07b1a", "#3d87cc", "#a35fc9", "#2f9e77", "#c9577b")
GREY = "#858d99"
_KERNEL_COLOURS: dict[Kernel, str] = {1: GREY, 3: "#3d87cc", 5: "#e07b1a", 7: "#a35fc9"}
_KIND_STYLES = {
    "searched": {"color": COLOURS[0], "marker": "*", "s": 110, "zorder": 4},
    "scratch": {"color": COLOURS[3], "marker": "o", "s": 34, "zorder": 3},
    "unchanged": {"color": GREY, "marker": "s", "s": 34, "zorder": 3},
    "random-search": {"color": COLOURS[2], "marker": "D", "s": 30, "zorder": 3},
    "random": {"color": GREY, "marker": "o", "s": 22, "zorder": 2},
    "equal-time": {"color": COLOURS[1], "marker": "D", "s": 30, "zorder": 3},
    "pretrained": {"color": COLOURS[4], "marker": "v", "s": 34, "zorder": 3},
    "uniform": {"color": COLOURS[3], "marker": "s", "s": 30, "zorder": 3},
    "constant": {"color": COLOURS[4], "marker": "^", "s": 34, "zorder": 3},
}
_MOBILENET_STYLE = {"color": COLOURS[1], "marker": "s", "s": 34, "zorder": 3}
_COST_AXES = {
    "flops": "FLOPs (multiply-adds)",
    "latency": "latency of one image, ms",
}
"""Axis labels by cost."""
AROUND_CURVE = (0.7, 0.45)
"""Margins left of and below a curve's axes in inches, for tick labels of six characters."""
_RIM = 0.08
_HALF_LEGEND, _LEGEND_ROW = 22, 0.18
"""Characters that fit in half a legend; height of a legend row in inches."""
_MOBILENET_MARKERS = ("s", "^", "v", "P", "X")

# matplotlib types the keys as literals, which a plain dict is not
_RC: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "mobilenas",
    "font.family": "sans-serif",
    "font.size": 9.0,
    "text.color": INK,
    "text.parse_math": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": INK,
    "grid.alpha": 0.15,
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
}


def accuracy_plot(
    entries: Sequence[NetworkRecord], cost: str, limits: Mapping[str, float]
) -> Markup:
    """Draw top-1 on test images against `flops` or `latency`, a mark per network."""
    label = _COST_AXES[cost]
    groups = _groups(entries)
    columns = 2 if max(len(name) for name, *_ in groups) <= _HALF_LEGEND else 1
    with page_style():
        fig, axes = new_axes(3.9, 3.1 + _LEGEND_ROW * (len(groups) / columns))
        markers = iter(_MOBILENET_MARKERS * (len(entries) // len(_MOBILENET_MARKERS) + 1))
        for name, kind, group in groups:
            # mypy cannot check an unpacked mapping as arguments of scatter
            style: Style = _KIND_STYLES.get(kind) or (_MOBILENET_STYLE | {"marker": next(markers)})
            x, y = [entry.cost(cost) for entry in group], [entry.top1 for entry in group]
            axes.scatter(x, y, label=plain(name), linewidths=0, alpha=0.9, **style)
        if cost in limits:
            axes.axvline(limits[cost], color=INK, linewidth=1, linestyle="--", label="budget")
        axes.margins(0.08)
        axes.set_xlabel(label)
        axes.set_ylabel("top-1 on test images, %")
        count_axis(axes, whole=cost == "flops")
        fig.legend(loc="outside lower center", ncols=columns, handletextpad=0.3, columnspacing=1)
        return figure_svg(fig, f"accuracy-{cost}", f"Top-1 against {label} of every network")


def front_plot(
    entries: Sequence[NetworkRecord], fronts: Mapping[str, Sequence[NetworkRecord]], cost: str
) -> Markup:
    """Draw the networks of several runs by kind, and each of `fronts` as steps."""
    label = _COST_AXES[cost]
    with page_style():
        fig, axes = new_axes(3.9, 3.7)
        kinds = dict.fromkeys(entry.kind for entry in entries)
        for kind in kinds:
            group = [entry for entry in entries if entry.kind == kind]
            style: Style = _KIND_STYLES.get(kind, _MOBILENET_STYLE)
            x, y = [entry.cost(cost) for entry in group], [entry.top1 for entry in group]
            axes.scatter(x, y, label=plain(kind), linewidths=0, alpha=0.9, **style)
        for (name, front), line in zip(fronts.items(), ("-", ":"), strict=True):
            x, y = [entry.cost(cost) for entry in front], [entry.top1 for entry in front]
            style = {"where": "post", "color": INK, "linewidth": 1, "alpha": 0.6, "linestyle": line}
            axes.step(x, y, label=name, **style)
        axes.margins(0.08)
        axes.set_xlabel(label)
        axes.set_ylabel("top-1 on test images, %")
        count_axis(axes, whole=cost == "flops")
        fig.legend(loc="outside lower center", ncols=3, handletextpad=0.3, columnspacing=1)
        return figure_svg(fig, f"front-{cost}", f"Top-1 against {label} of every run's networks")


def count_axis(axes: "Axes", *, whole: bool) -> None:
    """Give the x axis at most five ticks, with labels such as 1.5M."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(locator(5) if whole else MaxNLocator(nbins=5))
    axes.xaxis.set_major_formatter(lambda value, _: format_count(value))


def search_plots(
    log: Sequence[SearchLine], limits: Mapping[str, float], warmup: int
) -> list[tuple[str, Markup]]:
    """Return curves (title, SVG) over the epochs of a search; warm-up epochs are shaded."""
    loads = {
        f"{cost} / limit, %": [100 * record.expected[cost] / limit for record in log]
        for cost, limit in limits.items()
    }
    multipliers = {c: [r.multipliers[c] for r in log] for c in limits}
    # in warm-up there are no steps of the alphas, and the log has 0
    alpha_loss = [r.alpha_loss if r.epoch > warmup else float("nan") for r in log]
    curves: list[tuple[str, dict[str, list[float]], float | None]] = [
        ("Loss", {"weights": [r.loss for r in log], "alphas": alpha_loss}, None),
        ("Entropy of the alphas", {"nats": [r.entropy for r in log]}, None),
        ("Temperature", {"tau": [r.tau for r in log]}, None),
        ("Expected cost / budget", loads, 100.0),
        ("Multipliers", multipliers, None),
    ]
    epochs = [record.epoch for record in log]
    with page_style():
        return [
            (title, curve(title, epochs, lines, level, warmup))
            for title, lines, level in curves
            if lines  # without budgets there is no utilization
        ]


def curve(
    title: str,
    epochs: Sequence[int],
    lines: Mapping[str, Sequence[float]],
    level: float | None,
    warmup: int,
    step: str = "epoch",
) -> Markup:
    """Draw named lines over epochs or other steps; warm-up is shaded, `level` is a dashed line."""
    fig, axes = new_axes(3.4, 2.2, AROUND_CURVE)
    if warmup:
        axes.axvspan(0.5, min(warmup, epochs[-1]) + 0.5, color=INK, alpha=0.07, linewidth=0)
    if level is not None:
        axes.axhline(level, color=INK, linewidth=1, linestyle="--")
    marker = "o" if len(epochs) < 30 else ""
    for (label, values), colour in zip(lines.items(), COLOURS, strict=False):
        axes.plot(epochs, values, color=colour, marker=marker, markersize=2.5, label=plain(label))
    axes.set_xlim(min(1, epochs[0]) - 0.5, epochs[-1] + 0.5)
    axes.set_xlabel(step)
    axes.xaxis.set_major_locator(locator(6))
    if len(lines) > 1:
        axes.legend()
    else:
        axes.set_ylabel(plain(next(iter(lines), "")))
    return figure_svg(
        fig, title.lower().replace(" ", "-").replace("/", "per"), f"{title} by {step}"
    )


def against_plot(
    x: Sequence[float],
    y: Sequence[float],
    name: str,
    labels: tuple[str, str],
    *,
    equal: bool = False,
) -> Markup:
    """Draw y against x, a mark per network; `equal` adds a dashed diagonal."""
    with page_style():
        fig, axes = new_axes(3.4, 2.8)
        axes.scatter(x, y, color=COLOURS[1], s=22, linewidths=0)
        if equal:
            axes.axline((x[0], x[0]), slope=1, color=INK, linewidth=1, linestyle="--")
        axes.margins(0.08)
        axes.set_xlabel(labels[0])
        axes.set_ylabel(labels[1])
        return figure_svg(fig, name, f"{labels[1]} against {labels[0]}")


def _groups(
    entries: Sequence[NetworkRecord],
) -> list[tuple[str, str, list[NetworkRecord]]]:
    """Group networks for the legend: MobileNets by name, all others by kind."""
    groups: dict[tuple[str, str], list[NetworkRecord]] = {}
    for entry in entries:
        label = entry.name if entry.kind == "mobilenet" else entry.kind
        groups.setdefault((label, entry.kind), []).append(entry)
    return [(label, kind, group) for (label, kind), group in groups.items()]


def page_style() -> "AbstractContextManager[None]":
    """Return a context with matplotlib's style for the page."""
    import matplotlib as mpl

    return mpl.rc_context(_RC)


def new_axes(
    width: float, height: float, around: tuple[float, float] | None = None
) -> tuple["Figure", "Axes"]:
    """Return a transparent figure and its axes; sizes are in inches.

    `around`: margins left of and below the axes. By default matplotlib computes the space for
    labels and legends, which takes three times as long.
    """
    from matplotlib.figure import Figure

    if around is None:
        fig = Figure(figsize=(width, height), layout="constrained")
        axes = fig.add_subplot()
    else:
        fig, (left, below) = Figure(figsize=(width, height)), around
        inside = (width - left - _RIM, height - below - _RIM)
        axes = fig.add_axes((left / width, below / height, inside[0] / width, inside[1] / height))
    fig.patch.set_alpha(0)
    axes.patch.set_alpha(0)
    return fig, axes


def locator(max_ticks: int) -> "MaxNLocator":
    """Return a locator of at most `max_ticks` ticks at integers."""
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(nbins=max_ticks, integer=True, min_n_ticks=1)


def plain(label: str) -> str:
    """Remove leading underscores, because matplotlib hides labels that start with _."""
    return label.lstrip("_") or "?"


def figure_svg(fig: "Figure", name: str, label: str, *, sized: bool = False) -> Markup:
    """Return the figure as `page_svg` does."""
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with warnings.catch_warnings():
        # missing in its own font; the browser draws the text
        warnings.filterwarnings("ignore", r"Glyph .* missing from font", UserWarning)
        fig.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    return page_svg(buffer.getvalue(), name, label, sized=sized)


def page_svg(svg: str, name: str, label: str, *, sized: bool = False) -> Markup:
    """Return an SVG file as an element of a page: unique ids, the page's colour, no preamble.

    It fills the available width, unless it is `sized`.
    """
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(href="|url\()#', rf"\1#{name}-", svg)
    for side in () if sized else ("width", "height"):
        svg = re.sub(rf'(<svg [^>]*?) ?\b{side}="[^"]*"', r"\1", svg, count=1)
    svg = svg.replace(INK, "currentColor")
    return Markup(svg.replace("<svg ", f'<svg role="img" aria-label="{escape(label)}" ', 1))


_STEP, _BAR, _LEFT, _TOP, _TALL = 46, 34, 98, 62, 120
_BASE = _TOP + _TALL
_TIMES = "\u00d7"


def arch_drawing(arch: MobileArch) -> Markup:
    """Draw the chain: a bar per block, its height the output channels, its colour the kernel."""
    channels = [arch.stem.channels, *(block.out for block in arch.blocks)]
    side = -(-arch.image_size // arch.stem.stride)
    # the stem has no expansion
    columns = [
        _column(0, "stem", GREY, _square(3), channels[0], max(channels), side, arch.stem.stride)
    ]
    for number, block in enumerate(arch.blocks, 1):
        side = -(-side // block.stride)
        columns.append(_block(number, block, channels[number - 1], max(channels), side))
    last = len(columns)
    if head := arch.head.channels:
        columns.append(_column(last, "head", GREY, _square(1), head, head, side, 1, dashed=True))
    names = {16: "stride", 34: "squeeze-excite", 52: "expansion", _BASE + 18: "kernel"}
    names |= {_BASE + 36: "channels", _BASE + 54: "side, pixels", _BASE + 72: "block"}
    labels = "".join(
        f'<text x="0" y="{y}" opacity="0.65">{name}</text>' for y, name in names.items()
    )
    width, height = _LEFT + _STEP * (last + 1), _BASE + 80
    return Markup(
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-size="11" font-family="system-ui, sans-serif" '
        f'fill="currentColor" aria-label="The searched network, block by block">\n{labels}\n'
        + "\n".join(columns)
        + "\n</svg>"
    )


def _block(number: int, block: Block, inputs: int, largest: int, side: int) -> str:
    kernel = block.kernel if isinstance(block.kernel, str) else _square(block.kernel)
    kernel = kernel if block.kernel else "-"
    tooltip = (
        f"block {number}: {kernel.replace(_TIMES, 'x')}, channels {inputs} to {block.hidden} to "
        f"{block.out}, stride {block.stride}, {block.activation}"
        + (f", squeeze-excite over {block.squeeze}" if block.squeeze else "")
        + (f", {start}x{start} before the expansion" if (start := block.start_kernel) else "")
        + (", a full convolution" if block.fused else "")
    )
    column = _column(
        number,
        str(number),
        GREY if block.fused else _KERNEL_COLOURS.get(block.kernel, COLOURS[3]),
        f"{block.start_kernel}+{block.kernel}" if block.start_kernel else kernel,
        block.out,
        largest,
        side,
        block.stride,
        tooltip=tooltip,
    )
    marks = _label(number, 52, f"{_TIMES}{block.hidden / inputs:.3g}")
    marks += _label(number, 34, "SE") if block.squeeze else ""
    return f"<g>{column}{marks}</g>"


def _column(
    place: int,
    name: str,
    colour: str,
    kernel: str,
    channels: int,
    largest: int,
    side: int,
    stride: int,
    *,
    dashed: bool = False,
    tooltip: str = "",
) -> str:
    x = _LEFT + _STEP * place
    high = max(3.0, _TALL * channels / largest)
    paint = (
        f'fill="none" stroke="{colour}" stroke-dasharray="4 3"' if dashed else f'fill="{colour}"'
    )
    title = f"<title>{escape(tooltip)}</title>" if tooltip else ""
    bar = (
        f'<rect x="{x}" y="{_BASE - high:.1f}" width="{_BAR}" height="{high:.1f}" rx="2" {paint}>'
        f"{title}</rect>"
    )
    rows = (kernel, channels, side, name)
    labels = "".join(_label(place, _BASE + 18 * n, row) for n, row in enumerate(rows, 1))
    if stride > 1:
        line = x - (_STEP - _BAR) / 2
        labels += _label(place, 16, f"÷{stride}") + (
            f'<path d="M{line} 8V{_BASE}" stroke="currentColor" stroke-dasharray="2 3" '
            'opacity="0.6"/>'
        )
    return f"<g>{bar}{labels}</g>"


def _square(kernel: int) -> str:
    return f"{kernel}{_TIMES}{kernel}"


def _label(place: int, y: int, value: object) -> str:
    x = _LEFT + _STEP * place + _BAR // 2
    return f'<text x="{x}" y="{y}" text-anchor="middle">{escape(str(value))}</text>'
