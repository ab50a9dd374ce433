from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mobilenas.channel_graph import Graph, extract
from mobilenas.channels.shrinking import rectified, spanning
from mobilenas.channels.weight_transfer import apply, choose

SIDE = 6


class Net(nn.Module):
    """An inverted residual with squeeze-excite behind a stem; `wide` comes before groups."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.stem_norm = nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8)
        self.expand, self.expand_norm = nn.Conv2d(8, 12, 1, bias=False), nn.BatchNorm2d(12)
        self.depthwise = nn.Conv2d(12, 12, 3, padding=1, groups=12, bias=False)
        self.depthwise_norm = nn.BatchNorm2d(12)
        self.squeeze, self.excite = nn.Conv2d(12, 3, 1), nn.Conv2d(3, 12, 1)
        self.project, self.project_norm = nn.Conv2d(12, 8, 1, bias=False), nn.BatchNorm2d(8)
        self.wide, self.grouped = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 12, 3, groups=4)
        self.fc = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem_norm(self.stem(x)))
        y = F.relu(self.expand_norm(self.expand(x)))
        y = F.relu(self.depthwise_norm(self.depthwise(y)))
        y = y * torch.sigmoid(self.excite(F.relu(self.squeeze(y.mean((2, 3), keepdim=True)))))
        x = F.relu(x + self.project_norm(self.project(y)))
        x = F.relu(self.grouped(F.relu(self.wide(x))))
        return self.fc(x.mean((2, 3)))


@pytest.fixture
def net() -> Any:
    torch.manual_seed(0)
    net = Net().double().eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                nn.init.uniform_(tensor, 0.5, 1.5)
    return net


def graph_of(model: nn.Module) -> Graph:
    return extract(model, image_size=SIDE)


@torch.no_grad()
def double(net: Net, names: tuple[str, ...], old: int, new: int, factor: float = 1.0) -> None:
    """Make channel `new` of a group's layers and norms `factor` times channel `old`."""
    for name in names:
        module = net.get_submodule(name)
        for key, tensor in module.state_dict().items():
            if tensor.dim():
                tensor[new] = tensor[old] * (factor if key in ("weight", "bias") else 1)


@torch.no_grad()
@pytest.mark.parametrize("factor", [1.0, 0.5])
def test_a_channel_like_another_is_taken_over(net: Net, factor: float) -> None:
    double(net, ("stem", "project"), 2, 5)
    double(net, ("stem_norm", "project_norm"), 2, 5, factor)
    change = choose(net, graph_of(net), {"stem": 7})
    (gone,) = {2, 5} - set(change.resizing.channels["stem"].tolist())
    assert len(set(change.resizing.channels["stem"].tolist()) & {2, 5}) == 1
    assert change.reconstructions["stem"].gone.tolist() == [gone]
    images = torch.randn(4, 3, SIDE, SIDE, dtype=torch.double)
    torch.testing.assert_close(apply(net, change)(images), net(images), rtol=0, atol=1e-3)


@torch.no_grad()
def test_so_it_is_behind_a_depthwise_convolution_and_gates(net: Net) -> None:
    names = ("expand", "expand_norm", "depthwise", "depthwise_norm", "excite")
    double(net, names, 3, 7)
    change = choose(net, graph_of(net), {"expand": 11, "wide": 4})
    assert len(set(change.resizing.channels["expand"].tolist()) & {3, 7}) == 1
    assert change.reconstructions.keys() == {"expand"}  # of wide's activations no norm tells
    images = torch.randn(4, 3, SIDE, SIDE, dtype=torch.double)
    expected = apply(net, choose(net, graph_of(net), {"wide": 4}))(images)
    torch.testing.assert_close(apply(net, change)(images), expected, rtol=0, atol=1e-3)


@torch.no_grad()
def test_what_is_taken_over_is_nearer_than_what_is_dropped(net: Net) -> None:
    images = torch.randn(256, 3, SIDE, SIDE, dtype=torch.double)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0  # norms know what they see
    net.train()(images)
    net.eval()
    # the one is behind gates, the other not
    for sizes, reader in (({"expand": 6}, "project_norm"), ({"stem": 5}, "expand_norm")):
        change = choose(net, graph_of(net), sizes)
        models = net, apply(net, change), apply(net, replace(change, reconstructions={}))
        expected, near, far = (seen(model, reader, images) for model in models)
        assert (near - expected).norm() < 0.8 * (far - expected).norm()


def seen(model: nn.Module, name: str, images: Tensor) -> Tensor:
    """What a module gives."""
    found = []
    handle = model.get_submodule(name).register_forward_hook(lambda *given: found.append(given[-1]))
    model(images)
    handle.remove()
    return found[0]


@torch.no_grad()
def test_magnitude_is_of_weights_times_the_norms(net: Net) -> None:
    net.expand.weight.copy_(torch.arange(1, 13)[:, None, None, None].expand(12, 8, 1, 1))
    net.expand_norm.weight.fill_(1)
    net.expand_norm.weight[0], net.expand_norm.weight[11] = -100, 0
    kept = choose(net, graph_of(net), {"expand": 3}, method="magnitude").resizing.channels
    assert kept["expand"].tolist() == [0, 9, 10]


@pytest.mark.parametrize("method", ["svd", "magnitude"])
def test_channels_stay_in_their_group_of_a_convolution(net: Net, method: Any) -> None:
    graph = graph_of(net)
    resizing = choose(net, graph, {"wide": 4, "grouped": 8}, method=method).resizing
    assert (resizing.channels["wide"] // 2).tolist() == [0, 1, 2, 3]
    assert (resizing.channels["grouped"] // 3).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    _, missing = resizing.move("grouped.weight", net.grouped.weight.detach())
    assert not missing.any()


def test_rectified_moments_are_those_of_samples() -> None:
    source = np.random.default_rng(0)
    mixing, mean = source.normal(size=(6, 4)), 2 * source.normal(size=6)
    covariance = mixing @ mixing.T
    found = rectified(mean, covariance)
    samples = np.maximum(mean + source.normal(size=(200_000, 4)) @ mixing.T, 0)
    np.testing.assert_allclose(found.mean, samples.mean(0), atol=0.02)
    np.testing.assert_allclose(found.covariance, np.cov(samples.T), atol=0.05)
    assert np.linalg.eigvalsh(found.covariance).min() > -1e-9


def test_spanning_rows_are_not_just_the_largest() -> None:
    rows = np.array([[3.0, 0, 0], [0, 1, 0], [2.9, 0, 0], [0, 0, 0.5], [2.8, 0, 0], [0, 0, 0]])
    assert sorted(spanning(rows @ rows.T, 3).tolist()) == [0, 1, 3]
    assert sorted(spanning(rows @ rows.T, 2).tolist()) == [0, 1]
    assert len(set(spanning(rows @ rows.T, 5).tolist())) == 5  # more than there are directions


def test_the_rows_of_large_groups_span_as_well() -> None:
    source = np.random.default_rng(0)
    rows = source.normal(size=(1100, 4))
    rows[[7, 500, 900, 1099]] = 50 * np.eye(4)
    assert sorted(spanning(rows @ rows.T, 4).tolist()) == [7, 500, 900, 1099]
    assert len(set(spanning(rows @ rows.T, 40).tolist())) == 40
