"""What a source gives: what is known before its images are decoded, and the images."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from mobilenas.core.images import PixelRange
from mobilenas.core.records import DataRecord
from mobilenas.data.splits import Split


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageKind:
    """What is known of images before they are decoded, and all that a network is sized by."""

    name: str
    """The source as the user wrote it."""
    classes: tuple[str, ...]
    """Class names; a label is a place in this tuple."""
    image_size: int
    """Side in pixels."""
    channels: int = 3
    """Always 3: grey images are repeated, so that prediction has one kind of input."""

    def at(self, image_size: int) -> "ImageKind":
        """Return what is known of the same images at another side."""
        return ImageKind(
            name=self.name, classes=self.classes, image_size=image_size, channels=self.channels
        )


Check = Callable[[ImageKind], int | None]
"""Looks at images before they are decoded: raises, or returns another side to read them at."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageData(ImageKind):
    """Labelled images in three splits, and what is needed to use and to name them."""

    mean: tuple[float, ...]
    """Mean of each channel of the training split, in 0..1."""
    std: tuple[float, ...]
    """Standard deviation of each channel of the training split, in 0..1, above zero."""
    flip: bool
    """Whether a mirrored image is still one of its class."""
    train: Split
    """What weights are fitted to."""
    val: Split
    """What choices are made on."""
    test: Split
    """What is reported."""
    fingerprint: str
    """sha256 over names, sizes, labels and splits of the files, or over the tensors' bytes."""
    names: tuple[str, ...] = ()
    """File of every image of the splits' store below the folder; empty where they are no files."""
    notes: tuple[str, ...] = ()
    """Remarks, one line each; `load_data` has said them to the reporter."""
    split_rule: str
    """Where the splits come from, in words."""
    pixel_range: PixelRange | None = None
    """Numbers of images of more than 8 bits that become 0 and 255; None where there are none."""
    repeated: dict[str, int] = field(default_factory=dict)
    """By split the images of val and test that are also in the splits before; empty if unknown."""

    def class_counts(self) -> dict[str, dict[str, int]]:
        """Images of each class in each split."""
        counts = {
            name: torch.bincount(split.labels, minlength=len(self.classes)).tolist()
            for name, split in (("train", self.train), ("val", self.val), ("test", self.test))
        }
        return {
            label: {name: numbers[place] for name, numbers in counts.items()}
            for place, label in enumerate(self.classes)
        }

    def describe(self) -> DataRecord:
        """Return what run.json says of the images."""
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
