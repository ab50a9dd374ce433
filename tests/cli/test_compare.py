"""`mobilenas compare`: one run, several, files of other tools, papers, and what it refuses."""

import json
import shlex
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import onnx
import pytest
from click.testing import CliRunner, Result

from mobilenas.baselines.networks import RANDOM
from mobilenas.baselines.published import LATENCIES, PUBLISHED
from mobilenas.cli import compare
from mobilenas.cli.main import cli
from mobilenas.core.files import read_json, write_json
from mobilenas.core.progress import NullReporter
from mobilenas.pipeline.request import Request
from mobilenas.pipeline.starting import start


def invoke(*words: object) -> Result:
    return CliRunner().invoke(cli, ["compare", *map(str, words)])


def answer(*words: object) -> str:
    result = invoke(*words)
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    return result.stdout


def refused(*words: object) -> str:
    """The line that refuses `words`; nothing is written."""
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
    monkeypatch.setenv("COLUMNS", "80")


@pytest.fixture
def begun() -> Path:
    """A run that has only begun."""
    asked: dict[str, Any] = {"data": "digits", "flops": 300_000, "epochs": 1, "baselines": []}
    return start(Path("a"), Request(**asked), command="test", reporter=NullReporter()).folder


def test_names_of_baselines_are_those_of_the_library() -> None:
    assert compare.RANDOM == RANDOM
    assert compare.read_baselines("none") == ()
    assert compare.read_baselines("mobilenet_v2, random,random") == ("mobilenet_v2", "random")


def test_what_papers_report_stands_alone() -> None:
    shown = answer("--published")
    lines = shown.splitlines()
    assert max(map(len, lines)) <= 80
    for network in PUBLISHED:
        (line,) = (
            line
            for line in lines
            if line.startswith(f"{network.name}  ") and line.rstrip().endswith(network.source)
        )
        assert f"{network.top1:.1f}" in line
    for latency in LATENCIES:
        (line,) = (
            line
            for line in lines
            if line.startswith(f"{latency.network}  ")
            and all(part in line for part in (latency.device, latency.runtime, latency.precision))
        )
        assert line.endswith(f"{latency.latency_ms:.3f}")
        assert f"Source: {latency.source}" in lines
    assert "Nothing here was measured" in shown
    told = json.loads(answer("--published", "--json"))
    assert [network["name"] for network in told["published"]] == [n.name for n in PUBLISHED]
    assert set(told["published"][0]) == {
        *("name", "top1", "flops", "params", "image_size", "source"),
    }
    assert told["latencies"] == [asdict(latency) for latency in LATENCIES]
    assert "--published takes no RUN" in refused("a", "--published")


@pytest.mark.parametrize(
    "words",
    [
        "a",
        "a --baselines none --random 2",
        "a --baselines mobilenet_v2,random",
        "'my runs/a' b x.onnx --out both --overwrite",
    ],
)
def test_an_interrupted_comparison_names_the_whole_command(words: str) -> None:
    context = compare.command.make_context("compare", shlex.split(words))
    assert compare._again(context) == f"mobilenas compare {words}"


def test_words_that_do_not_go_together(begun: Path) -> None:
    assert "missing argument RUN" in refused()
    Path("x.onnx").write_text("no model", encoding="utf-8")
    assert "missing argument RUN: files are measured on its test images" in refused("x.onnx")
    assert "gone holds no run" in refused(begun, "gone")
    assert "gone.onnx does not exist" in refused(begun, "gone.onnx")
    assert "--out and --overwrite are for several" in refused(begun, "--out", "b")
    assert "baseline is 'resnet'; it must be one of mobilenet_v2" in refused(
        begun, "--baselines", "resnet"
    )
    line = refused(begun, "--baselines", "mobilenet_v2", "--random", "3")
    assert "--random 3 needs `random` in --baselines" in line
    assert "x.onnx is not an ONNX file" in refused(begun, "x.onnx")
    assert "a is given more than once" in refused(begun, "a")
    Path("b").mkdir()
    Path("b/thesis.txt").write_text("years of work", encoding="utf-8")
    assert "b is not empty" in refused(begun, "x.onnx", "--out", "b")


def test_a_run_without_weights(begun: Path) -> None:
    assert "a has no model.safetensors; run `mobilenas train` first" in refused(begun)


def test_a_run_of_another_release(begun: Path) -> None:
    record = read_json(begun / "run.json")
    older = {"schema_version": 1} | record
    (begun / "run.json").write_text(json.dumps(older), encoding="utf-8")
    assert (
        "schema_version is 1; this release reads 2, and an earlier one wrote the file"
        in refused(begun)
    )
    del record["settings"]["rank"]
    write_json(begun / "run.json", record)
    assert "a/run.json: settings lacks 'rank'" in refused(begun)


def images(*classes: str) -> None:
    from PIL import Image

    for split in ("train", "val", "test"):
        for label in classes:
            folder = Path("images", split, label)
            folder.mkdir(parents=True, exist_ok=True)
            for number in range(6):
                shade = 20 * number + 7 * len(label) + len(split)
                Image.new("L", (8, 8), shade).save(folder / f"{number}.png")


def test_test_images_that_are_not_those_of_the_run(begun: Path) -> None:
    images("cat", "dog")
    asked: dict[str, Any] = {"data": "images", "flops": 300_000, "epochs": 1, "baselines": []}
    start(Path("b"), Request(**asked), command="test", reporter=NullReporter())
    for place in ("model.safetensors", "arch.json"):
        Path("b", place).write_text("{}", encoding="utf-8")
    line = refused(begun, "b")
    assert "a and b cannot be compared: they differ in images, classes" in line
    shutil.copytree("images/test/cat", "images/test/zebra")
    assert "zebra" in refused("b", "b/arch.json", "--quiet")
    shutil.rmtree("images/test/zebra")
    shutil.rmtree("images/test/dog")
    assert "the images of images are not those b started with" in refused(
        "b", "b/arch.json", "--quiet"
    )


@pytest.mark.usefixtures("byte_clock")
def test_several_runs_and_a_file_in_one_table(whole_run: Any) -> None:
    shutil.copytree(whole_run.folder, "first")
    shutil.copytree(whole_run.folder, "second")
    shutil.copy(whole_run.folder / "export/model.onnx", "own.onnx")
    foreign = onnx.load("own.onnx")
    del foreign.metadata_props[:]
    onnx.save(foreign, "other.onnx")
    words = ("first", "second", "other.onnx", "--quiet")
    shown = answer(*words, "--out", "both")
    assert max(map(len, shown.splitlines())) <= 80
    for text in (
        "run 1: first",
        "run 2: second",
        "other.onnx",
        "(external)",
        "NOT trained by this",
    ):
        assert text in shown
    assert "that mobilenas exported" not in shown
    alone = answer("first", "own.onnx", "--quiet")
    assert "a file that mobilenas exported" in alone and "NOT trained" not in alone
    both = " ".join(answer("first", "own.onnx", "other.onnx", "--quiet").split())
    assert "NOT trained by this recipe. own.onnx: mobilenas exported it" in both
    assert "second against first: +0.00 points, one seed: no difference shown;" in shown
    kept = json.loads(Path("both/compare.json").read_text(encoding="utf-8"))
    own = json.loads(Path("first/compare.json").read_text(encoding="utf-8"))
    assert [network["run"] for network in kept] == (
        ["first"] * len(own) + ["second"] * len(own) + [None]
    )
    assert kept[-1]["kind"] == "external"
    assert kept[-1]["top1"] == pytest.approx(own[0]["top1"], abs=0.6)
    assert kept[-1]["flops"] == own[0]["flops"]
    assert "external" not in {network["kind"] for network in own}
    assert "both holds a comparison" in refused(*words, "--out", "both")
    told = json.loads(answer(*words, "--out", "both", "--overwrite", "--json"))
    assert told["networks"] == json.loads(Path("both/compare.json").read_text(encoding="utf-8"))
    assert [run["run"] for run in told["runs"]] == ["first", "second"]


@pytest.mark.usefixtures("byte_clock")
def test_one_run_gets_more_baselines(whole_run: Any) -> None:
    shutil.copytree(whole_run.folder, "a")
    shown = answer("a", "--quiet")
    assert max(map(len, shown.splitlines())) <= 80
    assert "The searched network (" in shown
    more = json.loads(answer("a", "--baselines", "random", "--random", "2", "--quiet", "--json"))
    assert sum(network["kind"] == "random" for network in more) == 2
    assert more == json.loads(Path("a/compare.json").read_text(encoding="utf-8"))
    assert read_json(Path("a/result.json"))["baselines"] == more[1:]
