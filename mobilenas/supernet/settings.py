"""Settings of channel samplers."""

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

DEFAULT_ATTENTION: dict[Sampler, Attention] = {"attention": "cbam", "ranked": "se"}
"""Samplers with scores, and their default form."""


@dataclass(frozen=True, kw_only=True)
class SamplerSettings:
    """Which channels enter a mixed operation."""

    name: Sampler = "attention"
    """Name of the sampler."""
    partial: int = 4
    """K: 1/K of the channels enter, in all cells and in blocks that keep the shape."""
    attention: Attention | None = None
    """Form of the scores; None: the sampler's default, cbam or (ranked) se."""

    def __post_init__(self) -> None:
        """Check names and combination."""
        check_choice("sampler", self.name, SAMPLERS)
        check_choice("partial channels K", self.partial, PARTIALS)
        if self.attention is None:
            return
        check_choice("attention", self.attention, ATTENTIONS)
        if self.name not in DEFAULT_ATTENTION:
            raise MobileNASError(
                f"attention is {self.attention!r}, but sampler {self.name} has no scores; "
                f"samplers with scores are {', '.join(DEFAULT_ATTENTION)}"
            )
