"""Profiles: times of units on one device, and the calibration that predicts networks."""

import datetime
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path

from mobilenas.core.errors import FileError, MobileNASError
from mobilenas.core.files import read_json, write_json
from mobilenas.core.records import Json, Part
from mobilenas.core.settings import (
    ADDED,
    Fields,
    check_between,
    from_plain,
    to_plain,
    to_plain_without_added,
)
from mobilenas.latency.calibration import LARGEST, SMALLEST, Calibration, NetworkTime, calibrate
from mobilenas.latency.measured import Failed, Measured
from mobilenas.latency.units import (
    CLASS_COUNTS,
    MeasuredSpace,
    Unit,
    arch_units,
    linear_unit,
)
from mobilenas.spaces.base import AnySpace
from mobilenas.spaces.mobile.arch import MobileArch
from mobilenas.spaces.mobile.costs import costs
from mobilenas.spaces.mobile.space import MobileSpace
from mobilenas.spaces.subnetworks.space import SubnetworkSpace

HIGHEST_MAPE_PERCENT = 10.0
"""A larger prediction error gives a warning."""
LOWEST_KENDALL_TAU = 0.8
"""A lower rank correlation of the predictions gives a warning."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class ProfileError(MobileNASError):
    """An unknown profile, or one that lacks the requested data."""


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A whole network that is timed again beside others, to tell the device's current speed."""

    arch: MobileArch
    """The network."""
    median_ms: float
    """Its median when the profile was made."""

    def __post_init__(self) -> None:
        """Check the time."""
        check_between(self, "median_ms", SMALLEST, LARGEST)


@dataclass(frozen=True, kw_only=True)
class ProfileHead:
    """A profile without the times of units."""

    name: str
    """Name for --profile: letters, digits, dots, dashes and underscores."""
    device: Json
    """The device: processor, architecture, cores, system."""
    runtime: str
    """Name and version of the runtime, such as `onnxruntime 1.22.0`."""
    provider: str
    """onnxruntime's execution provider."""
    threads: int
    """Threads of the runtime."""
    opset: int
    """ONNX opset of the measured models."""
    date: str
    """Date, with or without time, of the measurement, ISO 8601."""
    command: str
    """The command that made it."""
    references: dict[str, tuple[Reference, ...]]
    """References by precision; empty if nothing can be measured again."""
    calibration: dict[str, Calibration]
    """Calibration by precision; without it nothing can be predicted."""
    networks: dict[str, tuple[NetworkTime, ...]]
    """Networks by precision to which the calibration was fitted, or that tested it."""
    spaces: tuple[MobileSpace, ...]
    """The spaces whose units were measured."""
    subnetworks: tuple[SubnetworkSpace, ...] = field(default=(), metadata=ADDED)
    """Likewise for parts of pretrained networks."""


class _Blocks(Part, frozen=True, kw_only=True):
    """The times in a profile file."""

    blocks: dict[str, dict[str, Json]]


@dataclass(frozen=True, kw_only=True)
class Profile(ProfileHead):
    """Unit times of one device, runtime, provider and thread count, with their calibration."""

    blocks: dict[str, dict[str, Measured | Failed]]
    """Time by precision and unit key, or why there is none."""

    def __post_init__(self) -> None:
        """Check every field; the error names the place, the value and what is legal."""
        check_name(self.name)
        check_between(self, "threads", 1, 1024)
        check_between(self, "opset", 1, 1000)
        try:
            datetime.datetime.fromisoformat(self.date)
        except ValueError as error:
            raise MobileNASError(
                f"date is {self.date!r}; it must be ISO 8601, such as 2026-01-31"
            ) from error
        if not self.blocks or self.calibration.keys() - self.blocks.keys():
            raise MobileNASError(
                f"blocks has the precisions {_names(self.blocks)}, calibration "
                f"{_names(self.calibration)}; it must have those, at least one"
            )
        for name in ("spaces", "subnetworks"):
            for index, space in enumerate(getattr(self, name)):
                _check_space(space, f"{name}[{index}]")
        for precision, times in self.blocks.items():
            for key, time in times.items():
                _check_time(key, time, f"blocks.{precision}.{key}")

    def has(self, precision: str) -> bool:
        """Whether it has times in this precision."""
        return precision in self.blocks

    def time_ms(self, unit: Unit, precision: str) -> float:
        """Return the median of a unit; ProfileError if it was not measured or failed."""
        times = self._times(precision)
        if unit.key not in times and _is_classifier(unit):
            return _interpolate(unit, lambda measured: self._median(measured, precision))
        return self._median(unit, precision)

    def failed(self, unit: Unit, precision: str) -> bool:
        """Whether the device could not run the unit."""
        times = self._times(precision)
        return any(isinstance(times.get(part.key), Failed) for part in _parts(unit, times))

    def lacking(self, units: Iterable[Unit], precision: str) -> list[Unit]:
        """Return units that were not measured; for a classifier, those to interpolate from."""
        times = self.blocks.get(precision, {})
        parts = [part for unit in units for part in _parts(unit, times)]
        return [part for part in dict.fromkeys(parts) if part.key not in times]

    def summed_ms(self, units: Sequence[Unit], precision: str) -> float:
        """Return the sum of the units' medians, without calibration."""
        if missing := self.lacking(units, precision):
            stems = [unit.side for unit in units if unit.kind == "stem"]
            raise self._lacks(missing[0], precision, *stems[:1])
        return sum(self.time_ms(unit, precision) for unit in units)

    def predict_ms(self, units: Sequence[Unit], precision: str) -> float:
        """Return the predicted latency of a network made of these units."""
        total = self.summed_ms(units, precision)
        if precision not in self.calibration:
            raise ProfileError(f"profile {self.name} is not calibrated for {precision}")
        calibration = self.calibration[precision]
        return calibration.scale * total + calibration.offset_ms

    def network_time(
        self, arch: MobileArch, precision: str, measured_ms: float, halves_ms: Sequence[float] = ()
    ) -> NetworkTime:
        """Return a network's latency together with the sum of its unit times."""
        return NetworkTime(
            image_size=arch.image_size,
            flops=costs(arch).flops,
            summed_ms=self.summed_ms(arch_units(arch), precision),
            measured_ms=measured_ms,
            halves_ms=tuple(halves_ms),
        )

    def calibrated(self, networks: Mapping[str, Sequence[NetworkTime]]) -> "Profile":
        """Return the profile with a new calibration for each precision of `networks`."""
        return replace(
            self,
            networks=self.networks | {key: tuple(group) for key, group in networks.items()},
            calibration=self.calibration
            | {precision: calibrate(group) for precision, group in networks.items()},
        )

    def warnings(self) -> list[str]:
        """Return warnings about the predictions."""
        found = []
        for precision, times in self.blocks.items():
            unsteady = sum(isinstance(t, Measured) and t.unsteady for t in times.values())
            if unsteady:
                found.append(
                    f"{precision}: {unsteady} of {len(times)} parts are unsteady, because other "
                    "programs ran beside them; measure again while the device is idle"
                )
        for precision, calibration in self.calibration.items():
            if calibration.mape_percent > HIGHEST_MAPE_PERCENT:
                found.append(
                    f"{precision}: predictions are off by {calibration.mape_percent:.1f} % on "
                    f"average, more than {HIGHEST_MAPE_PERCENT:g} %"
                )
            if calibration.kendall_tau < LOWEST_KENDALL_TAU:
                found.append(
                    f"{precision}: predictions put networks in the wrong order too often: Kendall "
                    f"tau {calibration.kendall_tau:.2f}, less than {LOWEST_KENDALL_TAU:g}"
                )
        return found

    @property
    def image_sizes(self) -> list[int]:
        """Image sizes of its spaces."""
        return image_sizes(self.measured)

    @property
    def measured(self) -> list[MeasuredSpace]:
        """All its spaces."""
        return [*self.spaces, *self.subnetworks]

    @property
    def failures(self) -> dict[str, dict[str, str]]:
        """Why the device could not run a unit, by precision and unit key."""
        return {
            precision: {key: t.reason for key, t in times.items() if isinstance(t, Failed)}
            for precision, times in self.blocks.items()
        }

    def summary(self) -> Json:
        """Return what `profile show --json` prints: everything but archs, spaces and unit times."""
        plain: Json = to_plain(self)
        for name in ("references", "calibration", "spaces", "subnetworks", "blocks"):
            del plain[name]
        calibrations = _calibrations(self)
        return plain | {
            "precisions": list(self.blocks),
            "image_sizes": self.image_sizes,
            "units": {precision: len(times) for precision, times in self.blocks.items()},
            "failed": self.failures,
            "calibration": next(iter(calibrations.values()), None),
            "calibrations": calibrations,
            "warnings": self.warnings(),
        }

    def _times(self, precision: str) -> dict[str, Measured | Failed]:
        if precision not in self.blocks:
            raise ProfileError(
                f"profile {self.name} has no {precision} times; it has {_names(self.blocks)}"
            )
        return self.blocks[precision]

    def _median(self, unit: Unit, precision: str) -> float:
        time = self._times(precision).get(unit.key)
        if time is None:
            raise self._lacks(unit, precision)
        if isinstance(time, Failed):
            raise ProfileError(
                f"profile {self.name}: the device could not run {unit.key!r} in {precision}: "
                f"{time.reason}"
            )
        return time.median_ms

    def _lacks(self, unit: Unit, precision: str, image_size: int | None = None) -> ProfileError:
        side = unit.side if unit.kind == "stem" else image_size
        activation = f" --activation {unit.activation}" if unit.activation else ""
        return ProfileError(
            f"profile {self.name} has no {precision} time of {unit.key!r}; measure it with "
            f"`mobilenas profile latency --space mobile --image-size {side or 'N'} "
            f"--precision {precision}{activation} --name {self.name}`"
        )


def image_sizes(spaces: Iterable[MeasuredSpace]) -> list[int]:
    """Return the image sizes of some spaces, in increasing order."""
    sides = (s.sides if isinstance(s, SubnetworkSpace) else (s.image_size,) for s in spaces)
    return sorted(set(chain.from_iterable(sides)))


def check_name(name: str) -> None:
    """Raise ProfileError unless `name` is a legal profile name."""
    if not _NAME.fullmatch(name):
        raise ProfileError(
            f"{name!r} is not a profile's name: write letters, digits, dots, dashes, underscores"
        )


def write_profile(profile: Profile, path: Path) -> None:
    """Write a profile, atomically."""
    write_json(path, _to_plain(profile))


def read_profile(path: Path) -> Profile:
    """Read and check a profile; FileError names file, field, value and legal values."""
    plain = read_json(path, oldest=1)
    try:
        return _from_plain(plain)
    except MobileNASError as error:
        raise FileError(f"{path}: {error}") from error


def _is_classifier(unit: Unit) -> bool:
    return unit.kind == "linear" and not unit.activation


def _at_class_counts(unit: Unit) -> list[Unit]:
    return [linear_unit(unit.in_channels, count) for count in CLASS_COUNTS]


def _parts(unit: Unit, times: Mapping[str, object]) -> list[Unit]:
    # The units from which its time is computed: itself, or classifiers to interpolate between.
    return _at_class_counts(unit) if unit.key not in times and _is_classifier(unit) else [unit]


def _interpolate(unit: Unit, median: Callable[[Unit], float]) -> float:
    """Return a classifier's time, interpolated linearly between the nearest two CLASS_COUNTS."""
    known = [(part.out_channels, median(part)) for part in _at_class_counts(unit)]
    above = next((i for i, (count, _) in enumerate(known) if count >= unit.out_channels), -1)
    second = len(known) - 1 if above < 0 else max(1, above)
    (low, low_ms), (high, high_ms) = known[second - 1], known[second]
    line = low_ms + (high_ms - low_ms) * (unit.out_channels - low) / (high - low)
    # In extrapolation, noise must not make a large classifier cheaper, or a small one free.
    return max(line, known[-1][1]) if above < 0 else max(line, min(ms for _, ms in known) / 2)


def _names(group: Iterable[str]) -> str:
    return ", ".join(group) or "none"


def _check_space(space: AnySpace, place: str) -> None:
    try:
        space.arch(space.largest())
    except (IndexError, ZeroDivisionError) as error:
        raise MobileNASError(f"{place} has a decision without options") from error
    except MobileNASError as error:
        raise MobileNASError(f"{place}: {error}") from error


def _check_time(key: str, time: Measured | Failed, place: str) -> None:
    Unit.parse(key)
    if isinstance(time, Failed):
        return
    for name in ("median_ms", "minimum_ms", "iqr_ms", "interval_ms", "rounds"):
        low = 0.0 if name in ("iqr_ms", "interval_ms") else SMALLEST
        try:
            check_between(time, name, low, LARGEST)
        except MobileNASError as error:
            raise MobileNASError(f"{place}: {error}") from error
    if len(time.halves_ms) != 2 or not all(0 < ms < LARGEST for ms in time.halves_ms):
        raise MobileNASError(
            f"{place}: halves_ms is {time.halves_ms!r}; it must be two times above 0"
        )


def _to_plain(profile: Profile) -> Json:
    times = {
        precision: {key: _time_to_plain(time) for key, time in times.items()}
        for precision, times in profile.blocks.items()
    }
    return {**to_plain(profile), "calibration": _calibrations(profile), "blocks": times}


def _calibrations(profile: Profile) -> Fields:
    return {key: to_plain_without_added(found) for key, found in profile.calibration.items()}


def _from_plain(plain: Json) -> Profile:
    head = {name: value for name, value in plain.items() if name != "blocks"}
    blocks = from_plain(_Blocks, plain, "").blocks
    return Profile(
        **vars(from_plain(ProfileHead, head, "")),
        blocks={
            precision: {
                key: _time_from_plain(time, f"blocks.{precision}.{key}")
                for key, time in times.items()
            }
            for precision, times in blocks.items()
        },
    )


def _time_from_plain(value: Json, place: str) -> Measured | Failed:
    if list(value) == ["failed"]:
        return Failed(reason=from_plain(str, value["failed"], f"{place}.failed"))
    if "spread_ms" in value:  # its name in files of schema version 1
        value = {"iqr_ms" if name == "spread_ms" else name: v for name, v in value.items()}
    return from_plain(Measured, value, place)


def _time_to_plain(time: Measured | Failed) -> Json:
    if isinstance(time, Failed):
        return {"failed": time.reason}
    # written only for unsteady measurements
    return {k: v for k, v in vars(time).items() if k != "unsteady" or time.unsteady}
