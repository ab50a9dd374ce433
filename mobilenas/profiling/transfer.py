"""A profile of a device that ran only a few networks: another's unit times, calibrated anew."""

import csv
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from mobilenas.errors import FileError, MobileNASError
from mobilenas.files import read_json
from mobilenas.profiling.profile import Profile, ProfileError
from mobilenas.spaces import MOBILENETS, MobileArch

LEAST_NETWORKS = 2
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
) -> Profile:
    """Fit scale and offset on networks timed on another device, which becomes profile `name`.

    Its error is found by leaving out one network after another. `precision` is that of the timed
    networks; the profile's first where it is not said. ProfileError where units lack.
    """
    precision = precision or next(iter(profile.blocks))
    if not profile.has(precision):
        raise ProfileError(
            f"profile {profile.name} has no {precision} times; it has {', '.join(profile.blocks)}"
        )
    if len(times) < LEAST_NETWORKS:
        raise ProfileError(
            f"{len(times)} timed networks are too few; time at least {LEAST_NETWORKS}, better 10"
        )
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
    return bare.calibrated({precision: networks})


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
        data = read_json(folder / text)
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
        raise MobileNASError(f"there are {len(row)} values; there must be {len(_COLUMNS)}")
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
