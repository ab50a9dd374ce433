"""Image files as training reads them: channels first, and a way on past damaged ones."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mobilenas import images
from mobilenas.errors import DataError

IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff"),
)
"""What counts as an image in a folder, in lower case."""

UNREADABLE_SUFFIXES = (
    *(".heic", ".heif", ".hif", ".avif", ".jxl", ".jp2", ".j2k", ".jpx", ".jpf", ".svg", ".psd"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".ico", ".exr", ".hdr", ".dds", ".dcm", ".dng"),
    *(".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".raw"),
)
"""Images of other types, in lower case: refused by name, never left out in silence."""

WAY_OUT = "convert them to JPEG or PNG (such as with `magick mogrify -format jpg *.heic`)"
"""What to do with them."""

Pixels = NDArray[np.uint8]
"""[3, H, W] or [B, 3, H, W]"""


def read_image(path: Path, size: int) -> Pixels:
    """Decode a file to RGB uint8 [3, size, size]; DataError naming the file where it is damaged."""
    with _way_out():
        return np.ascontiguousarray(images.decode(path, size).transpose(2, 0, 1))


def read_size(path: Path) -> tuple[int, int]:
    """Width and height in pixels from the header alone; DataError where there is none."""
    with _way_out():
        return images.read_size(path)


@contextmanager
def _way_out() -> Iterator[None]:
    try:
        yield
    except DataError as error:
        raise DataError(f"{error}; remove it or pass --skip-bad-images") from error
