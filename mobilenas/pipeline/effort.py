"""Epochs and finalists of each `--effort`."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from mobilenas.core.settings import check_choice
from mobilenas.train.recipe import Recipe
from mobilenas.train.recipes import DEFAULT_RECIPE, fields_of


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How long networks are trained; small sets get more epochs, to reach `min_steps`.

    They get at most `MAX_REPEATS` times as many: more passes over so few images only cost time.
    """

    epochs: int
    """Final training."""
    min_steps: int
    """Fewest steps of the final training."""
    finalists: int
    """Archs that enter the finalists."""


MAX_REPEATS = 10
EffortName = Literal["quick", "standard", "full"]
EFFORTS: dict[EffortName, Effort] = {
    "quick": Effort(epochs=6, min_steps=300, finalists=3),
    "standard": Effort(epochs=15, min_steps=1200, finalists=4),
    "full": Effort(epochs=60, min_steps=6000, finalists=6),
}
"""By name."""


def recipe_for(
    effort: EffortName,
    images: int,
    epochs: int | None = None,
    name: str = DEFAULT_RECIPE,
    changes: Sequence[str] = (),
) -> Recipe:
    """Return how networks are trained on so many images; `epochs`: instead of the effort's.

    `name` is that of the recipe, and `changes` are fields of it as `fields_of` reads them.
    """
    check_choice("effort", effort, tuple(EFFORTS))
    fields = fields_of(name, images, changes)
    steps = max(1, images // fields["batch_size"])
    usual = EFFORTS[effort]
    repeats = min(math.ceil(usual.min_steps / steps), MAX_REPEATS * usual.epochs)
    if epochs is None:
        epochs = max(usual.epochs, repeats)
    return Recipe(epochs=epochs, **fields)
