"""Options made from settings, and options that commands share."""

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, get_origin

import click
from click.core import ParameterSource

from mobilenas.core.errors import MobileNASError
from mobilenas.core.setting import Setting, settings_of
from mobilenas.core.settings import COUNTING_RULE, Fields

from .command import Option

F = TypeVar("F", bound=Callable[..., object])
Decorator = Callable[[Any], Any]


class NamedPath(click.Path):
    """A file or folder; an empty name is an error, not the current folder."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path."""
        if value == "":
            self.fail("it is empty", param, ctx)
        return super().convert(value, param, ctx)


PATH = NamedPath(path_type=Path)
"""The type of all options and arguments for files and folders."""


class Reading(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.4 on
    """Parses text with a function, whose errors become those of the option."""

    def __init__(self, read: Callable[[str], object], name: str) -> None:
        self.read, self.name = read, name

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> object:
        """Return the parsed text; defaults, which are not text, are returned unchanged."""
        if not isinstance(value, str):
            return value
        try:
            return self.read(value)
        except MobileNASError as error:
            self.fail(str(error), param, ctx)
        except ValueError:
            self.fail(f"{value!r} is not {self.name}", param, ctx)


def names(text: str) -> tuple[str, ...]:
    """Parse comma-separated names without duplicates; `none` gives no names."""
    return () if text == "none" else tuple(dict.fromkeys(map(str.strip, text.split(","))))


def _numbers(read: Callable[[str], Any]) -> Reading:
    return Reading(lambda text: tuple(map(read, text.split(","))), "numbers as in 0.1,0.3,1")


def option(*flags: str, **attributes: Any) -> Decorator:
    """Return an option of type `command.Option`."""
    return click.option(*flags, cls=Option, **attributes)


def _once(ctx: click.Context, param: click.Parameter, values: tuple[object, ...]) -> object:
    if len(values) > 1:
        raise click.BadParameter("it is given more than once", ctx, param)
    return values[0] if values else None


def _joined(
    _ctx: click.Context, _param: click.Parameter, values: tuple[tuple[str, ...], ...]
) -> tuple[str, ...]:
    return tuple(name for names in values for name in names)


def made_from(one: Setting, *, hidden: bool = False) -> Decorator:
    """Return the option of a setting; its dataclass checks the value."""
    attributes: Fields = {
        "help": one.help,
        "group": one.group,
        "rare": one.rare,
        "default": one.default,
        "default_text": one.default_shown,
        "hidden": hidden,
    }
    flag = one.option
    if one.kind is bool and one.default is None:
        flag += f"/--no-{one.option[2:]}"
    elif one.kind is bool:
        attributes |= {"is_flag": True}
    elif one.read is not None and not one.several:
        # `multiple` only to make a repeated option an error, instead of the last one winning
        # silently
        attributes |= {"multiple": True, "callback": _once, "default": None}
    elif one.repeated:
        attributes |= {"multiple": True, "callback": _joined}
    if one.kind is not bool:
        attributes |= {"type": _type(one), "metavar": one.placeholder}
    return option(flag, *one.aliases, one.name, **attributes)


def _type(one: Setting) -> "click.ParamType[object] | type":
    if one.several:
        is_number = one.kind in (int, float)
        return _numbers(one.read or one.kind) if is_number else Reading(names, "names")
    if one.read is not None:
        return Reading(one.read, one.name)
    if one.words:
        legal = " or ".join(("a whole number", *one.words))
        return Reading(lambda text: text if text in one.words else one.kind(text), legal)
    if get_origin(one.kind) is Literal:
        numbers = all(isinstance(value, int) for value in one.legal)
        legal = " or ".join(map(str, one.legal))
        return Reading(int, legal) if numbers else click.Choice(one.legal)
    return PATH if one.kind is Path else one.kind


def options_of(
    kind: type, *, without: Collection[str] = (), hidden: Collection[str] = ()
) -> Decorator:
    """Return the options for all settings of a dataclass; `hidden` ones are not in the help."""
    settings = [one for one in settings_of(kind) if one.name not in without]
    return stacked([made_from(one, hidden=one.name in hidden) for one in settings])


def typed(ctx: click.Context, kind: type) -> Fields:
    """Return the settings of a dataclass that are given on the command line."""
    given = ctx.get_parameter_source
    names = [one.name for one in settings_of(kind) if one.name in ctx.params]
    return {name: ctx.params[name] for name in names if given(name) is ParameterSource.COMMANDLINE}


def stacked(options: Sequence[Decorator]) -> Decorator:
    """Combine several options into one decorator."""

    def decorate(function: F) -> F:
        for one in reversed(options):
            function = one(function)
        return function

    return decorate


def _allow_models(ctx: click.Context, _param: click.Parameter, names: tuple[str, ...]) -> None:
    ctx.meta[ALLOWED_MODELS] = names
    if names:
        from mobilenas.channel_graph.models import allow_model

        for name in names:
            allow_model(name)


ALLOWED_MODELS = "mobilenas.allowed_models"
"""Key of the values of --allow-model in a command's context."""


allow_model_option = option(
    "--allow-model",
    "allowed_models",
    multiple=True,
    callback=_allow_models,
    expose_value=False,
    rare=True,
    metavar="NAME",
    help="Run the code of package.module:factory where a file names it as its model.",
)
"""--allow-model: without it, no code that only a file names is imported."""
json_option = option("--json", "as_json", is_flag=True, help="Print one JSON document.")
"""--json for commands that show no progress."""
output_options = stacked((option("--quiet", is_flag=True, help="Show no progress."), json_option))
"""--quiet, --json."""
folder_options = stacked(
    (
        option("--out", metavar="RUN", type=PATH, help="Run folder to write."),
        option("--resume", is_flag=True, help="Resume the run in --out."),
        option("--overwrite", is_flag=True, help="Replace the run in --out."),
        allow_model_option,
    )
)
"""--out, --resume, --overwrite, --allow-model."""
run_argument = stacked((click.argument("folder", metavar="RUN", type=PATH), allow_model_option))
"""The run folder of a command on an existing run, and --allow-model."""

RULE = f"FLOPs: {COUNTING_RULE}."
"""Shown below the help of commands with FLOPs."""
