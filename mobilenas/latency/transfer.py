"""A profile of a device that ran only a few networks: another's unit times, calibrated anew."""

import csv
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from mobilenas.core.errors import FileError, MobileNASError
from mobilenas.core.files import read_json, write_bytes, write_json, write_text
from mobilenas.core.progress import Reporter
from mobilenas.core.settings import counted
from mobilenas.latency.draws import draw_networks
from mobilenas.latency.graphs import arch_model, unit_model
from mobilenas.latency.measured import Failed
from mobilenas.latency.profile import Profile, ProfileError
from mobilenas.latency.units import arch_units, space_units
from mobilenas.latency.with_references import is_current_device, measure_with_references
from mobilenas.spaces.mobile.arch import MobileArch
from mobilenas.spaces.mobile.mobilenets import MOBILENETS

MIN_NETWORKS = 2
"""With fewer, the error of the predictions is not known."""

_COLUMNS = ["network", "latency_ms"]
_CLASSES = 1000


def transfer(
    profile: Profile,
    times: Sequence[tuple[MobileArch, float]],
    name: str,
    *,
    precision: str | None = None,
    command: str = "",
    reporter: Reporter | None = None,
) -> Profile:
    """Fit scale and offset on networks timed on another device, which becomes profile `name`.

    Its error is found by leaving out one network after another. `precision` is that of the timed
    networks; the profile's first where it is not said. Units that lack, as those of MobileNets do,
    are measured on the profile's machine. ProfileError on any other, and where the fit is useless.
    """
    precision = precision or next(iter(profile.blocks))
    if not profile.has(precision):
        raise ProfileError(
            f"profile {profile.name} has no {precision} times; it has {', '.join(profile.blocks)}"
        )
    if len(times) < MIN_NETWORKS:
        raise ProfileError(
            f"{counted(len(times), 'timed network is', 'timed networks are')} too few; time at "
            f"least {MIN_NETWORKS}, better 10"
        )
    profile = _with_units(profile, [arch for arch, _ in times], precision, reporter)
    networks = [profile.network_time(arch, precision, latency_ms) for arch, latency_ms in times]
    bare = replace(
        profile,
        name=name,
        device={"name": name, "unit_times_of": profile.name} | _prefixed(profile),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        command=command,
        references={},
        calibration={},
        networks={},
        blocks={precision: profile.blocks[precision]},
    )
    found = bare.calibrated({precision: networks})
    if reason := found.calibration[precision].useless:
        raise ProfileError(
            f"{reason}: the two devices do not agree on what is slow, or a time is wrong; nothing "
            "was kept. Check that they are milliseconds of one image, time more networks, or "
            "measure the device itself (`mobilenas profile kit`)"
        )
    return found


def write_networks(
    profile: Profile, folder: Path, precision: str | None = None, *, networks: int = 10
) -> list[str]:
    """Write networks of a profile's spaces to time on another device; return their names.

    Each is an ONNX file with random weights and its arch as JSON; times.csv lacks only the times.
    """
    precision = precision or next(iter(profile.blocks))
    spaces = [
        space for space in profile.measured if not profile.lacking(space_units(space), precision)
    ]
    if not spaces:
        raise ProfileError(f"profile {profile.name} has no space that was measured in {precision}")
    if folder.exists():
        raise FileError(f"{folder} exists already; choose another --out")
    failed = {k for k, t in profile.blocks[precision].items() if isinstance(t, Failed)}
    names: list[str] = []
    for arch in draw_networks(spaces[0], networks, 0, failed):
        name = f"network-{len(names) + 1:02d}"
        write_bytes(folder / f"{name}.onnx", arch_model(arch, precision))
        write_json(folder / f"{name}.json", arch.to_dict())
        names.append(name)
    lines = [",".join(_COLUMNS), *(f"{name}.json," for name in names)]
    write_text(folder / "times.csv", "\n".join(lines) + "\n")
    return names


def _with_units(
    profile: Profile, archs: Sequence[MobileArch], precision: str, reporter: Reporter | None
) -> Profile:
    """Return the profile with times of all units of these networks."""
    lacking = profile.lacking([u for arch in archs for u in arch_units(arch)], precision)
    if not lacking:
        return profile
    if not is_current_device(profile) or precision not in profile.references:
        raise ProfileError(
            f"profile {profile.name} has no {precision} time of {lacking[0].key!r}, and this is "
            "not the machine it was measured on; time networks of its own space, which `mobilenas "
            f"profile networks {profile.name} --out FOLDER` writes"
        )
    models = {unit.key: partial(unit_model, unit, precision) for unit in lacking}
    blocks = profile.blocks[precision] | dict(
        measure_with_references(profile, precision, models, reporter)
    )
    return replace(profile, blocks=profile.blocks | {precision: blocks})


def read_times(path: Path) -> list[tuple[MobileArch, float]]:
    """Read a table with the columns network,latency_ms; FileError names file, line and value.

    A network is the path of an arch.json, from the table's folder, or NAME[:WIDTH[:SIDE]].
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.reader(file))
    except FileNotFoundError as error:
        raise FileError(f"{path} does not exist") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise FileError(f"cannot read {path}: {error}") from error
    if not rows or [cell.strip() for cell in rows[0]] != _COLUMNS:
        raise FileError(f"{path}: the first line must be {','.join(_COLUMNS)}")
    times = []
    for number, row in enumerate(rows[1:], 2):
        try:
            if row:
                times.append(_read_row(row, path.parent))
        except MobileNASError as error:
            raise FileError(f"{path}, line {number}: {error}") from error
    return times


def read_network(text: str, folder: Path) -> MobileArch:
    """Return the network of an arch.json, its path from `folder`, or of NAME[:WIDTH[:SIDE]]."""
    if text.endswith(".json"):
        data = read_json(folder / text, oldest=1)
        return MobileArch.from_dict(data.get("arch", data), str(folder / text))
    name, *numbers = text.split(":")
    if name not in MOBILENETS or len(numbers) > 2:
        raise MobileNASError(
            f"network is {text!r}; it must be an arch.json or one of {', '.join(MOBILENETS)}, "
            "with :WIDTH or :WIDTH:SIDE behind it"
        )
    width = _number("width", numbers[0]) if numbers else 1.0
    side = _number("side", numbers[1]) if len(numbers) > 1 else 224.0
    if side != int(side):
        raise MobileNASError(f"side is {numbers[1]!r}; it must be a whole number")
    return MOBILENETS[name](width, int(side), _CLASSES)


def _read_row(row: list[str], folder: Path) -> tuple[MobileArch, float]:
    if len(row) != len(_COLUMNS):
        raise MobileNASError(f"it has {counted(len(row), 'value')}; it must have {len(_COLUMNS)}")
    network, latency = (cell.strip() for cell in row)
    return read_network(network, folder), _number("latency_ms", latency)


def _number(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e9:  # which NaN is not, either
        raise MobileNASError(f"{name} is {text!r}; it must be a number above 0")
    return value


def _prefixed(profile: Profile) -> dict[str, object]:
    return {f"table_{key}": value for key, value in profile.device.items()}
