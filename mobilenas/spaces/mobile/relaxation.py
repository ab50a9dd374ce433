"""Alphas of the mobile space."""

from collections.abc import Mapping

from torch import Tensor

from mobilenas.spaces.alphas import IndependentAlphas
from mobilenas.spaces.mobile.space import DECISIONS, Choice, MobileSpace
from mobilenas.spaces.mobile.table import Probabilities


class Alphas(IndependentAlphas[Choice, Probabilities]):
    """Alphas of the width of every stage, and of the options of every block."""

    decisions = DECISIONS

    def __init__(self, space: MobileSpace) -> None:
        slots = space.slots
        super().__init__(
            {
                "width": [range(len(stage.widths)) for stage in space.stages],
                "kernel": [range(len(space.kernels)) for _ in slots],
                "expansion": [range(len(slot.expansions)) for slot in slots],
                "squeeze": [range(len(space.squeeze)) for _ in slots],
                "start": [range(len(slot.start_kernels)) for slot in slots],
                "keep": [range(1, 2) if slot.first else range(2) for slot in slots],
            }
        )

    def relaxation(self, rows: Mapping[str, Tensor]) -> Probabilities:
        """Return the relaxation with these probabilities."""
        return Probabilities(**rows)

    def choice(self, picks: Mapping[str, list[int]]) -> Choice:
        """Return the choice of these options."""
        return choice_of(picks)


def choice_of(picks: Mapping[str, list[int]]) -> Choice:
    """Make a choice from one index per decision."""
    return Choice(
        width=tuple(picks["width"]),
        kernel=tuple(picks["kernel"]),
        expansion=tuple(picks["expansion"]),
        squeeze=tuple(picks["squeeze"]),
        start=tuple(picks["start"]),
        keep=tuple(bool(value) for value in picks["keep"]),
    )
