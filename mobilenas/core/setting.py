"""Declares settings: each one once, as a field of a frozen dataclass, without importing torch.

The field's type gives the legal values (Literal), `setting` everything else. Validation,
command-line options, their help and docs/reference.md are made from these fields.
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
"""Section of `--help`."""
THREADS = 1
"""Default number of threads of torch and onnxruntime."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One setting, read from its field."""

    name: str
    """Name of the field."""
    kind: Any
    """Type of the value, or of one item of several; never Optional."""
    default: Any
    """The default; None: see `default_text`."""
    help: str
    """One line of help, with the unit."""
    group: Group = "Search"
    """Section of `--help`."""
    several: bool = False
    """Whether the value is a tuple, comma-separated on the command line."""
    metavar: str = ""
    """Placeholder of the value in `--help`, if the type does not imply it."""
    rare: bool = False
    """Whether only `--help-all` lists it."""
    default_text: str = ""
    """What None means, such as `by the effort`."""
    low: float | None = None
    """The smallest legal number."""
    high: float | None = None
    """The largest legal number."""
    fewest: int = 0
    """Minimum number of items, if `several`."""
    built_in: tuple[str, ...] = ()
    """Built-in names of a registry, listed in `--help`; the registry validates the value."""
    read: Callable[[str], object] | None = None
    """Parses the value, such as 500k to 500000."""
    flag: str = ""
    """Name on the command line, if it differs from the field's."""
    aliases: tuple[str, ...] = ()
    """Other names on the command line."""
    repeated: bool = False
    """Whether the option may be repeated to give several values."""
    words: tuple[str, ...] = ()
    """Words that are legal in place of a number, such as auto."""
    own_option: bool = True
    """Whether it has an option; errors use the field's name for one that has not."""

    @property
    def legal(self) -> tuple[Any, ...]:
        """The legal values, if they can be listed."""
        return get_args(self.kind) if get_origin(self.kind) is Literal else self.built_in

    @property
    def option(self) -> str:
        """Name on the command line."""
        return self.flag or (f"--{self.name.replace('_', '-')}" if self.own_option else self.name)

    @property
    def default_shown(self) -> str:
        """The default as text; empty if there is none, or for a flag that is off."""
        if self.default is None or self.kind is bool:
            return self.default_text
        return ", ".join(self.default) if self.several else str(self.default)

    @property
    def placeholder(self) -> str:
        """Placeholder of the value in `--help`; empty for a flag."""
        if self.metavar or self.kind is bool:
            return self.metavar
        if self.several:
            return "NAMES"
        if self.legal:
            return f"[{'|'.join(map(str, self.legal))}]"
        kind = {int: "N", float: "X", Path: "FILE"}.get(self.kind, "TEXT")
        return "|".join((kind, *self.words))

    def check(self, owner: object) -> None:
        """Raise unless this field of `owner` is legal; names of a registry are not checked."""
        value, named = getattr(owner, self.name), self.option if self.help else self.name
        if (value is None and self.default is None) or value in self.words:
            return
        legal = () if self.built_in else self.legal
        if self.several and not isinstance(value, tuple | list):
            raise MobileNASError(f"{named} is {shown(value)}; it must be a list")
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
    """Return a dataclass field with the attributes of `Setting` in its metadata.

    `added`: files of older releases lack the field; its default is their behaviour.
    """
    said = {"setting": {"help": help, "group": group, **more}}
    return field(default=default, metadata=said | (ADDED if added else {}))


field_setting = partial(setting, own_option=False)
"""A setting without an option of its own; errors call it by its field's name."""


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
    """Split a type: `str | None` is str, `int | Literal["auto"]` is int or the word auto."""
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
    """Raise MobileNASError unless all settings of a dataclass are legal.

    Checks every field whose type is a Literal, and every number with a range.
    """
    kind: type = type(owner)
    for one in _fields(kind):
        one.check(owner)
