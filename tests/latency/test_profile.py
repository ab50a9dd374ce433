"""A profile reads back as it was written, says what is wrong with it, and foretells latencies."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mobilenas.core.errors import FileError, MobileNASError
from mobilenas.latency.measured import Failed, Measured
from mobilenas.latency.named_profiles import find_profile, list_profiles, profile_path
from mobilenas.latency.profile import Profile, ProfileError, read_profile, write_profile
from mobilenas.latency.units import Unit, arch_units, linear_unit
from mobilenas.spaces.mobile.space import MobileSpace


def took(profile: Profile, median_ms: float) -> Measured:
    times = (time for time in profile.blocks["fp32"].values() if isinstance(time, Measured))
    return replace(next(times), median_ms=median_ms)


@pytest.fixture
def profile(made_up_profile: Profile) -> Profile:
    return made_up_profile


@pytest.fixture
def own_profiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MOBILENAS_PROFILES", str(tmp_path / "mine"))
    return tmp_path / "mine"


def with_block(profile: Profile, unit: Unit, time: Measured | Failed | None) -> Profile:
    times = {key: old for key, old in profile.blocks["fp32"].items() if key != unit.key}
    return replace(profile, blocks={"fp32": times | ({unit.key: time} if time else {})})


words = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
positive = st.floats(min_value=1e-6, max_value=1e6)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(
    times=st.lists(
        st.builds(
            Measured,
            median_ms=positive,
            minimum_ms=positive,
            iqr_ms=st.just(0.0) | positive,
            interval_ms=positive,
            rounds=st.integers(1, 99),
            halves_ms=st.tuples(positive, positive),
        )
        | st.builds(Failed, reason=words),
        max_size=5,
    ),
    device=st.dictionaries(words, words | st.integers(-(2**53), 2**53), max_size=3),
)
def test_a_profile_reads_back_as_it_was_written(
    tmp_path: Path, profile: Profile, times: list[Measured | Failed], device: dict[str, Any]
) -> None:
    keys = list(profile.blocks["fp32"])
    blocks = {"fp32": dict(zip(keys, times, strict=False)), "int8": {}}
    written = replace(profile, blocks=blocks, device=device)
    write_profile(written, tmp_path / "one.json")
    assert read_profile(tmp_path / "one.json") == written


def test_a_network_is_predicted_from_the_sum_of_its_units(
    profile: Profile, micro_space: MobileSpace
) -> None:
    units = arch_units(micro_space.arch(micro_space.smallest()))
    keys = list(profile.blocks["fp32"])
    body = sum(keys.index(unit.key) + 1 for unit in units[:-1])
    # 5 classes lie outside the measured 10 to 1000, on the line through the nearest two
    classifiers = [keys.index(linear_unit(16, count).key) + 1 for count in (10, 100)]
    last = classifiers[0] - (classifiers[1] - classifiers[0]) * 5 / 90
    assert profile.summed_ms(units, "fp32") == pytest.approx(body + last)
    assert profile.predict_ms(units, "fp32") == pytest.approx(2 * (body + last) + 0.5)


@pytest.mark.parametrize(
    ("classes", "expected"),
    [(10, 2.0), (55, 2.5), (100, 3.0), (550, 6.0), (1000, 9.0), (1900, 15.0), (1, 1.9)],
)
def test_a_classifier_is_interpolated_between_numbers_of_classes(
    profile: Profile, classes: int, expected: float
) -> None:
    known = profile
    for count, median_ms in ((10, 2.0), (100, 3.0), (1000, 9.0)):
        known = with_block(known, linear_unit(16, count), took(known, median_ms))
    assert known.time_ms(linear_unit(16, classes), "fp32") == pytest.approx(expected)


def test_noise_never_makes_a_classifier_free_or_a_larger_one_cheaper(profile: Profile) -> None:
    known = profile
    for count, median_ms in ((10, 0.01), (100, 3.0), (1000, 2.0)):
        known = with_block(known, linear_unit(16, count), took(known, median_ms))
    assert known.time_ms(linear_unit(16, 2), "fp32") > 0
    assert known.time_ms(linear_unit(16, 60000), "fp32") == 2.0


def test_a_classifier_that_was_measured_itself_is_not_interpolated(profile: Profile) -> None:
    known = with_block(profile, linear_unit(16, 55), took(profile, 77.0))
    assert known.time_ms(linear_unit(16, 55), "fp32") == 77.0
    # without its own time and with one of three points, it is not known
    known = with_block(profile, linear_unit(16, 100), None)
    assert known.lacking([linear_unit(16, 55)], "fp32") == [linear_unit(16, 100)]
    assert known.lacking([linear_unit(16, 10)], "fp32") == []


def test_a_missing_unit_is_named_with_the_command_that_measures_it(
    profile: Profile, micro_space: MobileSpace
) -> None:
    units = arch_units(micro_space.arch(micro_space.largest()))
    lacking = with_block(profile, units[1], None)
    assert profile.lacking(units, "fp32") == []
    assert lacking.lacking([*units, *units], "fp32") == [units[1]]
    assert profile.lacking(units[:2], "int8") == units[:2]
    with pytest.raises(ProfileError) as raised:
        lacking.predict_ms(units, "fp32")
    assert repr(units[1].key) in str(raised.value)
    command = (
        "`mobilenas profile latency --space mobile --image-size 8 --precision fp32 "
        "--activation hard_swish --name shelf-1`"
    )
    assert command in str(raised.value)
    with pytest.raises(ProfileError, match="--image-size N "):
        lacking.time_ms(units[1], "fp32")


def test_a_precision_that_was_not_measured_is_named(profile: Profile) -> None:
    unit = linear_unit(16, 10)
    assert profile.has("fp32")
    assert not profile.has("int8")
    with pytest.raises(ProfileError, match="shelf-1 has no int8 times; it has fp32"):
        profile.time_ms(unit, "int8")
    with pytest.raises(ProfileError, match="shelf-1 has no int8 times; it has fp32"):
        profile.failed(unit, "int8")


def test_without_calibration_nothing_is_predicted(profile: Profile) -> None:
    bare = replace(profile, calibration={}, networks={})
    units = [linear_unit(16, 10)]
    assert bare.summed_ms(units, "fp32") > 0
    assert bare.summary()["calibration"] is None
    with pytest.raises(ProfileError, match="shelf-1 is not calibrated for fp32"):
        bare.predict_ms(units, "fp32")


def test_a_unit_the_device_cannot_run_has_no_time(profile: Profile) -> None:
    broken = with_block(profile, linear_unit(16, 100), Failed(reason="no such operation"))
    assert broken.failed(linear_unit(16, 100), "fp32")
    assert broken.failed(linear_unit(16, 55), "fp32")  # it would be interpolated from that
    assert not broken.failed(linear_unit(16, 10), "fp32")
    assert broken.lacking([linear_unit(16, 100)], "fp32") == []
    with pytest.raises(ProfileError, match="could not run 'linear 16>100' in fp32: no such op"):
        broken.time_ms(linear_unit(16, 55), "fp32")


def test_bad_predictions_are_warned_of(profile: Profile) -> None:
    assert profile.warnings() == []
    (good,) = profile.calibration.values()
    off = replace(profile, calibration={"fp32": replace(good, mape_percent=12.34)})
    assert [line for line in off.warnings() if "12.3 %" in line] == off.warnings() != []
    mixed = replace(profile, calibration={"fp32": replace(good, kendall_tau=0.5)})
    assert [line for line in mixed.warnings() if "0.50" in line] == mixed.warnings() != []


def test_the_summary_has_what_scripts_read(profile: Profile) -> None:
    broken = with_block(profile, linear_unit(16, 100), Failed(reason="no"))
    summary = json.loads(json.dumps(broken.summary()))
    assert summary["calibration"]["mape_percent"] == pytest.approx(0, abs=1e-9)
    assert summary["calibration"]["kendall_tau"] == 1
    assert summary["calibrations"]["fp32"] == summary["calibration"]
    assert summary["failed"] == {"fp32": {"linear 16>100": "no"}}
    assert summary["units"] == {"fp32": len(broken.blocks["fp32"])}
    assert summary["image_sizes"] == [8]
    assert "blocks" not in summary


def damaged(profile: Profile, folder: Path, place: list[Any], value: Any) -> Path:
    """The profile's file with one value replaced; None takes the last key away."""
    path = folder / "damaged.json"
    write_profile(profile, path)
    plain = json.loads(path.read_text())
    *way, last = place
    inner = plain
    for key in way:
        inner = inner[key]
    if value is None:
        del inner[last]
    else:
        inner[last] = value
    path.write_text(json.dumps(plain))
    return path


LINEAR = ["blocks", "fp32", "linear 16>10"]


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (["schema_version"], 3, "schema_version is 3; this release reads 1 and 2"),
        (["threads"], None, "lacks 'threads'; its fields are name, device"),
        (["thread"], 1, "has an unknown field 'thread'"),
        (["threads"], 0, "threads is 0; it must be between 1 and"),
        (["threads"], "1", "threads is '1'; it must be int"),
        (["name"], "../up", "'../up' is not a profile's name"),
        (["date"], "yesterday", "date is 'yesterday'; it must be ISO 8601"),
        (["device"], "phone", "device is 'phone'; it must be an object"),
        (["blocks"], {}, "blocks has the precisions none"),
        (["blocks", "fp32"], [], "blocks.fp32 is []; it must be an object"),
        (["blocks", "fp32", "lump 1>2"], {"failed": "no"}, "'lump 1>2' is not a unit"),
        (LINEAR, {"failed": 3}, "linear 16>10.failed is 3; it must be str"),
        ([*LINEAR, "median_ms"], None, "linear 16>10 lacks 'median_ms'"),
        (
            [*LINEAR, "median_ms"],
            -1.0,
            "blocks.fp32.linear 16>10: median_ms is -1.0; it must be between",
        ),
        (
            [*LINEAR, "median_ms"],
            0.0,
            "blocks.fp32.linear 16>10: median_ms is 0.0; it must be between",
        ),
        ([*LINEAR, "minimum_ms"], math.nan, "blocks.fp32.linear 16>10.minimum_ms is NaN"),
        ([*LINEAR, "interval_ms"], -0.5, "blocks.fp32.linear 16>10: interval_ms is -0.5"),
        ([*LINEAR, "iqr_ms"], math.inf, "blocks.fp32.linear 16>10.iqr_ms is Infinity"),
        ([*LINEAR, "halves_ms"], [1.0], "blocks.fp32.linear 16>10.halves_ms is [1.0]"),
        ([*LINEAR, "rounds"], 0, "blocks.fp32.linear 16>10: rounds is 0"),
        (["calibration", "fp32", "scale"], 0.0, "calibration.fp32: scale is 0.0; it must be"),
        (["calibration", "fp32", "kendall_tau"], 2, "calibration.fp32: kendall_tau is 2"),
        (["calibration", "fp32", "offset"], 2, "calibration.fp32 has an unknown field 'offset'"),
        (["networks", "fp32", 1, "measured_ms"], 0, "networks.fp32[1]: measured_ms is 0"),
        (["networks", "fp32", 1, "halves_ms"], [1.0], "networks.fp32[1]: halves_ms is (1.0,)"),
        (["references"], {"fp32": [{}]}, "references.fp32[0] lacks 'arch'"),
        (["spaces", 0, "kernels"], [], "spaces[0].kernels has 0 items"),
        (["spaces", 0, "image_size"], -4, "spaces[0]: image_size is -4"),
    ],
)
def test_a_wrong_profile_is_named_with_the_place(
    tmp_path: Path, profile: Profile, place: list[Any], value: Any, message: str
) -> None:
    path = damaged(profile, tmp_path, place, value)
    with pytest.raises(FileError) as raised:
        read_profile(path)
    assert str(raised.value).startswith(f"{path}: ")
    assert message in str(raised.value)


def test_a_cut_file_is_named(tmp_path: Path, profile: Profile) -> None:
    path = tmp_path / "one.json"
    write_profile(profile, path)
    content = path.read_bytes()
    for cut in (0, 1, len(content) // 2, len(content) - 3):
        path.write_bytes(content[:cut])
        with pytest.raises(FileError, match=r"one\.json is not JSON"):
            read_profile(path)


def test_a_profile_of_schema_version_1_is_read(tmp_path: Path, profile: Profile) -> None:
    path = tmp_path / "older.json"
    write_profile(profile, path)
    text = path.read_text().replace('"iqr_ms"', '"spread_ms"')
    path.write_text(text.replace('"schema_version": 2', '"schema_version": 1'))
    assert read_profile(path) == profile


def test_a_profile_is_found_by_name_and_by_path(
    own_profiles: Path, tmp_path: Path, profile: Profile
) -> None:
    assert profile_path("shelf-1") == own_profiles / "shelf-1.json"
    write_profile(profile, profile_path("shelf-1"))
    assert find_profile("shelf-1") == profile
    assert list_profiles()["shelf-1"] == own_profiles / "shelf-1.json"
    elsewhere = tmp_path / "elsewhere.json"
    write_profile(profile, elsewhere)
    assert find_profile(elsewhere) == find_profile(str(elsewhere)) == profile
    with pytest.raises(FileError, match=r"absent\.json does not exist"):
        find_profile("absent.json")


def test_an_unknown_name_is_answered_with_near_ones(own_profiles: Path, profile: Profile) -> None:
    write_profile(profile, profile_path("shelf-1"))
    with pytest.raises(ProfileError, match=r"no profile 'shelf1'; did you mean shelf-1\? "):
        find_profile("shelf1")
    with pytest.raises(ProfileError, match=r"no profile 'zzz'; `mobilenas profile list` names all"):
        find_profile("zzz")


def test_a_profile_of_ones_own_wins_over_a_shipped_one(
    own_profiles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, profile: Profile
) -> None:
    shipped = tmp_path / "shipped"
    monkeypatch.setattr("importlib.resources.files", lambda package: shipped)
    write_profile(profile, shipped / "shelf-1.json")
    assert find_profile("shelf-1").threads == 1
    write_profile(replace(profile, threads=4), profile_path("shelf-1"))
    assert find_profile("shelf-1").threads == 4


def test_the_users_folder_follows_the_usual_variables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MOBILENAS_PROFILES", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert profile_path("a") == tmp_path / "mobilenas/profiles/a.json"
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert profile_path("a") == tmp_path / ".local/share/mobilenas/profiles/a.json"
    with pytest.raises(MobileNASError, match=r"'a/b' is not a profile's name"):
        profile_path("a/b")
