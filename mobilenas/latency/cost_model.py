"""Latency of a network's parts, from the profile of a device."""

import math

from mobilenas.latency.profile import Profile
from mobilenas.latency.units import (
    Unit,
    arch_units,
    block_unit,
    features_unit,
    linear_unit,
    stem_unit,
)
from mobilenas.spaces.mobile.arch import Block, Head, MobileArch, Stem


class Latency:
    """Latency of one image in ms, predicted by a profile's unit times and calibration."""

    is_peak = False

    def __init__(self, profile: Profile, precision: str) -> None:
        self.profile, self.precision = profile, precision
        self.calibration = profile.calibration[precision]

    def stem(self, stem: Stem, in_channels: int, image_size: int) -> float:
        """Return the time of the first convolution, plus the calibration's offset."""
        return self._time(stem_unit(stem, in_channels, image_size)) + self.calibration.offset_ms

    def block(self, block: Block, in_channels: int, side: int) -> float:
        """Return the time of a block; infinite if the device cannot run it."""
        return self._time(block_unit(block, in_channels, side))

    def head(self, head: Head, in_channels: int, side: int, classes: int) -> float:
        """Return the time of the layers after the blocks."""
        parts = [features_unit(head, in_channels, side)]
        if head.hidden:
            parts.append(linear_unit(head.channels, head.hidden, head.activation))
        parts.append(linear_unit(head.hidden or head.channels, classes))
        return sum(map(self._time, parts))

    def arch(self, arch: MobileArch) -> float:
        """Return the predicted latency of a network."""
        return self.profile.predict_ms(arch_units(arch), self.precision)

    def _time(self, unit: Unit) -> float:
        if self.profile.failed(unit, self.precision):
            return math.inf
        return self.calibration.scale * self.profile.time_ms(unit, self.precision)
