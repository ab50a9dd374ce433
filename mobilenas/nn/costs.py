"""What a layer costs, and what a network costs in all.

Counting rule: one multiply-add is one FLOP.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import accumulate

from mobilenas.core.registry import Registry

BYTES_PER_VALUE = 4
"""Activations are counted as float32."""


@dataclass(frozen=True, kw_only=True)
class LayerCost:
    """What one layer (a convolution with its norm, or a linear layer) costs for one image."""

    name: str
    """Its place, such as blocks.3.expand."""
    flops: int
    """Multiply-adds of the convolution or linear layer."""
    params: int
    """Weights, biases, and the norm's scale and shift."""
    memory: int
    """Bytes of activations alive while it runs: input, output, and a shortcut that waits."""
    out_shape: tuple[int, int, int]
    """Channels, height, width of the output."""


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Totals of a network for one image."""

    flops: int
    """Multiply-adds."""
    params: int
    """Trainable numbers."""
    memory: int
    """Largest number of activation bytes alive at once."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """A cost of a network that follows from its layers."""

    of: Callable[[LayerCost], int]
    """What one layer costs, in whole units, 0 or more."""
    is_peak: bool = False
    """Whether a network costs what its most expensive layer does; else their sum."""

    def total(self, layers: Iterable[LayerCost]) -> int:
        """Return what a network of these layers costs."""
        return (max if self.is_peak else sum)(map(self.of, layers))


COSTS = Registry[Cost](
    "cost",
    {
        "flops": Cost(of=lambda layer: layer.flops),
        "params": Cost(of=lambda layer: layer.params),
        "memory": Cost(of=lambda layer: layer.memory, is_peak=True),
    },
)
"""By the name that a budget has."""


def total(layers: list[LayerCost]) -> Costs:
    """Sum FLOPs and params; memory is the largest of the layers."""
    names = ("flops", "params", "memory")
    return Costs(**{name: COSTS[name].total(layers) for name in names})


def alive_bytes(maps: Iterable[tuple[int, int, int]], steps: int) -> list[int]:
    """Return the bytes of maps that are alive while each of `steps` runs.

    A map is its bytes, the step that makes it and the last step that reads it.
    """
    changes = [0] * (steps + 1)
    for size_bytes, first, last in maps:
        changes[first] += size_bytes
        changes[last + 1] -= size_bytes
    return list(accumulate(changes))[:steps]


def output_side(side: int, stride: int) -> int:
    """Side of the feature map after a padded convolution."""
    return (side + stride - 1) // stride
