"""Which models a page is asked for, what it may post, and what comes of its rounds."""

from pathlib import Path

import msgspec
import pytest

from mobilenas.core.errors import MobileNASError
from mobilenas.latency.kit import Manifest, profile_of
from mobilenas.latency.measured import Failed, Measured
from mobilenas.web.measurement import Measurement, StaleError
from mobilenas.web.records import Round

from .conftest import timed, usual_ns


def measured(manifest: Manifest, log: Path, rounds: int = 3) -> Measurement:
    """Measure all, on a device that is fast in every second round."""
    measurement = Measurement(manifest, log, rounds=rounds)
    for _ in range(10_000):
        if not measurement.open:
            return measurement
        work = measurement.work()
        measurement.add(timed(work, 1.1 if work.number % 2 else 1.0))
    raise AssertionError("it does not end")


def test_every_model_is_measured_without_the_drift(manifest: Manifest, tmp_path: Path) -> None:
    results = measured(manifest, tmp_path / "log").results({"cpu": "x"}, "ort 1", "wasm", 2)
    assert results.times.keys() == {model.file for model in manifest.models}
    medians = {}
    for model in manifest.models:
        time = results.times[model.file]
        assert isinstance(time, Measured)
        assert not time.unsteady
        medians[model.sha256] = 1e6 * time.median_ms / usual_ns(model.sha256)
    # one speed for all: which of its two speeds is the usual one is open
    assert max(medians.values()) == pytest.approx(min(medians.values()), rel=1e-3)
    profile = profile_of(results, "phone")
    assert (profile.runtime, profile.provider, profile.threads) == ("ort 1", "wasm", 2)
    assert (profile.calibration["fp32"].networks, profile.calibration["fp32"].held_out) == (2, 4)


def test_a_round_is_small_and_has_the_references(manifest: Manifest, tmp_path: Path) -> None:
    measurement = Measurement(manifest, tmp_path / "log", rounds=3)
    blocks = {model.sha256 for model in manifest.models if model.key.startswith("block")}
    first = measurement.work()
    assert len(first.references) == 5
    assert set(first.references) <= blocks
    assert 0 < len(first.models) <= 24 < first.total
    assert not set(first.models) & set(first.references)
    for _ in range(3):
        measurement.add(timed(measurement.work()))
    last = measurement.work()
    assert last.done == len({*first.models, *first.references})
    assert not set(first.models) & set(last.models)
    assert last.references == first.references
    assert 0 < last.share < 1


def test_a_killed_server_loses_nothing(manifest: Manifest, tmp_path: Path) -> None:
    log = tmp_path / "log"
    measurement = Measurement(manifest, log, rounds=3)
    for _ in range(4):
        measurement.add(timed(measurement.work()))
    with log.open("a") as file:  # a kill amid a line
        file.write('{"ns": {"a')
    again = Measurement(manifest, log, rounds=3)
    assert again.work() == measurement.work()
    again.add(timed(again.work()))
    assert again.work().number == 5
    again.forget()
    assert not log.exists()


def test_a_round_counts_once(manifest: Manifest, tmp_path: Path) -> None:
    measurement = Measurement(manifest, tmp_path / "log", rounds=3)
    posted = timed(measurement.work())
    measurement.add(posted)
    with pytest.raises(StaleError, match="number is 0; the next round is 1"):
        measurement.add(posted)
    assert measurement.work().number == 1


def test_edited_rounds_are_refused(manifest: Manifest, tmp_path: Path) -> None:
    measurement = Measurement(manifest, tmp_path / "log", rounds=3)
    whole = timed(measurement.work())
    for ns, message in (
        (dict(list(whole.ns.items())[1:]), "ns lacks"),
        (whole.ns | {"0" * 64: 5}, f"{'0' * 64} is not a model of this round"),
        ({}, "ns lacks"),
    ):
        with pytest.raises(MobileNASError, match=message):
            measurement.add(Round(number=0, ns=ns, disturbed=[], failed={}))
    assert measurement.work().number == 0
    key = next(iter(whole.ns))
    for text in (
        f'{{"number": 0, "ns": {{"{key}": 0}}, "disturbed": [], "failed": {{}}}}',
        f'{{"number": 0, "ns": {{"{key}": 1.5}}, "disturbed": [], "failed": {{}}}}',
        '{"number": 0, "ns": {"../run.json": 5}, "disturbed": [], "failed": {}}',
        '{"number": 0, "ns": {}, "disturbed": [], "failed": {}, "more": 1}',
        '{"number": 0, "ns": {}}',
        f'{{"number": 0, "ns": {{}}, "disturbed": [], "failed": {{"{key}": ""}}}}',
    ):
        with pytest.raises(msgspec.ValidationError):
            msgspec.json.decode(text, type=Round)


def test_a_model_that_does_not_run_is_left_out(manifest: Manifest, tmp_path: Path) -> None:
    log = tmp_path / "log"
    measurement = Measurement(manifest, log, rounds=3)
    bad = measurement.work().references[2]
    failure = Round(number=0, ns={}, disturbed=[], failed={bad: "has no kernel\x00\u2028"})
    measurement.add(failure)
    measurement.add(failure)  # the page did not get the answer
    work = measurement.work()
    assert (work.number, work.done) == (0, 1)
    assert len(work.references) == 5
    assert bad not in (*work.references, *work.models)
    results = measured(manifest, log).results({}, "ort 1", "wasm", 1)
    (file,) = (model.file for model in manifest.models if model.sha256 == bad)
    assert results.times[file] == Failed(reason="has no kernel\\x00\\u2028")


def test_a_hot_device_rests_but_not_for_ever(manifest: Manifest, tmp_path: Path) -> None:
    measurement = Measurement(manifest, tmp_path / "log", rounds=16)
    rests = []
    for slowdown in [1.0] * 12 + [1.5] * 6 + [1.0] * 4 + [1.5] * 2:
        measurement.add(timed(measurement.work(), slowdown))
        rests.append(measurement.work().rest_s > 0)
    assert rests == [False] * 13 + [True] * 3 + [False] * 7 + [True]
    assert measurement.work().slowdown == pytest.approx(1.5, rel=1e-3)
