"""Shared by all settings: quantities as people write them (`500k`, `8ms`), checks, JSON forms.

`setting.py` declares settings.
"""

import json
import math
import re
import unicodedata
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import msgspec

from mobilenas.core.errors import MobileNASError
from mobilenas.core.explain import between, explain, failing_place, shown, wrong_fields

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_Value = TypeVar("_Value")
Fields = dict[str, Any]
"""Values of a dataclass's fields by name; whoever makes the dataclass of them checks them."""

COUNTING_RULE = (
    "one multiply-add is one FLOP; convolutions and linear layers count, "
    "batch norm, activations and pooling do not"
)
"""Said in `--help`, in run.json and under every table of FLOPs."""

_COUNT = re.compile(r"(?P<number>\d+(?:\.\d+)?)(?P<suffix>[kKMG]?)")
_TIME = re.compile(r"(?P<number>\d+(?:\.\d+)?)(?P<suffix>us|ms|s)")
_COUNT_SCALES = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "G": 10**9}
_TIME_SCALES_MS = {"us": 1e-3, "ms": 1.0, "s": 1e3}


def parse_count(text: str) -> int:
    """Read `500k`, `1.5M`, `2G` or `300000` as a whole number above zero."""
    match = _COUNT.fullmatch(text.strip())
    number = float(match["number"]) * _COUNT_SCALES[match["suffix"]] if match else 0.0
    if number < 1 or not math.isfinite(number):
        raise MobileNASError(f"{text!r} is not a size above zero: write 300000, 500k, 1.5M or 2G")
    return round(number)


def parse_time_ms(text: str) -> float:
    """Read `8ms`, `0.5s` or `900us` as milliseconds above zero."""
    match = _TIME.fullmatch(text.strip())
    number = float(match["number"]) * _TIME_SCALES_MS[match["suffix"]] if match else 0.0
    if number <= 0 or not math.isfinite(number):
        raise MobileNASError(f"{text!r} is not a time above zero: write 8ms, 0.5s or 900us")
    return number


def format_count(number: float | None) -> str:
    """Write 300774272 as `300.8M`, None as `-`.

    Four digits at most, with the suffixes that `parse_count` reads.
    """
    if number is None:
        return "-"
    for suffix, scale in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(number) >= scale:
            value = number / scale
            return f"{value:.4g}{suffix}" if abs(value) < 1e4 else f"{value:.0f}{suffix}"
    return f"{number:.4g}"


class Timed(Protocol):
    """A file, a network or a row of a table that has a latency."""

    @property
    def latency_ms(self) -> float:
        """Median."""

    @property
    def latency_interval_ms(self) -> float | None:
        """Half its 95 % interval."""

    @property
    def unsteady(self) -> bool | None:
        """Whether other programs disturbed the measurement."""


def format_latency(record: Timed) -> str:
    """Write a file's or a network's latency in ms as `0.224 ± 0.003`.

    A question mark follows where the measurement was unsteady; a record of an older release may
    have no interval.
    """
    interval_ms = record.latency_interval_ms
    interval = "" if interval_ms is None else f" ± {interval_ms:.1g}"
    doubt = " ?" if record.unsteady else ""
    median_ms = record.latency_ms
    median = f"{median_ms:#.3g}".rstrip(".") if median_ms < 1000 else f"{median_ms:.0f}"
    return f"{median}{interval}{doubt}"


def format_cell(value: float | None) -> str:
    """Write a cost in full for a table, a missing one as a dash."""
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def counted(number: int, singular: str, plural: str | None = None) -> str:
    """Write a number and what it counts: `1 class`, `2 classes`, `1 image is`, `2 images are`."""
    if number == 1:
        return f"1 {singular}"
    ending = "es" if singular.endswith("s") else "s"
    return f"{number} {singular + ending if plural is None else plural}"


UNSTEADY = (
    "?: other programs disturbed the measurement, and repeating it did not help; "
    "`mobilenas compare RUN` measures such files again"
)
"""Said under tables in which a latency has that mark."""


def check_between(owner: object, name: str, low: float, high: float) -> None:
    """Raise unless `owner.name` is a number in [low, high]."""
    check_number(name, getattr(owner, name), low, high)


def check_number(name: str, value: object, low: float, high: float) -> None:
    """Raise unless `value` is a number in [low, high]."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise MobileNASError(f"{name} is {shown(value)}; it must be {between(low, high)}")


def check_choice(name: str, value: object, legal: tuple[object, ...]) -> None:
    """Raise unless `value` is one of `legal`."""
    if value not in legal:
        raise MobileNASError(
            f"{name} is {shown(value)}; it must be one of {', '.join(map(str, legal))}"
        )


def to_plain(value: object) -> Any:
    """Return settings or a record as JSON's own types: objects, lists, text."""
    plain = msgspec.to_builtins(value, enc_hook=_encoded)
    return json.loads(json.dumps(plain))  # tuples become lists


def _encoded(value: object) -> str | float:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float):  # numpy's
        return float(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


def _decoded(kind: type, value: object) -> object:
    if kind is object:
        return value
    if kind is not Path or not isinstance(value, str):
        raise ValueError("Expected `str`")
    return Path(value)


ADDED = {"added": True}
"""Metadata of a field that files of older releases lack: its default is what they did."""


def to_plain_without_added(value: "DataclassInstance") -> Fields:
    """Return a dataclass as older releases wrote it: `ADDED` fields only where they differ."""
    plain: Fields = to_plain(value)
    added = [one for one in fields(value) if one.metadata.get("added")]
    same = [one.name for one in added if getattr(value, one.name) == one.default]
    return {name: field for name, field in plain.items() if name not in same}


def from_plain(
    kind: type[_Value], value: object, place: str, *, checks_say_where: bool = False
) -> _Value:
    """Return what `to_plain` wrote as a value of type `kind`; errors name `place` in the file.

    A dataclass has all of its fields in the file but for those `ADDED`, and no others.
    `checks_say_where`: the dataclass's own checks name the place within it themselves.
    """
    if wrong := wrong_fields(kind, value, place):
        raise MobileNASError(wrong)
    try:
        return msgspec.convert(value, kind, dec_hook=_decoded)
    except msgspec.ValidationError as error:
        message = explain(error, kind, value, place, lambda other: _refusal(other, kind) == "type")
        raise MobileNASError(message) from error
    except UnicodeEncodeError as error:  # of a key or an option; other texts may be names of files
        raise MobileNASError(f"{place or 'it'} has {error.object!r}, which is not UTF-8") from error
    except MobileNASError as error:  # a check of the type's own, or of one inside it
        if checks_say_where:
            raise
        inner = failing_place(kind, value, place, lambda item, of: _refusal(item, of) == "check")
        raise type(error)(f"{inner}: {error}" if inner else str(error)) from error


def _refusal(value: object, kind: type) -> str:
    """Say whether it is the type or a check of its own that refuses a value; empty: neither."""
    try:
        msgspec.convert(value, kind, dec_hook=_decoded)
    except msgspec.ValidationError:
        return "type"
    except MobileNASError:
        return "check"
    return ""


def readable(name: str) -> str:
    """Return a name that every file, page and terminal can show.

    Bytes that are not UTF-8, control characters and marks of text direction are escaped.
    """
    return "".join(map(_escaped, name))


def _escaped(char: str) -> str:
    if "\udc80" <= char <= "\udcff":  # how Python holds a byte that is not UTF-8
        return f"\\x{ord(char) - 0xDC00:02x}"
    directions = ("LRE", "RLE", "PDF", "LRO", "RLO", "LRI", "RLI", "FSI", "PDI")
    hidden = unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp")
    if hidden or unicodedata.bidirectional(char) in directions:
        return char.encode("unicode_escape").decode()
    return char
