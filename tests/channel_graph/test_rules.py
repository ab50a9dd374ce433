"""Norms, parameters, further operations, what has no rule, and the project's own networks."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mobilenas.channel_graph import extract, resized, sizes
from mobilenas.channel_graph.groups import Graph
from mobilenas.core.errors import MobileNASError
from mobilenas.spaces.cell.genotypes import CELL_NETWORKS
from mobilenas.spaces.mobile.mobilenets import MOBILENETS
from mobilenas.spaces.networks import build

SIDE = 8


class Net(nn.Module):
    """Layers under the names they are given, a forward pass, and 5 classes."""

    def __init__(self, forward: Callable[[nn.Module, Tensor], Tensor], **layers: nn.Module) -> None:
        super().__init__()
        for name, layer in layers.items():
            setattr(self, name, layer)
        self.passes = forward

    def forward(self, x: Tensor) -> Tensor:
        return self.passes(self, x)


def conv(inputs: int, outputs: int, kernel: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups)


def head(m: nn.Module, x: Tensor) -> Tensor:
    return m.fc(x.mean((2, 3)))


def found(model: nn.Module) -> dict[str, set[tuple[str, str, int, int, int]]]:
    """Members of the groups that can change: layer, dimension, offset, size, repeat."""
    return {
        group.name: {(m.module, m.kind, m.offset, m.size, m.repeat) for m in group.members}
        for group in extract(model, image_size=SIDE).groups
        if group.fixed is None
    }


def runs_at_other_sizes(model: nn.Module) -> Graph:
    """Change each group alone and all together; resizing runs what it makes."""
    graph = extract(model, image_size=SIDE)
    assert sizes(graph)
    larger = {name: 2 * size + graph.divisors[name] for name, size in sizes(graph).items()}
    for change in [larger, *({name: size} for name, size in larger.items())]:
        grown = resized(model, graph, change)
        assert grown(torch.randn(2, 3, SIDE, SIDE)).shape == (2, 5)
        assert sum(p.numel() for p in grown.parameters()) == graph.params(change)
        assert extract(grown, image_size=SIDE).flops({}) == graph.flops(change)
    return graph


class LayerNorm2d(nn.LayerNorm):
    def forward(self, x: Tensor) -> Tensor:
        x = F.layer_norm(x.permute(0, 2, 3, 1), self.normalized_shape, self.weight, self.bias)
        return x.permute(0, 3, 1, 2)


class OddNorm(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.scale = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        x = F.layer_norm(x.permute(0, 2, 3, 1), (self.channels,), self.scale)
        return x.permute(0, 3, 1, 2)


@pytest.mark.parametrize(
    "norm",
    [
        nn.BatchNorm2d(6),
        nn.BatchNorm2d(6, affine=False),
        nn.BatchNorm2d(6, track_running_stats=False),
        nn.InstanceNorm2d(6, affine=True),
        nn.GroupNorm(1, 6),
        nn.PReLU(6),
        nn.PReLU(),
        LayerNorm2d(6),
        nn.Sequential(nn.Upsample(scale_factor=2), nn.ZeroPad2d(1), nn.Dropout2d(), nn.Softmax2d()),
    ],
)
def test_norms_follow_the_channels(norm: nn.Module) -> None:
    model = Net(lambda m, x: head(m, m.norm(m.a(x))), a=conv(3, 6), norm=norm, fc=nn.Linear(6, 5))
    assert list(sizes(runs_at_other_sizes(model))) == ["a"]


def test_a_norm_with_a_size_of_its_own_fixes_the_channels() -> None:
    model = Net(
        lambda m, x: head(m, m.norm(m.b(m.a(x)))),
        a=conv(3, 4),
        b=conv(4, 6),
        norm=OddNorm(6),
        fc=nn.Linear(6, 5),
    )
    assert list(sizes(runs_at_other_sizes(model))) == ["a"]


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(conv(3, 6), conv(6, 4))
        self.scale = nn.Parameter(torch.ones(6, 1, 1))
        self.register_buffer("shift", torch.zeros(1, 4, 1, 1))
        self.position = nn.Parameter(torch.zeros(SIDE, SIDE))
        self.register_buffer("colour", torch.zeros(3, 1, 1))
        self.fc = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layers[0](x - self.colour) * self.scale + self.position
        return head(self, self.layers[1](x) + self.shift)


def test_parameters_of_no_layer_follow_their_channels() -> None:
    groups = found(Scaled())
    assert list(groups) == ["layers.0", "layers.1"]
    assert ("", "scale", 0, 6, 1) in groups["layers.0"]
    assert ("", "shift", 0, 4, 1) in groups["layers.1"]
    graph = runs_at_other_sizes(Scaled())
    assert graph.fixed["position[0]"] == "meets a constant of its size"


def test_a_constant_or_a_single_map_fixes_what_it_meets() -> None:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        attention = torch.sigmoid(m.map(x.mean(1, keepdim=True)))  # [N, 1, H, W]
        return head(m, m.b(m.a(x) * attention) + torch.arange(4).view(4, 1, 1))

    model = Net(forward, a=conv(3, 6), b=conv(6, 4), map=conv(1, 1, 3), fc=nn.Linear(4, 5))
    graph = runs_at_other_sizes(model)
    assert list(sizes(graph)) == ["a"]
    assert graph.fixed["map"] == "broadcast over other channels"
    assert graph.fixed["b"] == "meets a constant of its size"


def test_a_further_input_with_a_default_stands_at_its_default() -> None:
    class Optional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.fc = conv(3, 4), nn.Linear(4, 5)

        def forward(self, x: Tensor, mask: Tensor | None = None, scale: float = 2.0) -> Tensor:
            x = self.a(x) if mask is None else x * mask
            return head(self, x * scale)

    assert list(sizes(runs_at_other_sizes(Optional()))) == ["a"]


def outer_product(m: nn.Module, x: Tensor) -> Tensor:
    pooled = x.mean((2, 3))
    return m.fc((m.a(pooled).unsqueeze(1) * m.b(pooled).unsqueeze(2)).flatten(1))


A = {"a": conv(3, 4)}


@pytest.mark.parametrize(
    ("forward", "layers", "message"),
    [
        (lambda m, x: m.a(x).roll(1, 1).mean((2, 3)), A, "through roll in the model .*no rule"),
        (lambda m, x: torch.einsum("nchw->nc", m.a(x)), A, "through einsum in the model .*no rule"),
        (lambda m, x: m.a(x).mean((2, 3)) * m.a(x).mean((2, 3)).argmax(1)[:, None], A, "argmax"),
        (lambda m, x: m.a(x).mT.mean((2, 3)), A, "getattr in the model .*attribute 'mT'"),
        (
            lambda m, x: m.up(m.a(x)).mean((2, 3)),
            A | {"up": nn.ConvTranspose2d(4, 4, 2)},
            "ConvTranspose2d in up .*no rule for this layer",
        ),
        (
            lambda m, x: m.up(m.a(x)).mean((2, 3)),
            A | {"up": nn.PixelShuffle(2)},
            r"PixelShuffle in up \(.*test_rules.py:\d+\): there is no rule",
        ),
        (
            lambda m, x: m.up(m.a(x)).mean((2, 3)),
            A | {"up": nn.GLU(1)},
            "GLU in up .*changes the number of channels",
        ),
        (
            lambda m, x: m.mix(m.a(x).flatten(2)).mean(2),
            A | {"mix": nn.Linear(64, 64)},
            "Linear in mix .*outside dimension 2",
        ),
        (
            outer_product,
            {"a": nn.Linear(3, 2), "b": nn.Linear(3, 3), "fc": nn.Linear(6, 5)},
            "flatten in the model .*joins two dimensions of channels",
        ),
        (
            lambda m, x: m.a(x).view(x.size(0), -1, x.size(1) + 1).mean(2),
            A,
            "two dimensions of channels from one",
        ),
        (
            lambda m, x: m.a(x)[:, : m.b(x).shape[1]].mean((2, 3)),
            A | {"b": conv(3, 2)},
            "getitem .*do not follow",
        ),
        (
            lambda m, x: m.a(x).split(m.b(x).shape[1], 1)[0].mean((2, 3)),
            A | {"b": conv(3, 2)},
            "split .*do not follow",
        ),
    ],
)
def test_what_has_no_rule_is_named(
    forward: Callable[[nn.Module, Tensor], Tensor], layers: dict[str, nn.Module], message: str
) -> None:
    with pytest.raises(MobileNASError, match=message):
        extract(Net(forward, **layers), image_size=SIDE)


def test_a_weight_made_of_others_is_refused() -> None:
    layer = nn.utils.parametrizations.weight_norm(conv(3, 4))
    model = Net(lambda m, x: head(m, m.a(x)), a=layer, fc=nn.Linear(4, 5))
    with pytest.raises(MobileNASError, match=r"weight of a is computed from other parameters"):
        extract(model, image_size=SIDE)


@pytest.mark.parametrize("name", sorted(MOBILENETS))
def test_networks_of_the_mobile_space_can_be_resized(name: str) -> None:
    model = build(MOBILENETS[name](0.25, 16, 5))
    graph = extract(model, image_size=16)
    assert len(sizes(graph)) > len(model.blocks)
    resized(model, graph, {group: size + 8 for group, size in sizes(graph).items()})


@pytest.mark.parametrize("name", sorted(CELL_NETWORKS))
def test_networks_of_cells_can_be_resized(name: str) -> None:
    # their factorized reductions are concatenations that are added to single layers
    arch = CELL_NETWORKS[name](32, 5)
    model = build(replace(arch, layers=5, channels=4, auxiliary=False))
    graph = extract(model, image_size=32)
    assert any(len(graph.dimension(layer.module, "out").parts) > 1 for layer in graph.layers)
    resized(model, graph, {group: size + 1 for group, size in sizes(graph).items()})


def test_an_auxiliary_classifier_is_refused() -> None:
    model = build(replace(CELL_NETWORKS["darts_v2"](32, 5), layers=5, channels=4))
    with pytest.raises(MobileNASError, match=r"^auxiliary\.features\.2\.0\.weight takes no part"):
        extract(model, image_size=32)
