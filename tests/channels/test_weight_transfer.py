import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mobilenas.channel_graph import Graph, extract, load_model, sizes
from mobilenas.channels.settings import WEIGHT_TRANSFERS
from mobilenas.channels.weight_transfer import apply, changed, choose, follow, inexact
from mobilenas.core.errors import MobileNASError
from mobilenas.train.distillation import distillation_loss

SIDE = 8


class Net(nn.Module):
    """Branches side by side, a residual, a grouped and a depthwise convolution, squeeze-excite."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.Conv2d(3, 6, 1)
        self.norm_a, self.norm_b = nn.BatchNorm2d(8), nn.BatchNorm2d(6)
        self.inner = nn.Conv2d(8, 8, 3, padding=1)
        self.wide = nn.Conv2d(14, 8, 1, bias=False)
        self.grouped = nn.Conv2d(8, 12, 3, padding=1, groups=4)
        self.squeeze, self.excite = nn.Conv2d(12, 3, 1), nn.Conv2d(3, 12, 1)
        self.depthwise = nn.Conv2d(12, 24, 3, stride=2, groups=12)
        self.scale = nn.Parameter(torch.rand(24, 1, 1))
        self.gain = nn.Parameter(torch.tensor(1.5))
        self.fc = nn.Linear(24 * 9, 5)

    def forward(self, x: Tensor) -> Tensor:
        a = F.relu(self.norm_a(self.a(x)))
        x = torch.cat((a + self.inner(a), F.relu(self.norm_b(self.b(x)))), 1)
        x = F.hardswish(self.grouped(F.silu(self.wide(x))))
        x = x * torch.sigmoid(self.excite(F.relu(self.squeeze(x.mean((2, 3), keepdim=True)))))
        return self.fc((self.depthwise(x) * self.scale).flatten(1)) * self.gain


@pytest.fixture
def net() -> Any:
    torch.manual_seed(0)
    return vary(Net()).double()


def vary(model: nn.Module) -> Any:
    """Give norms numbers that differ from channel to channel."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                nn.init.uniform_(tensor, 0.5, 1.5)
    return model


def graph_of(model: nn.Module, image_size: int = SIDE) -> Graph:
    return extract(model, image_size=image_size)


def scaled(graph: Graph, factors: dict[int, float]) -> dict[str, int]:
    """Sizes with factors[0], factors[1] ... in turn."""
    return {
        name: max(1, round(size / graph.divisors[name] * factors[place % len(factors)]))
        * graph.divisors[name]
        for place, (name, size) in enumerate(sizes(graph).items())
    }


def test_the_test_models_groups(net: Net) -> None:
    graph = graph_of(net)
    assert sizes(graph) == {"a": 8, "b": 6, "wide": 8, "grouped": 12, "squeeze": 3}


@torch.no_grad()
@pytest.mark.parametrize("training", [False, True])
def test_growing_changes_nothing_at_first(net: Net, training: bool) -> None:
    graph = graph_of(net)
    larger = changed(net, graph, scaled(graph, {0: 1.5, 1: 2}))
    assert larger.a.out_channels == 12
    images = torch.randn(4, 3, SIDE, SIDE, dtype=torch.double)
    torch.testing.assert_close(larger.train(training)(images), net.train(training)(images))


@torch.no_grad()
@pytest.mark.parametrize(
    "name",
    [
        "resnet18",
        "mobilenet_v3_small",
        "squeezenet1_1",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("densenet121", "regnet_y_400mf", "resnext50_32x4d")
        ),
    ],
)
def test_families_grow_and_shrink_together(name: str) -> None:
    torch.manual_seed(0)
    model = vary(load_model(f"torchvision:{name}", classes=10, image_size=64)).eval().double()
    graph = graph_of(model, 64)
    assert inexact(model, graph) == {}
    shrunk = scaled(graph, {0: 1.0, 1: 0.5})
    mixed = {
        name: size if size < graph.sizes[name] else size + graph.divisors[name]
        for name, size in shrunk.items()
    }
    images = torch.randn(1, 3, 64, 64, dtype=torch.double)
    expected = changed(model, graph, shrunk)(images)
    torch.testing.assert_close(changed(model, graph, mixed)(images), expected)
    assert not torch.allclose(expected, model(images))


def test_new_channels_learn(net: Net) -> None:
    graph = graph_of(net)
    larger = changed(net, graph, scaled(graph, {0: 1.5}))
    before = copy.deepcopy(larger)
    optimizer = torch.optim.SGD(larger.parameters(), lr=0.1)
    # the first step moves what reads new channels, and the second one what makes them
    for moves in (lambda net: net.inner.weight[:8, 8:], lambda net: net.a.weight[8:]):
        assert torch.equal(moves(larger), moves(before))
        images = torch.randn(4, 3, SIDE, SIDE, dtype=torch.double)
        F.cross_entropy(larger(images), torch.arange(4)).backward()
        optimizer.step()
        assert bool((moves(larger) != moves(before)).all())


def test_statistics_follow(net: Net) -> None:
    graph = graph_of(net)
    change = choose(net, graph, {"a": 4, "b": 9}, method="magnitude")
    moved = apply(net, change)
    kept = change.resizing.channels["a"]
    assert torch.equal(moved.norm_a.running_var, net.norm_a.running_var[kept])
    assert torch.equal(moved.norm_a.weight, net.norm_a.weight[kept])
    assert torch.equal(moved.norm_b.running_mean[:6], net.norm_b.running_mean)
    torch.testing.assert_close(
        moved.norm_b.running_mean[6:], net.norm_b.running_mean.mean().expand(3)
    )


def test_fresh_keeps_nothing(net: Net) -> None:
    graph = graph_of(net)
    anew = changed(net, graph, {"a": 4}, method="fresh", generator=torch.Generator().manual_seed(1))
    assert anew.norm_a.weight.tolist() == [1.0] * 4
    assert anew.norm_a.running_mean.tolist() == [0.0] * 4
    assert not torch.isin(anew.b.weight, net.b.weight).any()
    assert anew.b.weight.std().item() == pytest.approx((2 / 6) ** 0.5, rel=0.5)


def test_the_generator_decides_what_is_drawn(net: Net) -> None:
    graph = graph_of(net)

    def drawn(method: Any, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return changed(net, graph, {"a": 9}, method=method, generator=generator).a.weight[8:]

    for method in ("svd", "fresh"):
        assert torch.equal(drawn(method, 1), drawn(method, 1))
        assert not torch.equal(drawn(method, 1), drawn(method, 2))


@pytest.mark.parametrize(
    "make",
    [
        lambda groups: torch.optim.SGD(groups, lr=0.1, momentum=0.9, nesterov=True),
        lambda groups: torch.optim.AdamW(groups, lr=0.01, betas=(0.8, 0.9)),
    ],
)
def test_the_optimizer_follows(net: Net, make: Any) -> None:
    decaying = [p for p in net.parameters() if p.dim() > 1]
    others = [p for p in net.parameters() if p.dim() == 1]
    optimizer = make([{"params": decaying, "weight_decay": 0.1}, {"params": others, "lr": 0.5}])
    net(torch.randn(4, 3, SIDE, SIDE, dtype=torch.double)).square().sum().backward()
    optimizer.step()
    change = choose(net, graph_of(net), {"a": 4, "b": 9})
    moved = apply(net, change)
    follower = follow(optimizer, net, moved, change)
    assert type(follower) is type(optimizer)
    assert follower.defaults == optimizer.defaults
    for old, new in zip(optimizer.param_groups, follower.param_groups, strict=True):
        assert {**old, "params": 0} == {**new, "params": 0}
    for name, parameter in net.named_parameters():
        target = moved.get_parameter(name)
        assert follower.state[target].keys() == optimizer.state[parameter].keys()
        for key, value in optimizer.state[parameter].items():
            followed = follower.state[target][key]
            if value is None or value.shape != parameter.shape:
                assert followed == value
                continue
            state, missing = change.resizing.move(name, value)
            torch.testing.assert_close(followed, torch.where(missing, 0, state))
    assert bool((follower.state[moved.b.bias][key][6:] == 0).all())
    assert follower.state[moved.b.bias][key][:6].abs().sum() > 0
    moved(torch.randn(4, 3, SIDE, SIDE, dtype=torch.double)).sum().backward()
    follower.step()


def test_an_optimizer_of_another_model_is_refused(net: Net) -> None:
    change = choose(net, graph_of(net), {"a": 4})
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(7))])
    with pytest.raises(MobileNASError, match=r"has a parameter \[7\] that is not the model's$"):
        follow(optimizer, net, apply(net, change), change)


def test_what_grows_inexactly_is_named() -> None:
    shuffled = load_model("torchvision:shufflenet_v2_x0_5", classes=10, image_size=64)
    assert "split of shuffled channels" in " ".join(
        inexact(shuffled, graph_of(shuffled, 64)).values()
    )
    normed = nn.Sequential(
        nn.Conv2d(3, 8, 1),
        nn.GroupNorm(2, 8),
        nn.Conv2d(8, 4, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 5),
    )
    assert inexact(normed, graph_of(normed)) == {"0": "1 is a norm over channels"}
    assert changed(normed, graph_of(normed), {"0": 12, "2": 2})[0].out_channels == 12


def test_an_unknown_method_is_named(net: Net) -> None:
    with pytest.raises(MobileNASError, match=r"^method is 'qr'; it must be one of svd, magnitude"):
        changed(net, graph_of(net), {"a": 4}, method="qr")  # type: ignore[arg-type]


def test_no_change_is_a_copy_and_the_model_stays_as_it_is(net: Net) -> None:
    before = copy.deepcopy(net).state_dict()
    for method in ("svd", "magnitude"):
        same = changed(net, graph_of(net), {}, method=method)  # type: ignore[arg-type]
        assert all(torch.equal(before[name], same.state_dict()[name]) for name in before)
    for method in WEIGHT_TRANSFERS:
        changed(net, graph_of(net), {"a": 4, "b": 9}, method=method)
    assert all(torch.equal(tensor, net.state_dict()[name]) for name, tensor in before.items())


def test_distillation() -> None:
    torch.manual_seed(0)
    logits, teacher = torch.randn(6, 5, requires_grad=True), torch.randn(6, 5, requires_grad=True)
    assert distillation_loss(logits, logits, 3.0).item() == pytest.approx(0, abs=1e-6)
    p, q = (torch.softmax(x / 3, 1) for x in (teacher, logits))
    loss = distillation_loss(logits, teacher, 3.0)
    assert loss.item() == pytest.approx((9 * (p * (p / q).log()).sum(1).mean()).item(), rel=1e-4)
    loss.backward()
    assert logits.grad is not None
    assert teacher.grad is None
