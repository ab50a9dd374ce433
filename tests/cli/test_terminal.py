"""Names of classes, files and layers hold anything; a terminal obeys none of it."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobilenas.cli.main import cli
from mobilenas.cli.render import show_table
from mobilenas.cli.terminal import clean, echo

EVIL = "\x1b]0;title\x07\x1b[2J[red]cat[/red]\u202etac\udce9\r"
SHOWN = r"\u001b]0;title\u0007\u001b[2J[red]cat[/red]\u202etac\udce9\u000d"
CLI = Path(__file__).resolve().parents[2] / "cli"


@given(st.text(st.characters(exclude_categories=[])))
def test_what_is_cleaned_can_be_printed_and_commands_nothing(text: str) -> None:
    shown = clean(text)
    shown.encode()
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", shown)
    assert clean(shown) == shown


def test_common_text_stays(capsys: pytest.CaptureFixture[str]) -> None:
    echo("Zürich 猫\t± 2\n")
    assert capsys.readouterr().out == "Zürich 猫\t± 2\n\n"


def test_a_table_shows_brackets_and_commands_as_they_are_written(
    capsys: pytest.CaptureFixture[str],
) -> None:
    show_table(EVIL, ("label", "%"), [(EVIL, "1.0")])
    shown = capsys.readouterr().out
    assert "".join(shown.split()).count(SHOWN) == 2


def test_an_error_shows_commands_as_they_are_written(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ending:
        cli(["profile", "show", f"{EVIL}.json"])
    assert ending.value.code == 2
    shown = capsys.readouterr().err
    assert "\x1b" not in shown
    assert r"\u001b[2J[red]cat[/red]\u202etac\udce9" in shown


def test_every_command_prints_through_one_place() -> None:
    others = [path for path in CLI.glob("*.py") if path.name != "terminal.py"]
    told = [p.name for p in others if re.search(r"click\.s?echo|(?<![.\w])print\(", p.read_text())]
    assert told == []
