"""Predicting a network's latency from the sum of its units' times, and the error of that.

latency = scale * sum + offset. The control is the same fit on FLOPs; the noise floor is the
difference between two halves of a measurement.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau

from mobilenas.core.errors import MobileNASError
from mobilenas.core.settings import ADDED, check_between

LARGEST = 1e12
"""Upper limit of all numbers of a profile."""
SMALLEST = math.ulp(0.0)
"""The smallest float above 0."""

_USELESS_PERCENT = 30
"""With a larger mean error, a network predicted to meet a budget may take twice as long."""

_USELESS_FOR_ONE_PERCENT = 75
"""A larger error of a single network (four times the prediction) is more than noise."""

_Numbers = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """latency_ms = scale * (sum of unit times) + offset_ms, with its errors."""

    scale: float
    """Factor of the sum, above 0."""
    offset_ms: float
    """Constant added to it."""
    mape_percent: float
    """Mean absolute error of the predictions, relative to the measurements."""
    kendall_tau: float
    """Rank correlation of predicted and measured latency within one image size, -1 to 1."""
    networks: int
    """Number of networks to which scale and offset were fitted."""
    held_out: int
    """Number of networks that tested it; 0: leave-one-out over the fitted ones."""
    max_error_percent: float
    """Largest error of a single network."""
    flops_mape_percent: float
    """Control: `mape_percent` of the same fit on FLOPs."""
    flops_kendall_tau: float
    """Control: `kendall_tau` of FLOPs."""
    noise_percent: float
    """Noise floor: mean difference between two halves of a measurement; 0 if unknown."""
    weights: dict[str, float] | None = field(default=None, metadata=ADDED)
    """Weights that converted another device's unit times (`KindFit`); None: not converted."""

    def __post_init__(self) -> None:
        """Check every number."""
        for name, low, high in (
            ("scale", SMALLEST, LARGEST),
            ("offset_ms", -LARGEST, LARGEST),
            ("mape_percent", 0, LARGEST),
            ("kendall_tau", -1, 1),
            ("networks", 1, LARGEST),
            ("held_out", 0, LARGEST),
            ("max_error_percent", 0, LARGEST),
            ("flops_mape_percent", 0, LARGEST),
            ("flops_kendall_tau", -1, 1),
            ("noise_percent", 0, LARGEST),
        ):
            check_between(self, name, low, high)

    @property
    def useless(self) -> str:
        """Why predictions are unusable; empty if they are not."""
        if self.mape_percent > _USELESS_PERCENT:
            return f"predictions are off by {self.mape_percent:.0f} % on average"
        if self.max_error_percent > _USELESS_FOR_ONE_PERCENT:
            return f"the prediction of one network is off by {self.max_error_percent:.0f} %"
        if self.kendall_tau < 0:
            return f"predictions put networks in the wrong order (tau {self.kendall_tau:.2f})"
        return ""


@dataclass(frozen=True, kw_only=True)
class NetworkTime:
    """A whole network: measured latency and sum of unit times."""

    image_size: int
    """Side of its input in pixels."""
    flops: int
    """Multiply-adds."""
    summed_ms: float
    """Sum of its units' times."""
    measured_ms: float
    """Median of the whole network."""
    halves_ms: tuple[float, ...] = ()
    """Medians of even and of odd rounds; empty if only one latency is known."""
    fitted: bool = True
    """Whether the calibration was fitted to it; others test it."""

    def __post_init__(self) -> None:
        """Check every number."""
        for name, low in (("image_size", 1), ("flops", 1), ("summed_ms", 0), ("measured_ms", 0)):
            check_between(self, name, max(low, SMALLEST), LARGEST)
        if len(self.halves_ms) not in (0, 2) or not all(0 < ms < LARGEST for ms in self.halves_ms):
            raise MobileNASError(
                f"halves_ms is {self.halves_ms!r}; it must be two times above 0, or none"
            )


def fit(summed: Sequence[float], measured: Sequence[float]) -> tuple[float, float]:
    """Return (scale > 0, offset) with the least squared relative error.

    The offset is 0 for a single sum, or if latencies fall as sums rise.
    """
    sums, times = np.array(summed, float), np.array(measured, float)
    unit = float(sums.mean())
    columns = np.stack([sums / unit, np.ones_like(sums)], axis=1) / times[:, None]
    (slope, offset), _, rank, _ = np.linalg.lstsq(columns, np.ones_like(times), rcond=None)
    if rank < 2 or slope <= 0:
        ratios = columns[:, 0]
        slope, offset = ratios.sum() / (ratios**2).sum(), 0.0
    return float(slope) / unit, float(offset)


def leave_one_out(summed: Sequence[float], measured: Sequence[float]) -> list[float]:
    """Predict each network from a fit to all others."""
    if len(summed) < 2:
        raise MobileNASError("a calibration needs at least 2 networks, or its error is not known")
    predicted = []
    for index, total in enumerate(summed):
        others = [place for place in range(len(summed)) if place != index]
        scale, offset = fit([summed[i] for i in others], [measured[i] for i in others])
        predicted.append(scale * total + offset)
    return predicted


def evaluate(
    predicted: Sequence[float], measured: Sequence[float], groups: Sequence[int]
) -> tuple[float, float, float]:
    """Return the mean and the largest error in percent, and Kendall's tau within the groups.

    Ranking networks across image sizes is easy, which would hide a bad ranking within one. tau is 0
    if no group has a pair that can be ranked.
    """
    guesses, times = np.array(predicted, float), np.array(measured, float)
    errors = 100 * np.abs(guesses - times) / times
    taus, pairs = [], []
    for group in set(groups):
        inside = np.array(groups) == group
        tau = _kendall(guesses[inside], times[inside])
        if tau is not None:
            taus.append(tau)
            pairs.append(math.comb(int(inside.sum()), 2))
    tau = float(np.average(taus, weights=pairs)) if taus else 0.0
    return float(errors.mean()), float(errors.max()), tau


def calibrate(networks: Sequence[NetworkTime]) -> Calibration:
    """Fit to the networks marked `fitted`, and test on the others, or by leave-one-out.

    MobileNASError if there are too few networks to estimate the error.
    """
    fitted = [network for network in networks if network.fitted]
    tested = [network for network in networks if not network.fitted]
    if len(fitted) < 2:
        raise MobileNASError(f"a calibration needs at least 2 networks to fit, not {len(fitted)}")
    scale, offset_ms = fit(*_columns(fitted, "summed_ms"))
    mape, largest, tau = _errors(fitted, tested, "summed_ms")
    flops_mape, _, flops_tau = _errors(fitted, tested, "flops")
    return Calibration(
        scale=scale,
        offset_ms=_rounded(offset_ms),
        mape_percent=_rounded(mape),
        kendall_tau=_rounded(tau),
        networks=len(fitted),
        held_out=len(tested),
        max_error_percent=_rounded(largest),
        flops_mape_percent=_rounded(flops_mape),
        flops_kendall_tau=_rounded(flops_tau),
        noise_percent=_rounded(_noise_percent(tested or fitted)),
    )


def _rounded(value: float) -> float:
    """Round away effects of the order of summation: 1e-14 becomes 0."""
    return round(value, 9) + 0.0


def split(networks: Sequence[NetworkTime], held_out: int) -> list[NetworkTime]:
    """Mark the last `held_out` networks for testing, and the others for fitting."""
    fitted_count = len(networks) - held_out
    return [replace(network, fitted=index < fitted_count) for index, network in enumerate(networks)]


def _errors(
    fitted: Sequence[NetworkTime], tested: Sequence[NetworkTime], cost: str
) -> tuple[float, float, float]:
    known, times = _columns(fitted, cost)
    if tested:
        scale, offset = fit(known, times)
        values, times = _columns(tested, cost)
        predicted = [scale * value + offset for value in values]
    else:
        predicted = leave_one_out(known, times)
    return evaluate(predicted, times, [network.image_size for network in tested or fitted])


def _columns(networks: Sequence[NetworkTime], cost: str) -> tuple[list[float], list[float]]:
    values = [float(getattr(network, cost)) for network in networks]
    return values, [network.measured_ms for network in networks]


def _kendall(left: _Numbers, right: _Numbers) -> float | None:
    if len(left) < 2 or len(set(left)) < 2 or len(set(right)) < 2:
        return None
    return float(kendalltau(left, right).statistic)


def _noise_percent(networks: Sequence[NetworkTime]) -> float:
    both = [network.halves_ms for network in networks if network.halves_ms]
    if not both:
        return 0.0
    halves = np.array(both)
    return float(100 * (np.abs(halves[:, 0] - halves[:, 1]) / halves.mean(axis=1)).mean())
