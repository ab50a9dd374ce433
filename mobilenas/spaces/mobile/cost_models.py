"""What the parts of a network cost, counted from their numbers; `latency` has measured ones."""

from typing import Protocol

from mobilenas.nn.costs import COSTS, LayerCost
from mobilenas.spaces.mobile.arch import Block, Head, Stem
from mobilenas.spaces.mobile.costs import block_costs, head_costs, stem_cost


class CostModel(Protocol):
    """One cost, part by part; a network's is their sum, or their largest for a peak."""

    is_peak: bool

    def stem(self, stem: Stem, in_channels: int, image_size: int) -> float:
        """Return the cost of the first convolution, with all that a network costs regardless."""

    def block(self, block: Block, in_channels: int, side: int) -> float:
        """Return the cost of one block; infinite where the device cannot run it."""

    def head(self, head: Head, in_channels: int, side: int, classes: int) -> float:
        """Return the cost of what follows the chain."""


class Counted:
    """FLOPs, params, peak memory or a registered cost, exactly."""

    def __init__(self, cost: str) -> None:
        self.cost = COSTS[cost]
        self.is_peak = self.cost.is_peak

    def stem(self, stem: Stem, in_channels: int, image_size: int) -> float:
        """Return the cost of the first convolution."""
        return self._join([stem_cost(stem, in_channels, image_size)])

    def block(self, block: Block, in_channels: int, side: int) -> float:
        """Return the cost of one block."""
        return self._join(block_costs(block, in_channels, side))

    def head(self, head: Head, in_channels: int, side: int, classes: int) -> float:
        """Return the cost of what follows the chain."""
        return self._join(head_costs(head, in_channels, side, classes))

    def _join(self, layers: list[LayerCost]) -> float:
        return float(self.cost.total(layers))
