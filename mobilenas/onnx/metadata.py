"""Metadata of an exported file, which make it usable by itself."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mobilenas.core.errors import FileError
from mobilenas.core.files import parse_json, to_json

OWN_KEY = "counting_rule"
"""Key that all exported files have, and no other tool's."""

_LARGEST_SIDE = 4096
"""The limit of archs."""
_MIN_STD = 1e-6
"""Division by a smaller number may overflow."""
_LARGEST = 1e6
"""Upper limit of mean and standard deviation, which are about 0..1."""
_LARGEST_PIXEL = 3.5e38
"""Upper limit of pixels: above every float32."""
_FIELDS = ("labels", "mean", "std", "image_size")
_RANGE = "pixel_range"


@dataclass(frozen=True, kw_only=True)
class ModelMetadata:
    """Labels, and the normalization x = (pixels / 255 - mean) / std of a square image."""

    labels: tuple[str, ...]
    """Class names in the order of the logits."""
    mean: tuple[float, ...]
    """Mean of each channel, in 0..1."""
    std: tuple[float, ...]
    """Standard deviation of each channel, in 0..1, above zero."""
    image_size: int
    """Side of the input in pixels."""
    pixel_range: tuple[float, float] | None = None
    """Values that become 0 and 255 in images of more than 8 bits; None: not trained on any."""

    def to_strings(self) -> dict[str, str]:
        """Return the values as JSON strings, for a file's metadata_props."""
        names = _FIELDS if self.pixel_range is None else (*_FIELDS, _RANGE)
        return {name: to_json(getattr(self, name)) for name in names}

    @classmethod
    def from_strings(cls, data: Mapping[str, str], source: str) -> "ModelMetadata":
        """Parse `to_strings`, ignoring other keys; FileError names `source` and the key."""
        values = {name: _value(data, name, source) for name in _FIELDS}
        for name, above in (("mean", None), ("std", _MIN_STD)):
            _check(_is_numbers(values[name], above=above), name, source)
        labels, size = values["labels"], values["image_size"]
        texts = isinstance(labels, list) and all(isinstance(label, str) for label in labels)
        _check(bool(labels) and texts, "labels", source)
        _check(type(size) is int and 0 < size <= _LARGEST_SIDE, _FIELDS[3], source)
        _check(len(values["mean"]) == len(values["std"]), "std", source)
        pixel_range = _value(data, _RANGE, source) if _RANGE in data else None
        if pixel_range is not None:
            _check(_is_numbers(pixel_range, above=None, largest=_LARGEST_PIXEL), _RANGE, source)
            _check(len(pixel_range) == 2 and pixel_range[0] < pixel_range[1], _RANGE, source)
        return cls(
            pixel_range=None if pixel_range is None else tuple(pixel_range),
            labels=tuple(labels),
            mean=tuple(values["mean"]),
            std=tuple(values["std"]),
            image_size=size,
        )


def _value(data: Mapping[str, str], name: str, source: str) -> Any:
    if name not in data:
        raise FileError(
            f"{source} has no {name!r} in its metadata; it must be a file that mobilenas exported"
        )
    return parse_json(data[name], f"{source}: {name!r} in its metadata")


def _is_numbers(value: object, above: float | None, largest: float = _LARGEST) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(type(item) in (int, float) and abs(item) < largest for item in value)
        and (above is None or min(value) > above)
    )


def _check(holds: bool, name: str, source: str) -> None:
    if not holds:
        raise FileError(f"{source}: {name!r} in its metadata has a value that cannot be used")
