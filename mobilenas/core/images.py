"""From an image file to a square of uint8 pixels: every PIL mode, orientation, resize, centre crop.

Training and prediction both decode here, so that both see the same pixels. Only Pillow and numpy
are imported, because prediction needs no torch.

Memory is bounded: sizes are checked before decoding, all threads together decode at most
`MAX_PIXELS` at a time, and decoded pixels are converted and resized in strips.
"""

import io
import math
import os
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from mobilenas.core.errors import DataError, FileError

MAX_PIXELS = 2**26
"""Maximum decoded pixels of one file; a large JPEG is decoded at a fraction of its size."""

PixelRange = tuple[float, float]
"""Values that become 0 and 255 in images of more than 8 bits."""

Convert = Callable[[Image.Image], Image.Image]

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
_OTHER_FORMATS = {
    b"ftypheic": "HEIC",
    b"ftypheix": "HEIC",
    b"ftypmif1": "HEIF",
    b"ftypavif": "AVIF",
}
_SIXTEEN_BITS: PixelRange = (0, 65535)
_STRIP_PIXELS = 2**20
_FILTER = Image.Resampling.BILINEAR  # antialiased in PIL
_ORIENTATION_TAG = 0x0112
_SAMPLE_FORMAT_TAG = 339
_SIGNED, _UNSIGNED = 2, 1
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Raised by PIL's decoders on damaged files; OSError is for truncated and unknown ones.
_DECODE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    MemoryError,
    OverflowError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)


@dataclass(frozen=True)
class Header:
    """What the header says about the pixels, without decoding them."""

    size: tuple[int, int]
    """Width and height."""
    deep: bool
    """One channel of more than 8 bits or signed numbers, which a `PixelRange` scales."""
    deep_color: bool
    """Several channels of 16 bits, of which PIL reads the upper 8."""


@dataclass(frozen=True)
class Numbers:
    """Statistics of the pixel values of a file, as PIL decodes them."""

    low: float
    """Smallest value."""
    high: float
    """Largest value."""
    bulk: PixelRange
    """1st and 99th percentile."""
    middle: PixelRange
    """First and third quartile."""


@dataclass(frozen=True, order=True, slots=True)
class Shard:
    """An archive of images, as it was when they were listed."""

    path: Path
    """Path of the archive."""
    size: int
    """Bytes."""
    mtime_ns: int
    """Modification time."""


@dataclass(frozen=True, order=True, slots=True)
class Member:
    """An image in a shard: a range of its bytes."""

    shard: Shard
    """The archive."""
    name: str
    """Name in the archive."""
    offset: int
    """Position of its first byte."""
    size: int
    """Bytes."""

    def __str__(self) -> str:
        """Return the path as tools that open archives write it."""
        return f"{self.shard.path}/{self.name}"

    def open(self, _: str = "rb") -> io.BytesIO:
        """Read it; FileError if the shard has changed since its images were listed."""
        with self.shard.path.open("rb") as file:
            found = os.fstat(file.fileno())
            if (found.st_size, found.st_mtime_ns) != (self.shard.size, self.shard.mtime_ns):
                raise FileError(f"{self.shard.path} was changed since its images were listed")
            file.seek(self.offset)
            return io.BytesIO(file.read(self.size))


ImageFile = Path | Member
"""A file of its own, or a part of an archive."""


class _Room:
    """Admits threads as long as all of them together decode at most `MAX_PIXELS`."""

    def __init__(self) -> None:
        self._pixels = 0
        self._changed = threading.Condition()

    @contextmanager
    def taken(self, pixels: int) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._pixels or self._pixels + pixels <= MAX_PIXELS)
            self._pixels += pixels
        try:
            yield
        finally:
            with self._changed:
                self._pixels -= pixels
                self._changed.notify_all()


_ROOM = _Room()


def decode(path: ImageFile, size: int, pixel_range: PixelRange | None = None) -> NDArray[np.uint8]:
    """Decode a file to RGB uint8 [size, size, 3]; DataError names a file that is damaged.

    Without a range, unsigned 16-bit values are scaled from 0..65535, and floats and signed values
    are an error.
    """
    with _opened(path) as image:
        # A large JPEG is decoded at 1/2, 1/4 or 1/8, still at least twice the size needed.
        width, height = image.size
        image.draft(None, (2 * size, 2 * size))
        if "progressive" not in image.info:  # a progressive one is held in full while decoding
            width, height = image.size
        with _loaded(image, path, width, height) as numbers:
            to_rgb = partial(_to_rgb, numbers=numbers, pixel_range=pixel_range)
            square = _square(image, size, to_rgb)
            orientation = _orientation(image)
        if orientation in _UPRIGHT:
            square = square.transpose(_UPRIGHT[orientation])
        return np.ascontiguousarray(square)


def read_header(path: ImageFile) -> Header:
    """Read size and depth from the header alone; DataError if it cannot be read."""
    with _opened(path) as image:
        deep = image.mode[0] in "IF" or _number_type(image) is not None
        return Header(image.size, deep, not deep and ";16" in _layout(image))


def _layout(image: Image.Image) -> str:
    """Return PIL's raw mode, the layout of the pixels in the file, such as RGB;16B."""
    tiles = getattr(image, "tile", [])
    how = tiles[0][3] if tiles else ""
    return str(how[0] if isinstance(how, tuple) else how)


def read_numbers(path: ImageFile) -> Numbers:
    """Decode a file for statistics of its values; DataError if one is not finite."""
    low, high, samples = math.inf, -math.inf, []
    with _opened(path) as image, _loaded(image, path, *image.size) as numbers:
        step = max(1, image.width * image.height // _STRIP_PIXELS)
        for _, strip in _strips(image, range(image.height)):
            values = _values(strip, numbers)
            if image.mode in ("LA", "RGBA"):
                values = values[..., :-1]  # alpha says nothing about the depth
            if not np.isfinite(values).all():
                raise DataError(f"{path} holds pixels that are not finite numbers")
            low, high = min(low, float(values.min())), max(high, float(values.max()))
            samples.append(values.reshape(-1)[::step].copy())
    ends = np.percentile(np.concatenate(samples), (1, 25, 75, 99)).tolist()
    return Numbers(low, high, bulk=(ends[0], ends[3]), middle=(ends[1], ends[2]))


@contextmanager
def _opened(path: ImageFile) -> Iterator[Image.Image]:
    """Open an image; decoding errors inside the context become a DataError that names it."""
    try:
        if isinstance(path, Path) and not path.is_file():
            # a pipe or a device may never end
            raise DataError(f"{path} {'is not a file' if path.exists() else 'does not exist'}")
        with _open(path) as image:
            yield image
    except _DECODE_ERRORS as error:
        raise _bad(path, error) from error


def _open(path: ImageFile) -> Image.Image:
    """Open an image, JPEGs of any size: PIL's limit ignores that they are decoded at a fraction."""
    try:
        return Image.open(_readable(path), formats=_FORMATS)
    except Image.DecompressionBombError as error:
        try:
            return JpegImageFile(_readable(path))
        except SyntaxError:  # another format
            raise DataError(
                f"{path} has far more than the {MAX_PIXELS:,} pixels that are decoded at most: "
                "make it smaller"
            ) from error


def _readable(path: ImageFile) -> Path | io.BytesIO:
    return path if isinstance(path, Path) else path.open()


@contextmanager
def _loaded(
    image: Image.Image, path: ImageFile, width: int, height: int
) -> Iterator[type[np.generic] | None]:
    """Decode width * height pixels once memory is free; yields the true type of their values."""
    if width * height > MAX_PIXELS:
        raise DataError(
            f"{path} has {width}x{height} pixels; at most {MAX_PIXELS:,} are decoded: "
            "make it smaller"
        )
    numbers = _number_type(image)
    with _ROOM.taken(width * height):
        try:
            image.load()
            yield numbers
        finally:
            image.close()  # frees the pixels before the next thread is let in


def _bad(path: ImageFile, error: BaseException) -> DataError:
    reason = "not an image" if isinstance(error, UnidentifiedImageError) else str(error)
    if isinstance(error, UnidentifiedImageError):
        with path.open("rb") as file:
            other = _OTHER_FORMATS.get(file.read(12)[4:])
        if other is not None:
            return DataError(f"{path} is {other}, which is not read: convert it to JPEG or PNG")
    reason = " ".join(reason.split()) or type(error).__name__
    return DataError(f"{path} cannot be read as an image ({reason})")


def _number_type(image: Image.Image) -> type[np.generic] | None:
    """Return the true type of a TIFF's values where PIL's differs, else None."""
    tags = getattr(image, "tag_v2", {})
    kind = tags.get(_SAMPLE_FORMAT_TAG, (None,))[0]
    if image.mode == "L" and kind == _SIGNED:
        return np.int8
    bits = tags.get(258, (None,))[0]
    return np.uint32 if image.mode == "I" and kind in (None, _UNSIGNED) and bits == 32 else None


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except (SyntaxError, ValueError, TypeError, struct.error):
        return 1  # a damaged EXIF block says nothing about the pixels


def _square(image: Image.Image, size: int, to_rgb: Convert) -> Image.Image:
    """Resize the centre square, bilinear and antialiased, and composite transparency on white.

    Equal to resizing the shorter side to `size`, then cropping the centre.
    """
    width, height = image.size
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    across = side
    if width * height <= _STRIP_PIXELS:
        image = to_rgb(image)
    else:
        reach = max(1.0, side / size)  # of the filter, beyond the square
        first, last = max(0, math.floor(top - reach)), min(height, math.ceil(top + side + reach))
        image = _narrowed(image, range(first, last), (left, left + side), size, to_rgb)
        left, across, top = 0.0, size, top - first
    square = image.resize((size, size), _FILTER, (left, top, left + across, top + side))
    return _on_white(square) if square.mode == "RGBa" else square


def _strips(image: Image.Image, rows: range) -> Iterator[tuple[int, Image.Image]]:
    """Yield strips of at most `_STRIP_PIXELS` pixels, each with the number of its first row."""
    height = max(1, _STRIP_PIXELS // image.width)
    for top in rows[::height]:
        yield top, image.crop((0, top, image.width, min(rows.stop, top + height)))


def _narrowed(
    image: Image.Image, rows: range, columns: tuple[float, float], size: int, to_rgb: Convert
) -> Image.Image:
    """Resize the width to `size`, strip by strip, so that no full-size copy is made."""
    left, right = columns
    whole: Image.Image | None = None
    for top, strip in _strips(image, rows):
        rgb = to_rgb(strip)
        whole = whole or Image.new(rgb.mode, (size, len(rows)))
        narrow = rgb.resize((size, rgb.height), _FILTER, (left, 0, right, rgb.height))
        whole.paste(narrow, (0, top - rows.start))
    assert whole is not None
    return whole


def _to_rgb(
    image: Image.Image, numbers: type[np.generic] | None, pixel_range: PixelRange | None
) -> Image.Image:
    """Return RGB, or RGBa (premultiplied alpha) if the image has transparency."""
    if image.mode[0] in "IF" or numbers is not None:
        if pixel_range is None and (image.mode[0] != "I" or numbers is not None):
            raise ValueError("floating-point or signed pixels, and no set of images gives a range")
        image = _scaled(_values(image, numbers), pixel_range or _SIXTEEN_BITS)
    if image.has_transparency_data:
        return image.convert("RGBA").convert("RGBa")
    return image if image.mode == "RGB" else image.convert("RGB")


def _values(image: Image.Image, numbers: type[np.generic] | None) -> NDArray[np.generic]:
    values = np.asarray(image)
    return values if numbers is None else values.view(numbers)


def _scaled(values: NDArray[np.generic], pixel_range: PixelRange) -> Image.Image:
    """Map the range to 0..255; values outside are clipped."""
    low, high = pixel_range
    shares = (values.astype(np.float64) - low) / (high - low)
    return Image.fromarray(np.rint(255 * shares.clip(0, 1)).astype(np.uint8))


def _on_white(image: Image.Image) -> Image.Image:
    pixels = np.asarray(image).astype(np.uint16)
    return Image.fromarray((pixels[..., :3] + 255 - pixels[..., 3:]).clip(0, 255).astype(np.uint8))
