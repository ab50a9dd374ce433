import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from mobilenas.search.unrolled import unrolled_gradients
from mobilenas.spaces.mobile.relaxation import Alphas
from mobilenas.spaces.mobile.space import MobileSpace
from mobilenas.spaces.mobile.supernet import SuperNetwork
from mobilenas.supernet.settings import SamplerSettings

OPTIMIZERS: dict[str, dict[str, Any]] = {
    "plain": {},
    "decay": {"weight_decay": 0.3},
    "momentum": {"momentum": 0.9},
    "dampened": {"momentum": 0.9, "dampening": 0.5, "weight_decay": 0.1},
    "nesterov": {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
}


class Mixed(nn.Module):
    """Two layers; the alphas weigh two activations after the first and scale the second's input."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 6), nn.Linear(6, 3)
        self.idle = nn.Linear(2, 2)

    def forward(self, x: Tensor, weights: Tensor, scale: Tensor) -> Tensor:
        hidden = self.first(x)
        mixed = weights[0] * torch.tanh(hidden) + weights[1] * torch.sin(2 * hidden)
        return self.second(mixed * scale.exp())


class Logits(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.randn(2))
        self.scale = nn.Parameter(torch.randn(6))
        self.idle = nn.Parameter(torch.randn(2))


class Problem:
    """A small bilevel problem in float64, with optimizer groups of different settings."""

    def __init__(self, steps: int = 2, **options: Any) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.net, self.alphas = Mixed().double(), Logits().double()
            self.x = torch.randn(2, 16, 4, dtype=torch.float64)
            self.y = torch.randint(0, 3, (2, 16))
        groups = [
            {"params": [*self.net.first.parameters(), *self.net.idle.parameters()]},
            {"params": self.net.second.parameters(), "lr": 0.4, "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.SGD(groups, lr=0.1, **options)
        for _ in range(steps):  # with momentum, the buffers then hold something
            self.optimizer.zero_grad()
            self.loss(0).backward()
            self.optimizer.step()
        self.net.zero_grad()
        self.alphas.zero_grad()

    def loss(self, half: int) -> Tensor:
        return self.loss_at(dict(self.net.named_parameters()), half)

    def loss_at(self, weights: dict[str, Tensor], half: int) -> Tensor:
        given = (self.x[half], self.alphas.weights.softmax(0), self.alphas.scale)
        return functional.cross_entropy(functional_call(self.net, weights, given), self.y[half])

    def unrolled(self) -> tuple[list[Tensor], Tensor]:
        return unrolled_gradients(
            self.net,
            list(self.alphas.parameters()),
            self.optimizer,
            lambda: self.loss(0),
            lambda: self.loss(1),
        )


def after_a_real_step(problem: Problem) -> float:
    """The whole function of the alphas: the optimizer's own step, then the validation loss."""
    kept = copy.deepcopy(problem)
    kept.optimizer.zero_grad()
    kept.loss(0).backward()
    kept.optimizer.step()
    with torch.no_grad():
        return kept.loss(1).item()


def exact(problem: Problem) -> list[Tensor]:
    """The second-order gradient by autograd through one plain step with decay."""
    weights = {name: w for name, w in problem.net.named_parameters() if "idle" not in name}
    gradients = torch.autograd.grad(problem.loss(0), list(weights.values()), create_graph=True)
    settings = {id(w): group for group in problem.optimizer.param_groups for w in group["params"]}
    moved = {}
    for (name, w), gradient in zip(weights.items(), gradients, strict=True):
        group = settings[id(w)]
        moved[name] = w - group["lr"] * (gradient + group["weight_decay"] * w)
    loss = problem.loss_at(moved, 1)
    return list(
        torch.autograd.grad(
            loss, list(problem.alphas.parameters()), allow_unused=True, materialize_grads=True
        )
    )


def close(found: list[Tensor], expected: list[Tensor], part: float) -> None:
    """Equal up to `part` of the largest entry."""
    a, b = (torch.cat([t.flatten() for t in tensors]) for tensors in (found, expected))
    assert (a - b).abs().max() <= part * b.abs().max()


@pytest.mark.parametrize("name", ["plain", "decay"])
def test_it_is_the_gradient_by_autograd(name: str) -> None:
    problem = Problem(**OPTIMIZERS[name])
    found, loss = problem.unrolled()
    close(found, exact(problem), 2e-4)
    assert loss.item() == pytest.approx(after_a_real_step(problem), rel=1e-12)
    assert not loss.requires_grad
    # the second-order part is not small here, so the comparison is of it
    first_order = torch.autograd.grad(problem.loss(1), [problem.alphas.scale])
    assert (first_order[0] - found[1]).abs().max() > 0.05 * found[1].abs().max()


@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_it_is_the_slope_of_the_optimizers_step_and_the_loss(name: str, steps: int) -> None:
    problem, h = Problem(steps=steps, **OPTIMIZERS[name]), 1e-5
    found, loss = problem.unrolled()
    assert loss.item() == pytest.approx(after_a_real_step(problem), rel=1e-12)
    slopes = []
    for parameter in problem.alphas.parameters():
        slope = torch.zeros_like(parameter)
        for place in range(len(parameter)):
            ends = []
            for sign in (1, -1):
                parameter.data[place] += sign * h
                ends.append(after_a_real_step(problem))
                parameter.data[place] -= sign * h
            slope[place] = (ends[0] - ends[1]) / (2 * h)
        slopes.append(slope)
    close(found, slopes, 2e-4)


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_the_size_of_the_loss_does_not_matter(scale: float) -> None:
    problem = Problem()
    expected = [scale * gradient for gradient in exact(problem)]
    found, _ = unrolled_gradients(
        problem.net,
        list(problem.alphas.parameters()),
        problem.optimizer,
        lambda: problem.loss(0),
        lambda: scale * problem.loss(1),
    )
    close(found, expected, 2e-4)


def test_a_weight_that_is_not_trained_stays_where_it_is() -> None:
    problem = Problem()
    problem.net.second.bias.requires_grad_(False)
    _, loss = problem.unrolled()
    assert loss.item() == pytest.approx(after_a_real_step(problem), rel=1e-12)


def test_without_a_step_it_is_the_first_order_gradient() -> None:
    problem = Problem()
    for group in problem.optimizer.param_groups:
        group["lr"] = 0.0
    found, loss = problem.unrolled()
    expected = torch.autograd.grad(
        problem.loss(1), list(problem.alphas.parameters()), materialize_grads=True
    )
    close(found, list(expected), 1e-12)
    assert loss.item() == problem.loss(1).item()


class Everything(nn.Module):
    """What a pass may change: batch-norm statistics, a count, draws of a generator."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.second = nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)
        self.register_buffer("passes", torch.zeros((), dtype=torch.int64))
        self.generator = torch.Generator().manual_seed(5)

    def forward(self, x: Tensor, scale: Tensor) -> Tensor:
        self.passes = self.passes + 1  # a new tensor, as some modules do
        mask = (torch.rand(8, generator=self.generator) < 0.5) / 0.5
        hidden: Tensor = self.norm(self.first(x)) * mask
        logits: Tensor = self.second(torch.tanh(hidden) * scale)
        return logits


def snapshot(net: nn.Module, optimizer: torch.optim.SGD) -> list[Any]:
    generators = [
        held.get_state()
        for module in net.modules()
        for held in vars(module).values()
        if isinstance(held, torch.Generator)
    ]
    state = optimizer.state_dict()
    buffers = [row.get("momentum_buffer") for row in state["state"].values()]
    gradients = [weight.grad for weight in net.parameters()]
    tensors = [*net.state_dict().values(), *generators, *buffers, *gradients]
    plain = [state["param_groups"], [*state["state"]], [w.requires_grad for w in net.parameters()]]
    return copy.deepcopy([tensors, plain])


def assert_same(before: list[Any], after: list[Any]) -> None:
    assert before[1] == after[1]
    for a, b in zip(before[0], after[0], strict=True):
        assert (a is None and b is None) or torch.equal(a, b)


@pytest.mark.parametrize("broken", [None, 0, 1, 2])
def test_nothing_is_changed_even_if_a_loss_fails(broken: int | None) -> None:
    torch.manual_seed(0)
    net, alphas = Everything(), nn.Linear(8, 1, bias=False)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    x, y = torch.randn(12, 8), torch.arange(12) % 3

    def loss() -> Tensor:
        return functional.cross_entropy(net(x, alphas.weight[0]), y)

    loss().backward()
    optimizer.step()
    before, kept = snapshot(net, optimizer), alphas.weight.detach().clone()
    calls, asked = [], list(alphas.parameters())

    def counted() -> Tensor:
        calls.append(0)
        if len(calls) - 1 == broken:
            raise ArithmeticError("no loss")
        return loss()

    if broken is None:
        assert unrolled_gradients(net, asked, optimizer, counted, counted)[0][0].any()
        assert len(calls) == 4
    else:
        with pytest.raises(ArithmeticError):
            unrolled_gradients(net, asked, optimizer, counted, counted)
    assert_same(before, snapshot(net, optimizer))
    assert torch.equal(alphas.weight, kept)


def test_every_pass_draws_the_same() -> None:
    """With draws that differ, the difference of gradients would be noise over a small number."""
    torch.manual_seed(0)
    net, alphas = Everything().double(), nn.Linear(8, 1, bias=False).double()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    x, y = torch.randn(12, 8, dtype=torch.float64), torch.arange(12) % 3
    state = net.generator.get_state()

    def loss() -> Tensor:
        return functional.cross_entropy(net(x, alphas.weight[0]), y)

    def seeded() -> Tensor:
        net.generator.set_state(state)
        return loss()

    asked = list(alphas.parameters())
    drawn, fixed = (unrolled_gradients(net, asked, optimizer, f, f)[0] for f in (loss, seeded))
    assert torch.equal(drawn[0], fixed[0])


@pytest.mark.parametrize("sampler", ["full", "random", "attention", "ranked"])
def test_a_supernet_is_left_alone(micro_space: MobileSpace, sampler: str) -> None:
    torch.manual_seed(0)
    net = SuperNetwork(micro_space, SamplerSettings(name=sampler, partial=4))
    alphas = Alphas(micro_space)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    x, y = torch.randn(2, 8, 3, 8, 8), torch.arange(8) % 5

    def loss(half: int) -> Tensor:
        return functional.cross_entropy(net(x[half], alphas.soft(1.0)), y)

    loss(0).backward()
    optimizer.step()
    before = snapshot(net, optimizer)
    asked = list(alphas.parameters())
    found, value = unrolled_gradients(net, asked, optimizer, lambda: loss(0), lambda: loss(1))
    assert_same(before, snapshot(net, optimizer))
    assert value.isfinite() and all(bool(gradient.isfinite().all()) for gradient in found)
    for gradient, alpha in zip(found, alphas.parameters(), strict=True):
        assert gradient.shape == alpha.shape
    assert any(bool(gradient.any()) for gradient in found)
