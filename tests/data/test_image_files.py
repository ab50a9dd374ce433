"""Image files of every kind become the same square of RGB pixels."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mobilenas.data import read_image


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "I;16"])
def test_modes_of_white(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    if mode == "I;16":
        image = Image.fromarray(np.full((8, 8), 65535, dtype=np.uint16))
    else:
        image = Image.new("RGB", (8, 8), "white").convert(mode)
    image.save(path)
    assert (read_image(path, 8) == 255).all()


def test_sixteen_bits_are_scaled(tmp_path: Path) -> None:
    grey = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1024
    Image.fromarray(grey).save(tmp_path / "a.png")
    assert (read_image(tmp_path / "a.png", 8) == np.rint(grey / 257)).all()


def test_transparent_is_white(tmp_path: Path) -> None:
    Image.new("RGBA", (8, 8), (255, 0, 0, 0)).save(tmp_path / "a.png")
    assert (read_image(tmp_path / "a.png", 8) == 255).all()
    Image.new("P", (8, 8)).save(tmp_path / "b.png", transparency=b"\x00")
    assert (read_image(tmp_path / "b.png", 8) == 255).all()


def test_orientation(tmp_path: Path) -> None:
    image = Image.new("RGB", (8, 8))
    image.paste((255, 255, 255), (0, 0, 8, 4))  # the upper half is white
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise to see it upright
    image.save(tmp_path / "a.png", exif=exif)
    pixels = read_image(tmp_path / "a.png", 8)
    assert (pixels[:, :, 4:] == 255).all()
    assert (pixels[:, :, :4] == 0).all()


def test_centre_crop(tmp_path: Path) -> None:
    image = Image.new("RGB", (24, 8), "red")
    image.paste((0, 0, 255), (8, 0, 16, 8))
    image.save(tmp_path / "a.png")
    assert (read_image(tmp_path / "a.png", 8)[2] == 255).all()
    assert (read_image(tmp_path / "a.png", 16)[:, 4:12, 4:12][2] == 255).all()


def test_large_jpeg_is_drafted_without_harm(tmp_path: Path) -> None:
    ramp = np.linspace(0, 255, 512).astype(np.uint8)
    image = Image.fromarray(np.broadcast_to(ramp, (512, 512)).copy()).convert("RGB")
    image.save(tmp_path / "a.jpg", quality=95)
    whole = np.asarray(image.resize((16, 16), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    drafted = read_image(tmp_path / "a.jpg", 16)
    assert np.abs(drafted.astype(int) - whole.astype(int)).max() <= 4
