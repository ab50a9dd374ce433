"""The fast supernet of cells against a plain one: a module per edge and operation."""

import random
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from mobilenas.core.errors import MobileNASError
from mobilenas.spaces.cell.relaxation import CellAlphas
from mobilenas.spaces.cell.space import KINDS, CellChoice, CellSpace, EdgeTarget
from mobilenas.spaces.cell.supernet import CellSuperNetwork, MixedCell, Reader
from mobilenas.spaces.cell.table import CellProbabilities
from mobilenas.spaces.networks import build
from mobilenas.supernet.settings import SamplerSettings


def space(image_size: int, **changes: Any) -> CellSpace:
    """Cells of both kinds, one of each after a reduction."""
    small = {"search_layers": 4, "search_channels": 8, "nodes": 2}
    return CellSpace(image_size=image_size, in_channels=3, classes=5, **small | changes)


ODD = space(9)  # sides are 9, 5 and 3
EVEN = space(8, nodes=3)
HALVES, WEIGHTS = ("first", "second"), ("depthwise", "project")
FULL = SamplerSettings(name="full", partial=1)
SETTINGS = [
    FULL,
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

    def __init__(self, cell: MixedCell, space: CellSpace) -> None:
        super().__init__()
        self.space = space
        self.enter = deepcopy(cell.enter)
        self.samplers = nn.ModuleList(deepcopy(reader.sampler) for reader in cell.readers)
        self.strides = [reader.stride for reader in cell.readers]
        self.edges = nn.ModuleList()
        for place, _ in space.edge_ends:
            reader = cell.readers[place]
            assert isinstance(reader, Reader)
            made = (plain_operation(n, reader.channels, reader.stride) for n in space.operations)
            self.edges.append(nn.ModuleList(made))

    def forward(
        self, inputs: tuple[Tensor, Tensor], p: CellProbabilities, kind: str, draws: torch.Generator
    ) -> Tensor:
        states = [enter(x.relu()) for enter, x in zip(self.enter, inputs, strict=True)]
        entered = []
        for number in range(self.space.nodes + 1):
            if number >= 2:
                states.append(self.node(number - 2, states, entered, p, kind))
            x, sampler = states[number], self.samplers[number]
            entered.append((x, torch.arange(x.shape[1])) if sampler is None else sampler(x, draws))
        states.append(self.node(self.space.nodes - 1, states, entered, p, kind))
        return torch.cat(states[2:], 1)

    def node(self, node: int, states, entered, p: CellProbabilities, kind: str) -> Tensor:
        total: Any = 0
        for edge, (place, target) in enumerate(self.space.edge_ends):
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
        self.stem, self.second_stem = deepcopy(net.stem), deepcopy(net.second_stem)
        self.kinds, self.channels_generator = net.kinds, torch.Generator()
        self.cells = nn.ModuleList(PlainCell(cell, net.space) for cell in net.cells)
        self.classifier = deepcopy(net.classifier)

    def forward(self, x: Tensor, p: CellProbabilities) -> Tensor:
        before = last = self.stem(x)
        if self.second_stem is not None:
            last = self.second_stem(before)
        for kind, cell in zip(self.kinds, self.cells, strict=True):
            before, last = last, cell((before, last), p, kind, self.channels_generator)
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
    for name in ("stem", "second_stem", "classifier"):
        if getattr(net, name) is not None:
            yield from same(getattr(net, name), getattr(plain, name))
    for cell, other in zip(net.cells, plain.cells, strict=True):
        yield from same(cell.enter, other.enter)
        for place, reader in enumerate(cell.readers):
            if reader.sampler is not None:
                yield from same(reader.sampler, other.samplers[place])
            edges = [edge for edge, ends in enumerate(net.space.edge_ends) if ends[0] == place]
            for number, edge in enumerate(edges):
                for name, its in zip(net.space.operations, other.edges[edge], strict=True):
                    if name in reader.own:
                        yield from operations(reader.own[name], its, number)
                    elif name in reader.pools:
                        start = reader.pools.index(name) * reader.channels
                        rows = slice(start, start + reader.channels)
                        yield from norms(reader.pool_norms, rows, its[1])


def supernets(space: CellSpace, settings: SamplerSettings) -> tuple[CellSuperNetwork, PlainNetwork]:
    """In float64, with the same weights, none at a start value that would hide a mistake."""
    torch.manual_seed(0)
    net = CellSuperNetwork(space, settings).double()
    for name, weight in net.named_parameters():
        weight.data.normal_(std=0.5)
        if name.endswith("mlp.0.bias"):
            weight.data.fill_(1.0)  # no dead units
    plain = PlainNetwork(net).double()
    for whole, rows, part in pairs(net, plain):
        part.data.copy_(whole.data[rows])
    return net, plain


def images(space: CellSpace) -> Tensor:
    shape = (4, 3, space.image_size, space.image_size)
    generator = torch.Generator().manual_seed(9)
    return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()


def alphas(space: CellSpace, **options: Any) -> CellAlphas:
    made = CellAlphas(space, **{"none": True, "edge_weights": "softmax"} | options).double()
    for seed, weight in enumerate(made.parameters()):
        weight.data.normal_(generator=torch.Generator().manual_seed(seed))
    return made


def leaves(p: CellProbabilities) -> CellProbabilities:
    """The same values, each with a gradient of its own."""

    def own(rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {kind: row.detach().clone().requires_grad_() for kind, row in rows.items()}

    return CellProbabilities(operations=own(p.operations), edges=own(p.edges), kept=p.kept)


def run(net: nn.Module, x: Tensor, p: CellProbabilities) -> tuple[Tensor, list[Tensor | None]]:
    """Logits and the gradients for images, operations and edges; weights have theirs in .grad."""
    net.channels_generator.manual_seed(5)
    logits = net(x, p)
    slope = torch.arange(logits.numel()).view_as(logits).to(logits).cos()
    asked = [x, *p.operations.values(), *p.edges.values()]
    weights = [weight for weight in net.parameters() if weight.requires_grad]
    grads = torch.autograd.grad((logits * slope).sum(), asked + weights, allow_unused=True)
    for weight, grad in zip(weights, grads[len(asked) :], strict=True):
        weight.grad = grad
    return logits.detach(), list(grads[: len(asked)])


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)


def assert_same(net: CellSuperNetwork, plain: PlainNetwork, p: CellProbabilities) -> None:
    x, p = images(net.space), leaves(p)
    (logits, grads), (expected, expected_grads) = run(net, x, p), run(plain, x, p)
    close(logits, expected)
    for grad, other in zip(grads, expected_grads, strict=True):
        close(grad, other)
    for whole, rows, part in pairs(net, plain):
        close(whole[rows], part)
        if isinstance(whole, nn.Parameter):
            close(whole.grad[rows], part.grad)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize(
    "space", [ODD, pytest.param(EVEN, marks=pytest.mark.slow)], ids=["odd", "even"]
)
def test_values_gradients_and_statistics_are_those_of_the_plain_supernet(
    settings: SamplerSettings, space: CellSpace
) -> None:
    net, plain = supernets(space, settings)
    assert_same(net, plain, alphas(space).soft(1.0))


@pytest.mark.parametrize("settings", [FULL, SETTINGS[-1]], ids=str)
def test_it_is_the_plain_supernet_in_evaluation(settings: SamplerSettings) -> None:
    net, plain = supernets(EVEN, settings)
    for statistic in (b for name, b in net.named_buffers() if "running" in name):
        statistic.uniform_(0.5, 1.5)
    for whole, rows, part in pairs(net, plain):
        part.data.copy_(whole.data[rows])
    assert_same(net.eval(), plain.eval(), alphas(EVEN).soft(1.0))


def test_operations_may_be_few_and_in_any_order() -> None:
    for names in (("skip_connect", "max_pool_3x3", "dil_conv_5x5"), ("sep_conv_3x3",)):
        few = space(8, operations=names)
        net, plain = supernets(few, SETTINGS[1])
        assert_same(net, plain, alphas(few, none=False).soft(1.0))


def test_inputs_enter_cells_as_in_the_networks() -> None:
    for side in (8, 9):
        net = CellSuperNetwork(space(side), FULL)
        network = build(net.space.search_arch())
        before = last = images(net.space).detach().float()[:, :1].repeat(1, 24, 1, 1)
        for cell, other in zip(net.cells, network.cells, strict=True):
            for mine, its, x in zip(cell.enter, other.enter, (before, last), strict=True):
                for weight, source in zip(mine.parameters(), its.parameters(), strict=False):
                    weight.data.copy_(source.data)
                torch.testing.assert_close(mine(x.relu()), its(x))
            before, last = last, other(before, last)


def test_the_imagenet_stem_brings_two_inputs() -> None:
    net, plain = supernets(space(32, stem="imagenet", search_layers=1, nodes=1), SETTINGS[1])
    assert_same(net, plain, alphas(net.space).soft(1.0))


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("whole_cell", [False, True])
def test_one_network_alone_is_as_in_the_plain_supernet(
    settings: SamplerSettings, whole_cell: bool
) -> None:
    target = EdgeTarget(kept=2, of="cell") if whole_cell else EdgeTarget(kept=1)
    space = replace(EVEN, edges=target)
    choice = space.random(random.Random(3))
    net, plain = supernets(space, settings)
    p = alphas(space).one_hot(choice)
    if settings.name == "random":  # each place of the plain one draws
        p = alphas(space).operations_discrete(choice, 1.0)
    x, p = images(space), leaves(p)
    (logits, grads), (expected, expected_grads) = run(net, x, p), run(plain, x, p)
    close(logits, expected)
    values = [torch.ones_like(x), *p.operations.values(), *p.edges.values()]
    for value, grad, other in zip(values, grads, expected_grads, strict=True):
        close(grad, other * (value != 0))  # what is not computed tells nothing
    for whole, rows, part in pairs(net, plain):
        if isinstance(whole, nn.Parameter):
            own = torch.zeros_like(part) if whole.grad is None else whole.grad[rows]
            close(own, torch.zeros_like(part) if part.grad is None else part.grad)


def test_only_what_has_a_weight_is_computed() -> None:
    choice = CellChoice(normal=(-1, 0, -1, 5, 3), reduce=(1, -1, -1, 4, 6))
    few = replace(ODD, edges=EdgeTarget(kept=1))
    net = CellSuperNetwork(few, FULL).double()
    entered: list[int] = []
    for number, cell in enumerate(net.cells):
        cell.enter[0].register_forward_hook(lambda *_, n=number: entered.append(n))
    net(images(few), alphas(few).one_hot(choice)).sum().backward()
    assert entered == [1, 2]  # an input that no edge of a normal cell reads
    used = {name for name, weight in net.named_parameters() if weight.grad is not None}
    assert {name.split(".", 2)[2] for name in used if name.startswith("cells.0.readers")} == {
        f"readers.{rest}"
        for rest in (
            *(f"1.own.sep_conv_3x3.{half}.{w}" for half in HALVES for w in WEIGHTS),
            *(f"2.own.dil_conv_5x5.{w}" for w in WEIGHTS),
        )
    }
    first = net.cells[0].readers[1].own["sep_conv_3x3"].first
    moved = first.norm.running_mean.view(2, -1).any(1)
    assert moved.tolist() == [True, False]
    assert first.depthwise.grad.view(2, -1).any(1).tolist() == [True, False]


def test_a_node_without_edges_is_zero_and_one_that_only_passes_by_is_not() -> None:
    settings = SamplerSettings(name="ranked", partial=2)
    net = CellSuperNetwork(ODD, settings).double()
    seen: list[Tensor] = []
    net.cells[0].register_forward_hook(lambda _, __, y: seen.append(y.detach()))
    p = alphas(ODD).soft(1.0)
    nothing = torch.zeros_like(p.operations["normal"])
    without = {"normal": nothing, "reduce": p.operations["reduce"]}
    edges = torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0], dtype=torch.float64)
    weights = {"normal": edges, "reduce": p.edges["reduce"]}
    net(images(ODD), CellProbabilities(operations=without, edges=weights, kept=p.kept))
    first, second = seen[0].split(8, 1)
    assert not first.any()
    assert second.flatten(2).any(-1).sum(1).tolist() == [4] * 4  # half enter what does nothing


@pytest.mark.parametrize("settings", [FULL, SETTINGS[3]], ids=str)
def test_a_step_computes_only_the_gradients_it_uses(settings: SamplerSettings) -> None:
    net, plain = supernets(EVEN, settings)
    p, x = leaves(alphas(EVEN).soft(1.0)), images(EVEN).detach()
    with net.frozen():
        net(x, p).sum().backward()
    plain(x, q := leaves(p)).sum().backward()
    for mine, its in ((p.operations, q.operations), (p.edges, q.edges)):
        for kind in KINDS:
            close(mine[kind].grad, its[kind].grad)
    assert all(weight.grad is None for weight in net.parameters())
    fixed = alphas(EVEN).requires_grad_(False).soft(1.0)
    net(x, fixed).sum().backward()
    for whole, rows, part in pairs(net, plain):
        if isinstance(whole, nn.Parameter):
            close(whole.grad[rows], part.grad)


def test_draws_come_from_the_generator_and_are_counted() -> None:
    net = CellSuperNetwork(ODD, SamplerSettings(name="random", partial=4))
    x, p = images(ODD).float(), alphas(ODD).float().soft(1.0)
    outputs = []
    for seed in (1, 2, 1):
        net.channels_generator.manual_seed(seed)
        outputs.append(net(x, p))
    assert torch.equal(outputs[0], outputs[2]) and not torch.equal(outputs[0], outputs[1])
    for cell in net.cells:
        for reader in cell.readers:
            assert reader.sampler.frequencies().sum().item() == pytest.approx(reader.channels)


def test_the_layout_in_memory_and_the_precision_change_little() -> None:
    net = CellSuperNetwork(EVEN, SETTINGS[3])
    x, p = images(EVEN).detach().float(), leaves(alphas(EVEN).float().soft(1.0))
    expected = net(x, p)
    net.to(memory_format=torch.channels_last)
    torch.testing.assert_close(net(x.to(memory_format=torch.channels_last), p), expected)
    with torch.autocast("cpu", torch.bfloat16):
        logits = net(x, p)
    torch.testing.assert_close(logits.float(), expected, rtol=0.1, atol=0.1)
    logits.square().sum().backward()
    grads = [*(w.grad for w in net.parameters()), *(row.grad for row in p.operations.values())]
    assert all(grad is not None and bool(grad.isfinite().all()) for grad in grads)
    assert all(grad.dtype == torch.float32 for grad in grads)


def test_too_few_channels_for_k_are_refused() -> None:
    with pytest.raises(MobileNASError, match="K is 8, but there are 4 channels: none would enter"):
        CellSuperNetwork(space(8, search_channels=4), SamplerSettings(name="random", partial=8))
