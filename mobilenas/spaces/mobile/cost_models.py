"""Costs of the parts of a mobile network: their protocol, and counted ones.

That of latency is in `mobilenas.latency.cost_model`.
"""

from typing import Protocol

from mobilenas.nn.costs import COSTS, LayerCost
from mobilenas.spaces.mobile.arch import Block, Head, Stem
from mobilenas.spaces.mobile.costs import block_costs, head_costs, stem_cost


class CostModel(Protocol):
    """One cost, by part of a network; the network has the sum, or for a peak the maximum."""

    is_peak: bool

    def stem(self, stem: Stem, in_channels: int, image_size: int) -> float:
        """Return the cost of the stem, plus what every network costs; `image_size`: input side."""

    def block(self, block: Block, in_channels: int, side: int) -> float:
        """Return the cost of a block with input [in_channels, side, side].

        It is infinite if the device cannot run the block.
        """

    def head(self, head: Head, in_channels: int, side: int, classes: int) -> float:
        """Return the cost of the head with input [in_channels, side, side]."""


class CountedCost:
    """A cost that is counted exactly: FLOPs, params, peak memory or a registered cost."""

    def __init__(self, cost: str) -> None:
        self.cost = COSTS[cost]
        self.is_peak = self.cost.is_peak

    def stem(self, stem: Stem, in_channels: int, image_size: int) -> float:
        """Return the cost of the stem."""
        return self._join([stem_cost(stem, in_channels, image_size)])

    def block(self, block: Block, in_channels: int, side: int) -> float:
        """Return the cost of a block."""
        return self._join(block_costs(block, in_channels, side))

    def head(self, head: Head, in_channels: int, side: int, classes: int) -> float:
        """Return the cost of the head."""
        return self._join(head_costs(head, in_channels, side, classes))

    def _join(self, layers: list[LayerCost]) -> float:
        return float(self.cost.total(layers))
