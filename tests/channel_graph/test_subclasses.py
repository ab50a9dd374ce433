"""Subclasses of layers that do more than their class, and modules that are none of their own."""

import random
from collections import Counter
from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from mobilenas.channel_graph import extract, load_model, resized, sizes
from mobilenas.channel_graph.tracing import trace
from mobilenas.core.errors import MobileNASError
from mobilenas.onnx.recount import count_fvcore
from mobilenas.spaces.channels.costs import module_layer_costs


class Normed(nn.Conv2d):
    def __init__(self, inputs: int, outputs: int, groups: int = 1) -> None:
        super().__init__(inputs, outputs, 3, padding=1, groups=groups, bias=False)
        self.norm, self.act = nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(super().forward(x)))


class Activated(nn.Conv2d):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 3)
        self.act = nn.PReLU(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(F.conv2d(x, self.weight, bias=self.bias))


class Scaled(nn.Conv2d):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 1)
        self.register_buffer("scale", torch.ones(outputs, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.scale


class Residual(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


class Dense(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((x, super().forward(x)), 1)


class BiasAfter(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        assert self.bias is not None
        return x + F.relu(F.conv2d(x, self.weight, None)) + self.bias[:, None, None]


class Standardized(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class Mixing(nn.BatchNorm2d):
    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.mix = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.mix(super().forward(x))


class Adapted(nn.Linear):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.down, self.up = nn.Linear(inputs, 4, bias=False), nn.Linear(4, outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.up(self.down(x))


class Gained(nn.Conv2d):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 1)
        self.gain = nn.Parameter(torch.ones(outputs, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * self.gain, self.bias)


class Twice(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(super().forward(x)) + super().forward(-x)


class Upsampled(nn.ConvTranspose2d):
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(super().forward(x))


def around(layer: nn.Module, channels: int) -> nn.Sequential:
    """A layer that takes 12 channels, between a convolution and a classifier."""
    before = [nn.Conv2d(3, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU()]
    linear = isinstance(layer, nn.Linear)
    middle = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    middle = [*middle, layer] if linear else [layer, *middle]
    return nn.Sequential(*before, *middle, nn.Linear(channels, 5))


CASES: dict[str, tuple[Callable[[], nn.Module], int, int]] = {
    "normed": (lambda: Normed(12, 20), 20, 2),
    "depthwise": (lambda: Normed(12, 24, groups=12), 24, 1),
    "grouped": (lambda: Normed(12, 20, groups=4), 20, 2),
    "activated": (lambda: Activated(12, 20), 20, 2),
    "scaled": (lambda: Scaled(12, 20), 20, 2),
    "residual": (lambda: Residual(12, 12, 1), 12, 1),
    "dense": (lambda: Dense(12, 8, 1), 20, 2),
    "bias after": (lambda: BiasAfter(12, 12, 1), 12, 1),
    "standardized": (lambda: Standardized(12, 20, 3), 20, 2),
    "twice": (lambda: Twice(12, 20, 3), 20, 2),
    "mixing": (lambda: Mixing(12), 12, 2),
    "adapted": (lambda: Adapted(12, 20), 20, 3),
}


@pytest.mark.parametrize("name", CASES)
def test_what_a_subclass_does_beside_its_layer_is_followed(name: str) -> None:
    make, channels, groups = CASES[name]
    model = around(make(), channels)
    graph = extract(model, image_size=8)
    free = sizes(graph)
    assert len(free) == groups, free
    source = random.Random(name)
    change = {key: graph.divisors[key] * source.randint(2, 9) for key in free}
    changed = resized(model, graph, change)
    assert changed(torch.zeros(3, 3, 8, 8)).shape == (3, 5)
    assert graph.params(change) == sum(weight.numel() for weight in changed.parameters())
    layers = module_layer_costs(changed, image_size=8, in_channels=3)
    assert sum(layer.params for layer in layers) == graph.params(change)
    fvcore = count_fvcore(changed, 8, 3)
    by_name: Counter[str] = Counter()
    for layer in layers:
        by_name[layer.name] += layer.flops
    assert by_name == fvcore
    assert sum(fvcore.values()) == graph.flops(change)


def test_a_weight_that_is_computed_is_refused_by_name() -> None:
    with pytest.raises(MobileNASError, match=r"through conv2d in 3 .*: its weight is no parameter"):
        extract(around(Gained(12, 20), 20), image_size=8)


def test_a_transposed_convolution_is_refused_by_name() -> None:
    with pytest.raises(MobileNASError, match=r"through Upsampled in 3 .*: there is no rule for"):
        extract(around(Upsampled(12, 20, 3), 20), image_size=8)


def old_norm(layer: nn.Module) -> nn.Module:
    with pytest.warns(FutureWarning):
        return nn.utils.weight_norm(layer)


@pytest.mark.parametrize(
    "make",
    [
        old_norm,
        parametrizations.weight_norm,
        parametrizations.spectral_norm,
        lambda layer: prune.l1_unstructured(layer, "weight", amount=0.3),
    ],
)
def test_a_parametrized_weight_is_refused_by_name(make: Callable[[nn.Module], nn.Module]) -> None:
    model = around(make(nn.Conv2d(12, 20, 3)), 20)
    with pytest.raises(MobileNASError, match=r"^weight of 3 is computed from other parameters"):
        trace(model, image_size=8)


@pytest.mark.parametrize("make", [nn.DataParallel, partial(torch.compile, backend="eager")])
def test_a_wrapped_model_is_refused(make: Callable[[nn.Module], nn.Module]) -> None:
    model = make(around(nn.Conv2d(12, 20, 3), 20))
    with pytest.raises(MobileNASError, match=r"the model is a .*; give the nn.Module that it was"):
        trace(model, image_size=8)


def test_lazy_layers_get_their_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    def build() -> nn.Module:
        layers = [nn.LazyConv2d(12, 3), nn.LazyBatchNorm2d(), nn.AdaptiveAvgPool2d(1)]
        return nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(5))

    monkeypatch.setattr("mobilenas.channel_graph.models._from_factory", lambda _: build())
    model = load_model("nets:build", classes=5, image_size=8, in_channels=3)
    assert model.training
    assert set(sizes(extract(model, image_size=8))) == {"0"}
    assert bool((model[1].running_mean == 0).all()), "statistics are as they start"


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("dilation", [1, 2])
def test_padding_by_name_is_counted(padding: str, dilation: int) -> None:
    model = around(nn.Conv2d(12, 20, 3, padding=padding, dilation=dilation, groups=4), 20)
    graph = extract(model, image_size=8)
    assert sum(count_fvcore(model, 8, 3).values()) == graph.flops({})
