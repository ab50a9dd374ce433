"""Quantities as people write them, and the checks that settings share."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobilenas.core.errors import MobileNASError
from mobilenas.core.settings import (
    ADDED,
    check_between,
    check_choice,
    counted,
    format_count,
    from_plain,
    parse_count,
    parse_time_ms,
    to_plain,
)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("1", 1),
        ("300000", 300_000),
        ("500k", 500_000),
        ("500K", 500_000),
        ("1.5M", 1_500_000),
        ("2G", 2_000_000_000),
        (" 60M ", 60_000_000),
        ("1.1k", 1100),
        ("0.0015M", 1500),
    ],
)
def test_counts_read_as_written(text: str, count: int) -> None:
    assert parse_count(text) == count
    assert isinstance(parse_count(text), int)


@pytest.mark.parametrize(
    ("number", "noun", "text"),
    [
        (0, ("image",), "0 images"),
        (1, ("image",), "1 image"),
        (1797, ("image",), "1797 images"),
        (1, ("usable image",), "1 usable image"),
        (1, ("class",), "1 class"),
        (2, ("class",), "2 classes"),
        (1, ("image is", "images are"), "1 image is"),
        (0, ("image is", "images are"), "0 images are"),
    ],
)
def test_one_is_singular(number: int, noun: tuple[str, ...], text: str) -> None:
    assert counted(number, *noun) == text


@pytest.mark.parametrize(
    ("text", "time_ms"),
    [("8ms", 8.0), ("0.5s", 500.0), ("900us", 0.9), ("1s", 1000.0), (" 2.5ms ", 2.5)],
)
def test_times_read_as_written(text: str, time_ms: float) -> None:
    assert parse_time_ms(text) == pytest.approx(time_ms)


@pytest.mark.parametrize(
    "text",
    [
        *("", "k", "0", "0k", "0.4", "-5k", "1e6", "5 M", "5m", "5T", "1,5M", "1.M", ".5M"),
        *("nan", "inf", "9" * 400, "60MM", "8ms"),
    ],
)
def test_a_wrong_count_is_quoted_with_what_is_legal(text: str) -> None:
    with pytest.raises(MobileNASError) as raised:
        parse_count(text)
    assert repr(text) in str(raised.value)
    assert "500k" in str(raised.value)


@pytest.mark.parametrize(
    "text", ["", "ms", "8", "0ms", "0.0s", "-1ms", "8 ms", "8MS", "8m", "nanms", "9" * 400 + "s"]
)
def test_a_wrong_time_is_quoted_with_what_is_legal(text: str) -> None:
    with pytest.raises(MobileNASError) as raised:
        parse_time_ms(text)
    assert repr(text) in str(raised.value)
    assert "8ms" in str(raised.value)


@given(st.text(max_size=12))
def test_any_text_is_a_count_above_zero_or_our_error(text: str) -> None:
    try:
        count = parse_count(text)
    except MobileNASError:
        return
    assert count > 0


@given(st.text(max_size=12))
def test_any_text_is_a_time_above_zero_or_our_error(text: str) -> None:
    try:
        time_ms = parse_time_ms(text)
    except MobileNASError:
        return
    assert time_ms > 0


# Up to here a float holds every whole number.
@given(st.integers(1, 2**53))
def test_a_count_in_digits_is_exact(number: int) -> None:
    assert parse_count(str(number)) == number


@given(st.integers(1, 9_000_000_000_000))
def test_a_formatted_count_is_read_back_to_four_digits(number: int) -> None:
    text = format_count(number)
    assert len(text) <= 6
    assert parse_count(text) == pytest.approx(number, rel=5.1e-4)
    # What was written once is written the same way again, so tables and options agree.
    assert parse_count(format_count(parse_count(text))) == parse_count(text)


@pytest.mark.parametrize(
    ("number", "text"),
    [(300_774_272, "300.8M"), (3_504_872, "3.505M"), (500, "500"), (0, "0"), (-2_000, "-2k")],
)
def test_counts_are_written_short(number: float, text: str) -> None:
    assert format_count(number) == text


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    rate: object = 0.5

    def __post_init__(self) -> None:
        check_between(self, "rate", 0, 1)


@pytest.mark.parametrize("rate", [0, 1, 0.5])
def test_a_number_within_its_range_passes(rate: object) -> None:
    assert Settings(rate=rate).rate == rate


@pytest.mark.parametrize("rate", [-0.1, 1.1, float("nan"), float("inf"), True, "0.5", None])
def test_a_number_outside_its_range_is_named(rate: object) -> None:
    with pytest.raises(MobileNASError, match=r"^rate is .*between 0 and 1$"):
        Settings(rate=rate)


def test_a_choice_is_one_of_the_legal_values() -> None:
    check_choice("effort", "quick", ("quick", "standard"))
    with pytest.raises(MobileNASError, match="effort is 'slow'; it must be one of quick, standard"):
        check_choice("effort", "slow", ("quick", "standard"))


@dataclass(frozen=True, kw_only=True)
class Inner:
    share: float
    names: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Outer:
    inner: Inner
    folder: Path | None
    count: int
    later: bool = dataclasses.field(default=False, metadata=ADDED)


PLAIN = {"inner": {"share": 0.5, "names": ["a", "b"]}, "folder": "x/y", "count": 3, "later": False}


def test_settings_round_trip_through_plain_values() -> None:
    settings = Outer(inner=Inner(share=0.5, names=("a", "b")), folder=Path("x/y"), count=3)
    assert to_plain(settings) == PLAIN
    assert from_plain(Outer, PLAIN, "settings") == settings
    later = PLAIN | {"later": True}
    assert to_plain(from_plain(Outer, later, "settings")) == later
    # a file of before the field was added
    older = {name: value for name, value in PLAIN.items() if name != "later"}
    assert from_plain(Outer, older, "settings") == settings
    assert from_plain(Outer, PLAIN | {"folder": None}, "settings").folder is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"count": "3"}, r"settings\.count is '3'; it must be int"),
        ({"count": True}, r"settings\.count is True; it must be int"),
        ({"inner": []}, r"settings\.inner is \[\]; it must be an object"),
        ({"inner": {"share": 1}}, r"settings\.inner lacks 'names'; its fields are share, names"),
        ({"color": 1}, r"settings has an unknown field 'color'"),
        ({"inner": {"share": 1, "names": "ab"}}, r"settings\.inner\.names is 'ab'.*a list"),
    ],
)
def test_a_wrong_plain_value_is_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(MobileNASError, match=message):
        from_plain(Outer, PLAIN | change, "settings")
