"""A device that ran a few networks gets a profile from another's unit times."""

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
from scipy.stats import kendalltau

from mobilenas.core.errors import FileError
from mobilenas.core.files import read_json, write_json
from mobilenas.core.progress import NullReporter
from mobilenas.latency.cost_model import Latency
from mobilenas.latency.draws import draw_networks
from mobilenas.latency.measured import Failed, Measured
from mobilenas.latency.profile import Profile, ProfileError, read_profile, write_profile
from mobilenas.latency.transfer import read_times, transfer, write_networks
from mobilenas.latency.units import Unit, arch_units, space_units
from mobilenas.spaces.mobile.arch import MobileArch
from mobilenas.spaces.mobile.mobilenets import MOBILENETS
from mobilenas.spaces.mobile.space import MobileSpace


def took(median_ms: float) -> Measured:
    return Measured.of([1e6 * median_ms] * 16)


@pytest.fixture(scope="module")
def archs(tiny_space: MobileSpace) -> list[MobileArch]:
    source = random.Random(0)
    return [tiny_space.arch(tiny_space.random(source)) for _ in range(8)]


@pytest.fixture(scope="module")
def profile(tiny_space: MobileSpace) -> Profile:
    source, units = random.Random(1), space_units(tiny_space)
    times = {unit.key: source.uniform(0.1, 0.2) for unit in units}
    return Profile(
        name="here",
        device={"cpu": "a processor"},
        runtime="onnxruntime 1.22.0",
        provider="CPUExecutionProvider",
        threads=1,
        opset=18,
        date="2026-01-31",
        command="",
        references={},
        calibration={},
        networks={},
        spaces=(tiny_space,),
        blocks={
            "fp32": {
                key: Measured(
                    median_ms=ms,
                    minimum_ms=ms,
                    iqr_ms=0.0,
                    interval_ms=0.0,
                    rounds=16,
                    halves_ms=(ms, ms),
                )
                for key, ms in times.items()
            },
            "int8": {},
        },
    )


def test_another_device_gets_a_line_of_its_own(
    tmp_path: Path, profile: Profile, archs: list[MobileArch]
) -> None:
    true = {arch: 3 * profile.summed_ms(arch_units(arch), "fp32") + 0.7 for arch in archs}
    phone = transfer(profile, [(arch, true[arch]) for arch in archs[:5]], "phone")
    assert (phone.name, list(phone.blocks)) == ("phone", ["fp32"])
    for arch in archs:
        assert phone.predict_ms(arch_units(arch), "fp32") == pytest.approx(true[arch])
    found = phone.calibration["fp32"]
    assert (found.networks, found.held_out) == (5, 0)
    assert found.mape_percent == pytest.approx(0, abs=1e-6)
    assert phone.device["name"] == "phone"
    assert phone.device["unit_times_of"] == "here"
    write_profile(phone, tmp_path / "phone.json")
    assert read_profile(tmp_path / "phone.json") == phone


class Told(NullReporter):
    def __init__(self) -> None:
        self.messages: list[str] = []

    def info(self, message: str) -> None:
        self.messages.append(message)


def test_units_are_corrected_by_kind_where_a_line_is_worse(
    tmp_path: Path, profile: Profile, tiny_space: MobileSpace
) -> None:
    # a device to which large kernels are expensive
    def true_ms(arch: MobileArch) -> float:
        units = arch_units(arch)
        return 2 * profile.summed_ms(units, "fp32") + sum(unit.kernel == 5 for unit in units)

    drawn, told = draw_networks(tiny_space, 60, 3), Told()
    phone = transfer(profile, [(a, true_ms(a)) for a in drawn[:20]], "phone", reporter=told)
    (message,) = told.messages
    assert message.startswith("Corrections by kind of operation, by cross-validation: error ")
    found = phone.calibration["fp32"]
    assert found.weights is not None and found.weights["depthwise_5x5_flops"] > 0
    assert (found.scale, found.networks, found.held_out) == (1, 20, 0)
    predicted = [phone.predict_ms(arch_units(arch), "fp32") for arch in drawn[20:]]
    true, summed = (
        [cost(arch) for arch in drawn[20:]]
        for cost in (true_ms, lambda arch: profile.summed_ms(arch_units(arch), "fp32"))
    )
    tau, tau_of_sums = kendalltau(predicted, true).statistic, kendalltau(summed, true).statistic
    assert tau > tau_of_sums + 0.1
    # every consumer of unit times sees the corrected ones
    latency = Latency(phone, "fp32")
    assert [latency.arch(arch) for arch in drawn[20:]] == predicted
    assert phone.networks["fp32"][0].summed_ms == pytest.approx(here_sum(phone, drawn[0]))
    assert phone.blocks["fp32"].keys() == profile.blocks["fp32"].keys()
    again = [(arch, true_ms(arch)) for arch in drawn[:8]]
    transfer(phone, again, "phone", reporter=told)
    assert told.messages[1].startswith("Profile phone was corrected with 20 timed networks")
    write_profile(phone, tmp_path / "phone.json")
    assert read_profile(tmp_path / "phone.json") == phone


def test_few_networks_and_lines_get_one_scale(
    tmp_path: Path, profile: Profile, tiny_space: MobileSpace
) -> None:
    times = [
        (arch, 3 * profile.summed_ms(arch_units(arch), "fp32") + 1)
        for arch in draw_networks(tiny_space, 8, 3)
    ]
    for count, reason in ((7, "fewer than 8 networks"), (8, r"error 0.0 % and tau 1.00")):
        told = Told()
        phone = transfer(profile, times[:count], "phone", reporter=told)
        (message,) = told.messages
        assert message.startswith("One scale for all parts") and reason in message
        assert phone.blocks == {"fp32": profile.blocks["fp32"]}
        assert phone.calibration["fp32"].scale == pytest.approx(3)
        write_profile(phone, tmp_path / "phone.json")
        assert "weights" not in read_json(tmp_path / "phone.json")["calibration"]["fp32"]


def test_units_that_failed_stay_so(profile: Profile, tiny_space: MobileSpace) -> None:
    drawn = draw_networks(tiny_space, 20, 3)
    needed = {unit.key for arch in drawn for unit in arch_units(arch)}
    broken = next(key for key in profile.blocks["fp32"] if key not in needed)
    times = profile.blocks["fp32"] | {broken: Failed(reason="no kernel")}
    lacking = replace(profile, blocks={"fp32": times})
    slow = [(a, 1.0 + sum(unit.kernel == 5 for unit in arch_units(a))) for a in drawn]
    phone = transfer(lacking, slow, "phone")
    assert phone.calibration["fp32"].weights is not None
    assert phone.failures == {"fp32": {broken: "no kernel"}}


def test_noise_of_the_few_networks_shows_in_the_error(
    profile: Profile, archs: list[MobileArch]
) -> None:
    off = [1.05, 0.95, 1.05, 0.95, 1.05]
    times = [
        (arch, factor * profile.summed_ms(arch_units(arch), "fp32"))
        for arch, factor in zip(archs, off, strict=False)
    ]
    assert transfer(profile, times, "phone").calibration["fp32"].mape_percent > 5


@pytest.mark.parametrize(
    ("times_ms", "reason"),
    [
        # the larger the network, the faster: leaving one out foretells the wrong order
        ([9.0, 5.0, 3.0, 2.0], r"off by \d+ % on average"),
        ([2.0, 1.9, 1.8, 1.7], r"in the wrong order \(tau -1.00\)"),
        ([1.0, 1.1, 400.0, 1.3], r"one network is off by 100 %"),  # it is in microseconds
    ],
)
def test_a_calibration_whose_predictions_are_useless_is_refused(
    profile: Profile, archs: list[MobileArch], times_ms: list[float], reason: str
) -> None:
    rising = sorted(archs[:4], key=lambda arch: profile.summed_ms(arch_units(arch), "fp32"))
    with pytest.raises(ProfileError, match=f"{reason}.*nothing was kept"):
        transfer(profile, list(zip(rising, times_ms, strict=True)), "phone")


@pytest.fixture
def mobilenets() -> list[MobileArch]:
    return [MOBILENETS["mobilenet_v2"](width, 16, 5) for width in (0.5, 1.0)]


def test_parts_of_mobilenets_are_measured_on_the_profile_s_machine(
    profile: Profile, mobilenets: list[MobileArch], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def measure_with_references(
        _: Profile, precision: str, models: dict[str, Any], *rest: Any
    ) -> dict[str, Any]:
        assert precision == "fp32" and all(Unit.parse(key).key == key for key in models)
        asked.extend(models)
        return {key: took(0.125) for key in models}

    here = replace(profile, references={"fp32": ()})
    monkeypatch.setattr(
        "mobilenas.latency.transfer.measure_with_references", measure_with_references
    )
    monkeypatch.setattr("mobilenas.latency.transfer.is_current_device", lambda _: True)
    phone = transfer(here, list(zip(mobilenets, (3.0, 3.0), strict=True)), "phone")
    needed = {part.key for a in mobilenets for part in profile.lacking(arch_units(a), "fp32")}
    assert set(asked) == needed and len(asked) == len(needed)
    assert not phone.lacking([u for a in mobilenets for u in arch_units(a)], "fp32")
    assert phone.networks["fp32"][0].summed_ms == pytest.approx(here_sum(phone, mobilenets[0]))


def here_sum(profile: Profile, arch: MobileArch) -> float:
    return sum(profile.time_ms(unit, "fp32") for unit in arch_units(arch))


def test_elsewhere_the_error_names_a_way_that_works(
    profile: Profile, mobilenets: list[MobileArch], tmp_path: Path
) -> None:
    with pytest.raises(ProfileError, match="mobilenas profile suggest here --out FOLDER"):
        transfer(profile, [(arch, 1.0) for arch in mobilenets], "phone")
    names = write_networks(profile, tmp_path / "way", networks=4)
    assert names == ["network-01", "network-02", "network-03", "network-04"]
    assert write_networks(profile, tmp_path / "two", networks=2) == names[:2]
    first, same = (read_json(tmp_path / f"{way}/network-02.json") for way in ("way", "two"))
    assert first == same  # the most informative first
    table = tmp_path / "way/times.csv"
    with pytest.raises(FileError, match=r"times.csv, line 2: network-01.json has no time"):
        read_times(table)
    header, *rows = table.read_text().splitlines()
    archs = [MobileArch.from_dict(read_json(tmp_path / f"way/{name}.json")) for name in names]
    true = [3 * profile.summed_ms(arch_units(arch), "fp32") for arch in archs]
    filled = [f"{row}{ms}" for row, ms in zip(rows, true, strict=True)]
    table.write_text("\n".join([header, *filled]) + "\n")
    phone = transfer(profile, read_times(table), "phone")
    assert phone.calibration["fp32"].scale == pytest.approx(3)
    for name in names:
        onnx.checker.check_model(str(tmp_path / f"way/{name}.onnx"))
    with pytest.raises(FileError, match="way exists already"):
        write_networks(profile, tmp_path / "way")


def test_what_cannot_be_transferred_is_said(profile: Profile, archs: list[MobileArch]) -> None:
    times = [(arch, 1.0 + index) for index, arch in enumerate(archs)]
    with pytest.raises(ProfileError, match="1 timed network is too few"):
        transfer(profile, times[:1], "phone")
    with pytest.raises(ProfileError, match="all networks have the same time"):
        transfer(profile, [(arch, 1.0) for arch in archs], "phone")
    with pytest.raises(ProfileError, match="here has no fp16 times; it has fp32, int8"):
        transfer(profile, times, "phone", precision="fp16")
    with pytest.raises(ProfileError, match="here has no int8 time of 'stem 16px"):
        transfer(profile, times, "phone", precision="int8")
    with pytest.raises(ProfileError, match="here has no space that was measured in int8"):
        write_networks(profile, Path("nowhere"), "int8")
    with pytest.raises(ProfileError, match="'my phone' is not a profile's name"):
        transfer(profile, times, "my phone")


def test_a_table_of_times_is_read(tmp_path: Path, archs: list[MobileArch]) -> None:
    write_json(tmp_path / "nets" / "a.json", archs[0].to_dict())
    table = tmp_path / "times.csv"
    table.write_text(
        "\ufeffnetwork,latency_ms\nnets/a.json,1.5\n\nmobilenet_v2, 20\n"
        "mobilenet_v3_small:0.5,3e0\nmobilenet_v3_large:0.75:96,4\n"
    )
    assert read_times(table) == [
        (archs[0], 1.5),
        (MOBILENETS["mobilenet_v2"](1.0, 224, 1000), 20.0),
        (MOBILENETS["mobilenet_v3_small"](0.5, 224, 1000), 3.0),
        (MOBILENETS["mobilenet_v3_large"](0.75, 96, 1000), 4.0),
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("mobilenet_v2,soon", "line 3: latency_ms is 'soon'; it must be a number above 0"),
        ("mobilenet_v2,0", "line 3: latency_ms is '0'"),
        ("mobilenet_v2,nan", "line 3: latency_ms is 'nan'"),
        ("mobilenet_v2", "line 3: it has 1 value; it must have 2"),
        ("mobilenet_v4,3", "line 3: network is 'mobilenet_v4'; it must be an arch.json or one of"),
        ("mobilenet_v2:1.0,21", "line 3: mobilenet_v2:1.0 is timed above, too"),
        ("mobilenet_v2,", "line 3: mobilenet_v2 has no time; write its milliseconds or delete"),
        ("mobilenet_v1,30", "line 3: mobilenet_v1 has blocks that no profile has"),
        ("mobilenet_v2:x,3", "line 3: width is 'x'"),
        ("mobilenet_v2:1:3.5,3", "line 3: side is '3.5'; it must be a whole number"),
        ("mobilenet_v2:1:2,3", "line 3: image_size is 2"),
        ("absent.json,3", "line 3: "),
    ],
)
def test_a_wrong_line_of_a_table_is_named(tmp_path: Path, line: str, message: str) -> None:
    table = tmp_path / "times.csv"
    table.write_text(f"network,latency_ms\nmobilenet_v2,20\n{line}\n")
    with pytest.raises(FileError) as raised:
        read_times(table)
    assert f"{table}, {message}" in str(raised.value)


def test_a_table_that_is_none_is_named(tmp_path: Path) -> None:
    table = tmp_path / "times.csv"
    with pytest.raises(FileError, match=r"times\.csv does not exist"):
        read_times(table)
    for content in ("", "mobilenet_v2,20\n"):
        table.write_text(content)
        with pytest.raises(FileError, match="the first line must be network,latency_ms"):
            read_times(table)
    table.write_bytes(b"\xff\xfe")
    with pytest.raises(FileError, match=r"cannot read .*times\.csv"):
        read_times(table)


def test_a_network_with_a_unit_that_was_not_measured_is_refused(
    profile: Profile, archs: list[MobileArch]
) -> None:
    key = arch_units(archs[0])[1].key
    times = {k: t for k, t in profile.blocks["fp32"].items() if k != key}
    lacking = replace(profile, blocks={"fp32": times})
    with pytest.raises(ProfileError, match="mobilenas profile suggest here"):
        transfer(lacking, [(archs[0], 1.0), (archs[1], 2.0)], "phone")
