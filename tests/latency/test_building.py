"""A profile is built from one measurement; here a device that is a formula answers."""

import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest

from mobilenas.core.errors import MobileNASError
from mobilenas.latency import building
from mobilenas.latency.building import assemble, build_profile, check, here
from mobilenas.latency.draws import draw_networks
from mobilenas.latency.measured import Failed, Measured
from mobilenas.latency.profile import Profile, ProfileError, read_profile, write_profile
from mobilenas.latency.units import Unit, arch_units, space_units
from mobilenas.spaces.mobile.space import MobileSpace
from mobilenas.spaces.subnetworks.space import SubnetworkSpace

SPEED = {"fp32": 1.0, "int8": 0.5}


class Device:
    """Answers for onnxruntime: a unit's time follows from its key, a network's from its units.

    A network takes twice the sum of its units and 0.3 ms more.
    """

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.options: list[dict[str, Any]] = []
        self.broken: Callable[[Unit], bool] = lambda unit: False
        self.slowness = 1.0

    def unit_ms(self, unit: Unit, precision: str) -> float:
        return SPEED[precision] * self.slowness * random.Random(unit.key).uniform(0.1, 0.2)

    def measure(
        self, models: Mapping[str, Callable[[], bytes]], **options: Any
    ) -> dict[str, Measured | Failed]:
        self.calls.append(list(models))
        self.options.append(options)
        assert options.get("reference") in (None, *models)
        return {name: self._time(name, build) for name, build in models.items()}

    def _time(self, name: str, build: Any) -> Measured | Failed:
        part, precision = build.args  # what the model would be made of
        assert name.startswith(f"{precision} ")
        units = [part] if isinstance(part, Unit) else arch_units(part)
        if any(self.broken(unit) for unit in units):
            return Failed(reason="no kernel")
        median_ms = sum(self.unit_ms(unit, precision) for unit in units)
        if not isinstance(part, Unit):
            median_ms = 2 * median_ms + 0.3
        return Measured(
            median_ms=median_ms,
            minimum_ms=median_ms,
            iqr_ms=0.0,
            interval_ms=0.0,
            rounds=16,
            halves_ms=(0.99 * median_ms, 1.01 * median_ms),
        )


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Device:
    answers = Device()
    monkeypatch.setattr(building, "measure", answers.measure)
    return answers


@pytest.fixture
def space(tiny_space: MobileSpace) -> MobileSpace:
    # 10 classes are measured themselves, so that the formula's sums are the table's
    return replace(tiny_space, classes=10)


def build(space: MobileSpace, **options: Any) -> Profile:
    spaces = {"fp32": space}
    return build_profile(
        **{"spaces": spaces, "name": "box", "networks": 8, "held_out": 3} | options
    )


def test_a_profile_is_one_measurement_of_units_and_networks(
    device: Device, space: MobileSpace, tmp_path: Path
) -> None:
    profile = build(space, command="mobilenas profile latency", threads=2, rounds=20)
    units = space_units(space)
    (call,) = device.calls
    assert call[: len(units)] == [f"fp32 {unit.key}" for unit in units]
    assert len(call) == len(units) + 8
    (options,) = device.options
    assert (options["threads"], options["rounds"]) == (2, 20)
    assert options["provider"] == profile.provider == "CPUExecutionProvider"
    assert options["reference"] == call[len(units)]  # a network
    assert (profile.threads, profile.command) == (2, "mobilenas profile latency")
    references = profile.references["fp32"]
    assert [r.arch for r in references] == draw_networks(space, 8, 0)[:5]
    sums = [sum(device.unit_ms(u, "fp32") for u in arch_units(r.arch)) for r in references]
    assert [r.median_ms for r in references] == pytest.approx([2 * ms + 0.3 for ms in sums])
    assert profile.lacking(units, "fp32") == []
    assert profile.runtime.startswith("onnxruntime ")
    write_profile(profile, tmp_path / "box.json")
    assert read_profile(tmp_path / "box.json") == profile


def test_the_calibration_finds_the_devices_line_on_networks_it_was_not_fitted_on(
    device: Device, space: MobileSpace
) -> None:
    profile = build(space)
    found = profile.calibration["fp32"]
    assert (found.networks, found.held_out) == (5, 3)
    assert (found.scale, found.offset_ms) == (pytest.approx(2), pytest.approx(0.3))
    assert found.mape_percent == pytest.approx(0, abs=1e-6)
    assert found.kendall_tau == 1
    assert found.flops_mape_percent > 1  # times of the formula do not follow FLOPs
    assert found.noise_percent == pytest.approx(2)
    arch = space.arch(space.largest())
    expected = 2 * sum(device.unit_ms(unit, "fp32") for unit in arch_units(arch)) + 0.3
    assert profile.predict_ms(arch_units(arch), "fp32") == pytest.approx(expected)


def test_parts_of_a_network_are_measured_at_all_of_its_sides(
    device: Device, space: MobileSpace, parts: SubnetworkSpace, tmp_path: Path
) -> None:
    profile = build(space, spaces={"fp32": parts})
    (call,) = device.calls
    assert call[:-8] == [f"fp32 {unit.key}" for unit in space_units(parts)]
    assert (profile.spaces, profile.subnetworks) == ((), (parts,))
    assert profile.image_sizes == [32, 48]
    assert {arch.arch.image_size for arch in profile.references["fp32"]} == {32, 48}
    found = profile.calibration["fp32"]
    assert (found.scale, found.offset_ms) == (pytest.approx(2), pytest.approx(0.3))
    write_profile(profile, tmp_path / "box.json")
    assert read_profile(tmp_path / "box.json") == profile
    # more of them go into the same profile, other sides do not
    int8 = build(space, spaces={"int8": parts}, previous=profile)
    assert set(int8.blocks) == {"fp32", "int8"} and int8.subnetworks == (parts,)
    with pytest.raises(ProfileError, match=r"image sizes \[32, 48\], this measurement \[48\]"):
        build(space, spaces={"int8": replace(parts, sides=(48,))}, previous=profile)


def test_blocks_that_a_device_cannot_run_are_drawn_again_in_parts(parts: SubnetworkSpace) -> None:
    narrow = [unit.key for unit in space_units(parts) if unit.hidden in (16, 24)]
    assert narrow
    drawn = draw_networks(parts, 20, seed=0, excluded=narrow)
    assert len(drawn) == 20
    assert all(block.hidden not in (16, 24) for arch in drawn for block in arch.blocks)


def test_precisions_are_measured_side_by_side(device: Device, space: MobileSpace) -> None:
    relu = replace(space, activation="relu")
    profile = build(space, spaces={"fp32": space, "int8": relu})
    (call,) = device.calls
    assert {name.partition(" ")[0] for name in call} == {"fp32", "int8"}
    assert profile.spaces == (space, relu)
    units = arch_units(relu.arch(relu.largest()))
    expected = 2 * sum(device.unit_ms(unit, "int8") for unit in units) + 0.3
    assert profile.predict_ms(units, "int8") == pytest.approx(expected)
    assert not profile.has("fp16")
    assert {unit.key for unit in profile.lacking(units, "fp32")} >= {units[1].key}


def test_networks_with_a_unit_that_fails_make_room_for_others(
    device: Device, space: MobileSpace
) -> None:
    device.broken = lambda unit: unit.squeeze > 0
    profile = build(space)
    assert profile.failed(next(u for u in space_units(space) if u.squeeze), "fp32")
    # without squeeze-excite, drawn at random, there would hardly be one network
    found = profile.calibration["fp32"]
    assert (found.networks, found.held_out) == (5, 3)
    first, second = device.calls
    assert all(" network " in name and name not in first for name in second)
    assert found.mape_percent == pytest.approx(0, abs=1e-6)


def test_a_device_that_runs_no_network_is_said(device: Device, space: MobileSpace) -> None:
    device.broken = lambda unit: unit.kind == "stem"
    with pytest.raises(MobileNASError, match="at least 2 networks to fit, not 0"):
        build(space)


def widened(space: MobileSpace) -> MobileSpace:
    """The same with a wider end: other blocks there, the same before."""
    *others, last = space.stages
    return replace(space, stages=(*others, replace(last, widths=(32, 40))))


def test_a_second_space_is_added_and_only_what_is_new_is_measured(
    device: Device, space: MobileSpace
) -> None:
    first = build(space)
    wide = widened(space)
    device.calls.clear()
    both = build(space, spaces={"fp32": wide}, previous=first)
    (call,) = device.calls
    new = [unit for unit in space_units(wide) if unit not in space_units(space)]
    assert 0 < len(new) < len(space_units(wide))
    assert all(" network " in name for name in call[:5])
    assert call[5 : 5 + len(new)] == [f"fp32 {unit.key}" for unit in new]
    assert both.spaces == (space, wide)
    assert both.references == first.references
    assert both.lacking([*space_units(space), *space_units(wide)], "fp32") == []
    assert both.networks["fp32"][:8] == first.networks["fp32"]
    assert both.calibration["fp32"].networks == 10


def test_a_precision_can_be_added(device: Device, space: MobileSpace) -> None:
    first = build(space)
    both = build(space, spaces={"fp32": space, "int8": space}, previous=first)
    assert both.blocks["fp32"] == first.blocks["fp32"]
    assert both.calibration["fp32"] == first.calibration["fp32"]
    assert both.calibration["int8"].held_out == 3
    # the references are in every measurement
    assert all(name.startswith("fp32 network ") for name in device.calls[1][:5])
    assert set(both.references) == {"fp32", "int8"}


def test_what_is_added_is_in_the_profiles_own_milliseconds(
    device: Device, space: MobileSpace
) -> None:
    wide = widened(space)
    whole = build(space, spaces={"fp32": wide}, previous=build(space))
    device.slowness = 1.4  # the machine has a slow hour between the two
    first = build(space)
    device.slowness = 1.0
    mixed = build(space, spaces={"fp32": wide}, previous=first)
    for key, time in whole.blocks["fp32"].items():
        other = mixed.blocks["fp32"][key]
        assert isinstance(time, Measured) and isinstance(other, Measured)
        # the offset of whole networks is not slowed by the made-up device
        assert other.median_ms == pytest.approx(1.4 * time.median_ms, rel=0.15)


def test_nothing_new_measures_nothing(device: Device, space: MobileSpace) -> None:
    first = build(space)
    device.calls.clear()
    assert build(space, previous=first) is first
    assert device.calls == []


def test_unsteady_parts_are_measured_again_and_networks_count_once(
    device: Device, space: MobileSpace
) -> None:
    first = build(space)
    spoiled = list(first.blocks["fp32"])[3]
    time = first.blocks["fp32"][spoiled]
    assert isinstance(time, Measured)
    times = first.blocks["fp32"] | {spoiled: replace(time, median_ms=99.0, unsteady=True)}
    busy = replace(first, blocks={"fp32": times})
    assert "1 of" in busy.warnings()[0] and not first.warnings()
    device.calls.clear()
    again = build(space, previous=busy)
    assert [name for name in device.calls[0] if "network" not in name] == [f"fp32 {spoiled}"]
    assert again.blocks == first.blocks
    assert len(again.networks["fp32"]) == len(first.networks["fp32"])


def test_a_check_beside_other_programs_says_nothing_of_the_profile(
    device: Device, space: MobileSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile = build(space)
    assert check(profile).holds is True
    answer = device.measure

    def busy(*given: Any, **options: Any) -> dict[str, Measured | Failed]:
        times = answer(*given, **options)
        return {n: replace(t, unsteady=True) for n, t in times.items() if isinstance(t, Measured)}

    monkeypatch.setattr(building, "measure", busy)
    found = check(profile)
    assert found.holds is None and found.verdict.startswith("not known: other programs")


@pytest.mark.parametrize(
    "change", [{"threads": 2}, {"provider": "XnnpackExecutionProvider"}, {"device": {"cpu": "x"}}]
)
def test_a_profile_of_other_conditions_is_not_added_to(
    device: Device, space: MobileSpace, change: dict[str, Any]
) -> None:
    other = replace(build(space), **change)
    with pytest.raises(ProfileError, match=f"profile box has {next(iter(change))} .*--overwrite"):
        build(widened(space), previous=other)


def test_another_image_size_needs_another_name(device: Device, space: MobileSpace) -> None:
    with pytest.raises(ProfileError, match=r"profile box has image sizes \[16\], .*\[32\]: choose"):
        build(replace(space, image_size=32), previous=build(space))


def test_the_same_seed_draws_the_same_networks(space: MobileSpace) -> None:
    drawn = draw_networks(space, 20, seed=3)
    assert drawn == draw_networks(space, 20, seed=3) != draw_networks(space, 20, seed=4)
    assert len(set(drawn)) == 20
    # a space of a few networks gives what it has
    small = replace(space, stages=space.stages[:1], kernels=(3,), expansions=(1,), squeeze=(False,))
    assert len(draw_networks(small, 20, seed=0)) == 4


def test_excluded_units_are_in_no_network(space: MobileSpace) -> None:
    units = [unit for unit in space_units(space) if unit.kernel == 5 or unit.squeeze]
    excluded = {unit.key for unit in units}
    drawn = draw_networks(space, 20, seed=0, excluded=excluded)
    assert len(drawn) == 20
    assert not any(unit.key in excluded for arch in drawn for unit in arch_units(arch))
    blocks = {unit.key for unit in space_units(space) if unit.kind == "block"}
    assert draw_networks(space, 2, seed=0, excluded=blocks) == []


def test_networks_that_failed_are_left_out(device: Device, space: MobileSpace) -> None:
    archs = draw_networks(space, 8, seed=0)
    units = {unit.key: unit for arch in archs for unit in [*arch_units(arch), *space_units(space)]}
    times = {key: device._time("fp32 ", _Call(unit)) for key, unit in units.items()}
    pairs = [(arch, device._time("fp32 ", _Call(arch))) for arch in archs]
    pairs[0] = (archs[0], Failed(reason="out of memory"))
    setup = here("box", 1, "CPUExecutionProvider")
    profile = assemble(setup, {"fp32": space}, {"fp32": times}, {"fp32": pairs}, held_out=6)
    found = profile.calibration["fp32"]
    assert (found.networks, found.held_out) == (2, 5)


class _Call:
    """A model to be built, as `build_profile` hands it over."""

    def __init__(self, part: object) -> None:
        self.args = (part, "fp32")


def test_a_check_finds_a_device_as_it_was_or_slower(device: Device, space: MobileSpace) -> None:
    profile = build(space)
    same = check(profile)
    assert same.holds
    assert same.same_device
    assert same.ratio_median == pytest.approx(1)
    assert [row.ratio for row in same.parts] == pytest.approx([1] * 13)
    assert sum(row.key.startswith("network ") for row in same.parts) == 5
    device.slowness = 1.5
    slow = check(profile)
    assert not slow.holds
    assert slow.ratio_median == pytest.approx(1.5, rel=0.1)
    assert "slower" in slow.verdict
    assert not check(replace(profile, device={"cpu": "other"})).same_device
    device.broken = lambda unit: unit.kind == "stem"
    with pytest.raises(ProfileError, match=r"fp32 network .*, which the profile has, no kernel"):
        check(profile)


def test_the_models_are_those_of_the_names(
    monkeypatch: pytest.MonkeyPatch, space: MobileSpace
) -> None:
    seen: dict[str, bytes] = {}

    def measure(models: Mapping[str, Callable[[], bytes]], **_: Any) -> Any:
        names = list(models)
        seen.update({name: models[name]() for name in (names[0], names[-1])})
        raise MobileNASError("enough")

    monkeypatch.setattr(building, "measure", measure)
    with pytest.raises(MobileNASError, match="enough"):
        build(space, spaces={"int8": space})
    stem, network = (onnx.load_from_string(content).graph for content in seen.values())
    first, last = seen
    assert first.startswith("int8 stem")
    assert " network " in last
    assert len(stem.node) < len(network.node)
    assert any(node.op_type == "QuantizeLinear" for node in network.node)
