"""Confusion matrix and misclassified images of an exported file."""

import base64
import heapq
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from mobilenas.core.records import Count, Percent, Record, Share, Some
from mobilenas.data import Split
from mobilenas.onnx.export import each_logits
from mobilenas.onnx.predict import softmax

MAX_SHOWN = 24
"""Number of misclassified images that are kept."""
_LARGEST_SIDE = 96


class MisclassifiedImage(Record, frozen=True, kw_only=True):
    """A misclassified image."""

    image: str
    """File of the image below the data's folder, or its number in the split if it is not a file."""
    label: str
    """Its true class."""
    predicted: str
    """The most probable class."""
    probability: Share
    """Probability of the predicted class, in 0..1."""
    probability_of_label: Share
    """Probability of the true class."""
    png: str
    """The image as the network saw it, at most 96 pixels wide: a PNG file in base64."""


class Misclassified(Record, frozen=True, kw_only=True):
    """misclassified.json: a summary of a file's predictions on a split."""

    file: str
    """The exported file."""
    images: Some
    """Number of images of the split."""
    top1: Percent
    """Percentage of images that are classified correctly."""
    confusion: dict[str, dict[str, Count]]
    """Number of images by true and predicted class, without zeros."""
    worst: tuple[MisclassifiedImage, ...]
    """The misclassified images with the highest probability, highest first."""


def find_misclassified(
    path: Path,
    name: str,
    batches: Iterable[tuple[Tensor, Tensor]],
    split: Split,
    classes: Sequence[str],
    names: Sequence[str] = (),
    threads: int = 1,
) -> Misclassified:
    """Run a file on all images of `split`, given by `batches`: float32 [N, C, S, S], labels [N].

    `names` are the files of all images of the split's store, if any. DataError without images.
    """
    pairs: Counter[tuple[int, int]] = Counter()
    wrong: list[tuple[float, int, int, int, float]] = []
    for place, (logits, label) in enumerate(each_logits(path, batches, threads)):
        predicted = int(logits.argmax())
        pairs[label, predicted] += 1
        if predicted != label:
            certain = softmax(logits)
            # of equal probabilities the first image is kept: a heap drops its smallest item
            found = (float(certain[predicted]), -place, label, predicted, float(certain[label]))
            (heapq.heappush if len(wrong) < MAX_SHOWN else heapq.heappushpop)(wrong, found)
    images = pairs.total()
    confusion: dict[str, dict[str, int]] = {}
    for (label, predicted), count in sorted(pairs.items()):
        confusion.setdefault(classes[label], {})[classes[predicted]] = count
    right = sum(count for (label, predicted), count in pairs.items() if label == predicted)
    return Misclassified(
        file=name,
        images=images,
        top1=100 * right / images,
        confusion=confusion,
        worst=tuple(
            MisclassifiedImage(
                image=names[int(split.indices[-place])] if names else str(-place),
                label=classes[label],
                predicted=classes[predicted],
                probability=probability,
                probability_of_label=own,
                png=_png(split.images([-place])[0]),
            )
            for probability, place, label, predicted, own in sorted(wrong, reverse=True)
        ),
    )


def _png(pixels: Tensor) -> str:
    """Encode uint8 [3, H, W] as a PNG file in base64."""
    image = Image.fromarray(np.ascontiguousarray(pixels.permute(1, 2, 0).numpy()))
    image.thumbnail((_LARGEST_SIDE, _LARGEST_SIDE))
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()
