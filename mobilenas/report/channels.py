"""Sections of the report on channel sizes: the searched sizes, and the trials."""

from collections.abc import Mapping, Sequence
from itertools import cycle

from markupsafe import Markup

from mobilenas.channel_graph.drawing import groups_drawing
from mobilenas.channels.records import TrialLine
from mobilenas.report.page import render
from mobilenas.report.plots import (
    COLOURS,
    GREY,
    INK,
    curve,
    figure_svg,
    new_axes,
    page_style,
    plain,
)
from mobilenas.spaces.channels.space import ChannelsArch

_NAMED = 8


def channels_section(arch: ChannelsArch) -> Markup:
    """Show the channels of every group, beside the model's own."""
    graph = arch.base.graph
    return render(
        "network_channels.html",
        model=str(arch.base),
        drawing=Markup(groups_drawing(graph.at(arch.sizes), str(arch.base))),
        changed=sum(graph.sizes[name] != size for name, size in arch.sizes.items()),
        sizes=[(name, graph.sizes[name], size) for name, size in arch.sizes.items()],
    )


def trials_plots(log: Sequence[TrialLine]) -> list[tuple[str, Markup]]:
    """Return plots (title, SVG) of the trials of a search for channel sizes."""
    trials = [line.trial for line in log]
    start = log[0].sizes
    with page_style():
        sizes = {n: [line.sizes[n] / start[n] for line in log] for n in start}
        quality = {n: [line.quality[n] for line in log] for n in start}
        heat = {"temperature": [line.temperature for line in log]}
        return [
            ("Validation top-1 of the trials", _accepted(log)),
            ("Sizes / start sizes", _lines(trials, sizes, "size / start")),
            ("Metric of each group, with momentum", _lines(trials, quality, "QC with momentum")),
            ("Temperature of the annealing", curve("Temperature", trials, heat, None, 0, "trial")),
        ]


def _accepted(log: Sequence[TrialLine]) -> Markup:
    fig, axes = new_axes(3.4, 2.2)
    for accepted, label, colour in ((True, "accepted", COLOURS[3]), (False, "taken back", GREY)):
        lines = [line for line in log if line.accepted is accepted]
        axes.scatter(
            [line.trial for line in lines],
            [line.val_top1 for line in lines],
            color=colour,
            label=label,
            s=22,
        )
    axes.set_xlabel("trial")
    axes.set_ylabel("validation top-1, %")
    axes.legend()
    return figure_svg(fig, "trials", "Validation top-1 of every trial")


def _lines(trials: Sequence[int], lines: Mapping[str, Sequence[float]], label: str) -> Markup:
    """Draw a line per group; those with the most extreme last values are labelled."""
    fig, axes = new_axes(3.4, 3.0)
    ends = sorted(lines, key=lambda name: lines[name][-1])
    named = {*ends[: _NAMED // 4], *ends[-_NAMED // 4 :]}
    colours = cycle(COLOURS)
    for name, values in lines.items():
        shown = name in named
        axes.plot(
            trials,
            values,
            color=next(colours) if shown else INK,
            linewidth=1.4 if shown else 0.6,
            alpha=1.0 if shown else 0.35,
            label=plain(name) if shown else None,
        )
    axes.set_xlabel("trial")
    axes.set_ylabel(label)
    fig.legend(loc="outside lower center", ncols=1)
    return figure_svg(fig, label, f"{label} of each group over the trials")
