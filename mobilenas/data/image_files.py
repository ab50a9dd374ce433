"""Image files as training reads them: channels first, errors with a remedy."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from mobilenas.core import images
from mobilenas.core.errors import DataError
from mobilenas.core.images import ImageFile, PixelRange

IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff"),
)
"""Suffixes of the images that are read, in lower case."""

UNREADABLE_SUFFIXES = (
    *(".heic", ".heics", ".heif", ".hif", ".avif", ".avifs", ".jxl", ".jxr", ".mpo", ".jif"),
    *(".jp2", ".j2k", ".j2c", ".jpc", ".jpx", ".jpf", ".jpm", ".svg", ".eps", ".psd", ".xcf"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".pfm", ".tga", ".pcx", ".sgi", ".qoi", ".ico", ".icns"),
    *(".exr", ".hdr", ".dds", ".dcm", ".fits", ".dng", ".cr2", ".cr3", ".crw", ".nef", ".nrw"),
    *(".arw", ".sr2", ".srf", ".orf", ".rw2", ".raf", ".pef", ".srw", ".x3f", ".3fr", ".raw"),
)
"""Suffixes of image types that are not supported: an error, never skipped silently."""

Pixels = NDArray[np.uint8]
"""[3, H, W] or [B, 3, H, W]"""


def read_image(path: ImageFile, size: int, pixel_range: PixelRange | None = None) -> Pixels:
    """Decode a file to RGB uint8 [3, size, size]; DataError names a damaged file."""
    with _with_remedy():
        # a view: in memory channels stay last, as in batches
        return images.decode(path, size, pixel_range).transpose(2, 0, 1)


def read_header(path: ImageFile) -> images.Header:
    """Read size and depth from the header alone; DataError if it cannot be read."""
    with _with_remedy():
        return images.read_header(path)


def read_numbers(path: ImageFile) -> images.Numbers:
    """Decode a file for statistics of its values; DataError if one is not finite."""
    with _with_remedy():
        return images.read_numbers(path)


@contextmanager
def _with_remedy() -> Iterator[None]:
    try:
        yield
    except DataError as error:
        raise DataError(f"{error}; remove it or pass --skip-bad-images") from error
