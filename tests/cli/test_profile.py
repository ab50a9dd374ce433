"""`mobilenas profile flops` and `mobilenas predict`."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

from mobilenas.cli import profile
from mobilenas.cli.main import cli
from mobilenas.core.settings import COUNTING_RULE
from mobilenas.cost.networks import costs
from mobilenas.onnx.export import export_onnx
from mobilenas.onnx.metadata import ModelMetadata
from mobilenas.spaces.cell.genotypes import CELL_NETWORKS
from mobilenas.spaces.channels.space import Base, ChannelsArch
from mobilenas.spaces.mobile.arch import MobileArch
from mobilenas.spaces.mobile.mobilenets import MOBILENETS
from mobilenas.spaces.networks import build

SHAPE = ("--width", "0.35", "--image-size", "32", "--classes", "10")


def small(name: str = "mobilenet_v3_small") -> MobileArch:
    return MOBILENETS[name](0.35, 32, 10)


@pytest.mark.parametrize("name", list(MOBILENETS))
def test_both_counts_agree_layer_by_layer(name: str) -> None:
    result = CliRunner().invoke(cli, ["profile", "flops", name, *SHAPE, "--json"])
    assert result.exit_code == 0
    counted, exact = json.loads(result.stdout), costs(small(name))
    assert (counted["flops"], counted["params"]) == (exact.flops, exact.params)
    assert counted["fvcore_flops"] == exact.flops
    assert counted["counting_rule"] == COUNTING_RULE
    assert len(counted["layers"]) > 20
    for layer in counted["layers"]:
        assert layer["fvcore_flops"] == layer["flops"] > 0, layer["name"]


@pytest.mark.parametrize(
    ("name", "flops", "params"),
    [
        ("torchvision:mobilenet_v2", 300_774_272, 3_504_872),
        ("torchvision:resnet18", 1_814_073_344, 11_689_512),
    ],
)
def test_models_of_torchvision_are_counted(name: str, flops: int, params: int) -> None:
    result = CliRunner().invoke(cli, ["profile", "flops", name, "--json"])
    assert result.exit_code == 0, result.output
    counted = json.loads(result.stdout)
    assert (counted["flops"], counted["params"]) == (flops, params)
    for layer in counted["layers"]:
        assert layer["fvcore_flops"] == layer["flops"] > 0, layer["name"]


def test_other_channel_sizes_are_counted_layer_by_layer(tmp_path: Path) -> None:
    base = Base(name="torchvision:resnet18", image_size=32, in_channels=3, classes=10)
    arch = ChannelsArch(base=base, sizes={"conv1": 48})
    path = tmp_path / "arch.json"
    path.write_text(json.dumps({"schema_version": 1, "arch": arch.to_dict()}), encoding="utf-8")
    result = CliRunner().invoke(cli, ["profile", "flops", str(path), "--json"])
    assert result.exit_code == 0, result.output
    layers = json.loads(result.stdout)["layers"]
    assert [layer["fvcore_flops"] for layer in layers] == [layer["flops"] for layer in layers]


def test_the_table_fits_80_columns_and_has_no_control_characters() -> None:
    result = CliRunner().invoke(cli, ["profile", "flops", "mobilenet_v3_large"])
    assert result.exit_code == 0
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert all(char.isprintable() for line in result.stdout.splitlines() for char in line)
    assert "blocks.14.squeeze_excite.expand" in result.stdout
    assert "216,589,760" in " ".join(result.stdout.split())
    assert COUNTING_RULE in " ".join(result.stdout.split())


def test_an_arch_file_and_a_run_folder_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "arch.json"
    record = {"schema_version": 1, "arch": small().to_dict()}
    path.write_text(json.dumps(record), encoding="utf-8")
    for target in (path, tmp_path):
        result = CliRunner().invoke(cli, ["profile", "flops", str(target), "--json"])
        assert result.exit_code == 0, result.output
        assert json.loads(result.stdout)["flops"] == costs(small()).flops


def test_the_cell_networks_are_the_library_s() -> None:
    assert sorted(profile.CELL_NETWORKS) == sorted(CELL_NETWORKS)
    listed = " ".join(CliRunner().invoke(cli, ["profile", "flops", "--help"]).stdout.split())
    assert all(name in listed for name in CELL_NETWORKS)


@pytest.mark.parametrize(
    ("name", "given", "shape"),
    [
        ("darts_v2", ("--image-size", "16", "--classes", "7"), (16, 7)),
        ("pc_darts_cifar", (), (32, 10)),
        ("pc_darts_imagenet", ("--image-size", "33"), (33, 1000)),
    ],
)
def test_cell_networks_are_counted_layer_by_layer(
    name: str, given: tuple[str, ...], shape: tuple[int, int]
) -> None:
    arch = CELL_NETWORKS[name](*shape)
    result = CliRunner().invoke(cli, ["profile", "flops", name, *given, "--json"])
    assert result.exit_code == 0, result.output
    counted, exact = json.loads(result.stdout), costs(arch)
    assert (counted["flops"], counted["params"]) == (exact.flops, exact.params)
    assert counted["fvcore_flops"] == exact.flops
    for layer in counted["layers"]:
        assert layer["fvcore_flops"] == layer["flops"] > 0, layer["name"]


def test_a_cell_arch_file_is_counted_in_80_columns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arch = replace(CELL_NETWORKS["pc_darts_imagenet"](), layers=3)
    monkeypatch.chdir(tmp_path)
    record = {"schema_version": 1, "arch": arch.to_dict()}
    Path("arch.json").write_text(json.dumps(record), encoding="utf-8")
    for target in ("arch.json", "."):
        result = CliRunner().invoke(cli, ["profile", "flops", target])
        assert result.exit_code == 0, result.output
        assert f"{costs(arch).flops:,}" in result.stdout
        assert "cells.2.nodes.3.1.1.depthwise" in result.stdout
        assert max(map(len, result.stdout.splitlines())) <= 80


def test_a_width_goes_with_a_mobilenet_only() -> None:
    result = CliRunner().invoke(cli, ["profile", "flops", "darts_v2", "--width", "0.5"])
    assert result.exit_code == 2
    assert "--width goes with a MobileNet only" in result.stderr


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.onnx"
    labels = tuple(f"digit [{number}]" for number in range(10))
    described = ModelMetadata(
        labels=labels, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25), image_size=32
    )
    export_onnx(
        build(small()).eval(), path, image_size=32, channels=3, metadata=described.to_strings()
    )
    return path


def test_an_onnx_file_is_counted(model: Path) -> None:
    result = CliRunner().invoke(cli, ["profile", "flops", str(model), "--json"])
    counted, exact = json.loads(result.stdout), costs(small())
    assert (counted["flops"], counted["params"]) == (exact.flops, exact.params)
    table = CliRunner().invoke(cli, ["profile", "flops", str(model)]).stdout
    assert f"{exact.flops:,}" in table


def test_predict_labels_images_without_torch(model: Path, tmp_path: Path) -> None:
    image = tmp_path / "grey.png"
    Image.new("L", (40, 30), 90).save(image)
    code = (
        "import sys\nfrom mobilenas.cli.main import cli\n"
        "try:\n    cli()\n"
        "finally:\n    assert not {'torch', 'onnx', 'scipy'} & set(sys.modules)\n"
    )
    command = [sys.executable, "-c", code, "predict", str(model), str(image), "--top", "2"]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)
    (found,) = json.loads(done.stdout)["predictions"]
    assert found["path"] == str(image)
    assert len(found["labels"]) == 2
    assert done.stderr == ""
    table = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert found["labels"][0]["label"] in table


def test_predict_names_a_bad_image(model: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"\x89PNG cut")
    result = CliRunner().invoke(cli, ["predict", str(model), str(bad)])
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1
    assert str(bad) in result.stderr
