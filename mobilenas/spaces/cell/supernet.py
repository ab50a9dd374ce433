"""The supernet of the cell space: all edges and operations of its cells in one set of weights.

Work shared by the edges that read one node is done once: selecting channels, ReLU, pools, and the
skip at stride 1. The weight of an operation is the scale of its last batch norm, which has no
parameters; pools and skip are weighted by one 1x1 convolution. Operations and edges of weight 0 are
not computed, and get no gradient.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from mobilenas.nn import ConvNorm
from mobilenas.spaces.cell.arch import INPUTS, PlacedCell
from mobilenas.spaces.cell.build import FactorizedReduce, ReluConvNorm
from mobilenas.spaces.cell.operations import POOLS, EdgeNorm, NodeInputs, halve, mix, own_operation
from mobilenas.spaces.cell.space import KINDS, CellSpace
from mobilenas.spaces.cell.table import CellProbabilities
from mobilenas.supernet.base import Supernet
from mobilenas.supernet.samplers import ChannelSampler, make_sampler, mean
from mobilenas.supernet.settings import SamplerSettings


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """Weights of the m edges that read one node, with O operations."""

    operations: Tensor
    """[m, O]: weight of each operation: edge weight times probability."""
    edges: Tensor
    """[m]: weight of the channels that bypass the operations."""
    active: tuple[tuple[int, ...], ...]
    """Per operation: the edges on which its weight is not 0."""
    nonzero: tuple[int, ...]
    """The edges whose weight is not 0."""


class CellSuperNetwork(Supernet):
    """Stem, mixed cells, global mean, classifier; wired like the networks of the space.

    As in the search of DARTS, norms in cells have no parameters, and pools have a norm.
    """

    def __init__(self, space: CellSpace, sampler: SamplerSettings) -> None:
        super().__init__()
        self.space = space
        arch = space.search_arch()
        in_channels, channels = space.in_channels, space.search_channels
        self.second_stem: nn.Module | None = None
        if space.stem == "cifar":
            self.stem: nn.Module = ConvNorm(in_channels, 3 * channels, 3)
        else:
            self.stem = nn.Sequential(
                ConvNorm(in_channels, channels // 2, 3, 2, activation="relu"),
                ConvNorm(channels // 2, channels, 3, 2),
            )
            self.second_stem = ReluConvNorm(channels, channels, 3, 2)
        self.kinds = [KINDS[number in arch.reductions] for number in range(arch.layers)]
        self.cells = nn.ModuleList(MixedCell(space, placed, sampler) for placed in arch.cells)
        self.classifier = nn.Linear(arch.cells[-1].out_channels, space.classes)

    def forward(self, x: Tensor, p: CellProbabilities) -> Tensor:
        """x: [N, C, side, side] -> logits [N, classes] of the mixture under `p`."""
        mixtures = {kind: self._mixtures(p, kind) for kind in KINDS}
        # one ReLU for both cells that read an output; in place, as nothing else reads it
        before = last = self.stem(x).relu_()
        if self.second_stem is not None:
            last = self.second_stem(before).relu_()
        for number, (kind, cell) in enumerate(zip(self.kinds, self.cells, strict=True)):
            y = cell((before, last), mixtures[kind], self.channels_generator)
            if number + 1 < len(self.cells):
                before, last = last, y.relu_()
        logits: Tensor = self.classifier(mean(y))
        return logits

    def _mixtures(self, p: CellProbabilities, kind: str) -> list[Mixture]:
        """Return a mixture for each input or node that edges read."""
        edges = p.edges[kind]
        # without `none`, which has a probability but adds nothing
        weights = edges[:, None] * p.operations[kind][:, : len(self.space.operations)]
        weights = weights * (weights != 0)  # no gradient for operations that are not computed
        known, nonzero = weights.tolist(), edges.tolist()
        mixtures = []
        for source in range(INPUTS + self.space.nodes - 1):
            readers = [edge for edge, ends in enumerate(self.space.edge_ends) if ends[0] == source]
            columns = zip(*(known[edge] for edge in readers), strict=True)
            mixture = Mixture(
                operations=weights[readers],
                edges=edges[readers],
                active=tuple(_nonzero(column) for column in columns),
                nonzero=_nonzero([nonzero[edge] for edge in readers]),
            )
            mixtures.append(mixture)
        return mixtures


class MixedCell(nn.Module):
    """One cell of the supernet, with all edges and operations."""

    def __init__(self, space: CellSpace, placed: PlacedCell, sampler: SamplerSettings) -> None:
        super().__init__()
        self.nodes = space.nodes
        self.enter = nn.ModuleList(_entrance(placed, number) for number in range(INPUTS))
        self.readers = nn.ModuleList(
            Reader(
                space.operations,
                sampler,
                edges=space.nodes - max(0, number - INPUTS + 1),
                channels=placed.channels,
                stride=placed.stride if number < INPUTS else 1,
            )
            for number in range(INPUTS + space.nodes - 1)
        )
        self.out_shape = (placed.channels, placed.out_side, placed.out_side)

    def forward(
        self, inputs: tuple[Tensor, Tensor], mixtures: Sequence[Mixture], draws: torch.Generator
    ) -> Tensor:
        """inputs: two [N, C', H', W'] after ReLU -> [N, C x nodes, H, W]."""
        sums = [_Sum() for _ in range(self.nodes)]
        nodes: list[Tensor] = []
        for number, (reader, mixture) in enumerate(zip(self.readers, mixtures, strict=True)):
            if number >= INPUTS:
                nodes.append(sums[number - INPUTS].total(inputs[0], self.out_shape))
            if mixture.nonzero:
                x = self.enter[number](inputs[number]) if number < INPUTS else nodes[-1]
                reader(x, mixture, draws, sums[self.nodes - len(mixture.edges) :])
        nodes.append(sums[-1].total(inputs[0], self.out_shape))
        return torch.cat(nodes, 1)


class _Sum:
    """A node's sum, accumulated over its edges."""

    def __init__(self) -> None:
        self.passing: list[tuple[Tensor, Tensor]] = []
        """Bypassing feature maps [N, C, H, W] with weights [C] of their channels."""
        self.parts: list[Tensor] = []
        """Outputs of operations, [N, C/K, H, W] each."""
        self.indices: list[Tensor] = []
        """Channel indices of each part, [C/K]; empty if all channels entered."""

    def total(self, like: Tensor, shape: tuple[int, int, int]) -> Tensor:
        """Return [N, *shape] on the device of `like` [N, ...]; zeros without any edges."""
        parts = self.parts or [like.new_zeros(len(like), *shape)]
        if self.indices:
            # a 1x1 convolution with ones and zeros moves channels to their positions
            kernel = functional.one_hot(torch.cat(self.indices), shape[0]).t().to(parts[0])
            parts = [mix(torch.cat(parts, 1), kernel)]
        elif len(parts) > 1:
            parts = [parts[0] + parts[1], *parts[2:]]
        total, *others = parts
        for part in others:
            total.add_(part)
        for x, weights in self.passing:
            total.addcmul_(x, weights[:, None, None])
        return total


class Reader(nn.Module):
    """All edges that read one node; one leads to each of the nodes after it."""

    def __init__(
        self,
        operations: Sequence[str],
        sampler: SamplerSettings,
        *,
        edges: int,
        channels: int,
        stride: int,
    ) -> None:
        super().__init__()
        self.names, self.edges, self.stride = operations, edges, stride
        self.sampler: ChannelSampler | None = make_sampler(sampler, channels)
        self.channels = self.sampler.entering if self.sampler else channels
        self.own = nn.ModuleDict()
        """Operations with separate weights for each edge."""
        for name in operations:
            module = own_operation(name, edges, self.channels, stride)
            if module is not None:
                self.own[name] = module
        self.pools = [name for name in operations if name in POOLS]
        self.pool_norms = EdgeNorm(len(self.pools), self.channels)

    def forward(
        self, x: Tensor, mixture: Mixture, draws: torch.Generator, sums: Sequence[_Sum]
    ) -> None:
        """Add the edges' outputs for x [N, C, H, W] to the sums of their nodes."""
        indices: list[Tensor] = []
        if self.sampler is not None:
            entering, chosen = self.sampler(x, draws)
            self._pass_by(x, chosen, mixture, sums)
            x, indices = entering, [chosen]
        for active, y in self._outputs(x, mixture).items():
            for edge, part in zip(active, y.split(self.channels, 1), strict=True):
                sums[edge].parts.append(part)
                sums[edge].indices += indices

    def _pass_by(self, x: Tensor, chosen: Tensor, mixture: Mixture, sums: Sequence[_Sum]) -> None:
        if self.stride == 2:
            x = halve(x)
        passing = torch.ones_like(x[0, :, 0, 0]).index_fill(0, chosen, 0)
        for edge in mixture.nonzero:
            sums[edge].passing.append((x, mixture.edges[edge].to(x) * passing))

    def _outputs(self, x: Tensor, mixture: Mixture) -> dict[tuple[int, ...], Tensor]:
        """x: [N, C, H, W] -> sums of operations [N, active x C, H', W'], by active edges."""
        inputs, shared = NodeInputs(x, self.stride), []
        outputs: dict[tuple[int, ...], Tensor] = {}

        def add(active: tuple[int, ...], y: Tensor) -> None:
            # in place, because norms and mixes do not save their outputs
            outputs[active] = outputs[active].add_(y) if active in outputs else y

        for number, name in enumerate(self.names):
            active = mixture.active[number]
            if active and name in self.own:
                add(active, self.own[name](inputs, active, mixture.operations[:, number]))
            elif active:
                shared.append(number)
        if shared:
            active = tuple(sorted(set().union(*(mixture.active[number] for number in shared))))
            add(active, self._shared(x, shared, mixture.operations[list(active)]))
        return outputs

    def _shared(self, x: Tensor, numbers: Sequence[int], weights: Tensor) -> Tensor:
        """x: [N, C, H, W], weights: [active, O] -> pools and skip [N, active x C, H', W']."""
        pools = [number for number in numbers if self.names[number] in POOLS]
        skip = [number for number in numbers if number not in pools]
        images = []
        if pools:
            names = [self.names[number] for number in pools]
            pooled = torch.cat([POOLS[name](x, self.stride) for name in names], 1)
            images.append(self.pool_norms.scaled(pooled, [self.pools.index(n) for n in names]))
        if skip:
            images.append(x)
        eye = torch.eye(self.channels).to(x)
        kernel = torch.kron(weights[:, pools + skip].to(x), eye)  # [active x C, images x C]
        return mix(torch.cat(images, 1), kernel)


def _nonzero(weights: Sequence[float]) -> tuple[int, ...]:
    return tuple(edge for edge, weight in enumerate(weights) if weight)


def _entrance(placed: PlacedCell, number: int) -> nn.Module:
    """Return the entrance as in the networks, but after ReLU and with a norm without parameters."""
    channels, side = placed.in_channels[number], placed.in_sides[number]
    norm = nn.BatchNorm2d(placed.channels, affine=False)
    if side == placed.in_sides[1]:
        return nn.Sequential(nn.Conv2d(channels, placed.channels, 1, bias=False), norm)
    reducing = FactorizedReduce(channels, placed.channels, side)
    reducing.relu, reducing.norm = nn.Identity(), norm  # type: ignore[assignment]
    return reducing
