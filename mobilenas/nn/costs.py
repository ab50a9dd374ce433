"""Costs of a layer and totals of a network.

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
    """Costs of one layer (a convolution with its norm, or a linear layer) for one image."""

    name: str
    """Its path, such as blocks.3.expand."""
    flops: int
    """Multiply-adds of the convolution or linear layer."""
    params: int
    """Weights, biases, and the norm's scale and shift."""
    memory: int
    """Bytes of activations alive while it runs: input, output, and a pending shortcut."""
    out_shape: tuple[int, int, int]
    """Output [channels, height, width]."""


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Totals of a network for one image."""

    flops: int
    """Multiply-adds."""
    params: int
    """Trainable parameters."""
    memory: int
    """Largest number of activation bytes alive at once."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """A cost of a network that is computed from its layers."""

    of: Callable[[LayerCost], int]
    """The cost of one layer, an integer of 0 or more."""
    is_peak: bool = False
    """Whether the cost of a network is the maximum over its layers; else it is the sum."""

    def total(self, layers: Iterable[LayerCost]) -> int:
        """Return the cost of a network of these layers."""
        return (max if self.is_peak else sum)(map(self.of, layers))


COSTS = Registry[Cost](
    "cost",
    {
        "flops": Cost(of=lambda layer: layer.flops),
        "params": Cost(of=lambda layer: layer.params),
        "memory": Cost(of=lambda layer: layer.memory, is_peak=True),
    },
)
"""By the name used in budgets."""


def total(layers: list[LayerCost]) -> Costs:
    """Return the sums of FLOPs and params, and the largest memory of a layer."""
    names = ("flops", "params", "memory")
    return Costs(**{name: COSTS[name].total(layers) for name in names})


def alive_bytes(maps: Iterable[tuple[int, int, int]], steps: int) -> list[int]:
    """Return the bytes alive during each of `steps` steps.

    Each feature map is given as its bytes, the step that writes it and the last that reads it.
    """
    changes = [0] * (steps + 1)
    for size_bytes, first, last in maps:
        changes[first] += size_bytes
        changes[last + 1] -= size_bytes
    return list(accumulate(changes))[:steps]


def output_side(side: int, stride: int) -> int:
    """Return the side of the feature map after a padded convolution."""
    return (side + stride - 1) // stride
