"""What every family of networks promises, whatever its networks are made of."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from mobilenas.core.errors import BudgetError
from mobilenas.core.files import write_json
from mobilenas.cost.budget import Budget
from mobilenas.cost.budgets import Budgets
from mobilenas.cost.networks import costs, layer_costs
from mobilenas.onnx.recount import count_fvcore
from mobilenas.spaces.base import families, family, family_of, searched
from mobilenas.spaces.cell.space import CellSpace
from mobilenas.spaces.channels.space import Base, ChannelsSpace
from mobilenas.spaces.mobile.arch import Block, Head, MobileArch, Stem
from mobilenas.spaces.mobile.template import template
from mobilenas.spaces.networks import arch_from_dict, build, read_arch
from mobilenas.spaces.subnetworks.space import SubnetworkSpace
from mobilenas.supernet.settings import SamplerSettings

SMALL = MobileArch(
    image_size=8,
    in_channels=3,
    classes=5,
    stem=Stem(channels=16, stride=1, activation="relu"),
    blocks=(
        Block(kernel=3, hidden=48, out=16, stride=1, squeeze=8, activation="relu"),
        Block(kernel=5, hidden=48, out=24, stride=2, squeeze=0, activation="relu"),
        Block(kernel=3, hidden=96, out=24, stride=1, squeeze=0, activation="relu"),
    ),
    head=Head(channels=32, hidden=0, activation="relu", dropout=0.0),
)
SPACES: dict[str, Any] = {
    "mobile": template(0.2, image_size=8, classes=5),
    "cell": CellSpace(image_size=8, in_channels=3, classes=5, layers=3, channels=4),
    "channels": ChannelsSpace(base=Base.of(SMALL)),
    "subnetworks": SubnetworkSpace(whole=SMALL, sides=(6, 8), shares=(0.5, 1)),
}
ARCHS = {name: name for name in SPACES} | {"subnetworks": "mobile"}
"""Which family the archs of a family's spaces are of."""
SEEDS = st.integers(0, 2**32)
few = settings(max_examples=20)

every_family = pytest.mark.parametrize("name", families())
every_search = pytest.mark.parametrize("name", searched())


def choices(space: Any, count: int) -> list[Any]:
    source = random.Random(0)
    return [space.smallest(), *(space.random(source) for _ in range(count)), space.largest()]


def median_budget(space: Any, cost: str) -> Budgets:
    table = family_of(space).table(space, cost, None)
    drawn = sorted(table.exact(choice) for choice in choices(space, 99))
    return Budgets(space, [Budget(cost=cost, limit=drawn[50])])


@every_family
def test_a_family_knows_its_spaces_and_networks(name: str) -> None:
    space, known = SPACES[name], family(name)
    assert family_of(space) is known
    assert family_of(space.arch(space.largest())) is family(ARCHS[name])
    assert type(space) is known.space
    for choice in choices(space, 3):
        assert isinstance(choice, known.choice)
        assert type(space.arch(choice)) is known.arch


@every_family
@few
@given(seed=SEEDS)
def test_an_arch_is_the_same_after_json(name: str, seed: int) -> None:
    space = SPACES[name]
    arch = space.arch(space.random(random.Random(seed)))
    plain = json.loads(json.dumps(arch.to_dict()))
    assert plain["space"] == ARCHS[name]
    assert arch_from_dict(plain) == arch


@every_family
def test_an_arch_is_read_from_a_file_of_its_own_and_from_arch_json(
    name: str, tmp_path: Path
) -> None:
    arch = SPACES[name].arch(SPACES[name].largest())
    write_json(tmp_path / "bare.json", arch.to_dict())
    write_json(tmp_path / "arch.json", {"arch": arch.to_dict()})
    assert read_arch(tmp_path / "bare.json") == read_arch(tmp_path / "arch.json") == arch


@every_family
def test_a_built_network_has_the_costs_of_its_arch(name: str) -> None:
    space = SPACES[name]
    for choice in choices(space, 2):
        arch = space.arch(choice)
        network, exact = build(arch).eval(), costs(arch)
        images = torch.rand(2, arch.in_channels, arch.image_size, arch.image_size)
        assert network(images).shape == (2, arch.classes)
        assert exact.params == sum(weight.numel() for weight in network.deployed_parameters())
        counted = count_fvcore(network, arch.image_size, arch.in_channels)
        layers = [layer.flops for layer in layer_costs(arch)]
        assert exact.flops == sum(layers) == sum(counted.values())
        for cost in family(name).costs:
            assert family(name).table(space, cost, None).exact(choice) == getattr(exact, cost)


@every_family
def test_no_network_costs_less_than_the_least(name: str) -> None:
    space = SPACES[name]
    for cost in family(name).costs:
        table = family(name).table(space, cost, None)
        drawn = [table.exact(choice) for choice in choices(space, 50)]
        assert table.minimum() <= min(drawn)
        if cost != "memory":  # a peak may be that of a narrower network
            assert max(drawn) == drawn[-1]


@every_family
@pytest.mark.parametrize("cost", ["flops", "params"])
def test_networks_drawn_under_a_budget_keep_it(name: str, cost: str) -> None:
    budgets, source = median_budget(SPACES[name], cost), random.Random(1)
    budgets.check_reachable()
    for _ in range(5):
        choice = budgets.random(source)
        assert getattr(costs(budgets.space.arch(choice)), cost) <= budgets.budgets[0].limit


@every_family
def test_a_budget_under_every_network_is_refused(name: str) -> None:
    budgets = Budgets(SPACES[name], [Budget(cost="flops", limit=1)])
    with pytest.raises(BudgetError, match="flops"):
        budgets.check_reachable()


def alphas_of(name: str) -> Any:
    search = family(name).search
    assert search is not None
    return search.alphas(SPACES[name], none=False, edge_weights="softmax")


def relaxed(name: str, seed: int) -> Any:
    """Alphas with random values."""
    alphas, generator = alphas_of(name), torch.Generator().manual_seed(seed)
    for logits in alphas.parameters():
        logits.data.normal_(generator=generator)
    return alphas


@every_search
@few
@given(seed=SEEDS)
def test_a_relaxation_that_is_certain_costs_what_its_network_does(name: str, seed: int) -> None:
    space = SPACES[name]
    choice, alphas = space.random(random.Random(seed)), relaxed(name, 0)
    for cost in family(name).costs:
        table = family(name).table(space, cost, None)
        assert table.expected(alphas.one_hot(choice)).item() == table.exact(choice)


@every_search
@few
@given(seed=SEEDS, tau=st.floats(0.1, 10))
def test_probabilities_sum_to_one_and_the_likeliest_is_legal(
    name: str, seed: int, tau: float
) -> None:
    alphas = relaxed(name, seed)
    for _, rows, _ in alphas.distributions(alphas.soft(tau)):
        torch.testing.assert_close(rows.sum(-1), torch.ones_like(rows[..., 0]))
    assert SPACES[name].is_legal(alphas.likeliest())


@every_search
@pytest.mark.parametrize("seed", range(3))
def test_discretization_keeps_the_budget_and_has_a_second_best(name: str, seed: int) -> None:
    budgets, search = median_budget(SPACES[name], "flops"), family(name).search
    assert search is not None
    program = search.program(budgets, relaxed(name, seed).scores())
    best = program.best()
    second = program.solve(exclude=[best])
    assert second != best
    for choice in (best, second):
        assert SPACES[name].is_legal(choice)
        assert costs(SPACES[name].arch(choice)).flops <= budgets.budgets[0].limit


@every_search
def test_a_supernet_trains_its_alphas_and_runs_each_network_alone(name: str) -> None:
    space, search, alphas = SPACES[name], family(name).search, relaxed(name, 0)
    assert search is not None
    net, images = search.supernet(space, SamplerSettings()), torch.rand(2, 3, 8, 8)
    net(images, alphas.soft(1.0)).square().sum().backward()
    assert any(bool(logits.grad.any()) for logits in alphas.parameters())
    choice = space.random(random.Random(0))
    assert alphas.alone(net, choice)(images).shape == (2, 5)
    other = alphas_of(name)
    other.load_state_dict(alphas.state_dict())
    assert other.table() == alphas.table()
    assert other.likeliest() == alphas.likeliest()


class Products(TorchDispatchMode):
    """Collects the precisions of matrix products, which in supernets are of probabilities."""

    def __init__(self) -> None:
        super().__init__()
        self.precisions: set[torch.dtype] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if func.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.mv, torch.ops.aten.dot):
            self.precisions.add(found.dtype)
        return found


@every_search
def test_probabilities_keep_their_precision_in_mixed_precision(name: str) -> None:
    space, search = SPACES[name], family(name).search
    assert search is not None
    net = search.supernet(space, SamplerSettings())
    p = search.alphas(space, none=False, edge_weights="none").soft(1.0)
    with Products() as products, torch.autocast("cpu", dtype=torch.bfloat16):
        net(torch.rand(2, 3, 8, 8), p)
    assert products.precisions <= {torch.float32}
