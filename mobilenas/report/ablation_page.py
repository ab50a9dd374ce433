"""The page of an ablation, made from ablation.json: one self-contained file."""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from markupsafe import Markup

from mobilenas.baselines.paired import LEVEL
from mobilenas.baselines.records import MeanStd
from mobilenas.core.settings import format_count
from mobilenas.report.ablation_table import costs_sentence, parts_of, sentences
from mobilenas.report.page import number, render
from mobilenas.report.plots import COLOURS, INK, figure_svg, new_axes, page_style
from mobilenas.report.records import AblationRecord, VariantRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_Plot = tuple[str, str, Mapping[str, Mapping[str, Sequence[float]]], float | None]
"""Title, axis label, values by part and variant, and the level of a dashed line."""

_SKIPS = {
    "normal": "skips, normal cell",
    "reduce": "skips, reduction cell",
    "blocks": "blocks left out",
}


def ablation_page(record: AblationRecord) -> str:
    """Return the whole page."""
    variants = record.variants
    entries = [(variant, entry) for variant in variants for entry in variant.entries]
    return render(
        "ablation.html",
        title=f"mobilenas ablation: {record.data.source}",
        record=record,
        sentences=sentences(variants, record.control),
        level=LEVEL,
        skips=[_SKIPS[kind] for kind in variants[0].skips],
        variants=[(variant.name, _figures(variant)) for variant in variants],
        costs=costs_sentence(variants),
        plots=_plots(record),
        alarms=[
            (variant.name, entry.seed, alarm)
            for variant, entry in entries
            for alarm in entry.alarms
        ],
        networks=[
            (variant.name, entry, entry.genotype or json.dumps(entry.arch))
            for variant, entry in entries
        ],
        request=json.dumps(record.request, indent=1, ensure_ascii=False),
    )


def _figures(variant: VariantRecord) -> list[str]:
    """Return the table cells of a variant."""
    entries = variant.entries
    channels = [entry.channels for entry in entries if entry.channels is not None]
    ends = dict.fromkeys(str(end) for end in (min(channels), max(channels))) if channels else ()
    gap = variant.gap or {}
    return [
        _spread(variant.top1),
        f"{_mean([entry.val_top1 for entry in entries]):.2f}",
        *(_spread(gap.get(name)) for name in ("points_before", "points")),
        *(_spread(skips, ".1f") for skips in variant.skips.values()),
        number(variant.agreement, ".2f"),
        " to ".join(ends) or "-",
        format_count(_mean([entry.costs["flops"] for entry in entries])),
        format_count(_mean([entry.costs["params"] for entry in entries])),
        *(f"{variant.seconds[name].mean:,.0f}" for name in ("search", "train")),
    ]


def _spread(figures: MeanStd | None, spec: str = ".2f") -> str:
    return "-" if figures is None else number(figures.mean, spec, figures.sd)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _plots(record: AblationRecord) -> list[tuple[str, Markup]]:
    """Return all plots with their titles."""
    variants = record.variants
    top1 = {"test top-1": {a.name: [e.top1 for e in a.entries] for a in variants}}
    control = next(variant for variant in variants if variant.name == record.control)
    level = control.top1.mean
    drawn: list[_Plot] = [
        ("Test top-1; dashed: the control's mean", "top-1 on test images, %", top1, level)
    ]
    searched = [variant for variant in variants if variant.gap]
    if searched:
        gaps = {
            "as published": {
                a.name: [e.gap.points_before for e in a.entries if e.gap] for a in searched
            },
            "new norms": {a.name: [e.gap.points for e in a.entries if e.gap] for a in searched},
        }
        drawn.append(("Discretization gap", "points of validation top-1 lost", gaps, 0.0))
    skips = {
        _SKIPS[kind]: {a.name: [e.skips[kind] for e in a.entries] for a in variants}
        for kind in variants[0].skips
    }
    title = "Skip connections" if "normal" in variants[0].skips else "Blocks left out"
    drawn.append((title, "number in the searched network", skips, None))
    return [(plot[0], _marks(*plot)) for plot in drawn]


def _marks(
    title: str, label: str, groups: Mapping[str, Mapping[str, Sequence[float]]], level: float | None
) -> Markup:
    """Draw a row per variant, with a line of marks for each of `groups`."""
    names = list(next(iter(groups.values())))
    # names of variants may be long, so each part has its own line
    labels = ["\n".join(map(_ascii, parts_of(name))) for name in names]
    lines = sum(1 + text.count("\n") for text in labels)
    with page_style():
        fig, axes = new_axes(4.2, 1.1 + 0.24 * lines + 0.2 * len(names))
        if level is not None:
            axes.axvline(level, color=INK, linewidth=1, linestyle="--", alpha=0.6)
        offsets = [0.0] if len(groups) == 1 else [-0.16, 0.16]
        for (group, values), offset, colour in zip(groups.items(), offsets, COLOURS, strict=False):
            _draw(axes, group, list(values.values()), offset, colour)
        axes.set_yticks(range(len(names)), labels)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.margins(x=0.08)
        axes.set_xlabel(label)
        if len(groups) > 1:
            fig.legend(loc="outside lower center", ncols=2, handletextpad=0.3, columnspacing=1)
        return figure_svg(fig, "ablation-" + title.split(";")[0].lower().replace(" ", "-"), title)


def _draw(
    axes: "Axes", group: str, variants: Sequence[Sequence[float]], offset: float, colour: str
) -> None:
    """Draw the marks of every variant, with seeds offset so that equal values are visible."""
    seeds = len(variants[0])
    step = min(0.07, 0.2 / seeds)
    x = [value for values in variants for value in values]
    y = [
        row + offset + step * (seed - (seeds - 1) / 2)
        for row in range(len(variants))
        for seed in range(seeds)
    ]
    axes.scatter(x, y, color=colour, s=22, alpha=0.8, linewidths=0, label=group, zorder=3)
    means = [_mean(values) for values in variants]
    rows = [row + offset for row in range(len(variants))]
    axes.scatter(means, rows, color=colour, marker="|", s=170, linewidths=2, zorder=4)


def _ascii(name: str) -> str:
    # matplotlib warns about glyphs that its font lacks
    return name.encode("ascii", "replace").decode()
