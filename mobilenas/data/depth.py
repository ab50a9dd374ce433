"""Mapping pixels of more than 8 bits to 0..255, with one range for a whole set of images."""

from collections.abc import Sequence

from mobilenas.core.errors import DataError
from mobilenas.core.images import Numbers, PixelRange
from mobilenas.core.settings import counted

_USUAL_TOPS = (1, 255, 1023, 4095, 16383, 65535)
"""Largest values of fractions and of 8, 10, 12, 14 and 16 bits."""
_MIN_LEVELS = 128
_SMALLEST_BULK = 1 / 16
_SMALLEST_MIDDLE = 1 / 64


def choose_range(images: Sequence[Numbers]) -> PixelRange:
    """Return the values that become 0 and 255 in all of these images.

    The range of the smallest usual bit depth that holds all values, if they span half of it (such
    as 12 bits in 16-bit files); else from the smallest to the largest value.
    """
    low, high = min(image.low for image in images), max(image.high for image in images)
    top = next((top for top in _USUAL_TOPS if high <= top), high)
    if low >= 0 and high - low >= top / 2:
        return 0, top
    return low, high if high > low else low + 1


def range_notes(pixel_range: PixelRange, images: Sequence[Numbers]) -> list[str]:
    """Return notes on the range, also when a few extreme pixels decide it."""
    low, high = pixel_range
    notes = [
        f"{counted(len(images), 'image')} of more than 8 bits: {low:g} becomes 0 and {high:g} "
        "becomes 255 in "
        "all of them"
    ]
    first, last = min(image.bulk[0] for image in images), max(image.bulk[1] for image in images)
    lower, upper = min(im.middle[0] for im in images), max(im.middle[1] for im in images)
    if last - first < _SMALLEST_BULK * (high - low):
        notes.append(
            f"98 % of the pixels of each of them lie between {first:g} and {last:g}, so they are "
            "nearly one grey; if the others are dead or hot pixels, clip them in the files"
        )
    elif 0 < upper - lower < _SMALLEST_MIDDLE * (high - low):
        notes.append(
            f"half of the pixels of each of them lie between {lower:g} and {upper:g}, so they are "
            "nearly one grey; if a number stands for missing pixels, replace it in the files"
        )
    return notes


def check_deep_color(images: Sequence[Numbers]) -> None:
    """Raise if the upper 8 bits of 16-bit colour images, all that is read, have too few levels.

    `images`: statistics of these upper 8 bits.
    """
    low, high = min(image.low for image in images), max(image.high for image in images)
    if high - low + 1 < _MIN_LEVELS:
        raise DataError(
            f"{counted(len(images), 'image has', 'images have')} 16 bits a colour, but only from "
            f"{256 * low:g} to {256 * high + 255:g} of 65535; only the upper 8 bits are read: "
            "convert them to 8 bits, "
            "scaled alike"
        )
