"""Profiles of devices on which only a few networks were timed, from another device's profile."""

import csv
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mobilenas.core.errors import FileError, MobileNASError
from mobilenas.core.files import read_json, write_bytes, write_json, write_text
from mobilenas.core.progress import NullReporter, Reporter
from mobilenas.core.settings import counted
from mobilenas.latency import kinds
from mobilenas.latency.calibration import evaluate
from mobilenas.latency.draws import draw_networks
from mobilenas.latency.graphs import arch_model, unit_model
from mobilenas.latency.measured import Failed
from mobilenas.latency.profile import Profile, ProfileError
from mobilenas.latency.units import Unit, arch_units, has_units, space_units
from mobilenas.latency.with_references import is_current_device, measure_with_references
from mobilenas.spaces.mobile.arch import MobileArch
from mobilenas.spaces.mobile.mobilenets import MOBILENETS

MIN_NETWORKS = 2
"""With fewer networks, the error of the predictions is not known."""

_HEADER = ["network", "latency_ms"]
_CLASSES = 1000
_CANDIDATES = 400


def transfer(
    profile: Profile,
    times: Sequence[tuple[MobileArch, float]],
    name: str,
    *,
    precision: str | None = None,
    command: str = "",
    reporter: Reporter | None = None,
) -> Profile:
    """Fit a profile to networks timed on another device; the result is named `name`.

    With at least `kinds.MIN_NETWORKS` networks, cross-validation decides between a line through the
    sums of unit times, and unit times corrected by kind of operation; with fewer it is a line. The
    error is estimated by leave-one-out. `precision` is that of the timed networks, by default the
    profile's first. Missing units, such as those of MobileNets, are measured if this is the
    profile's machine. ProfileError if it is not, or if the fit is useless.
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
    reporter = reporter or NullReporter()
    if (known := profile.calibration.get(precision)) and known.weights:
        reporter.info(
            f"Profile {profile.name} was corrected with {known.networks} timed networks; for the "
            "same device, start from the profile that it was made from, or the error is too small"
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
    found = _by_kind(bare.calibrated({precision: networks}), times, precision, reporter)
    if reason := found.calibration[precision].useless:
        raise ProfileError(
            f"{reason}: the two devices do not agree on what is slow, or a time is wrong; nothing "
            "was kept. Check that they are milliseconds of one image, time more networks, or "
            "measure the device itself (`mobilenas profile kit`)"
        )
    return found


def _by_kind(
    line: Profile,
    times: Sequence[tuple[MobileArch, float]],
    precision: str,
    reporter: Reporter,
) -> Profile:
    """Return the profile with unit times corrected by kind, or `line` if that is no better."""
    if len(times) < kinds.MIN_NETWORKS:
        reporter.info(
            f"One scale for all parts, because there are fewer than {kinds.MIN_NETWORKS} networks"
        )
        return line
    archs, measured = zip(*times, strict=True)
    if len(set(measured)) == 1:
        raise ProfileError(
            "all networks have the same time, which does not tell what is slow on the device; "
            "write more digits, or time networks of different sizes"
        )
    columns, latencies = _columns(line, archs, precision), np.array(measured)
    fit = kinds.fit_kinds(columns, latencies)
    mape, largest, tau = evaluate(
        kinds.leave_one_out(columns, latencies), measured, [arch.image_size for arch in archs]
    )
    known = line.calibration[precision]
    calibration = replace(
        known,
        scale=1.0,
        offset_ms=fit.offset_ms,
        mape_percent=mape,
        kendall_tau=tau,
        max_error_percent=largest,
        weights=dict(zip(("unit_times", *kinds.KINDS), fit.weights, strict=True)),
    )
    better = not fit.is_line and mape < known.mape_percent and not calibration.useless
    reporter.info(
        f"{'Corrections by kind of operation' if better else 'One scale for all parts'}, by "
        f"cross-validation: error {known.mape_percent:.1f} % and tau {known.kendall_tau:.2f} with "
        f"one scale, {mape:.1f} % and {tau:.2f} with corrections"
    )
    if not better:
        return line
    corrected = replace(
        line,
        blocks={
            precision: {
                key: time if isinstance(time, Failed) else fit.corrected(Unit.parse(key), time)
                for key, time in line.blocks[precision].items()
            }
        },
    )
    return replace(
        corrected,
        calibration={precision: calibration},
        networks={
            precision: tuple(corrected.network_time(arch, precision, ms) for arch, ms in times)
        },
    )


def write_networks(
    profile: Profile, folder: Path, precision: str | None = None, *, networks: int = 10
) -> list[str]:
    """Write networks of a profile's space to time on another device; return their names.

    They are the most informative of many random ones, best first. Each is an ONNX file with random
    weights, and its arch as JSON. times.csv lists them, without times.
    """
    precision = precision or next(iter(profile.blocks))
    spaces = [
        space for space in profile.measured if not profile.lacking(space_units(space), precision)
    ]
    if not spaces:
        raise ProfileError(
            f"profile {profile.name} has no space that was measured in {precision}; it has times "
            f"in {', '.join(profile.blocks)}"
        )
    if folder.exists():
        raise FileError(f"{folder} exists already; choose another --out")
    failed = {k for k, t in profile.blocks[precision].items() if isinstance(t, Failed)}
    drawn = draw_networks(spaces[0], max(_CANDIDATES, networks), 0, failed)
    chosen = kinds.most_informative(_columns(profile, drawn, precision), networks)
    names = [f"network-{place:02d}" for place in range(1, len(chosen) + 1)]
    for name, index in zip(names, chosen, strict=True):
        write_bytes(folder / f"{name}.onnx", arch_model(drawn[index], precision))
        write_json(folder / f"{name}.json", drawn[index].to_dict())
    lines = [",".join(_HEADER), *(f"{name}.json," for name in names)]
    write_text(folder / "times.csv", "\n".join(lines) + "\n")
    return names


def _columns(profile: Profile, archs: Sequence[MobileArch], precision: str) -> NDArray[np.float64]:
    """Return a row for each network: the sum of unit times, then the sums of amounts."""
    rows = []
    for arch in archs:
        units = arch_units(arch)
        summed_ms = profile.summed_ms(units, precision)
        rows.append([summed_ms, *np.sum([kinds.amounts(unit) for unit in units], axis=0)])
    return np.array(rows)


def _with_units(
    profile: Profile, archs: Sequence[MobileArch], precision: str, reporter: Reporter
) -> Profile:
    """Return the profile with times of all units of these networks, measured if missing."""
    lacking = profile.lacking([u for arch in archs for u in arch_units(arch)], precision)
    if not lacking:
        return profile
    if not is_current_device(profile) or precision not in profile.references:
        raise ProfileError(
            f"profile {profile.name} has no {precision} time of {lacking[0].key!r}, and this is "
            "not the machine it was measured on; time networks of its own space, which `mobilenas "
            f"profile suggest {profile.name} --out FOLDER` writes"
        )
    models = {unit.key: partial(unit_model, unit, precision) for unit in lacking}
    blocks = profile.blocks[precision] | dict(
        measure_with_references(profile, precision, models, reporter)
    )
    return replace(profile, blocks=profile.blocks | {precision: blocks})


def read_times(path: Path) -> list[tuple[MobileArch, float]]:
    """Read a table with the columns network,latency_ms; FileError names file, line and value.

    A network is the path of an arch.json, relative to the table, or NAME[:WIDTH[:SIDE]].
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.reader(file))
    except FileNotFoundError as error:
        raise FileError(f"{path} does not exist") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise FileError(f"cannot read {path}: {error}") from error
    if not rows or [cell.strip() for cell in rows[0]] != _HEADER:
        raise FileError(f"{path}: the first line must be {','.join(_HEADER)}")
    times: dict[MobileArch, float] = {}
    for number, row in enumerate(rows[1:], 2):
        try:
            if row:
                arch, latency_ms = _read_row(row, path.parent)
                if arch in times:  # leave-one-out would not leave it out
                    raise MobileNASError(f"{row[0]} is timed above, too; write each network once")
                times[arch] = latency_ms
        except MobileNASError as error:
            raise FileError(f"{path}, line {number}: {error}") from error
    return list(times.items())


def read_network(text: str, folder: Path) -> MobileArch:
    """Return the network of an arch.json, a path relative to `folder`, or NAME[:WIDTH[:SIDE]]."""
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
    if len(row) != len(_HEADER):
        raise MobileNASError(f"it has {counted(len(row), 'value')}; it must have {len(_HEADER)}")
    network, latency = (cell.strip() for cell in row)
    if not latency:
        raise MobileNASError(f"{network} has no time; write its milliseconds or delete the line")
    arch = read_network(network, folder)
    if not has_units(arch):
        raise MobileNASError(f"{network} has blocks that no profile has; time other networks")
    return arch, _number("latency_ms", latency)


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
