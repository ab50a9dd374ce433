"""Section of the report on misclassified images: confused classes, and pictures."""

from collections.abc import Mapping

from markupsafe import Markup

from mobilenas.report.confusion_drawing import RIGHT, WRONG, confusion_drawing, largest_wrong_share
from mobilenas.report.files import RunFiles
from mobilenas.report.page import missing, render

Confusion = Mapping[str, Mapping[str, int]]
"""Number of images by class and predicted class."""

_MAX_CLASSES = 60
_MAX_PAIRS = 10


def misclassified(files: RunFiles) -> Markup:
    """Show the confusion matrix, and the misclassified images with the highest probability."""
    if files.misclassified is None:
        return missing("export/misclassified.json", "mobilenas export")
    confusion = files.misclassified.confusion
    predicted = (name for row in confusion.values() for name in row)
    labels = list(dict.fromkeys((*confusion, *predicted)))
    drawn = labels if len(labels) <= _MAX_CLASSES else []
    return render(
        "misclassified.html",
        record=files.misclassified,
        right=sum(row.get(label, 0) for label, row in confusion.items()),
        classes=len(labels),
        drawing=confusion_drawing(confusion, drawn) if drawn else "",
        largest_wrong_share=largest_wrong_share(confusion, drawn),
        colours={"right": RIGHT, "wrong": WRONG},
        pairs=_pairs(confusion),
    )


def _pairs(confusion: Confusion) -> list[tuple[str, str, int, float]]:
    """Return class, predicted class, images and percentage of the class, most frequent first."""
    pairs = [
        (label, name, count, 100 * count / sum(row.values()))
        for label, row in confusion.items()
        for name, count in row.items()
        if name != label
    ]
    return sorted(pairs, key=lambda pair: -pair[2])[:_MAX_PAIRS]
