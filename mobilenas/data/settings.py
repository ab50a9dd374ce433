"""Settings of image sources and augmentation."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from mobilenas.core.errors import DataError, MobileNASError
from mobilenas.core.setting import setting, settings_of
from mobilenas.core.settings import ADDED, check_between
from mobilenas.data.patterns import WDS, shard_paths

AUTO: Literal["auto"] = "auto"
"""In place of a size: images are read at their own, and the networks' is searched."""
BUILT_IN_SOURCES = ("digits", "cifar10", "cifar100")
"""Sources that are not folders."""

_SMALLEST_SIDE = 8
_LARGEST_SIDE = 2048


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """Which images, and how they are read."""

    source: str
    """`digits`, `cifar10`, `cifar100`, the path of a folder of images, or `wds:` and shards."""
    image_size: int | None = None
    """Side in pixels; None: the images' own if all are square and of one size, else 224."""
    split_seed: int = 0
    """Seed of the splits that the source does not define."""
    flip: bool | None = None
    """Horizontal flips in training; None: unless the images are characters."""
    skip_bad_images: bool = False
    """Skip files that cannot be decoded, and count them, instead of stopping."""
    download: bool = False
    """Download CIFAR if there is no local copy."""
    data_root: Path | None = None
    """Folder of the local copy of CIFAR; None: `./data`."""
    memory_limit_bytes: int = 2 * 1024**3
    """Decoded images up to this size are held in memory; larger sets are decoded on demand."""
    mean: tuple[float, ...] | None = field(default=None, metadata=ADDED)
    """Mean of each channel for normalization, in 0..1; None: that of the training images."""
    std: tuple[float, ...] | None = field(default=None, metadata=ADDED)
    """Standard deviation, likewise."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.image_size is not None:
            check_between(self, "image_size", _SMALLEST_SIDE, _LARGEST_SIDE)
        check_between(self, "split_seed", 0, 2**63 - 1)
        check_between(self, "memory_limit_bytes", 0, 2**63 - 1)

    def check_source(self) -> None:
        """Raise if the source does not exist. Not in __post_init__: runs open without images."""
        if self.source.startswith(WDS):
            shard_paths(self.source)
            return
        # an empty name, as from an unset variable, would be the current directory
        directory = bool(self.source) and Path(self.source).is_dir()
        if self.source not in BUILT_IN_SOURCES and not directory:
            legal = ", ".join(BUILT_IN_SOURCES)
            raise DataError(f"{self.source!r} is not a directory and none of {legal}")


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """The user's options for images."""

    data: str = setting(
        "digits",
        help=f"{', '.join(BUILT_IN_SOURCES)}, a folder of images, or tar shards of WebDataset: "
        "'wds:train-{0000..0099}.tar'.",
        group="Data",
        metavar="DATA",
    )
    image_size: int | Literal["auto"] | None = setting(
        None,
        help=f"Side of the images in pixels; {AUTO} searches for the best one.",
        default_text="the images' own, or 224",
        group="Data",
        low=_SMALLEST_SIDE,
        high=_LARGEST_SIDE,
    )
    flip: bool | None = setting(
        None,
        help="Mirror training images horizontally.",
        default_text="not for characters",
        group="Data",
        rare=True,
    )
    skip_bad_images: bool = setting(
        False, help="Skip images that cannot be decoded, with a warning.", group="Data"
    )
    download: bool = setting(
        False, help="Download CIFAR if there is no local copy.", group="Data", rare=True
    )

    @property
    def data_settings(self) -> DataSettings:
        """The settings of the source."""
        return DataSettings(
            source=self.data,
            image_size=None if self.image_size == AUTO else self.image_size,
            flip=self.flip,
            skip_bad_images=self.skip_bad_images,
            download=self.download,
        )


def refuse_options_of_images(options: Mapping[str, object]) -> None:
    """Raise for options that have no effect on images that are already loaded."""
    for name in (one.name for one in settings_of(DataOptions) if one.name in options):
        is_searched = options[name] == AUTO
        use = f"run(..., image_size={AUTO!r})" if is_searched else f"load_data(..., {name}=...)"
        raise MobileNASError(f"{name} has no effect on images that are loaded: use {use}")


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Augmentation of training images."""

    crop_padding: int | None = None
    """Maximum shift of a crop in each direction, in pixels; None: side / 8, 0: off."""
    flip: bool | None = None
    """Mirror half of the images; None: if the data allows it."""
    randaugment: int = 0
    """RandAugment operations per image (arXiv 1909.13719), 0: off."""
    crop_scale: float | None = None
    """Smallest area of a RandomResizedCrop, as a share of the image; None: shifts instead."""
    trivialaugment: bool = False
    """One random operation on each image (arXiv 2103.10158)."""
    random_erasing: float = 0.0
    """Probability that a rectangle of an image is erased (arXiv 1708.04896)."""
    mixup: float = 0.0
    """Alpha of the beta distribution (arXiv 1710.09412), 0: off."""
    cutmix: float = 0.0
    """Alpha (arXiv 1905.04899), 0: off; with `mixup`, one of them is drawn for each batch."""

    def __post_init__(self) -> None:
        """Check ranges and combinations."""
        if self.crop_padding is not None:
            check_between(self, "crop_padding", 0, 1024)
        check_between(self, "randaugment", 0, 10)
        if self.crop_scale is not None:
            check_between(self, "crop_scale", 0.01, 1)
        for name, high in (("random_erasing", 1), ("mixup", 100), ("cutmix", 100)):
            check_between(self, name, 0, high)
        if self.crop_scale is not None and self.crop_padding:
            raise DataError(
                f"crop_padding is {self.crop_padding} and crop_scale {self.crop_scale:g}: "
                "a crop is shifted or resized, not both"
            )
        if self.randaugment and self.trivialaugment:
            raise DataError(f"trivialaugment excludes randaugment, which is {self.randaugment}")
