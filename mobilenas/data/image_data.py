"""Labelled images, and what is known of them before they are decoded."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from mobilenas.core.images import PixelRange
from mobilenas.core.records import DataRecord
from mobilenas.data.splits import Split


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageKind:
    """Properties of images known before decoding, from which networks are sized."""

    name: str
    """The source as the user wrote it."""
    classes: tuple[str, ...]
    """Class names; labels are indices into this tuple."""
    image_size: int
    """Side in pixels."""
    channels: int = 3
    """Always 3: grey images are converted to RGB, so that networks have one kind of input."""

    def at(self, image_size: int) -> "ImageKind":
        """Return the same with another image size."""
        return ImageKind(
            name=self.name, classes=self.classes, image_size=image_size, channels=self.channels
        )


Check = Callable[[ImageKind], int | None]
"""Called before images are decoded; may raise, or return another image size to decode to."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageData(ImageKind):
    """Labelled images in three splits, with statistics and description."""

    mean: tuple[float, ...]
    """Mean of each channel of the training split, in 0..1."""
    std: tuple[float, ...]
    """Standard deviation of each channel of the training split, in 0..1, above zero."""
    flip: bool
    """Whether training may mirror images."""
    train: Split
    """For fitting weights."""
    val: Split
    """For all choices."""
    test: Split
    """For the reported results."""
    fingerprint: str
    """sha256 over names, sizes, labels and splits of the files, or over the tensors' bytes."""
    names: tuple[str, ...] = ()
    """File name below the folder for each image of the store; empty if images are not files."""
    notes: tuple[str, ...] = ()
    """One-line remarks, which `load_data` has passed to the reporter."""
    split_rule: str
    """How the splits were made, in words."""
    pixel_range: PixelRange | None = None
    """Values that become 0 and 255 in images of more than 8 bits; None if there are none."""
    repeated: dict[str, int] = field(default_factory=dict)
    """Number of images of val and of test that also occur in an earlier split; empty if unknown."""

    def class_counts(self) -> dict[str, dict[str, int]]:
        """Return the number of images by class and split."""
        counts = {
            name: torch.bincount(split.labels, minlength=len(self.classes)).tolist()
            for name, split in (("train", self.train), ("val", self.val), ("test", self.test))
        }
        return {
            label: {name: numbers[place] for name, numbers in counts.items()}
            for place, label in enumerate(self.classes)
        }

    def describe(self) -> DataRecord:
        """Return the record of run.json about the images."""
        return DataRecord(
            source=self.name,
            classes=self.classes,
            counts={"train": len(self.train), "val": len(self.val), "test": len(self.test)},
            class_counts=self.class_counts(),
            image_size=self.image_size,
            mean=self.mean,
            std=self.std,
            flip=self.flip,
            fingerprint=self.fingerprint,
            split_rule=self.split_rule,
            pixel_range=self.pixel_range,
            repeated=self.repeated,
        )
