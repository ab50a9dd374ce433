"""Section of the report on what the exported file gets wrong: classes, and pictures."""

from collections.abc import Mapping

from markupsafe import Markup

from mobilenas.report.confusion_drawing import RIGHT, WRONG, confusion_drawing, most_wrong
from mobilenas.report.files import RunFiles
from mobilenas.report.page import missing, render

Confusion = Mapping[str, Mapping[str, int]]
"""Images by class and predicted class."""

_MOST_CLASSES = 60
_MOST_PAIRS = 10


def mistakes(files: RunFiles) -> Markup:
    """Show the confusion of classes and the mistakes that the network was most certain of."""
    if files.mistakes is None:
        return missing("export/mistakes.json", "mobilenas export")
    confusion = files.mistakes.confusion
    predicted = (name for row in confusion.values() for name in row)
    labels = list(dict.fromkeys((*confusion, *predicted)))
    drawn = labels if len(labels) <= _MOST_CLASSES else []
    return render(
        "mistakes.html",
        record=files.mistakes,
        right=sum(row.get(label, 0) for label, row in confusion.items()),
        classes=len(labels),
        drawing=confusion_drawing(confusion, drawn) if drawn else "",
        most_wrong=most_wrong(confusion, drawn),
        colours={"right": RIGHT, "wrong": WRONG},
        pairs=_pairs(confusion),
    )


def _pairs(confusion: Confusion) -> list[tuple[str, str, int, float]]:
    """Return class, predicted class, images and percent of the class, the most frequent first."""
    pairs = [
        (label, name, count, 100 * count / sum(row.values()))
        for label, row in confusion.items()
        for name, count in row.items()
        if name != label
    ]
    return sorted(pairs, key=lambda pair: -pair[2])[:_MOST_PAIRS]
