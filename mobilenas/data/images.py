"""Image files as training reads them: channels first, and a way on past damaged ones."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mobilenas import images
from mobilenas.errors import DataError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff")
"""What counts as an image in a folder, in lower case."""

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
