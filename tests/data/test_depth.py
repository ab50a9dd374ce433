"""Images of more than 8 bits: one scale for a whole set, kept for prediction; sets without any."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin

from mobilenas.core.errors import DataError
from mobilenas.core.images import Numbers, decode
from mobilenas.data import DataSettings, FileStore, ImageData, load_data
from mobilenas.data.depth import choose_range

Values = NDArray[Any]
SIDE = 8


def shades(count: int) -> list[Values]:
    """`count` images whose numbers run from 0 to 4095 over all of them, each other ones."""
    numbers = np.linspace(0, 4095, count * SIDE * SIDE).round().astype(np.int64)
    return list(numbers.reshape(count, SIDE, SIDE))


def write(root: Path, convert: Callable[[Values], Values], suffix: str = ".png") -> list[Values]:
    """Two classes of images of `shades`, the darker ones and the brighter ones."""
    images = [convert(image) for image in shades(12)]
    for number, image in enumerate(images):
        folder = root / ("bright" if number >= 6 else "dark")
        folder.mkdir(exist_ok=True)
        Image.fromarray(image).save(folder / f"{number:02}{suffix}")
    return images


def load(root: Path, **settings: Any) -> ImageData:
    return load_data(DataSettings(source=str(root), **settings))


def pixels(data: ImageData) -> Values:
    """All images by file name, one channel."""
    store = data.train.store
    order = np.argsort([Path(name).name for name in data.names])
    return store.fetch(torch.from_numpy(order))[:, 0].numpy()


@pytest.mark.parametrize(
    ("convert", "suffix", "expected"),
    [
        (lambda x: x.astype(np.uint16), ".png", (0, 4095)),
        (lambda x: x.astype(np.uint16), ".tif", (0, 4095)),
        (lambda x: (16 * x).astype(np.uint16), ".png", (0, 65535)),
        (lambda x: (30000 + x // 32).astype(np.uint16), ".png", (30000, 30127)),
        (lambda x: (x - 1000).astype(np.int32), ".tif", (-1000, 3095)),
        (lambda x: (x / 4095).astype(np.float32), ".tif", (0, 1)),
        (lambda x: (x / 8190 - 4).astype(np.float32), ".tif", (-4, -3.5)),
        (lambda x: (x // 16).astype(np.uint16), ".png", (0, 255)),
    ],
    ids=["12 in 16", "12 in a tiff", "16", "narrow", "signed", "float", "below zero", "8 in 16"],
)
def test_one_scale_for_the_set(
    tmp_path: Path, convert: Callable[[Values], Values], suffix: str, expected: tuple[float, float]
) -> None:
    images = np.stack(write(tmp_path, convert, suffix)).astype(np.float64)
    data = load(tmp_path)
    assert data.pixel_range == pytest.approx(expected)
    assert data.describe().pixel_range == pytest.approx(expected)
    low, high = expected
    # one line through all images: the darker class stays the darker one
    assert np.array_equal(pixels(data), np.rint(255 * (images - low) / (high - low)))
    assert any("becomes 255 in all of them" in note for note in data.notes)
    disk = load(tmp_path, memory_limit_bytes=0)
    assert isinstance(disk.train.store, FileStore)
    assert np.array_equal(pixels(disk), pixels(data))


def test_sets_of_8_bits_have_no_range(tmp_path: Path) -> None:
    write(tmp_path, lambda x: (x // 16).astype(np.uint8))
    data = load(tmp_path)
    assert data.pixel_range is None
    assert data.describe().pixel_range is None


def test_signed_bytes_and_unsigned_words_of_tiff(tmp_path: Path) -> None:
    """PIL gives the former as 0 to 255 and the latter as negative numbers."""
    kinds = ((np.int8, "L", 2), (np.uint32, "I", 1))
    for kind, mode, sample_format in kinds:
        top = {np.int8: 127, np.uint32: 2**32 - 1}[kind]
        values = np.array([[0, top], [1, top // 2]], dtype=kind)
        plain = values.view(np.uint8 if kind is np.int8 else np.int32)
        tags = TiffImagePlugin.ImageFileDirectory_v2()
        tags[339] = 2
        path = tmp_path / f"{mode}.tif"
        Image.fromarray(plain).save(path, tiffinfo=tags)
        entry = struct.pack("<HHIH", 339, 3, 1, 2)  # PIL itself writes no unsigned 32 bits
        written = path.read_bytes()
        assert written.count(entry) == 1
        path.write_bytes(written.replace(entry, struct.pack("<HHIH", 339, 3, 1, sample_format)))
        with Image.open(path) as image:
            assert (image.mode, image.tag_v2[339]) == (mode, (sample_format,))
        decoded = decode(path, 2, (0, float(top)))[:, :, 0]
        assert decoded.tolist() == [[0, 255], np.rint(255.0 * values[1] / top).tolist()]
        low = decode(path, 2, (-float(top), float(top)))[:, :, 0]
        assert low[0].tolist() == [128, 255]


@pytest.mark.parametrize(
    ("extremes", "expected"),
    [
        ([(0, 100), (0, 4095)], (0, 4095)),
        ([(0, 2047)], (0, 2047)),
        ([(0, 2048)], (0, 4095)),
        ([(7, 7), (7, 7)], (7, 8)),
        ([(0, 1)], (0, 1)),
        ([(0, 70000)], (0, 70000)),
        ([(-1, 1)], (-1, 1)),
    ],
)
def test_the_range_is_the_smallest_usual_depth_that_is_filled_by_half(
    extremes: list[tuple[float, float]], expected: tuple[float, float]
) -> None:
    images = [Numbers(low, high, (low, high), (low, high)) for low, high in extremes]
    assert choose_range(images) == expected


def deep_color(path: Path, scale: int, start: int = 0, alpha: bool = False) -> None:
    """A PNG of 16 bits a colour, which PIL reads but does not write."""
    values = start + np.arange(SIDE * SIDE * 3).reshape(SIDE, SIDE, 3) * scale
    if alpha:
        values = np.concatenate((values, np.full_like(values[..., :1], 65535)), 2)
    values = values.reshape(SIDE, -1).astype(">u2")
    rows = b"".join(b"\x00" + row.tobytes() for row in values)

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", SIDE, SIDE, 16, 6 if alpha else 2, 0, 0, 0)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b""))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


def test_colours_of_16_bits_are_read_where_they_use_them(tmp_path: Path) -> None:
    write(tmp_path, lambda x: (x // 16).astype(np.uint8))
    deep_color(tmp_path / "dark" / "deep.png", 300)
    assert load(tmp_path).pixel_range is None
    deep_color(tmp_path / "dark" / "deep.png", 21)
    with pytest.raises(DataError, match=r"1 image has 16 bits a colour, but only from 0 to 4095"):
        load(tmp_path)


@pytest.mark.parametrize(("start", "alpha"), [(40000, False), (0, True), (40000, True)])
def test_colours_of_16_bits_in_a_narrow_range(tmp_path: Path, start: int, alpha: bool) -> None:
    write(tmp_path, lambda x: (x // 16).astype(np.uint8))
    deep_color(tmp_path / "dark" / "deep.png", 21, start, alpha)
    with pytest.raises(DataError, match="1 image has 16 bits a colour, but only from"):
        load(tmp_path)
    deep_color(tmp_path / "dark" / "deep.png", 300, 0, alpha)
    assert load(tmp_path).pixel_range is None


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_none_are_bad(tmp_path: Path, value: float) -> None:
    write(tmp_path, lambda x: x.astype(np.float32), ".tif")
    path = tmp_path / "dark" / "bad.tif"
    Image.fromarray(np.full((SIDE, SIDE), value, dtype=np.float32)).save(path)
    with pytest.raises(DataError, match=r"bad\.tif holds pixels that are not finite numbers"):
        load(tmp_path)
    data = load(tmp_path, skip_bad_images=True)
    assert data.pixel_range == (0, 4095)
    assert any(note.startswith("1 bad image skipped") for note in data.notes)


def test_a_few_hot_pixels_are_noticed(tmp_path: Path) -> None:
    write(tmp_path, lambda x: (30000 + x // 40).astype(np.uint16))
    assert not any("98 % of the pixels" in note for note in load(tmp_path).notes)
    path = tmp_path / "dark" / "hot.png"
    hot = np.full((40, 40), 30000, dtype=np.uint16)
    hot[3, 4] = 65535
    Image.fromarray(hot).save(path)
    (told,) = (note for note in load(tmp_path).notes if "98 % of the pixels" in note)
    assert "between 30000 and 301" in told


def test_a_number_for_missing_pixels_is_noticed(tmp_path: Path) -> None:
    write(tmp_path, lambda x: (1000 + x // 40).astype(np.uint16))
    for path in tmp_path.glob("*/*.png"):
        values = np.asarray(Image.open(path)).copy()
        values[int(path.stem) % 8] = 65535
        Image.fromarray(values).save(path)
    (told,) = (note for note in load(tmp_path).notes if "half of the pixels" in note)
    assert "a number stands for missing pixels" in told


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32])
def test_images_that_do_not_differ_are_an_error(tmp_path: Path, kind: type) -> None:
    suffix = ".tif" if kind is np.float32 else ".png"
    write(tmp_path, lambda x: np.full_like(x, 7).astype(kind), suffix)
    with pytest.raises(DataError, match=r"all 12 images of .* they do not differ"):
        load(tmp_path)
