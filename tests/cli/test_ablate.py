"""`mobilenas ablate`: what it prints, how it goes on, what it refuses."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from mobilenas.cli.main import cli
from mobilenas.pipeline import ablation

TINY = (
    *("--data", "images", "--image-size", "8", "--space", "cell", "--layers", "3"),
    *("--search-layers", "3", "--search-channels", "4", "--epochs", "1", "--search-epochs", "1"),
    *("--threads", "1", "--flops", "100k"),
)
JOB = ("ablate", *TINY, "--methods", "random,da2s:entropy=0.2:zero_op=yes", "--out", "X")


def invoke(*words: str) -> Result:
    return CliRunner().invoke(cli, words)


def answer(*words: str) -> str:
    result = invoke(*words)
    assert result.exit_code == 0, result.output
    return result.stdout


def refused(*words: str) -> str:
    before = sorted(Path().rglob("*"))
    result = invoke(*words)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    line = result.stderr.splitlines()[-1]
    assert line.startswith("mobilenas: error: ")
    assert sorted(Path().rglob("*")) == before
    return line


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where `images` are, and the ablation `X` was made."""
    home = tmp_path_factory.mktemp("home")
    for label, shade in (("dark", 40), ("light", 180)):
        (home / "images" / label).mkdir(parents=True)
        for number in range(24):
            image = Image.new("L", (8, 8), shade + number)
            image.save(home / "images" / label / f"{number}.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        (home / "said").write_text(answer(*JOB), encoding="utf-8")
    return home


@pytest.fixture(autouse=True)
def _there(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)


def test_the_table_fits_80_columns_and_names_the_control(home: Path) -> None:
    said = (home / "said").read_text(encoding="utf-8")
    assert max(map(len, said.splitlines())) <= 80
    for text in (
        *("variant", "top-1 %", "gap, points", "skips", "agreement", "search s", "->"),
        *("da2s", ":entropy=0.2", ":zero_op=yes", "Control: random.", "X/ablation.html"),
        "against random: ",
    ):
        assert text in said, text
    assert "the trained networks have" in " ".join(said.split()).lower()


def test_json_is_the_file_and_resume_needs_no_other_option() -> None:
    kept = Path("X/ablation.json").read_text(encoding="utf-8")
    assert answer("ablate", "--out", "X", "--resume", "--json", "--quiet") == kept
    assert answer(*JOB, "--resume", "--json") == kept
    record = json.loads(kept)
    assert [arm["parts"] for arm in record["variants"]] == [{}, {"entropy": 0.2, "zero_op": True}]
    assert record["budgets"] == [{"cost": "flops", "limit": 100_000}]


def test_ctrl_c_names_the_command_that_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ablation, "run_ablation", interrupted)
    result = invoke("ablate", "--out", "X", "--resume")
    assert result.exit_code == 130
    assert "resume with: mobilenas ablate --out X --resume" in result.stderr
    monkeypatch.setattr(ablation, "start_ablation", interrupted)
    result = invoke("ablate", *TINY, "--methods", "darts", "--out", "Y")
    assert (result.exit_code, Path("Y").exists()) == (130, False), result
    assert "before anything was begun" in result.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((*JOB,), "--resume"),
        ((*JOB, "--resume", "--seeds", "2"), "another ablation: --seeds is 2, it was 1"),
        ((*JOB, "--resume", "--overwrite"), "exclude"),
        (("ablate", "--out", "X", "--resume", "--seeds", "2"), "--seeds is 2, it was 1"),
        (("ablate", *TINY, "--methods", "darts"), "missing option --out"),
        (("ablate", *TINY, "--out", "Y"), "missing option --methods"),
        (("ablate", "--out", "Y", "--resume"), "Y holds no ablation"),
        (("ablate", *TINY, "--method", "darts", "--out", "Y"), "option --methods"),
        (("ablate", *TINY, "--methods", "dart", "--out", "Y"), "'dart' is not a variant"),
        (("ablate", *TINY[:-2], "--methods", "darts", "--out", "Y"), "--flops or --params"),
        (("ablate", *TINY, "--methods", "darts", "--flops", "10", "--out", "Y"), "more than once"),
        (("ablate", *TINY, "--methods", "darts", "--params", "9", "--out", "Y"), "params <= 9"),
        (
            ("ablate", *TINY, "--methods", "darts", "--random-search", "--out", "Y"),
            "--random-search",
        ),
        (("ablate", *TINY, "--methods", "darts", "--equal-time", "--out", "Y"), "--equal-time"),
        (("ablate", *TINY, "--methods", "darts", "--inherit", "--out", "Y"), "--inherit"),
        (("ablate", *TINY, "--methods", "darts", "--control", "cpm", "--out", "Y"), "--control"),
        (("ablate", *TINY, "--methods", "darts", "--latency", "8ms", "--out", "Y"), "--latency"),
        (("ablate", *TINY, "--methods", "darts", "--out", "images"), "not empty"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_wrong_input_is_one_line_and_makes_nothing(words: tuple[str, ...], message: str) -> None:
    assert message in refused(*words)


def test_the_methods_are_explained() -> None:
    told = answer("ablate", "--help")
    assert "--methods" in told
    assert "--control" in told
    assert max(map(len, told.splitlines())) <= 80
