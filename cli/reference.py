"""Prints docs/reference.md, made from the settings: `python -m mobilenas.cli.reference`."""

from collections.abc import Iterable
from typing import get_args

from mobilenas.channels.settings import ChannelOptions
from mobilenas.core.setting import Group, Setting, settings_of
from mobilenas.core.settings import COUNTING_RULE
from mobilenas.latency.settings import MeasureSettings, ProfileSettings
from mobilenas.pipeline.export_settings import FormatSettings, Int8Settings
from mobilenas.pipeline.request import Request
from mobilenas.pipeline.variants import AblationOptions, SweepOptions
from mobilenas.train.recipe import Recipe
from mobilenas.web.settings import ServeSettings

from .main import COMMANDS
from .terminal import echo

_HEAD = f"""# Reference

Made from the code by `make reference`; `mobilenas COMMAND --help` shows the same.

FLOPs: {COUNTING_RULE}.

Sizes are written as 300000, 500k, 1.5M or 2G, times as 900us, 8ms or 0.5s; several values are
separated by commas. In Python a setting is named as its option, with `_` for `-`:
`mobilenas.pipeline.request.Request(flops=500_000, search_epochs=20)`.
"""
_COLUMNS = "| option | value | default | meaning |\n|---|---|---|---|"


def page() -> str:
    """Return the content of the page."""
    commands = [f"| `{name}` | {line} |" for name, line in COMMANDS.items()]
    parts = [_HEAD, "## Commands\n", "| command | |\n|---|---|", *commands]
    for group in get_args(Group):
        if settings := [one for one in settings_of(Request) if one.group == group]:
            parts += [f"\n## {group} of `run`, `search`, `sweep`, `ablate`\n", *_table(settings)]
    for title, kinds in (
        ("`sweep`, beside these", (SweepOptions,)),
        ("`ablate`, beside these", (AblationOptions,)),
        ("Fields of a recipe, for `--set FIELD=VALUE`", (Recipe,)),
        ("`channels`, beside budgets, data, training and comparison", (ChannelOptions,)),
        ("`export`", (FormatSettings, Int8Settings)),
        ("`profile latency`", (ProfileSettings, MeasureSettings)),
        ("`profile serve`, beside these, and `try`", (ServeSettings,)),
    ):
        settings = [one for kind in kinds for one in settings_of(kind)]
        parts += [f"\n## {title}\n", *_table(settings)]
    return "\n".join(parts) + "\n"


def _table(settings: Iterable[Setting]) -> list[str]:
    return [_COLUMNS, *map(_row, sorted(settings, key=lambda one: one.rare))]


def _row(one: Setting) -> str:
    flags = ", ".join(f"`{flag}`" for flag in (one.option, *one.aliases))
    value = "/".join(map(str, one.legal)) or one.placeholder.replace("|", "/")
    if one.kind is bool and not one.own_option:
        value = "true/false"
    elif one.kind is bool:
        value = "" if one.default is False else f"or `--no-{one.option[2:]}`"
    if one.low is not None:
        value += f", {one.low} to {one.high}"
    return f"| {flags} | {value} | {one.default_shown} | {one.help} |"


if __name__ == "__main__":
    echo(page(), nl=False)
