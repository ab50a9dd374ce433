"""The fast supernet of cells against a plain one: a module per edge and operation."""

import random
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from mobilenas.cost.expected_cells import CellProbabilities
from mobilenas.errors import MobileNASError
from mobilenas.spaces.cell_space import KINDS, LEFT_OUT, CellSpace, EdgeTarget
from mobilenas.supernet import CellAlphas, CellSuperNetwork, SamplerSettings
from mobilenas.supernet.cells import MixedCell, Reader

# cells of both kinds, one of each after a reduction; sides are 9, 5 and 3
SPACE = CellSpace(
    image_size=9, in_channels=3, classes=5, search_layers=4, search_channels=8, nodes=3
)
SETTINGS = [
    SamplerSettings(name="full", partial=1),
    *(SamplerSettings(name="random", partial=k) for k in (2, 4)),
    SamplerSettings(name="attention", partial=2),
    SamplerSettings(name="attention", partial=4, attention="eca"),
    SamplerSettings(name="ranked", partial=4),
    SamplerSettings(name="ranked", partial=8, attention="cbam"),
]


def norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, affine=False)


def separable(channels: int, kernel: int, stride: int, dilation: int = 1) -> nn.Sequential:
    padding = dilation * (kernel // 2)
    options = {"stride": stride, "dilation": dilation, "padding": padding, "groups": channels}
    return nn.Sequential(
        nn.ReLU(),
        nn.Conv2d(channels, channels, kernel, bias=False, **options),
        nn.Conv2d(channels, channels, 1, bias=False),
        norm(channels),
    )


class Halving(nn.Module):
    """A skip connection that halves the image."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.even = nn.Conv2d(channels, channels // 2, 1, bias=False)
        self.odd = nn.Conv2d(channels, channels - channels // 2, 1, bias=False)
        self.norm = norm(channels)

    def forward(self, x: Tensor) -> Tensor:
        side = x.shape[-1]
        x = functional.pad(x.relu(), (0, side % 2, 0, side % 2))
        even, odd = x[:, :, ::2, ::2], x[:, :, 1::2, 1::2]
        return self.norm(torch.cat([self.even(even), self.odd(odd)], 1))


def plain_operation(name: str, channels: int, stride: int) -> nn.Module:
    average = nn.AvgPool2d(3, stride, 1, count_include_pad=False)
    match name:
        case "sep_conv_3x3" | "sep_conv_5x5":
            size = int(name[-1])
            return nn.Sequential(separable(channels, size, stride), separable(channels, size, 1))
        case "dil_conv_3x3" | "dil_conv_5x5":
            return separable(channels, int(name[-1]), stride, 2)
        case "avg_pool_3x3":
            return nn.Sequential(average, norm(channels))
        case "max_pool_3x3":
            return nn.Sequential(nn.MaxPool2d(3, stride, 1), norm(channels))
    return nn.Identity() if stride == 1 else Halving(channels)


class PlainCell(nn.Module):
    """node = sum of edge weight x edge; edge: the mixture in place of the channels that enter."""

    def __init__(self, cell: MixedCell, wires: tuple[tuple[int, int], ...]) -> None:
        super().__init__()
        self.wires = wires
        self.enter = deepcopy(cell.enter)
        self.samplers = nn.ModuleList(
            nn.Identity() if reader.sampler is None else deepcopy(reader.sampler)
            for reader in cell.readers
        )
        self.strides = [reader.stride for reader in cell.readers]
        self.edges = nn.ModuleList()
        for place, _ in wires:
            reader = cell.readers[place]
            assert isinstance(reader, Reader)
            made = (plain_operation(n, reader.channels, reader.stride) for n in SPACE.operations)
            self.edges.append(nn.ModuleList(made))

    def forward(
        self, inputs: tuple[Tensor, Tensor], p: CellProbabilities, kind: str, draws: torch.Generator
    ) -> Tensor:
        states = [enter(x.relu()) for enter, x in zip(self.enter, inputs, strict=True)]
        entered = []
        for number in range(SPACE.nodes + 1):
            if number >= 2:
                states.append(self.node(number - 2, states, entered, p, kind))
            entered.append(self.choose(number, states[number], draws))
        states.append(self.node(SPACE.nodes - 1, states, entered, p, kind))
        return torch.cat(states[2:], 1)

    def choose(self, number: int, x: Tensor, draws: torch.Generator) -> tuple[Tensor, Tensor]:
        sampler = self.samplers[number]
        if isinstance(sampler, nn.Identity):
            return x, torch.arange(x.shape[1])
        return sampler(x, draws)

    def node(self, node: int, states, entered, p: CellProbabilities, kind: str) -> Tensor:
        total = 0
        for edge, (place, target) in enumerate(self.wires):
            if target == node:
                x, (entering, places) = states[place], entered[place]
                if self.strides[place] == 2:
                    x = functional.max_pool2d(x, 2, ceil_mode=True)
                outputs = [operation(entering) for operation in self.edges[edge]]
                weighed = zip(p.operations[kind][edge], outputs, strict=False)
                mixed = sum(weight * y for weight, y in weighed)
                channels = list(x.unbind(1))
                for number, channel in enumerate(places.tolist()):
                    channels[channel] = mixed[:, number]
                total = total + p.edges[kind][edge] * torch.stack(channels, 1)
        return total


class PlainNetwork(nn.Module):
    def __init__(self, net: CellSuperNetwork) -> None:
        super().__init__()
        self.stem = deepcopy(net.stem)
        self.kinds = net.kinds
        self.cells = nn.ModuleList(PlainCell(cell, SPACE.wires) for cell in net.cells)
        self.classifier = deepcopy(net.classifier)

    def forward(self, x: Tensor, p: CellProbabilities, draws: torch.Generator) -> Tensor:
        before = last = self.stem(x)
        for kind, cell in zip(self.kinds, self.cells, strict=True):
            before, last = last, cell((before, last), p, kind, draws)
        return self.classifier(last.mean((2, 3)))


Pair = tuple[Tensor, Any, Tensor]


def same(mine: nn.Module, its: nn.Module) -> Iterator[Pair]:
    tensors = its.state_dict(keep_vars=True)
    for name, tensor in mine.state_dict(keep_vars=True).items():
        yield tensor, ..., tensors[name]


def norms(mine: nn.BatchNorm2d, rows: Any, its: nn.BatchNorm2d) -> Iterator[Pair]:
    yield mine.running_mean, rows, its.running_mean
    yield mine.running_var, rows, its.running_var


def operations(mine: nn.Module, its: nn.Module, number: int) -> Iterator[Pair]:
    """Edge `number` of those that read a place, and its plain operation."""

    def rows(tensor: Tensor) -> slice:
        length = len(tensor) // mine.edges
        return slice(number * length, (number + 1) * length)

    if isinstance(its, Halving):
        for name in ("even", "odd"):
            weight = getattr(mine, name)
            yield weight, rows(weight), getattr(its, name).weight
        yield from norms(mine.norm, rows(mine.norm.running_mean), its.norm)
    elif isinstance(its[0], nn.ReLU):
        yield mine.depthwise, rows(mine.depthwise), its[1].weight
        yield mine.project, rows(mine.project), its[2].weight
        yield from norms(mine.norm, rows(mine.norm.running_mean), its[3])
    else:
        yield from operations(mine.first, its[0], number)
        yield from operations(mine.second, its[1], number)


def pairs(net: CellSuperNetwork, plain: PlainNetwork) -> Iterator[Pair]:
    """Rows of the fast net's tensors, and the plain one's tensors that they are."""
    for name in ("stem", "classifier"):
        yield from same(getattr(net, name), getattr(plain, name))
    for cell, other in zip(net.cells, plain.cells, strict=True):
        yield from same(cell.enter, other.enter)
        for place, reader in enumerate(cell.readers):
            if reader.sampler is not None:
                yield from same(reader.sampler, other.samplers[place])
            edges = [edge for edge, wire in enumerate(SPACE.wires) if wire[0] == place]
            for number, edge in enumerate(edges):
                for name, its in zip(SPACE.operations, other.edges[edge], strict=True):
                    if name in reader.own:
                        yield from operations(reader.own[name], its, number)
                    elif name in reader.pools and number == 0:
                        start = reader.pools.index(name) * reader.channels
                        rows = slice(start, start + reader.channels)
                        yield from norms(reader.pool_norms, rows, its[1])


def supernets(settings: SamplerSettings, seed: int = 0) -> tuple[CellSuperNetwork, PlainNetwork]:
    """In float64, with the same weights, none at a start value that would hide a mistake."""
    torch.manual_seed(seed)
    net = CellSuperNetwork(SPACE, settings).double()
    for name, weight in net.named_parameters():
        weight.data.normal_(std=0.5)
        if name.endswith("mlp.0.bias"):
            weight.data.fill_(1.0)  # no dead units
    plain = PlainNetwork(net).double()
    for whole, rows, part in pairs(net, plain):
        part.data.copy_(whole.data[rows])
    return net, plain


def images(count: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(9)
    return torch.randn(count, 3, 9, 9, generator=generator, dtype=torch.float64)


def relaxation(none: bool, edge_weights: str) -> CellProbabilities:
    torch.manual_seed(1)
    alphas = CellAlphas(SPACE, none=none, edge_weights=edge_weights).double()
    for weight in alphas.parameters():
        weight.data.normal_()
    p = alphas.soft(1.0)
    leaf = {
        name: {kind: getattr(p, name)[kind].detach().requires_grad_() for kind in KINDS}
        for name in ("operations", "edges", "kept")
    }
    return CellProbabilities(**leaf)


def run(net: nn.Module, x: Tensor, p: CellProbabilities) -> tuple[Tensor, list[Tensor]]:
    """Logits, and gradients for the images, operations and edges, of one and the same draw."""
    generator = torch.Generator().manual_seed(5)
    if isinstance(net, CellSuperNetwork):
        net.channels_generator.manual_seed(5)
        logits = net(x, p)
    else:
        logits = net(x, p, generator)
    asked = [x, *p.operations.values(), *p.edges.values()]
    weights = [w for w in net.parameters() if w.requires_grad]
    target = torch.arange(logits.numel(), dtype=logits.dtype).view_as(logits).cos()
    grads = torch.autograd.grad((logits * target).sum(), asked + weights, allow_unused=True)
    for weight, grad in zip(weights, grads[len(asked) :], strict=True):
        weight.grad = grad
    return logits.detach(), list(grads[: len(asked)])


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("training", [True, False])
def test_values_gradients_and_statistics_are_those_of_the_plain_supernet(
    settings: SamplerSettings, training: bool
) -> None:
    net, plain = supernets(settings)
    net.train(training), plain.train(training)
    x, p = images().requires_grad_(), relaxation(none=True, edge_weights="softmax")
    (logits, grads), (expected, expected_grads) = run(net, x, p), run(plain, x, p)
    torch.testing.assert_close(logits, expected, rtol=1e-9, atol=1e-9)
    for grad, other in zip(grads, expected_grads, strict=True):
        torch.testing.assert_close(grad, other, rtol=1e-7, atol=1e-9)
    for whole, rows, part in pairs(net, plain):
        torch.testing.assert_close(whole[rows], part)
        if isinstance(whole, nn.Parameter):
            torch.testing.assert_close(whole.grad[rows], part.grad, rtol=1e-7, atol=1e-9)
