"""Section of the report on what the exported file gets wrong: classes, and pictures."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mobilenas.compare import report_page as html
from mobilenas.compare.diagnostics_plots import SHADES, paint, shade
from mobilenas.compare.report_files import RunFiles
from mobilenas.compare.report_plots import COLOURS, figure_svg, new_axes, page_style, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Confusion = Mapping[str, Mapping[str, int]]
"""Images by class and predicted class."""

_MOST_CLASSES = 60
_MOST_PAIRS = 10
_LONGEST_NAME = 14
_RIGHT, _WRONG = COLOURS[1], COLOURS[0]
_ROW, _KEY, _LETTER = 0.1, 0.3, 0.0095
"""Inches: a class, the key, and a letter for each point of its size."""


def mistakes(files: RunFiles) -> str:
    """Show the confusion of classes and the mistakes that the network was most certain of."""
    if files.mistakes is None:
        return html.missing("export/mistakes.json", "mobilenas export")
    record = files.mistakes
    confusion: Confusion = record["confusion"]
    wrong = record["images"] - sum(row.get(label, 0) for label, row in confusion.items())
    told = (
        f"{record['file']} in onnxruntime gives {record['images'] - wrong:,} of "
        f"{record['images']:,} test images their own class: {record['top1']:.2f} %."
    )
    parts = [html.paragraph(told), _matrix(confusion)]
    if wrong:
        parts += [_pairs(confusion), _pictures(record["worst"], wrong)]
    return "".join(parts)


def _matrix(confusion: Confusion) -> str:
    predicted = (name for row in confusion.values() for name in row)
    labels = list(dict.fromkeys((*confusion, *predicted)))
    if len(labels) > _MOST_CLASSES:
        told = f"{len(labels)} classes are too many for a drawing: mistakes.json has the counts."
        return html.paragraph(told, "note")
    caption = "Rows: the class of the images. Columns: what they were taken for"
    return html.figure(_confusion_plot(confusion, labels), caption, wide=True)


def _confusion_plot(confusion: Confusion, labels: Sequence[str]) -> str:
    """Draw a square a pair: opacity is its share of the class's images, right ones another colour.

    The largest share of a wrong class is opaque: else few mistakes would not be seen.
    """
    from matplotlib.patches import Patch

    shares, wrong = [], []
    for place, label in enumerate(labels):
        counts = confusion.get(label, {})
        images = sum(counts.values()) or 1
        row = [counts.get(name, 0) / images for name in labels]
        shares.append(row[place])
        wrong.append([*row[:place], 0.0, *row[place + 1 :]])
    most = max(map(max, wrong))
    with page_style():
        names = [plain(_short(label)) for label in labels]
        size = 8.5 if len(labels) <= 20 else 6
        side = max(2.4, _ROW * len(labels))
        label_room = 0.15 + max(map(len, names)) * size * _LETTER
        fig, axes = new_axes(
            side + label_room + 0.1, side + label_room + _KEY, (label_room, label_room + _KEY)
        )
        axes.grid(visible=False)
        bounds = list(range(len(labels) + 1))
        shade(axes, wrong, bounds, most or 1, _WRONG)
        for place, share in enumerate(shares):
            _square(axes, place, share)
        middles = [n + 0.5 for n in range(len(labels))]
        axes.set_xticks(middles, names, rotation=90, fontsize=size)
        axes.set_yticks(middles, names, fontsize=size)
        axes.tick_params(length=0)
        axes.set_xlim(0, len(labels))
        axes.set_ylim(len(labels), 0)
        keys = (("right: 100 %", _RIGHT), (f"wrong: {100 * most:.0f} % of a class", _WRONG))
        fig.legend(
            handles=[Patch(**paint(SHADES, colour), label=name) for name, colour in keys],
            loc="lower center",
            ncols=2,
        )
        return figure_svg(fig, "confusion", "Confusion matrix of the test images", sized=True)


def _square(axes: "Axes", place: int, share: float) -> None:
    from matplotlib.patches import Rectangle

    axes.add_patch(Rectangle((place, place), 1, 1, **paint(round(SHADES * share), _RIGHT)))


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 2]}.."


def _pairs(confusion: Confusion) -> str:
    pairs = [
        (label, name, count, 100 * count / sum(row.values()))
        for label, row in confusion.items()
        for name, count in row.items()
        if name != label
    ]
    pairs.sort(key=lambda pair: -pair[2])
    rows = [(*pair[:3], f"{pair[3]:.0f}") for pair in pairs[:_MOST_PAIRS]]
    header = ("class", "taken for", "images", "% of the class")
    return html.paragraph("Confused most often:") + html.table(header, rows, left=(1,))


def _pictures(worst: Sequence[Mapping[str, Any]], wrong: int) -> str:
    shown = html.pictures(
        (
            mistake["png"],
            f"{mistake['label']} taken for {mistake['predicted']}",
            f"{100 * mistake['probability']:.1f} %, {mistake['image']}",
        )
        for mistake in worst
    )
    told = (
        f"Of {wrong:,} mistakes, the {len(worst)} of which the network was most certain, with the "
        "probability that it gave the wrong class. Look here for wrong labels first."
    )
    return html.paragraph(told) + shown
