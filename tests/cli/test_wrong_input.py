"""Wrong input: one line on stderr, exit status 2, nothing written."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from mobilenas.cli.main import cli
from mobilenas.spaces.mobile.mobilenets import MOBILENETS

DIGITS = ("--data", "digits", "--threads", "1")
JOB = ("run", *DIGITS, "--flops", "300k", "--out", "X")


def invoke(*words: str) -> Result:
    return CliRunner().invoke(cli, words)


def refused(*words: str) -> str:
    """The line that refuses `words`."""
    before = sorted(Path().rglob("*"))
    result = invoke(*words)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("mobilenas: error: ")
    assert sorted(Path().rglob("*")) == before
    return line


@pytest.fixture(autouse=True)
def _somewhere_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("text", ["0", "-5", "banana", "1e", "", "nan", "1e9"])
@pytest.mark.parametrize("option", ["--flops", "--params", "--memory"])
def test_a_budget_that_is_no_size(option: str, text: str) -> None:
    line = refused("run", *DIGITS, option, text, "--out", "X")
    assert option in line
    assert repr(text) in line
    assert "500k" in line


@pytest.mark.parametrize("text", ["big", "9.5", "Auto"])
def test_a_side_that_is_neither_a_number_nor_auto(text: str) -> None:
    line = refused(*JOB, "--image-size", text)
    assert f"'--image-size': {text!r} is not a whole number or auto" in line


def test_a_search_for_the_side_is_not_for_models_of_ones_own() -> None:
    words = ("channels", "--model", "torchvision:mobilenet_v2", "--params", "1M", "--out", "X")
    line = refused(*words, *DIGITS, "--image-size", "auto")
    assert "--image-size auto is for the mobile space" in line


def test_a_budget_under_the_smallest_network_names_the_smallest() -> None:
    line = refused("run", *DIGITS, "--flops", "10", "--out", "X")
    assert "flops <= 10" in line


def test_two_budgets_of_one_cost() -> None:
    line = refused("run", *DIGITS, "--flops", "1M", "--macs", "2M", "--out", "X")
    assert "'--flops' / '--macs'" in line
    assert "more than once" in line


def test_what_is_missing_is_named() -> None:
    assert "--flops" in refused("run", *DIGITS, "--out", "X")
    assert "--out" in refused("run", *DIGITS, "--flops", "1M")
    assert "X holds no run" in refused("run", "--out", "X", "--resume")
    line = refused("run", "--out", "X", "--resume", "--epochs", "3")
    assert "no X/run.json to resume" in line and "--flops" in line
    line = refused("sweep", "--out", "X", "--resume", "--epochs", "3")
    assert "no X/sweep.json to resume" in line and "--strengths" in line
    assert "exclude" in refused(*JOB, "--resume", "--overwrite")


@pytest.mark.parametrize("command", ["run", "search", "channels", "sweep", "ablate"])
def test_a_missing_folder_is_told_before_torch_is_loaded(command: str) -> None:
    code = (
        "import sys\nfrom mobilenas.cli.main import cli\n"
        "try:\n    cli()\n"
        "finally:\n    assert not {'torch', 'numpy'} & set(sys.modules)\n"
    )
    words = [sys.executable, "-c", code, command, *DIGITS, "--flops", "1M"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "missing option --out" in done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--effort", "foo"), "'quick', 'standard', 'full'"),
        (("--device", "tpu"), "'cpu', 'cuda'"),
        (("--sampler", "foo"), "'attention'"),
        (("--channel-fraction", "1/3"), "1/4"),
        (("--temperature", "warm"), "1:0.1"),
        (("--recipe", "foto"), "recipe is 'foto'; it must be one of scratch-small, cells"),
        (("--set", "mixup=0", "--set", "mixop=1"), "'mixop'; it must be one of batch_size"),
        (("--set", "mixup=-1"), "mixup is -1.0; it must be between 0 and 100"),
        (("--set", "amp=float16"), "amp is 'float16'; that is for --device cuda, not cpu"),
        (("--set", "warmup_epochs=99"), "warmup_epochs is 99.0; it must be between 0 and"),
        (("--entropy", "nan"), "nan"),
        (("--baselines", "resnet"), "mobilenet_v2"),
        (("--epochs", "0"), "epochs is 0"),
        (("--seed", "99999999999"), "seed is 99999999999"),
        (("--threads", "0"), "threads is 0"),
        (("--image-size", "3"), "--image-size is 3"),
        (("--rank", "1"), "rank is 1"),
        (("--temperature", ""), "temperature ''"),
        (("--out", ""), "it is empty"),
        (("--bogus",), "--bogus"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else None,
)
def test_an_option_s_value(words: tuple[str, ...], message: str) -> None:
    assert message in refused(*JOB, *words)


def test_images_that_are_not_there_or_too_few() -> None:
    budget = ("--flops", "1M", "--out", "X")
    assert "missing" in refused("run", "--data", "missing", *budget)
    Path("empty").mkdir()
    assert "empty" in refused("run", "--data", "empty", *budget)
    Path("one/cats").mkdir(parents=True)
    for shade in range(9):
        Image.new("L", (16, 16), shade).save(f"one/cats/{shade}.png")
    assert "one class" in refused("run", "--data", "one", *budget)


def test_a_folder_that_is_not_ours_is_left_alone() -> None:
    Path("X").mkdir()
    Path("X/thesis.txt").write_text("years of work", encoding="utf-8")
    assert "not empty" in refused(*JOB)
    assert "not empty" in refused(*JOB, "--overwrite")
    assert Path("X/thesis.txt").read_text(encoding="utf-8") == "years of work"


def test_a_place_that_cannot_be_a_folder() -> None:
    Path("X").write_text("", encoding="utf-8")
    assert "X" in refused(*JOB)
    assert "X/inner" in refused(*JOB[:-1], "X/inner")


@pytest.mark.parametrize("name", ["train", "export", "compare", "report"])
def test_a_folder_without_a_run(name: str) -> None:
    Path("plain").mkdir()
    assert "plain holds no run" in refused(name, "plain")
    assert "gone holds no run" in refused(name, "gone")


def test_no_command_and_an_unknown_one() -> None:
    assert "Missing command" in refused()
    assert "'frob'" in refused("frob")
    assert "Missing command" in refused("profile")


def test_an_arch_that_was_edited_to_be_wrong() -> None:
    arch = MOBILENETS["mobilenet_v3_small"](1.0, 32, 10).to_dict() | {"schema_version": 1}
    arch["blocks"][3]["kernel"] = 4
    Path("arch.json").write_text(json.dumps(arch), encoding="utf-8")
    line = refused("profile", "flops", "arch.json")
    assert "arch.json" in line
    assert "blocks[3].kernel is 4" in line


def test_what_has_no_flops() -> None:
    Path("notes.txt").write_text("no JSON", encoding="utf-8")
    Path("broken.onnx").write_text("no model", encoding="utf-8")
    assert "mobilenet_v3_large" in refused("profile", "flops", "mobilenet_v4")
    assert "notes.txt is not JSON" in refused("profile", "flops", "notes.txt")
    assert "broken.onnx" in refused("profile", "flops", "broken.onnx")
    assert "--width" in refused("profile", "flops", "notes.txt", "--width", "0.5")
    assert "--width" in refused("profile", "flops", "mobilenet_v2", "--width", "nan")


def test_predict_names_a_model_that_is_not_there() -> None:
    assert "gone.onnx does not exist" in refused("predict", "gone.onnx", "image.png")
    assert "IMAGE" in refused("predict", "gone.onnx")
