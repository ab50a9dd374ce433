"""Schedules of a search: weights of the entropy losses, and temperature."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from mobilenas.core.errors import MobileNASError
from mobilenas.core.settings import check_between, check_choice

EntropyShape = Literal["const", "linear", "log", "step"]
ENTROPY_SCHEDULES: tuple[EntropyShape, ...] = get_args(EntropyShape)
ENTROPY_TERMS = ("operations", "edges")
"""L_O pushes every decision to one option; L_E pushes the edges to exactly k certain ones."""


@dataclass(frozen=True, kw_only=True)
class EntropySchedule:
    """Weights of the entropy losses over time (DA2S): lambda w1(t) [w2(t) L_O + w3 L_E], w3 = 1."""

    weight: float = 0.1
    """lambda; 0 turns all terms off."""
    terms: tuple[str, ...] = ENTROPY_TERMS
    """The active losses: `operations` is L_O, `edges` is L_E."""
    shape: EntropyShape = "log"
    """How w2 rises after its start."""
    start: float = 0.5
    """Share of the epochs after warm-up during which w2 is 0."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_between(self, "weight", 0, 100)
        check_between(self, "start", 0, 1)
        check_choice("entropy schedule", self.shape, ENTROPY_SCHEDULES)
        _check_terms(self.terms)

    def factors(self, epoch: float, warmup: int, epochs: int) -> dict[str, float]:
        """Return the weight of each active loss at `epoch`; all are 0 during warm-up.

        w1 rises linearly from 0 at the end of warm-up to 1 at the last epoch.
        """
        w1 = min(1.0, max(0.0, (epoch - warmup) / max(1, epochs - 1 - warmup)))
        late = (w1 - self.start) / max(1e-9, 1 - self.start)
        w2 = {
            "const": 1.0,
            "linear": late,
            "log": math.log1p((math.e - 1) * max(0.0, late)),
            "step": float(late >= 0.5),
        }[self.shape]
        w2 = w2 if late >= 0 else 0.0
        factors = {"operations": self.weight * w1 * w2, "edges": self.weight * w1}
        return {term: factors[term] for term in self.terms}


def parse_terms(text: str) -> tuple[str, ...]:
    """Parse `operations,edges`, or one of the two."""
    terms = tuple(part.strip() for part in text.split(","))
    try:
        _check_terms(terms)
    except MobileNASError as error:
        raise MobileNASError(f"entropy terms {text!r} cannot be read: {error}") from error
    return terms


def _check_terms(terms: tuple[str, ...]) -> None:
    for term in terms:
        check_choice("entropy term", term, ENTROPY_TERMS)
    if not terms or len(set(terms)) < len(terms):
        raise MobileNASError(
            f"entropy terms are {list(terms)!r}; name each once, at least one of "
            f"{', '.join(ENTROPY_TERMS)}; a weight of 0 turns them off"
        )


@dataclass(frozen=True, kw_only=True)
class Temperature:
    """tau0 in warm-up, then geometric decay to tauT at the last epoch (Pan, Zheng, Zou 2024)."""

    start: float = 2.0
    """tau0, the temperature during warm-up."""
    end: float = 0.1
    """tauT, that of the last epoch; if equal to `start`, the temperature is constant."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_between(self, "start", 0.01, 100)
        check_between(self, "end", 0.01, 100)

    @classmethod
    def parse(cls, text: str) -> "Temperature":
        """Parse `1:0.1`, or `1` for a constant temperature."""
        try:
            first, *rest = (float(part) for part in text.split(":"))
            (last,) = rest or (first,)
        except ValueError as error:
            raise MobileNASError(
                f"temperature {text!r} cannot be read: write START:END such as 1:0.1, or one number"
            ) from error
        return cls(start=first, end=last)

    def at(self, epoch: float, warmup: int, epochs: int) -> float:
        """Return tau at `epoch` of `epochs`, of which the first `warmup` train weights only."""
        done = (epoch - warmup) / max(1, epochs - 1 - warmup)
        return float(self.start * (self.end / self.start) ** min(1.0, max(0.0, done)))
