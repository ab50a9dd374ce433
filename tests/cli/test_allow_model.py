"""What a file names is not imported before the user names it, too."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mobilenas.channel_graph import models
from mobilenas.cli.main import cli
from mobilenas.core.files import SCHEMA_VERSION
from mobilenas.core.progress import NullReporter
from mobilenas.core.settings import COUNTING_RULE
from mobilenas.pipeline.request_channels import ChannelsRequest
from mobilenas.pipeline.run_folder import RUN_FILE
from mobilenas.pipeline.starting import start
from mobilenas.spaces.channels import costs as exact_widths
from mobilenas.spaces.channels import space as widths
from mobilenas.spaces.channels.space import Base, ChannelsArch

NAME = "planted_code:build"
CODE = """
from pathlib import Path
from torch import nn

Path("imported").touch()

def build():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)
    )
"""
ARCH = ChannelsArch(base=Base(name=NAME, image_size=8, in_channels=3, classes=10), sizes={"0": 8})


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "_allowed", set())
    sys.modules.pop("planted_code", None)
    widths._graph.cache_clear()
    exact_widths._layer_costs.cache_clear()


@pytest.fixture(scope="module")
def sent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run over a model of the current folder, as somebody else may send it."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        folder = tmp_path_factory.mktemp("sent")
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "dont_write_bytecode", True)
        begin()
    return folder


@pytest.fixture
def run(sent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same in the current folder, in a process that does not know its model."""
    shutil.copytree(sent, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    forget(monkeypatch)
    return Path("run")


def begin() -> None:
    Path("planted_code.py").write_text(CODE, encoding="utf-8")
    request = ChannelsRequest(model=NAME, data="digits", flops=3_000, baselines=())
    start(Path("run"), request, command="mobilenas test", reporter=NullReporter())
    found = {"budgets": [], "costs": {"flops": 1, "params": 1, "memory": 1}, "candidates": 1}
    found |= {"counting_rule": COUNTING_RULE, "seconds": {"trials": 1.0}, "seed": 0}
    record = {"schema_version": SCHEMA_VERSION, "arch": ARCH.to_dict()} | found
    Path("run/arch.json").write_text(json.dumps(record), encoding="utf-8")
    Path("run/model.safetensors").touch()
    Path("imported").unlink()


def invoke(words: str) -> Result:
    return CliRunner().invoke(cli, words.split())


@pytest.mark.parametrize(
    "words",
    [
        "profile flops run",
        "profile flops run/arch.json",
        "report run",
        "channels --model run --graph-only",
        "channels --out run --resume",
        "run --out run --resume",
        "search --out run --resume",
        "train run",
        "export run",
        "compare run",
        "channels --model run --data digits --flops 3k --out other",
    ],
)
@pytest.mark.parametrize("allowed", ["", " --allow-model planted_code:other"])
def test_a_file_alone_imports_nothing(run: Path, words: str, allowed: str) -> None:
    result = invoke(words + allowed)
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.splitlines()[-1:]
    assert NAME in line and line.startswith("mobilenas: error: ")
    assert not Path("imported").exists() and "planted_code" not in sys.modules


@pytest.mark.parametrize("words", ["profile flops run", "channels --model run --graph-only"])
def test_the_option_that_names_it_allows_it(run: Path, words: str) -> None:
    result = invoke(f"{words} --allow-model {NAME}")
    assert result.exit_code == 0, result.output
    assert Path("imported").exists()


@pytest.mark.parametrize("words", ["export run --formats fp16", "compare run"])
def test_the_option_is_missing_before_anything_is_measured(run: Path, words: str) -> None:
    (run / "export").mkdir()
    (run / "export/export.json").write_text("not read", encoding="utf-8")
    assert f"--allow-model {NAME}" in invoke(words).stderr


def test_the_error_is_what_to_type(run: Path) -> None:
    line = invoke("profile flops run").stderr
    assert f"if you trust it, add --allow-model {NAME}" in line


def test_a_model_on_the_command_line_is_named(run: Path) -> None:
    assert invoke(f"profile flops {NAME} --image-size 8").exit_code == 0
    assert Path("imported").exists()


def test_model_on_the_command_line_allows_it_when_resumed(run: Path) -> None:
    result = invoke(f"channels --model {NAME} --out run --resume")
    assert "add --allow-model" not in result.stderr
    assert Path("imported").exists()


def test_settings_that_name_one_model_do_not_allow_the_space_of_another(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = json.loads((run / RUN_FILE).read_text(encoding="utf-8"))
    record["settings"]["channel_sizes"]["model"] = "harmless:build"
    (run / RUN_FILE).write_text(json.dumps(record), encoding="utf-8")
    result = invoke("channels --out run --resume --allow-model harmless:build")
    assert result.exit_code == 2 and NAME in result.stderr
    assert not Path("imported").exists()


@pytest.mark.parametrize("name", ["os.system", "a:b:c", "../x:y", "a b:c", "x:\x1b[2J", ""])
def test_names_of_no_form_are_refused_on_reading(run: Path, name: str) -> None:
    record = {"schema_version": SCHEMA_VERSION, "arch": ARCH.to_dict() | {"model": name}}
    Path("odd.json").write_text(json.dumps(record), encoding="utf-8")
    result = invoke("profile flops odd.json")
    assert result.exit_code == 2
    assert "odd.json: model is " in result.stderr and "\x1b" not in result.stderr


@pytest.mark.parametrize("field", ["image_size", "in_channels", "classes"])
def test_sizes_that_cannot_be_built_are_refused_on_reading(run: Path, field: str) -> None:
    plain = replace(ARCH, base=replace(ARCH.base, name="torchvision:resnet18")).to_dict()
    record = {"schema_version": SCHEMA_VERSION, "arch": plain | {field: 10**12}}
    Path("odd.json").write_text(json.dumps(record), encoding="utf-8")
    result = invoke("profile flops odd.json")
    assert result.exit_code == 2
    assert f"odd.json: {field} is 1000000000000; it must be between 1 and" in result.stderr


def test_more_channels_than_the_space_has_are_refused(run: Path) -> None:
    plain = replace(ARCH, sizes={"0": 60_000}).to_dict()
    Path("odd.json").write_text(
        json.dumps({"schema_version": SCHEMA_VERSION, "arch": plain}), encoding="utf-8"
    )
    result = invoke(f"profile flops odd.json --allow-model {NAME}")
    assert result.exit_code == 2
    assert "group 0 is to have 60000 channels; at most 16 are legal" in result.stderr
