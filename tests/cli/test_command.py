"""Groups of options, `--help-all`, defaults."""

import click
from click.testing import CliRunner

from mobilenas.cli.command import Command
from mobilenas.cli.options import folder_options, options_of, output_options
from mobilenas.core.setting import settings_of
from mobilenas.pipeline.request import Request


@click.command(cls=Command)
@click.argument("folder")
@options_of(Request)
@folder_options
@output_options
def command(**_: object) -> None:
    """Do it."""


def shown(*words: str) -> str:
    result = CliRunner().invoke(command, words)
    assert result.exit_code == 0
    return result.stdout


def test_options_stand_in_their_groups() -> None:
    text = shown("--help-all")
    groups = ("Budgets", "Data", "Search", "Training", "Comparison", "Output")
    places = [text.index(f"\n{group} (such as --") for group in groups]
    assert places == sorted(places)
    for one in settings_of(Request):
        heading = text.rindex("\n\n", 0, text.index(f"\n  {one.option}"))
        assert text[heading:].lstrip().startswith(one.group)


def test_rare_options_are_listed_by_help_all_only() -> None:
    few = shown("--help")
    for one in settings_of(Request):
        assert (f"\n  {one.option} " in few or f"\n  {one.option}, " in few) is not one.rare


def test_defaults_are_those_of_the_fields() -> None:
    text = " ".join(shown("--help-all").split())
    for one in settings_of(Request):
        if one.default_shown and not one.several:
            assert f"[default: {one.default_shown}]" in text.replace("- ", "-")
