"""What docs/deploy.md tells an app to do with an image is what `predict` does."""

import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray
from PIL import Image

from mobilenas.core.images import decode

PAGE = (Path(__file__).resolve().parents[1] / "docs/deploy.md").read_text(encoding="utf-8")
SIDE = 24


class Session:
    """A session of a file that takes uint8 pixels; remembers them."""

    pixels: NDArray[np.uint8]

    def get_inputs(self) -> list[Any]:
        return [SimpleNamespace(shape=[1, SIDE, SIDE, 3])]

    def get_modelmeta(self) -> Any:
        return SimpleNamespace(custom_metadata_map={"labels": json.dumps(["cat", "dog"])})

    def run(self, _: None, inputs: dict[str, NDArray[np.uint8]]) -> list[NDArray[np.float32]]:
        self.pixels = inputs["image"]
        return [np.array([[0.0, 1.0]], dtype=np.float32)]


def pixels_of_the_page(image: Path, monkeypatch: pytest.MonkeyPatch) -> NDArray[np.uint8]:
    (program,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    session = Session()
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda *_, **__: session)
    monkeypatch.setattr(sys, "argv", ["program", "model.onnx", str(image)])
    exec(compile(program, "docs/deploy.md", "exec"), {})
    assert (session.pixels.shape, session.pixels.dtype) == ((1, SIDE, SIDE, 3), np.uint8)
    return session.pixels[0]


def picture(width: int, height: int) -> Image.Image:
    """Stripes that alias without antialiasing, and another picture however it is turned."""
    y, x = np.mgrid[0:height, 0:width]
    stripes = 120 * (x % 2)
    pixels = np.stack([x * 135 // width + stripes, y * 255 // height, (x + y) * 127 // width], -1)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def photos(folder: Path) -> list[Path]:
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        picture(90, 60).save(folder / f"exif-{orientation}.jpg", exif=exif, quality=95)
        picture(61, 90).save(folder / f"exif-{orientation}.png", exif=exif)
    clear = picture(77, 50).convert("RGBA")
    clear.putalpha(Image.linear_gradient("L").resize(clear.size))
    clear.save(folder / "alpha.png")
    clear.convert("LA").save(folder / "grey-alpha.png")
    picture(50, 77).convert("P").save(folder / "palette.png", transparency=bytes(range(256)))
    picture(50, 77).convert("L").save(folder / "grey.png")
    picture(50, 77).convert("CMYK").save(folder / "inks.jpg")
    picture(12, 9).save(folder / "small.png")
    picture(1200, 900).save(folder / "large.jpg")
    return sorted(folder.iterdir())


def test_the_python_program_sees_what_predict_sees(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for image in photos(tmp_path):
        expected = decode(image, SIDE).astype(int)
        difference = np.abs(pixels_of_the_page(image, monkeypatch) - expected)
        assert difference.max() <= 2, image.name


def test_those_photos_tell_the_usual_mistakes(tmp_path: Path) -> None:
    photos(tmp_path)
    tall = Image.open(tmp_path / "exif-6.jpg").convert("RGB")
    box = (15, 0, 75, 60)
    turned = np.asarray(tall.resize((SIDE, SIDE), Image.Resampling.BILINEAR, box))
    expected = decode(tmp_path / "exif-6.jpg", SIDE).astype(int)
    assert np.abs(turned - expected).max() > 50
    plain = Image.open(tmp_path / "exif-1.png").crop((0, 14, 61, 75)).resize((SIDE, SIDE), 0)
    assert np.abs(np.asarray(plain) - decode(tmp_path / "exif-1.png", SIDE).astype(int)).max() > 50
    black = Image.open(tmp_path / "alpha.png").convert("RGB")
    black = black.resize((SIDE, SIDE), Image.Resampling.BILINEAR, (13.5, 0, 63.5, 50))
    assert np.abs(np.asarray(black) - decode(tmp_path / "alpha.png", SIDE).astype(int)).max() > 50


def filtered(values: NDArray[np.float64], length: int) -> NDArray[np.float64]:
    """The filter that the Kotlin and Swift programs write out, over the first axis."""
    whole, scale = len(values), length / SIDE
    reach = max(1.0, scale)
    out = []
    for place in range(SIDE):
        center = (whole - length) / 2 + (place + 0.5) * scale
        first, last = max(0, int(center - reach + 0.5)), min(whole, int(center + reach + 0.5))
        raw = np.array([max(0, 1 - abs(p + 0.5 - center) / reach) for p in range(first, last)])
        out.append(np.tensordot(raw / raw.sum(), values[first:last], 1))
    return np.stack(out)


@pytest.mark.parametrize("size", [(90, 61), (61, 90), (24, 24), (13, 20), (400, 300)])
def test_the_filter_of_the_other_programs_is_pillow_s(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    image = picture(*size)
    image.save(tmp_path / "a.png")
    rows = filtered(np.asarray(image).astype(float), min(size))
    square = filtered(rows.transpose(1, 0, 2), min(size)).transpose(1, 0, 2)
    assert np.abs(np.rint(square) - decode(tmp_path / "a.png", SIDE)).max() <= 1


@pytest.mark.parametrize(
    ("language", "words"),
    [
        ("kotlin", ("ExifInterface", "rotationDegrees", "isFlipped", "drawColor(Color.WHITE)")),
        ("swift", ("CreateThumbnailWithTransform: true", "setFillColor(red: 1, green: 1, blue: 1")),
    ],
)
def test_the_other_programs_do_all_steps(language: str, words: tuple[str, ...]) -> None:
    (program,) = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    for word in (*words, "center - reach + 0.5", "- center) / reach"):
        assert word in program.replace("0.5f", "0.5")
