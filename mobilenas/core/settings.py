"""Helpers of all settings: quantities such as `500k` and `8ms`, checks, conversion to JSON.

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
"""Field values of a dataclass by name, validated when the dataclass is made."""

COUNTING_RULE = (
    "one multiply-add is one FLOP; convolutions and linear layers count, "
    "batch norm, activations and pooling do not"
)
"""Shown in `--help`, run.json and below tables of FLOPs."""

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
    """Format 300774272 as `300.8M`, None as `-`.

    At most four digits, with the suffixes of `parse_count`.
    """
    if number is None:
        return "-"
    for suffix, scale in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(number) >= scale:
            value = number / scale
            return f"{value:.4g}{suffix}" if abs(value) < 1e4 else f"{value:.0f}{suffix}"
    return f"{number:.4g}"


class Timed(Protocol):
    """A file, network or table row with a latency."""

    @property
    def latency_ms(self) -> float:
        """Median of the measurement."""

    @property
    def latency_interval_ms(self) -> float | None:
        """Half the width of the median's 95 % interval."""

    @property
    def unsteady(self) -> bool | None:
        """Whether other programs disturbed the measurement."""


def format_latency(record: Timed) -> str:
    """Format a latency in ms as `0.224 ± 0.003`.

    With a question mark if the measurement was unsteady, and without an interval if the record, of
    an older release, has none.
    """
    interval_ms = record.latency_interval_ms
    interval = "" if interval_ms is None else f" ± {interval_ms:.1g}"
    doubt = " ?" if record.unsteady else ""
    median_ms = record.latency_ms
    median = f"{median_ms:#.3g}".rstrip(".") if median_ms < 1000 else f"{median_ms:.0f}"
    return f"{median}{interval}{doubt}"


def format_cell(value: float | None) -> str:
    """Format a cost in full for a table; `-` if it is missing."""
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def counted(number: int, singular: str, plural: str | None = None) -> str:
    """Format a number with its noun: `1 class`, `2 classes`, `1 image is`, `2 images are`."""
    if number == 1:
        return f"1 {singular}"
    ending = "es" if singular.endswith("s") else "s"
    return f"{number} {singular + ending if plural is None else plural}"


UNSTEADY = (
    "?: other programs disturbed the measurement, and repeating it did not help; "
    "`mobilenas compare RUN` measures such files again"
)
"""Shown below tables with an unsteady latency."""


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
    """Convert settings or a record to JSON types: dicts, lists, numbers, strings."""
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
"""Metadata of a field that files of older releases lack; its default is their behaviour."""


def to_plain_without_added(value: "DataclassInstance") -> Fields:
    """Convert as `to_plain`, without `ADDED` fields that have their default."""
    plain: Fields = to_plain(value)
    added = [one for one in fields(value) if one.metadata.get("added")]
    same = [one.name for one in added if getattr(value, one.name) == one.default]
    return {name: field for name, field in plain.items() if name not in same}


def from_plain(
    kind: type[_Value], value: object, place: str, *, checks_say_where: bool = False
) -> _Value:
    """Convert the output of `to_plain` to type `kind`; errors name `place` in the file.

    A dataclass must have all its fields, except `ADDED` ones, and no others. `checks_say_where`:
    errors of the dataclass's own checks already name the place.
    """
    if wrong := wrong_fields(kind, value, place):
        raise MobileNASError(wrong)
    try:
        return msgspec.convert(value, kind, dec_hook=_decoded)
    except msgspec.ValidationError as error:
        message = explain(error, kind, value, place, lambda other: _refusal(other, kind) == "type")
        raise MobileNASError(message) from error
    except UnicodeEncodeError as error:  # in a key or an option; other texts may be file names
        raise MobileNASError(f"{place or 'it'} has {error.object!r}, which is not UTF-8") from error
    except MobileNASError as error:  # raised by a check of the type or of a nested one
        if checks_say_where:
            raise
        inner = failing_place(kind, value, place, lambda item, of: _refusal(item, of) == "check")
        raise type(error)(f"{inner}: {error}" if inner else str(error)) from error


def _refusal(value: object, kind: type) -> str:
    """Return "type" or "check", whichever rejects the value; empty if it is valid."""
    try:
        msgspec.convert(value, kind, dec_hook=_decoded)
    except msgspec.ValidationError:
        return "type"
    except MobileNASError:
        return "check"
    return ""


def readable(name: str) -> str:
    """Escape a name so that files, pages and terminals can show it.

    Escapes bytes that are not UTF-8, control characters and text-direction marks.
    """
    return "".join(map(_escaped, name))


def _escaped(char: str) -> str:
    if "\udc80" <= char <= "\udcff":  # Python's form of a byte that is not UTF-8
        return f"\\x{ord(char) - 0xDC00:02x}"
    directions = ("LRE", "RLE", "PDF", "LRO", "RLO", "LRI", "RLI", "FSI", "PDI")
    hidden = unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp")
    if hidden or unicodedata.bidirectional(char) in directions:
        return char.encode("unicode_escape").decode()
    return char
