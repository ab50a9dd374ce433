"""The supernet of a space and its alphas, whichever space it is: what a search needs of both."""

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from mobilenas.spaces.any import AnySpace
from mobilenas.spaces.cell_space import CellSpace
from mobilenas.supernet.cell_relaxation import CellAlphas
from mobilenas.supernet.cells import CellSuperNetwork
from mobilenas.supernet.network import SuperNetwork
from mobilenas.supernet.relaxation import Alphas
from mobilenas.supernet.samplers import SamplerSettings


class ArchParameters(Protocol):
    """Alphas of a space; a relaxation is the value that its supernet and its cost tables take."""

    def soft(self, tau: float) -> Any:
        """Return the relaxation softmax(alpha / tau)."""

    def gumbel(self, tau: float, generator: torch.Generator, *, hard: bool) -> Any:
        """Draw a relaxation."""

    def one_hot(self, choice: Any) -> Any:
        """Return the relaxation that is certain of `choice`."""

    def scores(self) -> dict[str, Tensor]:
        """Return what discretization sums, without gradient."""

    def entropy(self, tau: float) -> Tensor:
        """L_O of DA2S in nats, summed over decisions."""

    def edge_entropy(self) -> Tensor:
        """L_E of DA2S; 0 where there are no edge weights."""

    def table(self) -> dict[str, list[list[float]]]:
        """Return the numbers for the log."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """As of nn.Module."""

    def state_dict(self) -> dict[str, Any]:
        """As of nn.Module."""

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> Any:
        """As of nn.Module."""


def make_supernet(space: AnySpace, sampler: SamplerSettings) -> SuperNetwork | CellSuperNetwork:
    """Return the supernet; its start weights come from torch's global generator."""
    if isinstance(space, CellSpace):
        return CellSuperNetwork(space, sampler)
    return SuperNetwork(space, sampler)


def make_alphas(space: AnySpace, *, none: bool, edge_weights: str, device: str) -> ArchParameters:
    """Return the alphas; a chain has no edges to weigh and no `none`."""
    if isinstance(space, CellSpace):
        return CellAlphas(space, none=none, edge_weights=edge_weights).to(device)
    return Alphas(space).to(device)
