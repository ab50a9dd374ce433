"""What a source is asked for, and what it gives."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from mobilenas.core.errors import DataError
from mobilenas.core.images import PixelRange
from mobilenas.core.settings import check_between
from mobilenas.data.splits import Split

BUILT_IN_SOURCES = ("digits", "cifar10", "cifar100")
"""Sources that are not folders."""

_SMALLEST_SIDE = 8
_LARGEST_SIDE = 2048


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """Which images, and how they are read."""

    source: str
    """`digits`, `cifar10`, `cifar100`, or the path of a folder of images."""
    image_size: int | None = None
    """Side in pixels; None is the source's own: all images' one square size, else 224."""
    split_seed: int = 0
    """Seed of the splits that the source does not bring itself."""
    flip: bool | None = None
    """Horizontal flips in training; None is decided by the source: not for characters."""
    skip_bad_images: bool = False
    """Leave out files that cannot be decoded, and count them, instead of stopping."""
    download: bool = False
    """Fetch CIFAR where its local copy is missing."""
    data_root: Path | None = None
    """Folder of CIFAR's local copy; None is `./data`."""
    memory_limit_bytes: int = 2 * 1024**3
    """Decoded images up to this size are held in memory; larger sets are decoded on demand."""

    def __post_init__(self) -> None:
        if self.image_size is not None:
            check_between(self, "image_size", _SMALLEST_SIDE, _LARGEST_SIDE)
        check_between(self, "split_seed", 0, 2**63 - 1)
        check_between(self, "memory_limit_bytes", 0, 2**63 - 1)

    def check_source(self) -> None:
        """Raise where there is no such source; a run whose images were moved still opens."""
        # an empty name, as of a variable that is not set, would be the current directory
        directory = bool(self.source) and Path(self.source).is_dir()
        if self.source not in BUILT_IN_SOURCES and not directory:
            legal = ", ".join(BUILT_IN_SOURCES)
            raise DataError(f"{self.source!r} is not a directory and none of {legal}")


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

    def describe(self) -> dict[str, Any]:
        """Plain JSON for run.json."""
        return {
            "source": self.name,
            "classes": list(self.classes),
            "counts": {"train": len(self.train), "val": len(self.val), "test": len(self.test)},
            "class_counts": self.class_counts(),
            "image_size": self.image_size,
            "mean": list(self.mean),
            "std": list(self.std),
            "flip": self.flip,
            "fingerprint": self.fingerprint,
            "split_rule": self.split_rule,
            "pixel_range": None if self.pixel_range is None else list(self.pixel_range),
            "repeated": self.repeated,
        }
