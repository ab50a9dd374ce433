import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mobilenas.channel_graph import Graph, Resizing, extract, load_model, resized, sizes
from mobilenas.core.errors import MobileNASError

SIDE = 8


class Net(nn.Module):
    """Two branches side by side, a grouped and a depthwise convolution, a flattened end."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 6, 1)
        self.norm = nn.BatchNorm2d(10)
        self.wide = nn.Conv2d(10, 8, 1, bias=False)
        self.grouped = nn.Conv2d(8, 12, 3, padding=1, groups=4)
        self.depthwise = nn.Conv2d(12, 24, 3, stride=2, groups=12)
        self.scale = nn.Parameter(torch.rand(24, 1, 1))
        self.fc = nn.Linear(24 * 9, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(torch.cat((self.a(x), self.b(x)), 1)))
        x = F.hardswish(self.grouped(F.silu(self.wide(x))))
        return self.fc((self.depthwise(x) * self.scale).flatten(1))


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return vary(Net()).train()


def vary(model: nn.Module) -> Any:
    """Give norms numbers that differ from channel to channel."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                nn.init.uniform_(tensor, 0.5, 1.5)
    return model


def graph_of(model: nn.Module, image_size: int = SIDE) -> Graph:
    return extract(model, image_size=image_size)


def silenced(model: nn.Module, resizing: Resizing) -> nn.Module:
    """The model at its own sizes, giving zeros in all channels that are not kept."""
    silent = copy.deepcopy(model)
    for dimension in resizing.graph.dimensions:
        if dimension.kind == "in":
            continue
        gone = torch.ones(dimension.size(resizing.graph.sizes), dtype=torch.bool)
        gone[resizing.entries(dimension)] = False
        for name, axis in dimension.axes:
            if not name.endswith("running_var"):
                tensor = silent.state_dict()[name]
                assert axis == 0
                tensor[gone] = 0
    return silent


def test_the_test_models_groups(net: Net) -> None:
    graph = graph_of(net)
    assert sizes(graph) == {"a": 4, "b": 6, "wide": 8, "grouped": 12}
    assert (graph.divisors["wide"], graph.divisors["grouped"]) == (4, 4)


@torch.no_grad()
@pytest.mark.parametrize("chosen", [False, True])
def test_a_smaller_model_computes_what_the_kept_channels_do(net: Net, chosen: bool) -> None:
    graph = graph_of(net)
    change = {"a": 2, "b": 3, "wide": 4, "grouped": 8}
    # channels of a grouped convolution may be chosen within its groups: 2 of wide's in each
    keep = {
        "a": torch.tensor([3, 0]),
        "b": torch.tensor([1, 4, 5]),
        "wide": torch.tensor([1, 2, 5, 6]),
    }
    keep = keep if chosen else {}
    smaller = resized(net, graph, change, keep=keep).eval()
    images = torch.randn(3, 3, SIDE, SIDE)
    expected = silenced(net, Resizing(graph, change, keep=keep)).eval()(images)
    torch.testing.assert_close(smaller(images), expected)
    assert not torch.allclose(expected, net.eval()(images))


@torch.no_grad()
@pytest.mark.parametrize(
    "name",
    [
        "mobilenet_v3_small",
        "squeezenet1_1",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("alexnet", "densenet121", "googlenet", "regnet_y_400mf", "resnext50_32x4d")
        ),
    ],
)
def test_offsets_repeats_and_blocks_are_those_of_the_channels(name: str) -> None:
    torch.manual_seed(0)
    model = vary(load_model(f"torchvision:{name}", classes=10, image_size=64)).eval().double()
    graph = graph_of(model, 64)
    change = {
        group: max(1, size // graph.divisors[group] * 3 // 4) * graph.divisors[group]
        for group, size in sizes(graph).items()
    }
    smaller = resized(model, graph, change).eval()
    images = torch.randn(1, 3, 64, 64, dtype=torch.double)
    expected = silenced(model, Resizing(graph, change))(images)
    torch.testing.assert_close(smaller(images), expected)
    assert not torch.allclose(expected, model(images))


@torch.no_grad()
def test_a_larger_model_holds_the_old_one(net: Net) -> None:
    graph = graph_of(net)
    change = {"a": 7, "b": 8, "wide": 12, "grouped": 16}
    larger = resized(net, graph, change)
    back = {
        name: torch.cat(
            [torch.arange(size // d) + block * (change[name] // d) for block in range(d)]
        )
        for name, size in sizes(graph).items()
        for d in [graph.divisors[name]]
    }
    again = resized(larger, graph.at(change), sizes(graph), keep=back)
    assert all(
        torch.equal(tensor, net.state_dict()[name]) for name, tensor in again.state_dict().items()
    )


def test_new_numbers_fit_the_old_ones() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 64, 3),
        nn.BatchNorm2d(64),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, 5),
    )
    with torch.no_grad():
        model[0].weight.normal_(0, 0.02)
        model[1].running_var.fill_(3.0)
    larger = resized(model, graph_of(model), {"0": 128})
    new = larger[0].weight[64:]
    assert new.std().item() == pytest.approx(0.02, rel=0.05)
    assert new.mean().item() == pytest.approx(0, abs=0.002)
    assert larger[1].weight[64:].tolist() == [1.0] * 64
    assert larger[1].running_var[64:].tolist() == [3.0] * 64
    assert larger[0].bias[64].item() == pytest.approx(model[0].bias.mean().item())


def test_the_generator_decides_what_is_drawn(net: Net) -> None:
    def grown(seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return resized(net, graph_of(net), {"a": 9}, generator=generator).a.weight[4:]

    assert torch.equal(grown(1), grown(1))
    assert not torch.equal(grown(1), grown(2))


def test_attributes_follow_and_the_model_stays_as_it_is(net: Net) -> None:
    net.scale.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    smaller = resized(net, graph_of(net), {"a": 2, "wide": 4, "grouped": 4})
    assert (smaller.a.out_channels, smaller.norm.num_features) == (2, 8)
    assert (smaller.wide.in_channels, smaller.wide.out_channels) == (8, 4)
    assert (smaller.grouped.in_channels, smaller.grouped.groups) == (4, 4)
    depthwise = smaller.depthwise
    assert (depthwise.in_channels, depthwise.out_channels, depthwise.groups) == (4, 8, 4)
    assert smaller.fc.in_features == 72
    assert smaller.training
    assert not smaller.scale.requires_grad
    assert smaller.a.weight.requires_grad
    assert smaller.a.weight.is_leaf
    assert net.a.out_channels == 4
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    smaller(torch.randn(2, 3, SIDE, SIDE)).sum().backward()


def test_no_change_is_a_copy(net: Net) -> None:
    same = resized(net, graph_of(net), {})
    assert same is not net
    assert all(
        torch.equal(tensor, net.state_dict()[name]) for name, tensor in same.state_dict().items()
    )


def test_an_optimizers_state_moves_like_its_parameter(net: Net) -> None:
    graph = graph_of(net)
    change = {"b": 4, "grouped": 16}
    moved = resized(net, graph, change)
    resizing = Resizing(graph, change)
    for name, parameter in net.named_parameters():
        state, missing = resizing.move(name, parameter.detach())
        target = moved.get_parameter(name)
        assert state.shape == target.shape
        kept = ~missing.expand(target.shape)
        assert torch.equal(state[kept], target[kept])
        assert bool(kept.any())
    _, missing = resizing.move("b.weight", net.b.weight.detach())
    assert not missing.any()


def test_a_channel_that_leaves_its_group_of_a_convolution_keeps_nothing_there(net: Net) -> None:
    keep = {"wide": torch.tensor([4, 5, 2, 3, 0, 1, 6, 7])}  # groups 0 and 2 change places
    resizing = Resizing(graph_of(net), {}, keep=keep)
    state, missing = resizing.move("grouped.weight", net.grouped.weight.detach())
    lost = missing.expand(state.shape)[:, 0, 0, 0].view(4, 3)
    assert lost.tolist() == [[True] * 3, [False] * 3, [True] * 3, [False] * 3]
    kept = ~missing.expand(state.shape)
    assert torch.equal(state[kept], net.grouped.weight[kept])


def test_more_of_the_same_groups_keep_their_divisor_where_a_fresh_graph_would_not(net: Net) -> None:
    graph = graph_of(net)
    small = resized(net, graph, {"wide": 4})
    assert graph.at({"wide": 4}).divisors["wide"] == 4
    # 4 inputs in 4 groups look like a depthwise convolution
    assert graph_of(small).dimension("grouped", "out").parts[0].repeat == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"c": 4}, r"^there is no group 'c'; the groups that can change are a, b, wide, grouped$"),
        ({"wide": 6}, r"^group wide is to have 6 channels; it must be a multiple of 4$"),
        ({"a": 0}, r"^group a is to have 0 channels; it must be a whole number above zero$"),
        ({"wide": -4}, r"must be a multiple of 4$"),
        ({"a": 2.5}, r"^group a is to have 2.5 channels"),
        ({"a": True}, r"^group a is to have True channels"),
        ({"fc": 6}, r"^group fc is to have 6 channels, but it is fixed at 5: class logits$"),
        ({"input": 1}, r"fixed at 3: channels of the images$"),
    ],
)
def test_sizes_that_are_not_legal_are_named(net: Net, change: Any, message: str) -> None:
    graph = graph_of(net)
    for use in (graph.flops, graph.params, graph.at, lambda sizes: resized(net, graph, sizes)):
        with pytest.raises(MobileNASError, match=message):
            use(change)


def test_a_fixed_group_may_be_given_its_own_size(net: Net) -> None:
    graph = graph_of(net)
    assert graph.checked({"fc": 5}) == graph.sizes


@pytest.mark.parametrize("chosen", [[0], [0, 4], [0, -2]])
def test_channels_that_cannot_be_kept_are_named(net: Net, chosen: list[int]) -> None:
    keep = {"a": torch.tensor(chosen)}
    with pytest.raises(MobileNASError, match=r"keep\['a'\] must have 2 channels, each below 4"):
        resized(net, graph_of(net), {"a": 2}, keep=keep)


def test_the_graph_of_another_model_is_refused(net: Net) -> None:
    graph = graph_of(net)
    with pytest.raises(MobileNASError, match=r"a\.weight has shape \(5, 3, 3, 3\), the graph's"):
        resized(resized(net, graph, {"a": 5}), graph, {"a": 6})
