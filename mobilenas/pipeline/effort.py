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
    """Training effort; small image sets get more epochs, to reach `min_steps`.

    At most `MAX_REPEATS` times as many, because more passes over few images are useless.
    """

    epochs: int
    """Epochs of the final training."""
    min_steps: int
    """Minimum number of steps of the final training."""
    finalists: int
    """Number of finalists."""


MAX_REPEATS = 10
EffortName = Literal["quick", "standard", "full"]
EFFORTS: dict[EffortName, Effort] = {
    "quick": Effort(epochs=6, min_steps=300, finalists=3),
    "standard": Effort(epochs=15, min_steps=1200, finalists=4),
    "full": Effort(epochs=60, min_steps=6000, finalists=6),
}
"""Efforts by name."""


def recipe_for(
    effort: EffortName,
    images: int,
    epochs: int | None = None,
    name: str = DEFAULT_RECIPE,
    changes: Sequence[str] = (),
    *,
    compile: bool = False,
) -> Recipe:
    """Return the recipe for a number of training images; `epochs` replaces the effort's.

    `name` is a recipe, and `changes` are changes of its fields, for `fields_of`.
    """
    check_choice("effort", effort, tuple(EFFORTS))
    fields = fields_of(name, images, changes)
    steps = max(1, images // fields["batch_size"])
    usual = EFFORTS[effort]
    repeats = min(math.ceil(usual.min_steps / steps), MAX_REPEATS * usual.epochs)
    if epochs is None:
        epochs = max(usual.epochs, repeats)
    return Recipe(epochs=epochs, compile=compile, **fields)
