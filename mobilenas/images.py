"""From an image file to a square of uint8 pixels: every PIL mode, orientation, resize, centre crop.

Training and prediction both decode here, so that a network sees at work what it saw in training.
Only Pillow and numpy are imported: prediction does without torch.
"""

import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from mobilenas.errors import DataError

_ORIENTATION_TAG = 0x0112
# What PIL's decoders raise on damaged files, besides OSError (which covers cut and unknown ones).
_DECODE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


def decode(path: Path, size: int) -> NDArray[np.uint8]:
    """Decode a file to RGB uint8 [size, size, 3]; DataError names a file that is no whole image."""
    try:
        with Image.open(path) as image:
            # A large JPEG is decoded at 1/2, 1/4 or 1/8, still at least twice the size needed.
            image.draft(None, (2 * size, 2 * size))
            image.load()
            return np.ascontiguousarray(_square(_to_rgb(_upright(image)), size))
    except _DECODE_ERRORS as error:
        raise _bad(path, error) from error


def read_size(path: Path) -> tuple[int, int]:
    """Width and height in pixels from the header alone; DataError where there is none."""
    try:
        with Image.open(path) as image:
            return image.size
    except _DECODE_ERRORS as error:
        raise _bad(path, error) from error


def _bad(path: Path, error: BaseException) -> DataError:
    if isinstance(error, FileNotFoundError):
        return DataError(f"{path} does not exist")
    reason = "not an image" if isinstance(error, UnidentifiedImageError) else str(error)
    reason = " ".join(reason.split()) or type(error).__name__
    return DataError(f"{path} cannot be read as an image ({reason})")


def _upright(image: Image.Image) -> Image.Image:
    try:
        turned = image.getexif().get(_ORIENTATION_TAG, 1) != 1
    except (SyntaxError, ValueError, struct.error):
        return image  # a damaged EXIF block says nothing about the pixels
    return ImageOps.exif_transpose(image) if turned else image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits a pixel, which PIL would clip to 8 bits
        grey = np.asarray(image).astype(np.int64).clip(0, 65535) // 256
        image = Image.fromarray(grey.astype(np.uint8))
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known range")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _square(image: Image.Image, size: int) -> Image.Image:
    if image.size == (size, size):
        return image
    width, height = image.size
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    # One resampling of the centre square: the same as shorter side to `size`, then centre crop.
    box = (left, top, left + side, top + side)
    return image.resize((size, size), Image.Resampling.BILINEAR, box=box)
