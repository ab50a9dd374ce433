"""A setting is declared once: a field of a frozen dataclass, in a module that imports no torch.

Its type has the legal values (Literal), `setting` all else. Checks, the options of the command
line, their help and docs/reference.md are made from these fields.
"""

import types
from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, field, fields
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from mobilenas.core.errors import MobileNASError
from mobilenas.core.explain import shown
from mobilenas.core.settings import ADDED, check_number, counted

Group = Literal["Budgets", "Data", "Search", "Training", "Comparison", "Measurement", "Output"]
"""Where `--help` lists an option."""
THREADS = 1
"""Of torch and of onnxruntime, where no other number was given."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One setting, read from its field."""

    name: str
    """The field."""
    kind: Any
    """Type of a value, or of an item where it has several; never Optional."""
    default: Any
    """None: left to what `default_text` says."""
    help: str
    """One line: what it is, with its unit."""
    group: Group = "Search"
    """Where `--help` lists it."""
    several: bool = False
    """Whether the value is a tuple, on the command line names with commas between them."""
    metavar: str = ""
    """What stands for the value in `--help`, where its type does not say it."""
    rare: bool = False
    """Whether only `--help-all` lists it."""
    default_text: str = ""
    """What None means, such as `by the effort`."""
    low: float | None = None
    """The smallest legal number."""
    high: float | None = None
    """The largest legal number."""
    fewest: int = 0
    """How many of several there must be."""
    built_in: tuple[str, ...] = ()
    """Names that `--help` lists of an open set, whose registry checks them."""
    read: Callable[[str], object] | None = None
    """Makes a value of text, such as 500000 of 500k."""
    flag: str = ""
    """Name on the command line, where it is not the field's."""
    aliases: tuple[str, ...] = ()
    """Other names on the command line."""
    repeated: bool = False
    """Whether several values may also be given by the option more than once."""
    words: tuple[str, ...] = ()
    """What may stand in place of a number."""
    own_option: bool = True
    """Whether it has an option; else it is called by its field's name."""

    @property
    def legal(self) -> tuple[Any, ...]:
        """The legal values, where there is a list of them."""
        return get_args(self.kind) if get_origin(self.kind) is Literal else self.built_in

    @property
    def option(self) -> str:
        """Name on the command line."""
        return self.flag or (f"--{self.name.replace('_', '-')}" if self.own_option else self.name)

    @property
    def default_shown(self) -> str:
        """The default in words; empty where there is none, or a flag is off."""
        if self.default is None or self.kind is bool:
            return self.default_text
        return ", ".join(self.default) if self.several else str(self.default)

    @property
    def placeholder(self) -> str:
        """What stands for the value in `--help`; empty for a flag."""
        if self.metavar or self.kind is bool:
            return self.metavar
        if self.several:
            return "NAMES"
        if self.legal:
            return f"[{'|'.join(map(str, self.legal))}]"
        kind = {int: "N", float: "X", Path: "FILE"}.get(self.kind, "TEXT")
        return "|".join((kind, *self.words))

    def check(self, owner: object) -> None:
        """Raise unless the value of this field of `owner` is legal; an open set is not checked."""
        value, named = getattr(owner, self.name), self.option if self.help else self.name
        if (value is None and self.default is None) or value in self.words:
            return
        legal = () if self.built_in else self.legal
        for item in value if self.several else (value,):
            if legal and item not in legal:
                has = f"{named} has" if self.several else f"{named} is"
                raise MobileNASError(
                    f"{has} {shown(item)}; it must be one of {', '.join(map(str, legal))}"
                )
        if self.several and len(value) < self.fewest:
            raise MobileNASError(f"{named} is none; it must have {counted(self.fewest, 'name')}")
        if self.low is not None and self.high is not None:
            if self.kind is int and isinstance(value, float):
                raise MobileNASError(f"{named} is {shown(value)}; it must be a whole number")
            check_number(named, value, self.low, self.high)


def setting(
    default: Any = MISSING,
    *,
    help: str,
    group: Group = "Search",
    added: bool = False,
    **more: Any,
) -> Any:
    """Return a dataclass field with all that `Setting` says of it.

    `added`: files of older releases lack it, and its default is what they did.
    """
    said = {"setting": {"help": help, "group": group, **more}}
    return field(default=default, metadata=said | (ADDED if added else {}))


field_setting = partial(setting, own_option=False)
"""A setting without an option of its own, called by the name of its field."""


@lru_cache
def _fields(kind: type) -> tuple[Setting, ...]:
    hints = get_type_hints(kind)
    return tuple(
        Setting(
            name=one.name,
            default=None if one.default is MISSING else one.default,
            **_type(hints[one.name]),
            **one.metadata.get("setting", {"help": ""}),
        )
        for one in fields(kind)
    )


def _type(hint: Any) -> dict[str, Any]:
    """`str | None` is a str, `tuple[str, ...]` several, `int | Literal["auto"]` an int or word."""
    if get_origin(hint) in (Union, types.UnionType):
        hint, *words = (option for option in get_args(hint) if option is not types.NoneType)
        if words:
            return {"kind": hint, "words": get_args(*words)}
    if get_origin(hint) in (tuple, Sequence):
        return {"kind": get_args(hint)[0], "several": True}
    return {"kind": hint}


def settings_of(kind: type) -> tuple[Setting, ...]:
    """Return the settings of a dataclass, in the order of its fields."""
    return tuple(one for one in _fields(kind) if one.help)


def check_settings(owner: object) -> None:
    """Raise MobileNASError unless every name and number of a dataclass is legal.

    Names of every field whose type is a Literal, numbers of every setting with a range.
    """
    kind: type = type(owner)
    for one in _fields(kind):
        one.check(owner)
