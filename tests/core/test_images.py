"""The decoder's bounds: what is refused unread, and what memory it takes."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mobilenas.core import images
from mobilenas.core.errors import DataError
from mobilenas.core.images import decode


@pytest.fixture
def limit(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(images, "MAX_PIXELS", 10_000)
    return 10_000


def noise(width: int, height: int, channels: int = 3) -> Image.Image:
    shape = (height, width, channels)
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))


def test_too_many_pixels_are_refused_before_they_are_decoded(
    tmp_path: Path, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise(100, 100).save(tmp_path / "fits.png")
    noise(100, 101).save(tmp_path / "large.png")
    assert decode(tmp_path / "fits.png", 8).shape == (8, 8, 3)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda image: pytest.fail("was decoded"))
    with pytest.raises(DataError, match=r"large.png has 100x101 pixels; at most 10,000"):
        decode(tmp_path / "large.png", 8)


def test_a_jpeg_counts_as_it_is_decoded(tmp_path: Path, limit: int) -> None:
    noise(400, 400).save(tmp_path / "photo.jpg")
    assert decode(tmp_path / "photo.jpg", 8).shape == (8, 8, 3)
    with pytest.raises(DataError, match="400x400"):
        decode(tmp_path / "photo.jpg", 200)
    noise(400, 400).save(tmp_path / "progressive.jpg", progressive=True)
    with pytest.raises(DataError, match="400x400"):
        decode(tmp_path / "progressive.jpg", 8)


@pytest.mark.filterwarnings("ignore:Image size .* exceeds limit")
@pytest.mark.parametrize("side", [10_000, 14_000])
def test_bombs_are_refused(tmp_path: Path, side: int) -> None:
    Image.new("1", (side, side)).save(tmp_path / "bomb.png")
    with pytest.raises(DataError, match=r"bomb\.png has .* make it smaller"):
        decode(tmp_path / "bomb.png", 8)


@pytest.mark.filterwarnings("ignore:Image size .* exceeds limit")
def test_a_photo_of_200_megapixels_is_decoded_at_a_fraction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo = noise(160, 120)
    photo.save(tmp_path / "photo.jpg")
    expected = decode(tmp_path / "photo.jpg", 8)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 160 * 120 // 3)  # twice this many are refused
    assert (decode(tmp_path / "photo.jpg", 8) == expected).all()
    photo.save(tmp_path / "photo.png")
    with pytest.raises(DataError, match=r"photo\.png has .* make it smaller"):
        decode(tmp_path / "photo.png", 8)


_GROWTH = """
import resource, sys
from pathlib import Path
from mobilenas.core.images import decode
decode(Path(sys.argv[1]), 224)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
decode(Path(sys.argv[2]), 224)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss counts KiB on Linux")
@pytest.mark.parametrize(("mode", "bytes_each"), [("RGBA", 4), ("LA", 4), ("P", 1), ("I;16", 2)])
def test_no_second_whole_image_is_made(tmp_path: Path, mode: str, bytes_each: int) -> None:
    side = 4000
    for name, length in (("small.png", 64), ("large.png", side)):
        if mode == "P":
            image = Image.new("P", (length, length))
            image.save(tmp_path / name, transparency=b"\x80")
        else:
            Image.new(mode, (length, length)).save(tmp_path / name)
    done = subprocess.run(
        [sys.executable, "-c", _GROWTH, tmp_path / "small.png", tmp_path / "large.png"],
        capture_output=True,
        text=True,
        check=True,
    )
    growth = int(done.stdout) * 1024
    assert growth < bytes_each * side * side + 40 * 2**20


def test_threads_decode_no_more_together(limit: int) -> None:
    room, entered, peak = images._Room(), 0, 0
    lock = threading.Lock()

    def work() -> None:
        nonlocal entered, peak
        with room.taken(4000):
            with lock:
                entered += 1
                peak = max(peak, entered)
            never.wait(0.01)
            with lock:
                entered -= 1

    never = threading.Event()
    threads = [threading.Thread(target=work) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert peak <= 2
    with room.taken(10 * limit):  # one that is too large alone is let in alone
        pass


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P"])
def test_strips_change_nothing(tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    noise(90, 61, 4 if mode == "RGBA" else 3).convert(mode).save(tmp_path / "wide.png")
    noise(61, 90, 4 if mode == "RGBA" else 3).convert(mode).save(tmp_path / "tall.png")
    for name in ("wide.png", "tall.png"):
        for size in (8, 61, 100):
            whole = decode(tmp_path / name, size)
            with monkeypatch.context() as patch:
                patch.setattr(images, "_STRIP_PIXELS", 500)
                strips = decode(tmp_path / name, size)
            # PIL resizes the longer direction first, strips their rows: roundings differ
            assert np.abs(strips.astype(int) - whole).max() <= 2


def test_alpha_is_put_on_white_whatever_the_size(tmp_path: Path) -> None:
    """Transparent black beside opaque black: no dark seam, no light one."""
    image = Image.new("RGBA", (40, 40), (0, 0, 0, 0))
    image.paste((0, 0, 0, 255), (0, 0, 20, 40))
    image.save(tmp_path / "half.png")
    on_white = Image.new("RGB", (40, 40), "white")
    on_white.paste((0, 0, 0), (0, 0, 20, 40))
    on_white.save(tmp_path / "white.png")
    for size in (40, 9, 57):
        half, white = (decode(tmp_path / name, size) for name in ("half.png", "white.png"))
        assert np.abs(half.astype(int) - white).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
def test_every_orientation(tmp_path: Path, orientation: int, suffix: str) -> None:
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a{suffix}"
    Image.linear_gradient("L").resize((48, 32)).convert("RGB").save(path, exif=exif)
    with Image.open(path) as image:
        upright = ImageOps.exif_transpose(image)
    upright.save(tmp_path / "upright.png")
    expected = decode(tmp_path / "upright.png", 32).astype(int)
    assert np.abs(decode(path, 32) - expected).max() <= 1


@pytest.mark.parametrize(
    ("start", "reason"),
    [
        (b"\x00\x00\x00\x18ftypheic", "is HEIC, which is not read: convert it"),
        (b"\x00\x00\x00\x18ftypavif", "is AVIF, which is not read: convert it"),
        (b"%!PS-Adobe-3.0 EPSF-3.0", "not an image"),
        (b"P5 4 4 255 " + bytes(16), "not an image"),
    ],
)
def test_other_formats_are_not_read_under_a_known_suffix(
    tmp_path: Path, start: bytes, reason: str
) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(start + bytes(64))
    with pytest.raises(DataError, match=reason):
        decode(path, 8)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes by name here")
def test_pipes_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    for name in ("pipe.png", "."):
        with pytest.raises(DataError, match="is not a file"):
            decode(tmp_path / name, 8)
    with pytest.raises(DataError, match="does not exist"):
        decode(tmp_path / "none.png", 8)
