"""The page of an ablation, made of what ablation.json holds: one file that needs no network."""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mobilenas.baselines.paired import LEVEL
from mobilenas.core.settings import COUNTING_RULE, format_count
from mobilenas.report import page as html
from mobilenas.report.ablation_table import costs_sentence, parts_of, sentences
from mobilenas.report.plots import COLOURS, INK, figure_svg, new_axes, page_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Record = Mapping[str, Any]
"""ablation.json, or a part of it."""

_NONE = "-"
_SKIPS = {
    "normal": "skips, normal cell",
    "reduce": "skips, reduction cell",
    "blocks": "blocks left out",
}


def ablation_page(record: Record) -> str:
    """Return the whole page."""
    sections = (
        ("Arms", _arms(record)),
        ("Plots", _plots(record)),
        ("Alarms", _alarms(record)),
        ("Networks", _networks(record)),
        ("How to reproduce", _reproduce(record)),
        (
            "How FLOPs are counted",
            html.paragraph(f"{COUNTING_RULE[0].upper()}{COUNTING_RULE[1:]}."),
        ),
    )
    parts = [_verdict(record), *(html.section(title, body) for title, body in sections if body)]
    return html.page(f"mobilenas ablation: {record['data']['source']}", "\n".join(parts))


def _verdict(record: Record) -> str:
    done, asked = len(record["seeds"]), len(record["seeds_asked"])
    parts = []
    if done < asked:
        told = f"{done} of {asked} seeds are done: go on with mobilenas ablate --resume."
        parts.append(html.paragraph(told, "bad"))
    parts.append(html.paragraph(f"The control is {record['control']}."))
    parts += [html.paragraph(sentence) for sentence in sentences(record)]
    told = (
        "Points of top-1 on test images, paired by seed, mean ± sample standard deviation. "
        f"Better and worse stand only where a paired t-test gives p < {LEVEL:g}. The p values "
        "are not corrected for the number of arms: of twenty arms that are no different, one is "
        "expected to look so."
    )
    return "\n".join([*parts, html.paragraph(told, "note")])


def _arms(record: Record) -> str:
    kinds = list(record["arms"][0]["skips"])
    header = (
        *("arm", "test top-1, %", "val top-1, %", "gap, points", "gap with new norms, points"),
        *(_SKIPS[kind] for kind in kinds),
        *("agreement", "first channels", "FLOPs", "params", "search, s", "training, s"),
    )
    marked = [n for n, arm in enumerate(record["arms"]) if arm["name"] == record["control"]]
    notes = [
        "Mean ± sample standard deviation over seeds; the control's row stands out. Gap: points of "
        "validation top-1 lost when the supernet becomes the network, as published, and with "
        "batch-norm statistics estimated again. Agreement: how alike the networks of the seeds "
        "are, 0 to 1. Seconds are of one seed.",
        costs_sentence(record),
    ]
    rows = (_row(arm, kinds) for arm in record["arms"])
    return html.table(header, rows, marked=marked) + "".join(
        html.paragraph(note, "note") for note in notes
    )


def _row(arm: Record, kinds: Sequence[str]) -> list[str]:
    entries = arm["entries"]
    channels = [entry["channels"] for entry in entries if "channels" in entry]
    ends = dict.fromkeys(str(end) for end in (min(channels), max(channels))) if channels else ()
    gap = arm["gap"] or {}
    agreement = arm["agreement"]
    return [
        arm["name"],
        _spread(arm["top1"]),
        f"{_mean([entry['val_top1'] for entry in entries]):.2f}",
        *(_spread(gap.get(name)) for name in ("points_before", "points")),
        *(_spread(arm["skips"][kind], places=1) for kind in kinds),
        _NONE if agreement is None else f"{agreement:.2f}",
        " to ".join(ends) or _NONE,
        *(format_count(_mean([e["costs"][c] for e in entries])) for c in ("flops", "params")),
        *(f"{arm['seconds'][name]['mean']:,.0f}" for name in ("search", "train")),
    ]


def _spread(figures: Record | None, places: int = 2) -> str:
    if figures is None:
        return _NONE
    spread = "" if figures["sd"] is None else f" ± {figures['sd']:.{places}f}"
    return f"{figures['mean']:.{places}f}{spread}"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _plots(record: Record) -> str:
    """Return every plot."""
    arms = record["arms"]
    top1 = {"test top-1": {a["name"]: [e["top1"] for e in a["entries"]] for a in arms}}
    control = next(arm for arm in arms if arm["name"] == record["control"])
    level = control["top1"]["mean"]
    drawn = [("Test top-1; dashed: the control's mean", "top-1 on test images, %", top1, level)]
    searched = [arm for arm in arms if arm["gap"]]
    if searched:
        gaps = {
            label: {a["name"]: [e["gap"][name] for e in a["entries"]] for a in searched}
            for label, name in (("as published", "points_before"), ("new norms", "points"))
        }
        drawn.append(("Discretization gap", "points of validation top-1 lost", gaps, 0.0))
    skips = {
        _SKIPS[kind]: {a["name"]: [e["skips"][kind] for e in a["entries"]] for a in arms}
        for kind in arms[0]["skips"]
    }
    title = "Skip connections" if "normal" in arms[0]["skips"] else "Blocks left out"
    drawn.append((title, "number in the found network", skips, None))
    told = "Each mark is one seed, the bar their mean."
    figures = html.grid(html.figure(_marks(*plot), plot[0]) for plot in drawn)
    return figures + html.paragraph(told, "note")


def _marks(
    title: str, label: str, groups: Mapping[str, Mapping[str, Any]], level: float | None
) -> str:
    """Draw one row an arm, and in it one line of marks for each of `groups`."""
    names = list(next(iter(groups.values())))
    # arms are named in words of any length: each part has a line of its own
    told = ["\n".join(map(_ascii, parts_of(name))) for name in names]
    lines = sum(1 + text.count("\n") for text in told)
    with page_style():
        fig, axes = new_axes(4.2, 1.1 + 0.24 * lines + 0.2 * len(names))
        if level is not None:
            axes.axvline(level, color=INK, linewidth=1, linestyle="--", alpha=0.6)
        offsets = [0.0] if len(groups) == 1 else [-0.16, 0.16]
        for (group, values), offset, colour in zip(groups.items(), offsets, COLOURS, strict=False):
            _draw(axes, group, list(values.values()), offset, colour)
        axes.set_yticks(range(len(names)), told)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.margins(x=0.08)
        axes.set_xlabel(label)
        if len(groups) > 1:
            fig.legend(loc="outside lower center", ncols=2, handletextpad=0.3, columnspacing=1)
        return figure_svg(fig, "ablation-" + title.split(";")[0].lower().replace(" ", "-"), title)


def _draw(
    axes: "Axes", group: str, arms: Sequence[Sequence[float]], offset: float, colour: str
) -> None:
    """Draw the marks of every arm; its seeds stand on steps, so that equal ones are seen."""
    seeds = len(arms[0])
    step = min(0.07, 0.2 / seeds)
    x = [value for values in arms for value in values]
    y = [
        row + offset + step * (seed - (seeds - 1) / 2)
        for row in range(len(arms))
        for seed in range(seeds)
    ]
    axes.scatter(x, y, color=colour, s=22, alpha=0.8, linewidths=0, label=group, zorder=3)
    means = [_mean(values) for values in arms]
    rows = [row + offset for row in range(len(arms))]
    axes.scatter(means, rows, color=colour, marker="|", s=170, linewidths=2, zorder=4)


def _ascii(name: str) -> str:
    # matplotlib warns of glyphs that its own font lacks
    return name.encode("ascii", "replace").decode()


def _alarms(record: Record) -> str:
    rows = [
        (arm["name"], entry["seed"], alarm)
        for arm in record["arms"]
        for entry in arm["entries"]
        for alarm in entry["alarms"]
    ]
    if not rows:
        return html.paragraph("No search ended with an alarm.")
    return html.table(("arm", "seed", "at the last epoch"), rows, left=(2,))


def _networks(record: Record) -> str:
    shown = []
    for arm in record["arms"]:
        for entry in arm["entries"]:
            told = f"{arm['name']}, seed {entry['seed']}: {entry['top1']:.2f} %"
            network = entry.get("genotype") or json.dumps(entry["arch"])
            shown.append(html.details(told, f"<pre>{html.text(network)}</pre>"))
    return "\n".join(shown)


def _reproduce(record: Record) -> str:
    data = record["data"]
    counts = ", ".join(f"{count:,} {split}" for split, count in data["counts"].items())
    pairs = [
        ("seeds", ", ".join(map(str, record["seeds"]))),
        ("data", data["source"]),
        ("images", f"{counts}; {data['image_size']} x {data['image_size']} pixels"),
        ("fingerprint", data["fingerprint"]),
        ("machine", ", ".join(str(value) for value in record["machine"].values() if value)),
        ("versions", ", ".join(f"{name} {v}" for name, v in record["versions"].items())),
    ]
    asked = html.text(json.dumps(record["request"], indent=1, ensure_ascii=False))
    return (
        f"<pre>{html.text(record['command'])}</pre>"
        + html.definitions(pairs)
        + html.details("All that was asked for", f"<pre>{asked}</pre>")
    )
