"""Small models whose groups are known by hand."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mobilenas.channel_graph import extract, resized, sizes
from mobilenas.channel_graph.groups import Graph

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


def test_a_residual_add_ties_both_branches() -> None:
    model = Net(
        lambda m, x: head(m, m.norm(m.a(x)) + m.b(x)),
        a=conv(3, 6),
        b=conv(3, 6),
        norm=nn.BatchNorm2d(6),
        fc=nn.Linear(6, 5),
    )
    places = {("a", "out"), ("b", "out"), ("norm", "norm"), ("fc", "in")}
    assert found(model) == {"a": {(*place, 0, 6, 1) for place in places}}
    graph = runs_at_other_sizes(model)
    assert graph.fixed == {"input": "channels of the images", "fc": "class logits"}
    assert [group.name for group in graph.groups] == ["input", "a", "fc"]


def test_concatenation_gives_offsets() -> None:
    model = Net(
        lambda m, x: head(m, m.c(m.norm(torch.cat((m.a(x), m.b(x), m.a(x)), 1)))),
        a=conv(3, 4),
        b=conv(3, 6),
        norm=nn.BatchNorm2d(14),
        c=conv(14, 7),
        fc=nn.Linear(7, 5),
    )
    groups = found(model)
    assert groups["b"] == {("b", "out", 0, 6, 1), ("norm", "norm", 4, 6, 1), ("c", "in", 4, 6, 1)}
    assert groups["a"] == {
        ("a", "out", 0, 4, 1),
        *(
            (layer, kind, at, 4, 1)
            for layer, kind in (("norm", "norm"), ("c", "in"))
            for at in (0, 10)
        ),
    }
    runs_at_other_sizes(model)


def test_an_add_splits_the_channels_that_meet_a_concatenation() -> None:
    model = Net(
        lambda m, x: head(m, m.c(x) + torch.cat((m.a(x), m.b(x)), 1)),
        a=conv(3, 4),
        b=conv(3, 6),
        c=conv(3, 10),
        fc=nn.Linear(10, 5),
    )
    assert found(model) == {
        "c": {("c", "out", 0, 4, 1), ("a", "out", 0, 4, 1), ("fc", "in", 0, 4, 1)},
        "c#2": {("c", "out", 4, 6, 1), ("b", "out", 0, 6, 1), ("fc", "in", 4, 6, 1)},
    }
    runs_at_other_sizes(model)


@pytest.mark.parametrize(
    "flatten",
    [
        lambda m, x: torch.flatten(x, 1),
        lambda m, x: x.flatten(1),
        lambda m, x: m.flatten(x),
        lambda m, x: x.view(x.size(0), -1),
        lambda m, x: x.reshape((x.shape[0], x.shape[1] * x.shape[2] * x.shape[3])),
        lambda m, x: x.view(x.size(0), x.size(1), -1).permute(0, 1, 2).flatten(1),
    ],
)
def test_flattening_repeats_channels(flatten: Callable[[nn.Module, Tensor], Tensor]) -> None:
    model = Net(
        lambda m, x: m.fc(flatten(m, m.pool(m.a(x)))),
        a=conv(3, 4),
        pool=nn.AvgPool2d(4),
        flatten=nn.Flatten(),
        fc=nn.Linear(16, 5),
    )
    assert found(model) == {"a": {("a", "out", 0, 4, 1), ("fc", "in", 0, 16, 4)}}
    runs_at_other_sizes(model)


def test_flattening_the_other_way_round_has_all_channels_at_every_place() -> None:
    model = Net(
        lambda m, x: m.fc(m.pool(m.a(x)).permute(0, 2, 3, 1).flatten(1)),
        a=conv(3, 4),
        pool=nn.AvgPool2d(4),
        fc=nn.Linear(16, 5),
    )
    assert found(model)["a"] == {
        ("a", "out", 0, 4, 1),
        *(("fc", "in", at, 4, 1) for at in (0, 4, 8, 12)),
    }
    runs_at_other_sizes(model)


def test_a_size_written_in_the_code_fixes_its_channels() -> None:
    model = Net(
        lambda m, x: m.fc(m.b(m.pool(m.a(x))).view(-1, 16)),
        a=conv(3, 6),
        b=conv(6, 4),
        pool=nn.AvgPool2d(4),
        fc=nn.Linear(16, 5),
    )
    graph = runs_at_other_sizes(model)
    assert list(sizes(graph)) == ["a"]
    assert graph.fixed["b"].startswith("test_groups.py:")
    assert graph.fixed["b"].endswith(" says 16")


def test_a_grouped_convolution_keeps_divisibility() -> None:
    model = Net(
        lambda m, x: head(m, m.b(m.a(x))),
        a=conv(3, 8),
        b=conv(8, 12, 3, groups=4),
        fc=nn.Linear(12, 5),
    )
    graph = runs_at_other_sizes(model)
    assert graph.divisors == {"input": 1, "a": 4, "b": 4, "fc": 1}
    assert [(layer.module, layer.blocks) for layer in graph.layers][:2] == [("a", 1), ("b", 4)]


def test_flattened_channels_need_less_to_be_divisible() -> None:
    # each channel has 4 entries after flattening, so 8 groups need multiples of 2 channels
    model = Net(
        lambda m, x: m.fc(m.norm(m.pool(m.a(x)).flatten(1))),
        a=conv(3, 4),
        pool=nn.AvgPool2d(4),
        norm=nn.GroupNorm(8, 16),
        fc=nn.Linear(16, 5),
    )
    assert runs_at_other_sizes(model).divisors["a"] == 2


def test_parts_that_only_together_are_divisible_are_fixed() -> None:
    model = Net(
        lambda m, x: head(m, m.c(torch.cat((m.a(x), m.b(m.z(x))), 1))),
        z=conv(3, 2),
        a=conv(3, 3),
        b=conv(2, 5),
        c=conv(8, 4, groups=4),
        fc=nn.Linear(4, 5),
    )
    graph = runs_at_other_sizes(model)
    assert list(sizes(graph)) == ["z", "c"]
    assert graph.fixed["a"] == "with others it makes a multiple of 4"


@pytest.mark.parametrize("multiplier", [1, 3])
def test_a_depthwise_convolution_ties_its_input_and_output(multiplier: int) -> None:
    wide = 4 * multiplier
    model = Net(
        lambda m, x: head(m, m.b(m.a(x))),
        a=conv(3, 4),
        b=conv(4, wide, 3, groups=4),
        fc=nn.Linear(wide, 5),
    )
    assert found(model) == {
        "a": {
            ("a", "out", 0, 4, 1),
            ("b", "in", 0, 4, 1),
            ("b", "out", 0, wide, multiplier),
            ("fc", "in", 0, wide, multiplier),
        }
    }
    runs_at_other_sizes(model)


def squeeze_excite(m: nn.Module, x: Tensor) -> Tensor:
    x = torch.cat((m.a(x), m.b(x)), 1)
    scale = m.wide(F.relu(m.narrow(F.adaptive_avg_pool2d(x, 1).flatten(1))))
    return head(m, x * torch.sigmoid(scale.view(x.size(0), x.size(1), 1, 1)).expand_as(x))


def test_squeeze_excite_has_a_narrow_size_of_its_own() -> None:
    model = Net(
        squeeze_excite,
        a=conv(3, 6),
        b=conv(3, 4),
        narrow=nn.Linear(10, 2),
        wide=nn.Linear(2, 10),
        fc=nn.Linear(10, 5),
    )
    groups = found(model)
    assert list(groups) == ["a", "b", "narrow"]
    assert groups["narrow"] == {("narrow", "out", 0, 2, 1), ("wide", "in", 0, 2, 1)}
    assert ("wide", "out", 6, 4, 1) in groups["b"]
    runs_at_other_sizes(model)


def test_a_view_with_the_size_of_another_tensor_ties_them() -> None:
    model = Net(
        lambda m, x: m.fc(m.a(x).mean((2, 3)).view(x.size(0), m.b(x).size(1), 1).flatten(1)),
        a=conv(3, 4),
        b=conv(3, 4),
        fc=nn.Linear(4, 5),
    )
    places = {("a", "out"), ("b", "out"), ("fc", "in")}
    assert found(model) == {"a": {(*place, 0, 4, 1) for place in places}}
    runs_at_other_sizes(model)


def gated(m: nn.Module, x: Tensor) -> Tensor:
    one, other = m.a(x).chunk(2, dim=1)
    return head(m, one * torch.sigmoid(other))


def gated_by_slices(m: nn.Module, x: Tensor) -> Tensor:
    x = m.a(x)
    half = x.shape[1] // 2
    return head(m, x[:, :half] * torch.sigmoid(x[:, half:, ...]))


def gated_by_split(m: nn.Module, x: Tensor) -> Tensor:
    x = m.a(x)
    one, other = torch.split(x, x.size(1) // 2, 1)
    return head(m, one * torch.sigmoid(other))


@pytest.mark.parametrize("forward", [gated, gated_by_slices, gated_by_split])
def test_halves_of_a_layer_are_two_members_of_one_group(
    forward: Callable[[nn.Module, Tensor], Tensor],
) -> None:
    model = Net(forward, a=conv(3, 8), fc=nn.Linear(4, 5))
    assert found(model) == {
        "a": {("a", "out", 0, 4, 1), ("a", "out", 4, 4, 1), ("fc", "in", 0, 4, 1)}
    }
    runs_at_other_sizes(model)


def test_split_sizes_written_in_the_code_fix_the_channels() -> None:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        one, other = m.a(x).split([2, 6], 1)
        return head(m, torch.cat((m.b(one), other, m.a(x)[:, :3]), 1))

    model = Net(forward, a=conv(3, 8), b=conv(2, 4), fc=nn.Linear(13, 5))
    assert list(sizes(runs_at_other_sizes(model))) == ["b"]


def shuffled(m: nn.Module, x: Tensor) -> Tensor:
    x = m.a(x)
    n, c, h, w = x.size()
    x = x.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, c, h, w)
    return head(m, m.b(x))


@pytest.mark.parametrize("forward", [shuffled, lambda m, x: head(m, m.b(m.shuffle(m.a(x))))])
def test_a_shuffle_interleaves_halves(forward: Callable[[nn.Module, Tensor], Tensor]) -> None:
    layers = {"shuffle": nn.ChannelShuffle(2), "a": conv(3, 8), "b": conv(8, 4)}
    model = Net(forward, **layers, fc=nn.Linear(4, 5))
    assert found(model)["a"] == {
        ("a", "out", 0, 4, 1),
        ("a", "out", 4, 4, 1),
        ("b", "in", 0, 8, 2),
    }
    runs_at_other_sizes(model)


def test_behind_a_split_of_shuffled_channels_only_the_size_is_known() -> None:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        one, other = m.shuffle(m.a(x)).chunk(2, 1)
        return head(m, torch.cat((one, m.b(other)), 1))

    layers = {"shuffle": nn.ChannelShuffle(2), "a": conv(3, 6), "b": conv(3, 7)}
    model = Net(forward, **layers, fc=nn.Linear(10, 5))
    (group,) = (g for g in runs_at_other_sizes(model).groups if g.name == "a")
    aligned = {(m.module, m.offset): m.aligned for m in group.members}
    assert aligned == {("a", 0): True, ("a", 3): True, ("b", 0): False, ("fc", 0): False}


def test_a_layer_that_is_called_twice_has_one_size_and_twice_the_work() -> None:
    model = Net(
        lambda m, x: head(m, m.again(F.relu(m.shared(m.shared(m.a(x)))))),
        a=conv(3, 6),
        shared=conv(6, 6, 3),
        fc=nn.Linear(6, 5),
    )
    model.again = model.shared  # a second name is the same layer
    assert list(found(model)) == ["a"]
    graph = runs_at_other_sizes(model)
    (layer,) = (layer for layer in graph.layers if layer.module == "shared")
    assert layer.work == 3 * 9 * SIDE**2
