"""Alphas of the subnetworks space."""

from collections.abc import Mapping

from torch import Tensor

from mobilenas.spaces.alphas import IndependentAlphas
from mobilenas.spaces.subnetworks.space import Choice, SubnetworkSpace, choice_of
from mobilenas.spaces.subnetworks.table import Probabilities


class Alphas(IndependentAlphas[Choice, Probabilities]):
    """Alphas of the image size, depth and width of every stage, and the options of every block."""

    def __init__(self, space: SubnetworkSpace) -> None:
        self.decisions = space.decisions
        super().__init__({name: list(map(range, space.options(name))) for name in self.decisions})

    def relaxation(self, rows: Mapping[str, Tensor]) -> Probabilities:
        """Return the relaxation with these probabilities."""
        return Probabilities(**rows)

    def choice(self, picks: Mapping[str, list[int]]) -> Choice:
        """Return the choice of these options."""
        return choice_of(picks)
