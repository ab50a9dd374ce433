"""Section of the report on what the exported file gets wrong: classes, and pictures."""

from collections.abc import Mapping, Sequence
from typing import Any

from mobilenas.report import page as html
from mobilenas.report.confusion_drawing import RIGHT, WRONG, confusion_drawing, most_wrong
from mobilenas.report.files import RunFiles

Confusion = Mapping[str, Mapping[str, int]]
"""Images by class and predicted class."""

_MOST_CLASSES = 60
_MOST_PAIRS = 10


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
    told = "Rows: the class of the images. Columns: what they were taken for."
    keys = (("right: 100 %", RIGHT), (f"wrong: {100 * most_wrong(confusion, labels):.0f} %", WRONG))
    return html.figure(
        confusion_drawing(confusion, labels),
        html.Markup(f"{told} Full colour, of a class's images: {html.legend(keys)}"),
        wide=True,
    )


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
    shown_of = (
        f"Of {wrong:,} mistakes, the {len(worst)} that the network was most certain of"
        if len(worst) < wrong
        else "All mistakes, those that the network was most certain of first"
    )
    told = (
        f"{shown_of}, with the probability that it gave the wrong class. "
        "Look here for wrong labels first."
    )
    return html.paragraph(told) + shown
