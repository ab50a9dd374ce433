"""Builds profiles: measures every unit of a space, and some whole networks, side by side."""

import hashlib
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from statistics import median

import numpy as np

from mobilenas.core.progress import Reporter
from mobilenas.core.records import Json, Record
from mobilenas.latency.cache import Cache, device
from mobilenas.latency.calibration import split
from mobilenas.latency.draws import draw_networks
from mobilenas.latency.graphs import arch_model, unit_model
from mobilenas.latency.measured import Failed, Measured
from mobilenas.latency.meter import measure
from mobilenas.latency.profile import Profile, ProfileError, Reference, image_sizes
from mobilenas.latency.settings import NETWORKS, MeasureSettings
from mobilenas.latency.units import MeasuredSpace, Unit, arch_units, space_units
from mobilenas.onnx import OPSET
from mobilenas.onnx.settings import PROVIDER
from mobilenas.spaces.mobile.arch import MobileArch
from mobilenas.spaces.mobile.space import MobileSpace
from mobilenas.spaces.subnetworks.space import SubnetworkSpace

LARGEST_DRIFT = 0.1
"""If the times of units differ by more than this, the profile no longer holds."""


_CHECKED = 8  # units that `check` measures again
_REFERENCES = 5  # whole networks whose median ratio tells the device's speed

Time = Measured | Failed
Models = dict[str, Callable[[], bytes]]


@dataclass(frozen=True, kw_only=True)
class Setup:
    """Conditions of a measurement; `Profile` has the same fields."""

    name: str
    """Name of the profile."""
    device: Json
    """The device."""
    runtime: str
    """Name and version of the runtime."""
    provider: str
    """Execution provider."""
    threads: int
    """Threads of the runtime."""
    date: str
    """ISO 8601."""
    command: str = ""
    """The command that made the profile."""
    opset: int = OPSET
    """ONNX opset of the models."""


class CheckedPart(Record, frozen=True, kw_only=True):
    """A unit or a reference, measured again."""

    precision: str
    key: str
    then_ms: float
    now_ms: float
    ratio: float
    interval_ms: float
    unsteady: bool


class ProfileCheck(Record, frozen=True, kw_only=True):
    """Result of `check`. Ratios are medians of now divided by the profile's."""

    name: str
    same_device: bool
    parts: list[CheckedPart]
    ratio_median: float
    ratio_iqr: float
    holds: bool | None
    verdict: str


def build_profile(
    spaces: Mapping[str, MeasuredSpace],
    *,
    name: str,
    threads: int = MeasureSettings.threads,
    provider: str = PROVIDER,
    cache: Cache | None = None,
    reporter: Reporter | None = None,
    rounds: int = MeasureSettings.rounds,
    networks: int = NETWORKS,
    held_out: int | None = None,
    seed: int = 0,
    command: str = "",
    previous: Profile | None = None,
) -> Profile:
    """Measure the space of each precision on this machine; calibrate on random networks.

    Two thirds of the networks, or `held_out`, test the calibration that is fitted to the others.
    Everything of a `previous` profile is kept, and only the units that it lacks are measured. Its
    references are timed beside them, and their drift is removed.
    """
    setup = here(name, threads, provider, command)
    if previous:
        _check_same(previous, setup, spaces)
    units = {precision: _lacking(space, precision, previous) for precision, space in spaces.items()}
    spaces = {precision: space for precision, space in spaces.items() if units[precision]}
    if previous and not spaces:
        return previous
    timed = partial(
        measure,
        threads=threads,
        provider=provider,
        rounds=rounds,
        cache=cache,
        reporter=reporter,
    )
    times, drawn = _measure_all(spaces, units, networks, seed, previous, timed)
    tested = tested_of(networks) if held_out is None else held_out
    return assemble(setup, spaces, times, drawn, held_out=tested, previous=previous)


def assemble(
    setup: Setup,
    spaces: Mapping[str, MeasuredSpace],
    times: Mapping[str, Mapping[str, Time]],
    networks: Mapping[str, Sequence[tuple[MobileArch, Time]]],
    *,
    held_out: int,
    previous: Profile | None = None,
) -> Profile:
    """Make a profile from times of units and of whole networks, given by precision.

    Networks that failed, or have a failed unit, are left out. About `held_out` networks test the
    calibration. Everything of a `previous` profile is kept.
    """
    blocks = dict(previous.blocks) if previous else {}
    for precision, new in times.items():
        blocks[precision] = blocks.get(precision, {}) | dict(new)
    measured = dict.fromkeys((*(previous.measured if previous else ()), *spaces.values()))
    bare = Profile(
        **vars(setup),
        references=_references(networks) | (previous.references if previous else {}),
        calibration=previous.calibration if previous else {},
        networks=previous.networks if previous else {},
        spaces=tuple(s for s in measured if isinstance(s, MobileSpace)),
        subnetworks=tuple(s for s in measured if isinstance(s, SubnetworkSpace)),
        blocks=blocks,
    )
    points = {}
    for precision, pairs in networks.items():
        sound = [
            bare.network_time(arch, precision, time.median_ms, time.halves_ms)
            for arch, time in pairs
            if isinstance(time, Measured)
            and not any(bare.failed(unit, precision) for unit in arch_units(arch))
        ]
        for_test = round(held_out * len(sound) / max(1, len(pairs)))
        # a network measured again, because parts of its space were unsteady, counts once
        again = {(network.image_size, network.flops) for network in sound}
        known_networks = bare.networks.get(precision, ())
        kept = [n for n in known_networks if (n.image_size, n.flops) not in again]
        points[precision] = (*kept, *split(sound, for_test))
    return bare.calibrated(points)


def check(profile: Profile, *, reporter: Reporter | None = None) -> ProfileCheck:
    """Measure a profile's references and a few units again on this machine, and compare.

    Ratios are medians of now divided by the profile's.
    """
    known = [
        (precision, Unit.parse(key), time.median_ms)
        for precision, times in profile.blocks.items()
        for key, time in times.items()
        if isinstance(time, Measured)
    ]
    parts: list[tuple[str, Unit | MobileArch, float]] = [
        (precision, reference.arch, reference.median_ms)
        for precision, references in profile.references.items()
        for reference in references
    ]
    parts += random.Random(0).sample(known, min(_CHECKED, len(known)))
    times = measure(
        _each_model([(precision, part) for precision, part, _ in parts]),
        threads=profile.threads,
        provider=profile.provider,
        reporter=reporter,
    )
    rows = [
        _compared(precision, part, then_ms, times[_name(precision, part)])
        for precision, part, then_ms in parts
    ]
    return _verdict(profile, rows)


def tested_of(networks: int) -> int:
    """Return how many of `networks` test the calibration."""
    return 2 * networks // 3


def here(name: str, threads: int, provider: str, command: str = "") -> Setup:
    """Describe a measurement that is made on this machine now."""
    machine = device()
    return Setup(
        name=name,
        device=dict(machine),
        runtime=f"onnxruntime {machine['onnxruntime']}",
        provider=provider,
        threads=threads,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        command=command,
    )


def _lacking(space: MeasuredSpace, precision: str, previous: Profile | None) -> list[Unit]:
    units = space_units(space)
    if not previous:
        return units
    times = previous.blocks.get(precision, {})
    unsteady = [u for u in units if isinstance(t := times.get(u.key), Measured) and t.unsteady]
    return list(dict.fromkeys((*previous.lacking(units, precision), *unsteady)))


def _measure_all(
    spaces: Mapping[str, MeasuredSpace],
    units: Mapping[str, Sequence[Unit]],
    networks: int,
    seed: int,
    previous: Profile | None,
    timed: Callable[..., dict[str, Time]],
) -> tuple[dict[str, dict[str, Time]], dict[str, list[tuple[MobileArch, Time]]]]:
    # Returns times of units by precision and key, and networks with their times by precision.
    broken = {precision: _broken(previous, precision) for precision in spaces}
    archs = {p: draw_networks(space, networks, seed, broken[p]) for p, space in spaces.items()}
    known = {
        _name(precision, reference.arch): (precision, reference)
        for precision, group in (previous.references.items() if previous else ())
        for reference in group
    }
    always = _each_model([(precision, reference.arch) for precision, reference in known.values()])
    first = next(iter(always), None) or next(
        _name(precision, group[0]) for precision, group in archs.items()
    )
    measured = timed(always | _models(units) | _models(archs), reference=first)
    drift = _drift(known, measured)
    measured = {name: _at(time, drift) for name, time in measured.items()}
    times = {p: {unit.key: measured[_name(p, unit)] for unit in g} for p, g in units.items()}
    again = {}
    for precision, space in spaces.items():
        # Only now it is known which units fail; networks with one are replaced by others.
        failed = broken[precision] | _failed(times[precision])
        sound = [a for a in archs[precision] if failed.isdisjoint(u.key for u in arch_units(a))]
        more = draw_networks(space, len(archs[precision]) - len(sound), seed + 1, failed)
        again[precision] = [arch for arch in more if arch not in sound]
        archs[precision] = sound + again[precision]
    if any(again.values()):
        later = timed(always | _models(again), reference=next(iter(always), None))
        measured |= {name: _at(time, _drift(known, later)) for name, time in later.items()}
    pairs = {p: [(arch, measured[_name(p, arch)]) for arch in group] for p, group in archs.items()}
    return times, pairs


def _drift(known: Mapping[str, tuple[str, Reference]], measured: Mapping[str, Time]) -> float:
    """Return how much slower the device was when the references were first timed; 1 without any."""
    ratios = [
        reference.median_ms / time.median_ms
        for name, (_, reference) in known.items()
        if isinstance(time := measured[name], Measured)
    ]
    return median(ratios) if ratios else 1.0


def _at(time: Time, drift: float) -> Time:
    return time.scaled(drift) if isinstance(time, Measured) else time


def _models(groups: Mapping[str, Sequence[Unit] | Sequence[MobileArch]]) -> Models:
    return _each_model([(precision, part) for precision, group in groups.items() for part in group])


def _each_model(parts: Sequence[tuple[str, Unit | MobileArch]]) -> Models:
    return {
        _name(precision, part): partial(unit_model, part, precision)
        if isinstance(part, Unit)
        else partial(arch_model, part, precision)
        for precision, part in parts
    }


def _name(precision: str, part: Unit | MobileArch) -> str:
    if isinstance(part, Unit):
        return f"{precision} {part.key}"
    text = json.dumps(part.to_dict(), sort_keys=True)
    return f"{precision} network {hashlib.sha256(text.encode()).hexdigest()[:12]}"


def _broken(profile: Profile | None, precision: str) -> set[str]:
    return _failed(profile.blocks.get(precision, {})) if profile else set()


def _failed(times: Mapping[str, Time]) -> set[str]:
    return {key for key, time in times.items() if isinstance(time, Failed)}


def _references(
    networks: Mapping[str, Sequence[tuple[MobileArch, Time]]],
) -> dict[str, tuple[Reference, ...]]:
    """Return the first few networks of each precision that ran."""
    sound = {
        precision: [(arch, time) for arch, time in pairs if isinstance(time, Measured)]
        for precision, pairs in networks.items()
    }
    return {
        precision: tuple(
            Reference(arch=arch, median_ms=time.median_ms) for arch, time in pairs[:_REFERENCES]
        )
        for precision, pairs in sound.items()
    }


def _check_same(previous: Profile, setup: Setup, spaces: Mapping[str, MeasuredSpace]) -> None:
    fields = ("device", "runtime", "provider", "threads", "opset")
    pairs = [(name, getattr(previous, name), getattr(setup, name)) for name in fields]
    # one calibration line does not fit networks for both 32 and 224 pixels
    if spaces:
        pairs.append(("image sizes", previous.image_sizes, image_sizes(spaces.values())))
    for field, old, new in pairs:
        if old != new:
            raise ProfileError(
                f"profile {previous.name} has {field} {old}, this measurement {new}: choose "
                "another --name, or replace the profile with --overwrite"
            )


def _compared(precision: str, part: Unit | MobileArch, then_ms: float, time: Time) -> CheckedPart:
    name = _name(precision, part)
    if isinstance(time, Failed):
        raise ProfileError(f"{name}, which the profile has, {time.reason}")
    return CheckedPart(
        precision=precision,
        key=name.removeprefix(f"{precision} "),
        then_ms=then_ms,
        now_ms=time.median_ms,
        ratio=time.median_ms / then_ms,
        interval_ms=time.interval_ms,
        unsteady=time.unsteady,
    )


def _verdict(profile: Profile, rows: list[CheckedPart]) -> ProfileCheck:
    first, middle, third = np.percentile([row.ratio for row in rows], (25, 50, 75))
    holds: bool | None = bool(abs(middle - 1) <= LARGEST_DRIFT)
    verdict = "the profile holds"
    if 2 * sum(row.unsteady for row in rows) > len(rows):
        holds = None
        verdict = "not known: other programs disturb the measurement; check again without them"
    elif not holds:
        than = "slower" if middle > 1 else "faster"
        verdict = f"this machine is now {than} than in the profile, by a factor of {middle:.2f}"
    return ProfileCheck(
        name=profile.name,
        same_device=profile.device == device(),
        parts=rows,
        ratio_median=float(middle),
        ratio_iqr=float(third - first),
        holds=holds,
        verdict=verdict,
    )
