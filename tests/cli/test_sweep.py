"""`mobilenas sweep`: what it makes and prints, how it goes on."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from msgspec import defstruct, structs
from PIL import Image

from mobilenas.cli.main import cli
from mobilenas.core.settings import to_plain
from mobilenas.pipeline import on_ray, sweep
from mobilenas.pipeline.on_ray import RunsFailedError
from mobilenas.report.records import BudgetCheck

TINY = (
    *("--data", "images", "--image-size", "8", "--epochs", "1", "--search-epochs", "2"),
    *("--warmup", "0", "--random", "1", "--baselines", "none", "--threads", "1"),
)
JOB = ("sweep", *TINY, "--flops", "150k", "--strengths", "0,30", "--out", "X")


def invoke(*words: str) -> Result:
    return CliRunner().invoke(cli, words)


@pytest.fixture(autouse=True)
def _there(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where `images` are."""
    home = tmp_path_factory.mktemp("home")
    for label, shade in (("dark", 40), ("light", 180)):
        (home / "images" / label).mkdir(parents=True)
        for number in range(24):
            image = Image.new("L", (8, 8), shade + number)
            image.save(home / "images" / label / f"{number}.png")
    return home


@pytest.mark.slow
@pytest.mark.usefixtures("byte_clock", "no_estimate")
def test_networks_of_several_sizes_under_one_wide_budget() -> None:
    said = invoke(*JOB, "--quiet")
    assert said.exit_code == 0, said.output
    for word in ("strength-0 ", "strength-30", "best MobileNet %", "X/report.html"):
        assert word in said.stdout
    assert max(map(len, said.stdout.splitlines())) <= 80
    found = []
    for name in ("strength-0", "strength-30"):
        own, *drawn = json.loads(Path("X", name, "compare.json").read_text())
        # under a penalty what is compared keeps to the FLOPs of what was found; next to the
        # smallest network of the space none may be drawn
        assert all(0.9 * own["flops"] <= other["flops"] <= own["flops"] for other in drawn)
        assert own["flops"] <= 150_000
        found.append(own["flops"])
        assert f'<a href="{name}/report.html">' in Path("X/report.html").read_text()
    assert found[1] < 0.9 * found[0]
    again = invoke("sweep", "--out", "X", "--resume", "--json", "--quiet")
    assert again.exit_code == 0, again.output
    results = json.loads(again.stdout)
    assert [result["flops"] for result in results.values()] == found


def test_ctrl_c_names_the_command_that_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sweep, "run_sweep", interrupted)
    words = ("sweep", *TINY, "--flops", "150k,200k", "--out", "Y")
    result = invoke(*words)
    assert result.exit_code == 130
    assert "resume with: mobilenas sweep --out Y --resume" in result.stderr


@pytest.mark.parametrize(
    ("raised", "status", "said"),
    [
        (RunsFailedError("1 of 2 runs failed: a: x"), 1, "1 of 2 runs failed: a: x; resume with: "),
        (KeyboardInterrupt(), 130, "interrupted; resume with: "),
    ],
)
def test_what_ends_a_sweep_on_ray_names_the_command_that_goes_on(
    monkeypatch: pytest.MonkeyPatch, raised: BaseException, status: int, said: str
) -> None:
    def ended(*_: Any) -> None:
        raise raised

    monkeypatch.setattr(on_ray, "connected", lambda *_, **__: nullcontext())
    monkeypatch.setattr(on_ray, "run_on_ray", ended)
    where = ("--on", "ray", "--address", "10.0.0.1:6379")
    words = ("sweep", *TINY, "--flops", "150k", "--methods", "darts", "--out", f"R{status}", *where)
    result = invoke(*words)
    assert result.exit_code == status, result.output
    again = f"mobilenas sweep --out R{status} --resume --on ray --address 10.0.0.1:6379"
    assert f"{said}{again}" in result.stderr
    assert invoke(*again.split()[1:]).exit_code == status


@pytest.mark.slow
@pytest.mark.usefixtures("no_estimate")
def test_a_sweep_killed_on_ray_ends_as_the_one_that_is_made_here(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: mobilenas[ray]")
    job = ("sweep", *TINY, "--flops", "150k", "--methods", "da2s", "--finalists", "0", "--out")
    assert invoke(*job, "on-local").exit_code == 0
    here, there = (Path(f"on-{where}/flops-150k-da2s") for where in ("local", "ray"))
    mobilenas, on = (sys.executable, "-m", "mobilenas"), ("on-ray", "--on", "ray")
    home = os.environ | {"HOME": str(tmp_path)}  # Ray keeps a token there
    with subprocess.Popen([*mobilenas, *job, *on], env=home, stderr=subprocess.DEVNULL) as killed:
        while not (there / "run.json").exists() and killed.poll() is None:
            time.sleep(0.1)
        killed.kill()
    assert killed.returncode == -signal.SIGKILL
    again = [*mobilenas, "sweep", "--resume", "--out", *on]
    done = subprocess.run(again, env=home, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "(flops-150k-da2s pid=" in done.stderr
    assert "sweep 1/1, flops-150k-da2s " in done.stderr
    assert Path("on-ray/pareto.json").read_bytes() == Path("on-local/pareto.json").read_bytes()
    for name, others in (("arch.json", "seconds"), ("run.json", "command")):
        first, second = (json.loads((folder / name).read_text()) for folder in (here, there))
        assert first | {others: ""} == second | {others: ""}
    weights = (folder / "model.safetensors" for folder in (here, there))
    assert len({file.read_bytes() for file in weights}) == 1


def test_a_broken_budget_is_status_3(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = BudgetCheck(cost="flops", limit=1, recounted=1, holds=True)
    result_of = defstruct("Result", [("budgets", list[BudgetCheck])])
    over = structs.replace(kept, recounted=2, holds=False)
    results = {"a": result_of([kept]), "b": result_of([over])}
    monkeypatch.setattr(sweep, "run_sweep", lambda _: results)
    result = invoke("sweep", *TINY, "--flops", "150k,200k", "--out", "Z", "--json", "--quiet")
    assert result.exit_code == 3, result.output
    assert json.loads(result.stdout) == to_plain(results)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--flops", "150k"), "missing option --out"),
        (("--flops", "150k,banana", "--out", "W"), "'banana' is not a size above zero"),
        (("--flops", "1M", "--strengths", "a", "--out", "W"), "'a' is not numbers"),
        (("--flops", "1M,1M", "--out", "W"), "more than once"),
        (("--flops", "1M", "--strength", "1", "--out", "W"), "--strength"),
        (("--out", "W"), "nothing varies"),
        (("--flops", "1M", "--out", "W", "--address", "auto"), "--address is for --on ray"),
        (("--flops", "1M", "--out", "W", "--methods", "nas"), "method is 'nas'"),
        (("--out", "W", "--resume"), "W holds no sweep"),
        (("--flops", "1M", "--out", "W", "--resume", "--overwrite"), "exclude each other"),
    ],
)
def test_wrong_input_is_one_line(words: tuple[str, ...], message: str) -> None:
    bare = words[:1] == ("--out",) and "--resume" in words
    result = invoke("sweep", *(() if bare else TINY), *words)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert message in line
    assert not Path("W").exists()
