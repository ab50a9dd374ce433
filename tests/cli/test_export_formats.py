"""`mobilenas export --formats ...`: what is printed, what is refused; the page's own program."""

import contextlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from mobilenas.cli.main import cli
from mobilenas.core.files import write_json
from mobilenas.core.progress import NullReporter
from mobilenas.onnx.settings import TARGETS
from mobilenas.onnx.targets import CAVEAT
from mobilenas.pipeline.request import Request
from mobilenas.pipeline.stages import train_stage
from mobilenas.pipeline.starting import start

PAGE = Path(__file__).resolve().parents[2] / "docs/deploy.md"
BLOCK = {"kernel": 3, "hidden": 8, "out": 16, "stride": 1, "squeeze": 8, "activation": "relu"}
ARCH = {
    "space": "mobile",
    "image_size": 8,
    "in_channels": 3,
    "classes": 10,
    "stem": {"channels": 8, "stride": 1, "activation": "relu"},
    "blocks": [BLOCK],
    "head": {"channels": 32, "hidden": 0, "activation": "relu", "dropout": 0.0},
}
ALL = ("--formats", "onnx,fp16,int8,ort", "--targets", "cpu,xnnpack,qnn,nnapi,coreml")


@pytest.fixture(scope="module")
def trained(byte_clock: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    request = Request(flops=300_000, effort="quick", epochs=1, threads=1)
    run = start(folder, request, command="mobilenas test", reporter=NullReporter())
    write_json(folder / "arch.json", {"arch": ARCH})
    train_stage(run)
    return folder


@pytest.fixture(scope="module")
def printed(trained: Path) -> str:
    """The terminal output of an export of all files that take pixels."""
    words = (*ALL, "--input", "uint8-nhwc", "--max-drop", "99", "--max-parts", "99")
    return export(trained, *words).stdout


def export(folder: Path, *words: str, status: int = 0) -> Result:
    result = CliRunner().invoke(cli, ["export", str(folder), "--quiet", *words])
    assert result.exit_code == status, result.output
    return result


def test_one_table_within_80_columns_and_the_caveat_once(printed: str) -> None:
    lines = printed.splitlines()
    assert all(len(line) <= 80 for line in lines)
    names = [
        "model.onnx",
        "model.uint8.onnx",
        "model.fp16.uint8.onnx",
        "model.int8.uint8.onnx",
        "model.uint8.ort",
    ]
    rows = [re.split(r"\s{2,}", line.strip()) for line in lines if line.startswith("model.")]
    # model.onnx was not asked for, and targets read .onnx files
    assert [row[0] for row in rows] == names + names[1:] + names[1:4]
    words, checks, targets = (
        {row[0]: row for row in part} for part in (rows[:5], rows[5:9], rows[9:])
    )
    header, others, last = (line.split() for line in lines if line.startswith("file "))
    assert header == ["file", "bytes", "ms", "top-1", "drop"]
    assert others[1:5] == ["nodes", "reorders", "unaligned", "memory"]
    assert last == ["file", *TARGETS]
    assert float(checks["model.uint8.onnx"][5]) < 1e-3 < float(checks["model.int8.uint8.onnx"][5])
    for row in words.values():
        assert len(row) == len(header)
        float(row[2].partition(" ")[0]), float(row[3])
    assert words["model.onnx"][4] == "-"  # not asked for: the reference
    assert targets["model.uint8.onnx"][1:3] == ["yes", "unknown"]
    assert words["model.uint8.ort"][3] == words["model.uint8.onnx"][3] == words["model.onnx"][3]
    assert int(targets["model.int8.uint8.onnx"][3]) >= 1
    assert "nnapi: Android has deprecated NNAPI" in " ".join(printed.split())
    assert " ".join(printed.split()).count(CAVEAT) == 1


def test_json_is_export_json(printed: str, trained: Path) -> None:
    words = ("--formats", "int8", "--input", "uint8-nhwc", "--max-drop", "99", "--json")
    document = json.loads(export(trained, *words).stdout)
    assert document == json.loads((trained / "export/export.json").read_text())
    assert set(document["files"]) >= {"onnx", "int8-uint8"}


def test_without_options_the_command_is_what_it_was(printed: str, trained: Path) -> None:
    before = (trained / "export/export.json").read_bytes()
    with contextlib.chdir(trained.parent):
        output = export(Path("run")).stdout
    assert "test top-1 %" in output
    assert "run/export/model.onnx " in output
    assert (trained / "export/export.json").read_bytes() == before


@pytest.mark.usefixtures("printed")
def test_options_of_int8_reach_the_file(trained: Path) -> None:
    words = ("--formats", "int8", "--input", "uint8-nhwc", "--max-drop", "99", "--max-parts", "99")
    more = ("--int8-weights", "per-tensor", "--calibration", "percentile", "--corrections", "none")
    document = json.loads(
        export(trained, *words, *more, "--calibration-images", "9", "--json").stdout
    )
    assert document["files"]["int8-uint8"]["quantization"] == {
        "method": "static QDQ",
        "weights": "per-tensor",
        "calibration": "percentile",
        "calibration_images": 9,
        "corrections": [],
        "qat_epochs": 0,
        "seed": 0,
    }


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("--formats", "onnx,tflite"), ("'tflite'", "onnx, fp16, int8, ort")),
        (("--formats", ""), ("''", "onnx, fp16, int8, ort")),
        (("--formats", "none"), ("--formats is none",)),
        (("--targets", "tpu"), ("'tpu'", "cpu, xnnpack, qnn, nnapi, coreml")),
        (("--input", "nchw"), ("'nchw'", "uint8-nhwc")),
        (("--max-drop", "-1"), ("--max-drop is -1",)),
        (("--max-parts", "0"), ("--max-parts is 0",)),
        (("--qat-epochs", "3"), ("int8 is not in --formats",)),
        (("--formats", "int8", "--corrections", "hope"), ("'hope'", "equalize, bias")),
        (("--formats", "int8", "--calibration-images", "0"), ("--calibration-images is 0",)),
        (
            ("--formats", "int8", "--qat-epochs", "3", "--corrections", "bias"),
            ("--corrections bias", "--qat-epochs"),
        ),
    ],
)
def test_what_is_unknown_is_refused_in_one_line(
    words: tuple[str, ...], parts: tuple[str, ...], tmp_path: Path
) -> None:
    (line,) = export(tmp_path, *words, status=2).stderr.splitlines()
    for part in parts:
        assert part in line


@pytest.mark.usefixtures("printed")
def test_the_page_s_python_program_says_what_predict_says(trained: Path, tmp_path: Path) -> None:
    (program,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    image = tmp_path / "image.png"
    gradient = Image.linear_gradient("L").resize((8, 8))
    Image.merge("RGB", (gradient, gradient.rotate(90), gradient.rotate(180))).save(image)
    model = trained / "export/model.int8.uint8.onnx"
    command = [sys.executable, "-c", program, str(model), str(image)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    label, share = done.stdout.split()
    answer = CliRunner().invoke(cli, ["predict", str(model), str(image), "--json"])
    expected: dict[str, Any] = json.loads(answer.stdout)["predictions"][0]["labels"][0]
    assert label == expected["label"]
    assert float(share) == pytest.approx(expected["probability"], abs=1e-3)
