"""Latency statistics of a model over rounds."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from mobilenas.core.settings import ADDED
from mobilenas.latency.kit_runner import half_interval

WIDEST = 0.03
"""A measurement is unsteady if half its interval exceeds this share of the median."""
_CALM = 16
"""This many undisturbed rounds are enough, however many were disturbed."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Latency of one model for one input."""

    median_ms: float
    """Median over the rounds."""
    minimum_ms: float
    """Fastest round."""
    iqr_ms: float
    """Third quartile minus first quartile."""
    interval_ms: float
    """Half the width of the median's 95 % confidence interval, from order statistics."""
    rounds: int
    """Number of measured rounds."""
    halves_ms: tuple[float, float]
    """Medians of the even and of the odd rounds; their difference is noise."""
    unsteady: bool = field(default=False, metadata=ADDED)
    """Whether too many rounds were disturbed by other programs, or the interval is too wide."""

    @classmethod
    def of(cls, nanoseconds: Sequence[float], disturbed: Sequence[bool] = ()) -> "Measured":
        """Summarize times, leaving out `disturbed` rounds if enough others remain.

        Enough is half of all rounds, or 16.
        """
        marks = disturbed or [False] * len(nanoseconds)
        calm = [ns for ns, mark in zip(nanoseconds, marks, strict=True) if not mark]
        alone = len(calm) >= min(len(nanoseconds) / 2, _CALM)
        times_ms = np.array(calm if alone else nanoseconds) / 1e6
        first, median, third = np.percentile(times_ms, (25, 50, 75))
        interval_ms = half_interval(times_ms.tolist())
        return cls(
            median_ms=float(median),
            minimum_ms=float(times_ms.min()),
            iqr_ms=float(third - first),
            interval_ms=interval_ms,
            rounds=len(nanoseconds),
            unsteady=not alone or interval_ms > WIDEST * float(median),
            halves_ms=(
                float(np.median(times_ms[::2])),
                float(np.median(times_ms[1::2] if len(times_ms) > 1 else times_ms)),
            ),
        )

    @property
    def as_latency(self) -> dict[str, float]:
        """The fields of latency in export.json and compare.json."""
        return {
            "latency_ms": self.median_ms,
            "latency_interval_ms": self.interval_ms,
            "latency_iqr_ms": self.iqr_ms,
            "unsteady": self.unsteady,
        }

    def suffices(self, rounds: int, max_rounds: int, tolerance: float) -> bool:
        """Whether no more rounds are needed.

        That is so after `rounds` if it is steady and half the interval is within `tolerance` of the
        median, after `max_rounds` if it is steady, and after twice as many in any case.
        """
        if not rounds <= self.rounds < 2 * max_rounds:
            return self.rounds >= 2 * max_rounds
        precise = self.interval_ms <= tolerance * self.median_ms
        return not self.unsteady and (precise or self.rounds >= max_rounds)

    def scaled(self, factor: float, added_ms: float = 0.0) -> "Measured":
        """Return the times multiplied by `factor`, plus `added_ms`."""
        first, second = self.halves_ms
        return replace(
            self,
            median_ms=self.median_ms * factor + added_ms,
            minimum_ms=self.minimum_ms * factor + added_ms,
            iqr_ms=self.iqr_ms * factor,
            interval_ms=self.interval_ms * factor,
            halves_ms=(first * factor + added_ms, second * factor + added_ms),
        )


@dataclass(frozen=True, kw_only=True)
class Failed:
    """A model that onnxruntime cannot run on this machine."""

    reason: str
    """onnxruntime's error, or how the worker ended; continues a sentence after the model's name."""
