import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from torch import nn

from mobilenas.core.errors import DataError, FileError, MobileNASError
from mobilenas.core.files import write_json
from mobilenas.core.images import decode
from mobilenas.data import read_image
from mobilenas.onnx.export import export_onnx
from mobilenas.onnx.metadata import ModelMetadata
from mobilenas.onnx.predict import predict, prepare

SIZE = 8
METADATA = ModelMetadata(
    labels=("red", "green", "blue"), mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3), image_size=SIZE
)


class Colours(nn.Module):
    """Logits are the means of the three channels, before normalization."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(METADATA.std) * 10)
        self.shift = nn.Parameter(torch.tensor(METADATA.mean) * 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3)) * self.scale + self.shift


@cache
def exported_bytes() -> bytes:
    with tempfile.NamedTemporaryFile(suffix=".onnx") as file:
        path = Path(file.name)
        export_onnx(Colours(), path, image_size=SIZE, channels=3, metadata={})
        return path.read_bytes()


def export(path: Path, metadata: dict[str, str]) -> Path:
    """Write the model with other metadata."""
    model = onnx.load_from_string(exported_bytes())
    onnx.helper.set_model_props(model, metadata)
    onnx.save(model, str(path))
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(tmp_path_factory.mktemp("model") / "m.onnx", METADATA.to_strings())


def gradient(width: int, height: int) -> Image.Image:
    """An image that is another one when it is turned, mirrored or cropped elsewhere."""
    y, x = np.mgrid[0:height, 0:width]
    pixels = np.stack([x * 255 // width, y * 255 // height, (x + 2 * y) % 256], axis=-1)
    return Image.fromarray(pixels.astype(np.uint8))


def turned(image: Image.Image, path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(path, exif=exif, quality=95)


def write_all_kinds(folder: Path) -> dict[str, Path]:
    rgb = gradient(40, 30)
    clear = rgb.convert("RGBA")
    clear.putalpha(Image.linear_gradient("L").resize(rgb.size))
    deep = Image.fromarray(np.asarray(rgb.convert("L")).astype(np.uint16) * 257)
    kinds = {
        "rgb.png": rgb,
        "grey.png": rgb.convert("L"),
        "palette.png": rgb.convert("P"),
        "rgba.png": clear,
        "la.png": clear.convert("LA"),
        "deep.png": deep,
        "cmyk.jpg": rgb.convert("CMYK"),
        "one.bmp": rgb.convert("1"),
    }
    for name, image in kinds.items():
        image.save(folder / name)
    turned(rgb, folder / "turned.jpg")
    gradient(400, 900).save(folder / "large.jpg")
    return {name: folder / name for name in (*kinds, "turned.jpg", "large.jpg")}


def test_every_kind_is_decoded_as_in_training(tmp_path: Path) -> None:
    for name, path in write_all_kinds(tmp_path).items():
        for size in (SIZE, 33):
            pixels = decode(path, size)
            assert (pixels.shape, pixels.dtype) == ((size, size, 3), np.uint8), name
            np.testing.assert_array_equal(pixels.transpose(2, 0, 1), read_image(path, size))


def test_kinds_of_one_picture_look_alike(tmp_path: Path) -> None:
    paths = write_all_kinds(tmp_path)
    grey = decode(paths["grey.png"], SIZE).astype(int)
    np.testing.assert_array_equal(decode(paths["deep.png"], SIZE), grey)
    rgb = decode(paths["rgb.png"], SIZE).astype(int)
    for name, limit in (("palette.png", 40), ("cmyk.jpg", 16)):
        assert np.abs(decode(paths[name], SIZE) - rgb).mean() < limit
    upright = gradient(40, 30).transpose(Image.Transpose.ROTATE_270)
    upright.save(tmp_path / "upright.png")
    difference = decode(paths["turned.jpg"], SIZE) - decode(tmp_path / "upright.png", SIZE).astype(
        int
    )
    assert np.abs(difference).mean() < 16


def test_transparent_pixels_are_white(tmp_path: Path) -> None:
    Image.new("RGBA", (9, 9), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    assert (decode(tmp_path / "clear.png", SIZE) == 255).all()


def test_labels_and_probabilities(model: Path, tmp_path: Path) -> None:
    paths = []
    for name, colour in (("g", (10, 250, 100)), ("b", (0, 30, 200)), ("r", (255, 0, 0))):
        paths.append(tmp_path / f"{name}.png")
        Image.new("RGB", (20, 31), colour).save(paths[-1])
    first, second, third = predict(model, paths)
    assert [first.path, second.path, third.path] == paths
    assert [label for label, _ in first.labels] == ["green", "blue", "red"]
    assert (second.labels[0][0], third.labels[0][0]) == ("blue", "red")
    logits = torch.tensor([250.0, 100.0, 10.0]) / 25.5
    expected = logits.softmax(0).tolist()
    assert [value for _, value in first.labels] == pytest.approx(expected, abs=1e-5)
    assert sum(value for _, value in first.labels) == pytest.approx(1)
    assert predict(model, paths[:1], top=1)[0].labels == first.labels[:1]
    assert len(predict(model, paths[:1], top=99)[0].labels) == 3
    assert predict(model, []) == []


def test_normalization_is_that_of_the_metadata() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    x = prepare(pixels, METADATA)
    mean, std = (np.array(values)[:, None, None] for values in (METADATA.mean, METADATA.std))
    expected = (pixels.transpose(2, 0, 1) / 255 - mean) / std
    assert (x.shape, x.dtype) == ((1, 3, SIZE, SIZE), np.float32)
    np.testing.assert_allclose(x[0], expected, atol=1e-5)


def test_images_of_more_bits_are_scaled_as_in_training(tmp_path: Path) -> None:
    values = np.arange(SIZE * SIZE, dtype=np.uint16).reshape(SIZE, SIZE) * 3 + 30000
    Image.fromarray(values).save(tmp_path / "deep.png")
    Image.fromarray(((values - 30000) * (255 / 200)).astype(np.float32)).save(tmp_path / "f.tif")
    ranged = replace(METADATA, pixel_range=(30000, 30200))
    strings = ranged.to_strings()
    assert ModelMetadata.from_strings(strings, "x") == ranged
    assert "pixel_range" not in METADATA.to_strings()
    narrow = export(tmp_path / "narrow.onnx", strings)
    plain = export(tmp_path / "plain.onnx", METADATA.to_strings())
    eight = np.rint((values - 30000.0) * 255 / 200).astype(np.uint8)
    Image.fromarray(eight).save(tmp_path / "eight.png")
    (deep,), (expected,) = (
        predict(narrow, [tmp_path / "deep.png"]),
        predict(plain, [tmp_path / "eight.png"]),
    )
    assert deep.labels == expected.labels
    with pytest.raises(DataError, match=r"f\.tif .*no set of images gives a range"):
        predict(plain, [tmp_path / "f.tif"])


@pytest.mark.parametrize("bad", ["[1]", "[2, 2]", "[3, 1]", '["0", 1]', "5", "[0, 1e99]"])
def test_a_pixel_range_that_is_none_is_refused(bad: str) -> None:
    with pytest.raises(FileError, match="'pixel_range' in its metadata"):
        ModelMetadata.from_strings(METADATA.to_strings() | {"pixel_range": bad}, "x")


def test_prediction_does_without_torch(model: Path, tmp_path: Path) -> None:
    Image.new("RGB", (10, 10), "blue").save(tmp_path / "blue.png")
    code = (
        "import sys; from pathlib import Path; from mobilenas.onnx.predict import predict;"
        "print(predict(Path(sys.argv[1]), [Path(sys.argv[2])])[0].labels[0][0]);"
        "sys.exit(any(name in sys.modules for name in ('torch', 'onnx', 'torchvision')))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, str(model), str(tmp_path / "blue.png")],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert (done.stdout, done.stderr) == ("blue\n", "")


def test_a_damaged_image_is_named(model: Path, tmp_path: Path) -> None:
    whole = write_all_kinds(tmp_path)["large.jpg"]
    (tmp_path / "cut.jpg").write_bytes(whole.read_bytes()[:900])
    (tmp_path / "text.png").write_text("no image")
    for name, reason in (("cut.jpg", ""), ("text.png", "not an image"), ("gone.png", "exist")):
        with pytest.raises(DataError, match=rf"{name}.*{reason}"):
            predict(model, [tmp_path / name])


def test_another_onnx_file_is_named_with_the_missing_key(model: Path, tmp_path: Path) -> None:
    strings = METADATA.to_strings()
    del strings["std"]
    with pytest.raises(FileError, match=r"other\.onnx has no 'std'"):
        predict(export(tmp_path / "other.onnx", strings), [])
    with pytest.raises(FileError, match="does not exist"):
        predict(tmp_path / "none.onnx", [])
    with pytest.raises(MobileNASError, match="top is 0"):
        predict(model, [], top=0)


def test_metadata_that_does_not_fit_the_graph_is_refused(tmp_path: Path) -> None:
    Image.new("RGB", (10, 10), "blue").save(tmp_path / "blue.png")
    strings = METADATA.to_strings()
    size = export(tmp_path / "size.onnx", strings | {"image_size": "16"})
    with pytest.raises(FileError, match=r"size\.onnx: the input is"):
        predict(size, [tmp_path / "blue.png"])
    labels = export(tmp_path / "labels.onnx", strings | {"labels": '["a", "b"]'})
    with pytest.raises(FileError, match=r"labels\.onnx: the output is \[1, 3\]"):
        predict(labels, [tmp_path / "blue.png"])


def test_metadata_of_any_size_is_refused_in_one_line(tmp_path: Path) -> None:
    wrong = {
        "mean": ["[NaN, 0, 0]", f"[{10**400}, 0, 0]", "[true, 0, 0]", "[" * 100_000],
        "std": ["[1e999, 1, 1]", "[0, 1, 1]", "[1, 1]"],
        "image_size": ["1e9", f"{10**400}", "1000000000", "true", "9" * 5000],
        "labels": ["[]", '["a", 1]', "{}", '"abc"'],
    }
    for name, values in wrong.items():
        for value in values:
            path = export(tmp_path / "m.onnx", METADATA.to_strings() | {name: value})
            with pytest.raises(FileError, match=r"m\.onnx: ") as caught:
                predict(path, [])
            assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "code",
    [
        "import mobilenas.onnx.predict",
        "import mobilenas.latency.worker",
        "import runpy; runpy.run_path('mobilenas/latency/kit_runner.py', run_name='run_kit')",
    ],
)
def test_onnxruntime_writes_nothing_to_the_user_s_folders(code: str, tmp_path: Path) -> None:
    inherited = {
        name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ
    }
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; import sys; print('onnxruntime' in sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
        env=inherited | {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")},
    )
    assert done.stdout == "True\n"
    assert not list(tmp_path.rglob("*"))


def exported(run: Path, model: Path, **changes: object) -> Path:
    """A run folder with the model as its file in 8 bits, and nothing at model.onnx."""
    (run / "export").mkdir(parents=True)
    (run / "export/model.int8.onnx").write_bytes(model.read_bytes())
    sizes = {"top1": 50.0, "size_bytes": 1, "latency_ms": 0.1}
    files = {
        name: sizes | {"path": f"export/{file}"}
        for name, file in {"onnx": "model.onnx", "int8": "model.int8.onnx"}.items()
    }
    parity = {"images": 1, "max_abs_difference": 0.0, "top1_agreement": 100.0}
    timing = {"provider": "CPUExecutionProvider", "threads": 1, "profile": None}
    record = {"files": files, "parity": parity, "timing": timing, "deployed": "int8"}
    record |= {"labels": ["red", "green", "blue"]}
    write_json(run / "export/export.json", record | changes)
    return run


def test_a_run_folder_has_the_file_that_is_for_the_device(model: Path, tmp_path: Path) -> None:
    Image.new("RGB", (20, 20), (250, 10, 10)).save(tmp_path / "red.png")
    run = exported(tmp_path / "run", model)
    expected = predict(model, [tmp_path / "red.png"])
    assert expected[0].labels[0][0] == "red"
    for name in (run, run / "export"):
        assert predict(name, [tmp_path / "red.png"]) == expected


def test_a_folder_without_an_exported_file_says_what_to_do(model: Path, tmp_path: Path) -> None:
    (tmp_path / "begun").mkdir()
    with pytest.raises(FileError, match=r"begun has no export/export\.json: .*export"):
        predict(tmp_path / "begun", [tmp_path / "red.png"])
    with pytest.raises(FileError, match=r"export\.json: files lacks 'fp8'"):
        predict(exported(tmp_path / "other", model, deployed="fp8"), [tmp_path / "red.png"])
    file = {"path": "../m.onnx", "top1": 50.0, "size_bytes": 1, "latency_ms": 0.1}
    outside = {"onnx": file, "int8": file}
    with pytest.raises(FileError, match="must name a file in"):
        predict(exported(tmp_path / "out", model, files=outside), [tmp_path / "red.png"])
