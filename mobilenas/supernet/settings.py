"""Which channels enter a mixed operation, as settings."""

from dataclasses import dataclass
from typing import Literal, get_args

from mobilenas.core.errors import MobileNASError
from mobilenas.core.settings import check_choice

Sampler = Literal["full", "random", "attention", "ranked"]
Attention = Literal["se", "eca", "cbam"]
"""Forms of a sampler's scores, see `ScoredSampler`."""
SAMPLERS: tuple[Sampler, ...] = get_args(Sampler)
ATTENTIONS: tuple[Attention, ...] = get_args(Attention)
PARTIALS = (1, 2, 4, 8)
"""Legal K: 1/K of the channels enter."""

OWN_ATTENTION: dict[Sampler, Attention] = {"attention": "cbam", "ranked": "se"}
"""Samplers with scores, and the form that is theirs."""


@dataclass(frozen=True, kw_only=True)
class SamplerSettings:
    """Which channels enter the mixed operation."""

    name: Sampler = "attention"
    """Which sampler."""
    partial: int = 4
    """K: 1/K of the channels enter, in the blocks that keep shape and in all cells."""
    attention: Attention | None = None
    """Form of the scores; None: the sampler's own, cbam or (ranked) se."""

    def __post_init__(self) -> None:
        """Check the names and that they go together."""
        check_choice("sampler", self.name, SAMPLERS)
        check_choice("partial channels K", self.partial, PARTIALS)
        if self.attention is None:
            return
        check_choice("attention", self.attention, ATTENTIONS)
        if self.name not in OWN_ATTENTION:
            raise MobileNASError(
                f"attention is {self.attention!r}, but sampler {self.name} has no scores; "
                f"samplers with scores are {', '.join(OWN_ATTENTION)}"
            )
