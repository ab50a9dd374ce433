"""--resume with options: those that say what the job was asked for, and no others."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from mobilenas.cli.main import cli
from mobilenas.core.errors import FileError
from mobilenas.core.files import read_json, write_json
from mobilenas.core.progress import NullReporter
from mobilenas.core.settings import to_plain
from mobilenas.data import ImageData
from mobilenas.pipeline import ablation, starting
from mobilenas.pipeline import run_folder as runs
from mobilenas.pipeline.ablation import REQUEST_FILE, Ablation
from mobilenas.pipeline.request import Request
from mobilenas.pipeline.request_channels import ChannelsRequest
from mobilenas.pipeline.resuming import other_options, resume_ablation, resume_run, resume_sweep
from mobilenas.pipeline.starting import start
from mobilenas.pipeline.sweep import SWEEP_FILE, Sweep, requests_for
from mobilenas.spaces.mobile.space import MobileSpace

ASKED = Request(data="digits", flops=300_000, seed=5, random=2, baselines=("mobilenet_v2",))


@pytest.fixture(autouse=True)
def small(
    monkeypatch: pytest.MonkeyPatch, micro_space: MobileSpace, micro_images: ImageData
) -> None:
    monkeypatch.setattr(runs, "usable_space", lambda *_: micro_space)
    for module in (runs, starting, ablation):
        monkeypatch.setattr(module, "load_data", lambda *_: micro_images)


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    start(tmp_path / "run", ASKED, command="mobilenas test", reporter=NullReporter())
    return tmp_path / "run"


def resumed(folder: Path, **stated: Any) -> Any:
    return resume_run(folder, stated, Request, NullReporter())


@pytest.mark.parametrize(
    "stated",
    [{}, {"flops": 300_000}, {"seed": 5, "baselines": ("mobilenet_v2",)}, {"effort": "standard"}],
)
def test_what_was_asked_for_resumes_in_part(begun: Path, stated: Mapping[str, Any]) -> None:
    run = resumed(begun, **stated)
    assert run.settings == ASKED.settings(len(run.data.train))


def test_what_the_effort_meant_resumes(begun: Path) -> None:
    epochs = runs.open_run(begun, NullReporter()).settings.recipe.epochs
    assert resumed(begun, epochs=epochs) is not None


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ({"epochs": 30}, "another run: --epochs is 30, it was not given$"),
        ({"flops": 1, "seed": 0}, "--flops is 1, it was 300000, --seed is 0, it was 5$"),
        ({"random_search": True}, "--random-search is on, it was off"),
        ({"equal_time": True}, "--equal-time is on, it was off"),
        ({"inherit": True}, "--inherit is on, it was off"),
        ({"baselines": ()}, "--baselines is none, it was mobilenet_v2"),
        ({"random": 1}, "--random is 1, it was 2"),
    ],
)
def test_what_was_not_asked_for_is_named(
    begun: Path, stated: Mapping[str, Any], message: str
) -> None:
    with pytest.raises(FileError, match=message):
        resumed(begun, **stated)


def test_images_are_not_read_for_what_differs_whatever_their_number(
    begun: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "load_data", lambda *_: pytest.fail("images are read"))
    with pytest.raises(FileError, match="another run: --flops is 1"):
        resumed(begun, flops=1, epochs=30)


def test_the_command_line_names_it_too(begun: Path) -> None:
    for name in ("run", "search"):
        words = [name, "--out", str(begun), "--resume", "--epochs", "30"]
        result = CliRunner().invoke(cli, words)
        assert result.exit_code == 2
        assert "--epochs is 30, it was not given" in result.stderr
        assert "no budget" not in result.stderr


def test_a_run_of_another_command_or_release_is_said(begun: Path, tmp_path: Path) -> None:
    with pytest.raises(FileError, match="of another command or release"):
        resume_run(begun, {}, ChannelsRequest, NullReporter())
    record = read_json(begun / "run.json")
    write_json(begun / "run.json", record | {"request": record["request"] | {"speed": 1}})
    with pytest.raises(FileError, match="of another command or release"):
        resumed(begun)
    write_json(begun / "run.json", record | {"request": record["request"] | {"seed": "five"}})
    with pytest.raises(FileError, match=r"request.seed is 'five'"):
        resumed(begun)
    write_json(begun / "run.json", record | {"request": None})
    assert resumed(begun) is None
    assert resumed(tmp_path / "nothing") is None


def test_a_number_is_not_a_switch() -> None:
    assert other_options(ASKED, {"seed": 1, "random": 0}) == (
        "--seed is 1, it was 5, --random is 0, it was 2"
    )


def swept(folder: Path, *given: Any, **stated: Any) -> Sweep | None:
    return resume_sweep(folder, stated, *given, NullReporter())


def test_a_sweep_is_held_to_its_requests(tmp_path: Path) -> None:
    assert swept(tmp_path, (1,), (), (), epochs=2) is None
    methods = ("darts", "adarts")
    asked = requests_for({"data": "digits", "epochs": 2}, (500_000, 1_000_000), (), methods)
    plain = {name: to_plain(request) for name, request in asked.items()}
    write_json(tmp_path / SWEEP_FILE, {"command": "mobilenas test", "requests": plain})
    assert swept(tmp_path, (), (), (), epochs=2) is not None
    assert swept(tmp_path, (500_000, 1_000_000), (), methods) is not None
    for given, stated, message in (
        (((), (), ()), {"epochs": 30}, "another sweep: --epochs is 30, it was 2"),
        (((5,), (), ()), {}, r"--flops is 5, it was 500000,1000000"),
        (((), (0.5,), ()), {}, "--strengths is 0.5, it was none"),
        (((), (), ("darts",)), {}, "--methods is darts, it was darts,adarts"),
    ):
        with pytest.raises(FileError, match=message):
            swept(tmp_path, *given, **stated)


def ablated(folder: Path, *given: Any, **stated: Any) -> Ablation | None:
    return resume_ablation(folder, stated, *given, NullReporter())


def test_an_ablation_is_held_to_its_request(tmp_path: Path) -> None:
    assert ablated(tmp_path, "darts", None) is None
    record = {"request": to_plain(ASKED), "variants": ["darts", "random"], "control": "random"}
    write_json(tmp_path / REQUEST_FILE, {"command": "mobilenas test"} | record)
    assert ablated(tmp_path, None, None, seed=5) is not None
    assert ablated(tmp_path, "darts,random", "random") is not None
    for methods, control, stated, message in (
        (None, None, {"seeds": 3}, "another ablation: --seeds is 3, it was 1"),
        ("darts", None, {}, "--methods is darts, it was darts,random"),
        (None, "darts", {}, "--control is darts, it was random"),
    ):
        with pytest.raises(FileError, match=message):
            ablated(tmp_path, methods, control, **stated)
