"""`mobilenas channels`."""

import json
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import save_file

from mobilenas.channel_graph import load_model
from mobilenas.cli.main import cli
from mobilenas.core.settings import COUNTING_RULE
from mobilenas.cost.networks import costs
from mobilenas.spaces.base import Arch
from mobilenas.spaces.cell.genotypes import CELL_NETWORKS
from mobilenas.spaces.mobile.mobilenets import MOBILENETS
from mobilenas.spaces.networks import build

V2 = ("--model", "torchvision:mobilenet_v2")
GO = ("--graph-only",)
CELL = replace(CELL_NETWORKS["darts_v2"](32, 5), layers=3, channels=4)
ARCHS: dict[str, Arch] = {"mobile": MOBILENETS["mobilenet_v3_small"](0.35, 32, 5), "cell": CELL}
NETS = """
from torch import nn

def build():
    return nn.Sequential(
        nn.Conv2d(3, 12, 3, bias=False), nn.ReLU(), nn.Conv2d(12, 8, 3, groups=4, bias=False),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5, bias=False),
    )

def five():
    return nn.Sequential(
        nn.Conv2d(3, 24, 3, padding=1, bias=False), nn.BatchNorm2d(24), nn.ReLU(),
        nn.Conv2d(24, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5),
    )

def fails():
    raise KeyError("no depth")
"""


@pytest.fixture(autouse=True)
def _somewhere_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def invoke(*words: str) -> Result:
    return CliRunner().invoke(cli, ["channels", *words])


def printed(*words: str) -> dict[str, Any]:
    result = invoke(*words, "--graph-only", "--json")
    assert result.exit_code == 0, result.output
    document: dict[str, Any] = json.loads(result.stdout)
    return document


def refused(*words: str) -> str:
    before = sorted(Path().rglob("*"))
    result = invoke(*words)
    assert (result.exit_code, result.stdout) == (2, ""), result.output
    (line,) = result.stderr.splitlines()
    assert line.startswith("mobilenas: error: ")
    assert sorted(Path().rglob("*")) == before
    return line


def write_arch(path: Path, arch: Arch) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"schema_version": 1, "arch": arch.to_dict()}), encoding="utf-8")


def write_nets(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    Path(f"{name}.py").write_text(NETS, encoding="utf-8")
    monkeypatch.setattr("sys.dont_write_bytecode", True)


def test_the_json_has_every_group_with_its_members(monkeypatch: pytest.MonkeyPatch) -> None:
    write_nets(monkeypatch, "channels_nets_json")
    target = "channels_nets_json:build"

    def member(module: str, kind: str, size: int) -> dict[str, Any]:
        return {"module": module, "kind": kind, "offset": 0, "size": size, "repeat": 1}

    def group(name: str, size: int, divisor: int, *members: dict[str, Any]) -> dict[str, Any]:
        fixed = {"input": "channels of the images", "5": "class logits"}.get(name)
        return {
            "name": name,
            "size": size,
            "divisor": divisor,
            "fixed": fixed,
            "inexact": None,
            "members": list(members),
        }

    assert printed("--model", target, "--image-size", "8") == {
        "model": target,
        "flops": 6 * 6 * 9 * 3 * 12 + 4 * 4 * 9 * 3 * 8 + 8 * 5,
        "params": 9 * 3 * 12 + 9 * 3 * 8 + 8 * 5,
        "groups": [
            group("input", 3, 1, member("0", "in", 3)),
            group("0", 12, 4, member("0", "out", 12), member("2", "in", 12)),
            group("2", 8, 4, member("2", "out", 8), member("5", "in", 8)),
            group("5", 5, 1, member("5", "out", 5)),
        ],
    }


def test_the_size_is_224_unless_said_and_classes_are_the_model_s() -> None:
    counted = printed(*V2)
    assert (counted["flops"], counted["params"]) == (300_774_272, 3_504_872)
    counted = printed(*V2, "--image-size", "32", "--classes", "7")
    assert counted["flops"] < 300_774_272 / 40
    assert (counted["groups"][-1]["size"], counted["groups"][-1]["fixed"]) == (7, "class logits")


@pytest.mark.parametrize("name", ["mobilenet_v2", "densenet121", "shufflenet_v2_x1_0"])
def test_the_table_fits_80_columns_and_has_every_group(name: str) -> None:
    words = ("--model", f"torchvision:{name}", "--image-size", "64")
    result = invoke(*words, "--graph-only")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert all(char.isprintable() for line in lines for char in line)
    assert COUNTING_RULE in " ".join(result.stdout.split())
    groups = printed(*words)["groups"]
    names = [str(group["name"]) for group in groups if len(group["name"]) <= 26]
    assert names and all(any(line.startswith(f"{name} ") for line in lines) for name in names)
    # a name that is too long goes on in the next line, which starts at the left edge, too
    start = "".join(line.split()[0] for line in lines[4:] if line[:1].strip())
    for group in groups:
        assert group["name"] in start
        assert any(str(group["size"]) in line.split() for line in lines)
    split = name.startswith("shufflenet")
    assert any(group["inexact"] for group in groups) == split
    assert ("behind a split of shuffled channels" in result.stdout) == split


def test_a_row_says_how_many_layers_and_names_the_first() -> None:
    lines = invoke(*V2, "--graph-only").stdout.splitlines()
    (place,) = (n for n, line in enumerate(lines) if line.startswith("features.2.conv.2 "))
    assert lines[place].split() == ["features.2.conv.2", "24", "1", "6:", "itself,"]
    assert lines[place + 1].split() == ["features.2.conv.3,", "..."]
    assert any(line.split()[:3] == ["input", "3", "-"] for line in lines)
    assert "27 groups, 25 can change. 300,774,272 FLOPs, 3,504,872 params." in lines


@pytest.mark.parametrize("kind", ["mobile", "cell"])
def test_networks_of_this_project_come_from_a_run_folder_or_a_file(kind: str) -> None:
    arch = ARCHS[kind]
    write_arch(Path("run/arch.json"), arch)
    for target in ("run", "run/arch.json"):
        counted = printed("--model", target)
        assert (counted["flops"], counted["params"]) == (costs(arch).flops, costs(arch).params)
        assert len(counted["groups"]) > 10


def test_weights_are_checked() -> None:
    write_arch(Path("run/arch.json"), CELL)
    assert CELL.auxiliary
    save_file(build(CELL).state_dict(), "cell.safetensors")
    plain = printed("--model", "run")
    assert printed("--model", "run", "--weights", "cell.safetensors") == plain
    line = refused(*V2, "--weights", "cell.safetensors", "--graph-only")
    assert "cell.safetensors does not fit torchvision:mobilenet_v2" in line
    line = refused("--model", "run", "--weights", "gone.safetensors", "--graph-only")
    assert "gone.safetensors" in line
    with torch.random.fork_rng():
        model = load_model(V2[1], classes=5, image_size=32)
    save_file(model.state_dict(), "v2.safetensors")
    words = (*V2, "--classes", "5", "--image-size", "32")
    assert printed(*words, "--weights", "v2.safetensors") == printed(*words)
    line = refused("--model", "run", "--weights", "v2.safetensors", *GO)
    assert "v2.safetensors does not fit this network: the file has no stem.0.weight" in line


def test_the_groups_are_drawn() -> None:
    result = invoke(*V2, "--graph-only", "--out", "new/groups.svg")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[-1] == "Drawing: new/groups.svg"
    root = ElementTree.fromstring(Path("new/groups.svg").read_text(encoding="utf-8"))
    assert len(root.findall("{*}g")) == 27
    assert printed(*V2, "--out", "other.svg")["model"] == V2[1]
    assert Path("other.svg").read_bytes() == Path("new/groups.svg").read_bytes()


@pytest.mark.usefixtures("byte_clock", "no_estimate")
def test_sizes_are_searched_trained_exported_and_compared(
    image_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_nets(monkeypatch, "channels_nets_run")
    words = ["--model", "channels_nets_run:five", "--data", str(image_folder), "--flops", "100k"]
    words += ["--epochs", "2", "--trials", "2", "--trial-epochs", "1", "--finalists", "2"]
    words += ["--controls", "--random", "1", "--baselines", "none", "--quiet"]
    result = invoke(*words, "--out", "found", "--json")
    assert result.exit_code == 0, result.output
    written = json.loads(result.stdout)
    (row,) = written["budgets"]
    assert row["holds"] and 80_000 < row["recounted"] == row["predicted"] <= 100_000
    kinds = [entry["kind"] for entry in json.loads(Path("found/compare.json").read_text())]
    assert kinds == ["searched", "unchanged", "uniform", "constant", "random"]
    for name in ("export/model.onnx", "search/log.jsonl", "model.safetensors", "report.html"):
        assert (Path("found") / name).exists()
    arch = json.loads(Path("found/arch.json").read_text())["arch"]
    assert arch["space"] == "channels" and arch["model"] == "channels_nets_run:five"
    assert all(size % 8 == 0 for size in arch["sizes"].values())
    page = Path("found/report.html").read_text(encoding="utf-8")
    assert "Sizes / start sizes" in page and "taken back" in page
    again = invoke("--out", "found", "--resume", "--quiet")
    assert again.exit_code == 0, again.output
    assert "uniform" in again.stdout and max(map(len, again.stdout.splitlines())) <= 80
    assert "--resume" in refused(*words, "--out", "found")


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ((), "missing option --out"),
        (("--out", "new"), "missing option --model"),
        ((*V2, "--out", "new"), "no budget"),
        ((*V2, "--flops", "1M", "--classes", "5", "--out", "new"), "--classes goes with --graph"),
        ((*V2, "--flops", "1k", "--out", "new"), "flops <= 1k"),
        ((*V2, "--flops", "9G", "--out", "new"), "flops <= 9G"),
        ((*V2, "--flops", "1M", "--memory", "1M", "--out", "new"), "a memory budget is for the"),
        ((*V2, "--latency", "9ms", "--out", "new"), "needs the profile of a device"),
        ((*V2, "--flops", "1M", "--gamma", "2", "--out", "new"), "--gamma is 2.0"),
        ((*V2, "--flops", "1M", "--trials", "0", "--out", "new"), "--trials is 0"),
        ((*V2, "--flops", "1M", "--operations", "x", "--out", "new"), "No such option"),
        (
            ("--model", "nowhere", "--flops", "1M", "--out", "new"),
            "model is 'nowhere': no pretrained",
        ),
        (("--model", "torchvision:vgg11", "--flops", "1M", "--out", "new"), "not take 8x8 images"),
        ((*V2, *GO, "--flops", "1M", "--trials", "3"), "so it excludes --flops, --trials"),
        (GO, "missing option --model"),
        (
            ("--model", "mobilenet_v9", *GO),
            "model is 'mobilenet_v9': no pretrained network, run folder or arch.json",
        ),
        (("--model", "torchvision:mobilenet_v9", *GO), "did you mean mobilenet_v2"),
        (("--model", "no_such_package:build", *GO), "cannot import no_such_package"),
        (("--model", ".", *GO), "arch.json does not exist"),
        (
            (*V2, *GO, "--out", "groups.png"),
            "--out is 'groups.png'; with --graph-only it must end with .svg",
        ),
        ((*V2, *GO, "--image-size", "3"), "--image-size"),
        ((*V2, *GO, "--classes", "1"), "--classes"),
        ((*V2, *GO, "--weights", "gone.safetensors"), "gone.safetensors does not exist"),
        (("--model", "torchvision:vit_b_16", *GO), "channels cannot be followed through"),
        (("--model", "torchvision:alexnet", *GO, "--image-size", "16"), "not take 16x16 images"),
    ],
)
def test_wrong_input_is_one_line(words: tuple[str, ...], part: str) -> None:
    assert part in refused(*words)


def test_a_factory_that_raises_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    write_nets(monkeypatch, "channels_nets_fails")
    line = refused("--model", "channels_nets_fails:fails", *GO)
    assert "channels_nets_fails:fails failed: KeyError: 'no depth'" in line


def test_an_arch_says_image_size_and_classes_itself() -> None:
    write_arch(Path("arch.json"), ARCHS["mobile"])
    for option in ("--image-size", "--classes"):
        assert "combined with arch.json" in refused("--model", "arch.json", *GO, option, "32")


def test_a_drawing_that_cannot_be_written() -> None:
    Path("there.svg").mkdir()
    assert "cannot write there.svg" in refused(*V2, *GO, "--out", "there.svg")
