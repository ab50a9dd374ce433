"""Quantities and names as people read them (`500k`, `8ms`), checks shared by all settings."""

import math
import re
import types
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import lru_cache
from pathlib import Path
from typing import (
    Annotated,
    Any,
    Literal,
    NotRequired,
    Required,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

from mobilenas.core.errors import MobileNASError

COUNTING_RULE = (
    "one multiply-add is one FLOP; convolutions and linear layers count, "
    "batch norm, activations and pooling do not"
)
"""Said in `--help`, in run.json and under every table of FLOPs."""

_COUNT = re.compile(r"(?P<number>\d+(?:\.\d+)?)(?P<suffix>[kKMG]?)")
_TIME = re.compile(r"(?P<number>\d+(?:\.\d+)?)(?P<suffix>us|ms|s)")
_COUNT_SCALES = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "G": 10**9}
_LONGEST_SHOWN = 80
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


def format_latency(record: Mapping[str, Any]) -> str:
    """Write a file's or a network's latency in ms as `0.224 ± 0.003`.

    A question mark follows where the measurement was unsteady; a record of an older release may
    have no interval.
    """
    interval_ms = record.get("latency_interval_ms")
    interval = "" if interval_ms is None else f" ± {interval_ms:.1g}"
    doubt = " ?" if record.get("unsteady") else ""
    median_ms = record["latency_ms"]
    median = f"{median_ms:#.3g}".rstrip(".") if median_ms < 1000 else f"{median_ms:.0f}"
    return f"{median}{interval}{doubt}"


def format_cell(value: float | None) -> str:
    """Write a cost in full for a table, a missing one as a dash."""
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def format_on_file(budget: Mapping[str, Any]) -> str:
    """Write what was measured of the exported file, with its interval, or counted on it."""
    interval = budget.get("measured_interval")
    margin = "" if interval is None else f" ± {interval:.1g}"
    return format_cell(budget.get("measured", budget.get("recounted"))) + margin


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


def shown(value: object) -> str:
    """Return a value as an error quotes it: the first characters of a long one."""
    text = repr(value)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."


def check_between(owner: object, name: str, low: float, high: float) -> None:
    """Raise unless `owner.name` is a number in [low, high]."""
    value = getattr(owner, name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise MobileNASError(f"{name} is {shown(value)}; it must be between {low:g} and {high:g}")


def check_choice(name: str, value: object, legal: tuple[object, ...]) -> None:
    """Raise unless `value` is one of `legal`."""
    if value not in legal:
        raise MobileNASError(
            f"{name} is {shown(value)}; it must be one of {', '.join(map(str, legal))}"
        )


def to_plain(value: Any) -> Any:
    """Return settings as JSON's own types: dataclasses become objects, tuples lists, paths text."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: to_plain(item) for key, item in value.items()}
    return str(value) if isinstance(value, Path) else value


ADDED = {"added": True}
"""Metadata of a field that files of older releases lack: its default is what they did."""


@dataclass(frozen=True)
class Between:
    """In `Annotated[float, Between(0, 100)]`: what `from_plain` accepts."""

    low: float
    """The smallest legal number."""
    high: float
    """The largest legal number."""

    def check(self, value: Any, place: str) -> None:
        """Raise unless a number lies in the range, or a list has a legal length."""
        sized = isinstance(value, tuple | list | dict)
        if not self.low <= (len(value) if sized else value) <= self.high:
            legal = f"between {self.low:g} and {self.high:g}"
            has, must = (
                (f"has {counted(len(value), 'item')}", "there")
                if sized
                else (f"is {value!r}", "it")
            )
            raise MobileNASError(f"{place} {has}; {must} must be {legal}")


def from_plain(kind: Any, value: Any, place: str) -> Any:
    """Return what `to_plain` wrote as a value of type `kind`; errors name `place` in the file.

    `kind` is a dataclass, whose fields must all be there but for those `ADDED`, and no others; a
    TypedDict, which may have more than it names; or what their fields are made of, `Annotated`
    with `Between` too.
    """
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        found = from_plain(inner[0], value, place)
        for rule in inner[1:]:
            rule.check(found, place)
        return found
    if origin in (Required, NotRequired):
        return from_plain(inner[0], value, place)
    if kind is Any:
        return value
    if is_typeddict(kind):
        return _record_from_plain(kind, value, place)
    if is_dataclass(kind) and isinstance(kind, type):
        return _dataclass_from_plain(kind, value, place)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in inner:
            return None
        (kind,) = (option for option in inner if option is not type(None))
        return from_plain(kind, value, place)
    if origin is Literal:
        if not any(type(value) is type(legal) and value == legal for legal in inner):
            raise _wrong(place, value, f"one of {', '.join(map(str, inner))}")
        return value
    if origin in (tuple, list, Sequence):
        return _items_from_plain(kind, value, place)
    if origin is dict:
        if not isinstance(value, dict):
            raise _wrong(place, value, "an object")
        return {key: from_plain(inner[1], item, f"{place}.{key}") for key, item in value.items()}
    if kind is Path and isinstance(value, str):
        return Path(value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not kind:
        raise _wrong(place, value, kind.__name__)
    return value


def _wrong(place: str, value: Any, legal: str) -> MobileNASError:
    return MobileNASError(f"{place} is {shown(value)}; it must be {legal}")


def _items_from_plain(kind: Any, value: Any, place: str) -> Any:
    origin, inner = get_origin(kind), get_args(kind)
    if not isinstance(value, list):
        raise _wrong(place, value, "a list")
    if origin is not tuple or inner[1:] == (Ellipsis,):
        inner = (inner[0],) * len(value)
    if len(inner) != len(value):
        raise _wrong(place, value, f"a list of {len(inner)}")
    items = enumerate(zip(inner, value, strict=True))
    found = [from_plain(one, item, f"{place}[{index}]") for index, (one, item) in items]
    return found if origin is list else tuple(found)


@lru_cache
def _hints(kind: type) -> Mapping[str, Any]:
    return get_type_hints(kind, include_extras=True)


def _record_from_plain(kind: Any, value: Any, place: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _wrong(place, value, "an object")
    for name in sorted(kind.__required_keys__):
        if name not in value:
            raise MobileNASError(f"{place} lacks {name!r}" if place else f"it lacks {name!r}")
    hints = _hints(kind)
    return {
        name: from_plain(hints.get(name, Any), item, f"{place}.{name}" if place else name)
        for name, item in value.items()
    }


def _dataclass_from_plain(kind: type, value: Any, place: str) -> Any:
    names = [field.name for field in fields(kind)]
    if not isinstance(value, dict):
        raise _wrong(place, value, "an object")
    added = {field.name for field in fields(kind) if field.metadata == ADDED}
    missing = [name for name in names if name not in value and name not in added]
    unknown = [name for name in value if name not in names]
    if missing or unknown:
        wrong = f"lacks {missing[0]!r}" if missing else f"has an unknown field {unknown[0]!r}"
        raise MobileNASError(f"{place} {wrong}; its fields are {', '.join(names)}")
    hints = _hints(kind)
    return kind(
        **{name: from_plain(hints[name], item, f"{place}.{name}") for name, item in value.items()}
    )


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
