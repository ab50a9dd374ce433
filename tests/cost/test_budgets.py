import random

import pytest
import torch

from mobilenas.core.errors import BudgetError, MobileNASError
from mobilenas.cost.budget import CONSTRAINTS, Budget
from mobilenas.cost.budgets import Budgets, ConstraintLoss
from mobilenas.cost.networks import costs
from mobilenas.spaces.base import family_of
from mobilenas.spaces.cell.space import KINDS, CellSpace, EdgeTarget
from mobilenas.spaces.cell.table import CellProbabilities
from mobilenas.spaces.mobile.relaxation import Alphas
from mobilenas.spaces.mobile.space import Choice, MobileSpace
from mobilenas.spaces.mobile.table import Probabilities

RHO = 0.5


def budgets_at(space: MobileSpace, choice: Choice, **ratios: float) -> Budgets:
    """Limits such that `choice` costs the given multiples of them."""
    exact = costs(space.arch(choice))
    return Budgets(
        space,
        [Budget(cost=c, limit=round(getattr(exact, c) / ratio)) for c, ratio in ratios.items()],
    )


def certain(budgets: Budgets, choice: Choice) -> Probabilities:
    return Alphas(budgets.space).one_hot(choice)


def loss(kind: str, budgets: Budgets, strength: float = 3.0) -> ConstraintLoss:
    return ConstraintLoss(kind, budgets, strength=strength, rho=RHO)


@pytest.fixture
def choice(tiny_space: MobileSpace) -> Choice:
    return tiny_space.random(random.Random(4))


def test_a_budget_checks_itself() -> None:
    assert str(Budget(cost="flops", limit=1_500_000)) == "flops <= 1.5M"
    with pytest.raises(MobileNASError, match="cost is 'joules'; it must be one of flops, params"):
        Budget(cost="joules", limit=1)
    with pytest.raises(BudgetError, match="the params budget is 0; it must be above zero"):
        Budget(cost="params", limit=0)


def test_no_budget_is_an_error(tiny_space: MobileSpace) -> None:
    with pytest.raises(BudgetError, match="--flops, --params, --memory or --latency"):
        Budgets(tiny_space, [])


@pytest.mark.parametrize(
    ("ratios", "load", "fits"),
    [
        ({"flops": 0.5}, 0.5, False),
        ({"flops": 0.95}, 0.95, True),
        ({"flops": 1.0}, 1.0, True),
        ({"flops": 1.1}, 1.1, False),
        ({"flops": 0.5, "memory": 0.95}, 0.95, True),
        ({"flops": 0.95, "params": 1.2}, 1.2, False),
        ({"memory": 0.5}, 0.5, True),  # no peak need lie just below the limit
        ({"memory": 1.1}, 1.1, False),
    ],
)
def test_the_largest_load_decides(
    tiny_space: MobileSpace, choice: Choice, ratios: dict[str, float], load: float, fits: bool
) -> None:
    budgets = budgets_at(tiny_space, choice, **ratios)
    assert budgets.utilization(choice) == pytest.approx(load, rel=1e-3)
    assert budgets.is_feasible(choice) is fits


def test_one_more_flop_than_the_limit_does_not_fit(tiny_space: MobileSpace) -> None:
    largest = tiny_space.largest()
    limit = costs(tiny_space.arch(largest)).flops
    assert Budgets(tiny_space, [Budget(cost="flops", limit=limit)]).is_feasible(largest)
    assert not Budgets(tiny_space, [Budget(cost="flops", limit=limit - 1)]).is_feasible(largest)


def test_budgets_need_not_be_filled(tiny_space: MobileSpace) -> None:
    least = tiny_space.smallest()
    limit = [Budget(cost="flops", limit=10**9)]
    assert not Budgets(tiny_space, limit).is_feasible(least)
    assert Budgets(tiny_space, limit, filled=False).is_feasible(least)


def test_random_networks_fit_and_repeat_with_the_seed(
    tiny_space: MobileSpace, choice: Choice
) -> None:
    budgets = budgets_at(tiny_space, choice, flops=1.0, params=1.0)
    drawn = [budgets.random(source) for source in [random.Random(0)] for _ in range(10)]
    assert all(map(budgets.is_feasible, drawn))
    assert len(set(drawn)) > 1
    assert budgets.random(random.Random(0)) == drawn[0]


def test_random_says_what_cannot_be_drawn(
    micro_space: MobileSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mobilenas.cost.budgets._MAX_DRAWS", 100)
    budgets = Budgets(micro_space, [Budget(cost="flops", limit=10**9)])
    with pytest.raises(BudgetError, match=r"none of 100 random networks meets flops <= 1G and"):
        budgets.random(random.Random(0))


def test_a_budget_below_every_network_names_the_smallest(
    micro_space: MobileSpace, every_choice: list[Choice]
) -> None:
    for cost in ("flops", "params", "memory"):
        table = Budgets(micro_space, [Budget(cost=cost, limit=1)]).tables[cost]
        least = int(min(map(table.exact, every_choice)))
        Budgets(micro_space, [Budget(cost=cost, limit=least)]).check_reachable()
        both = [Budget(cost="flops", limit=10**9)] * (cost != "flops")
        short = Budgets(micro_space, [*both, Budget(cost=cost, limit=least - 1)])
        with pytest.raises(BudgetError) as raised:
            short.check_reachable()
        shown = f"{least / 1000:.4g}k"
        assert f"smallest network of the space has {shown} {cost}" in str(raised.value)
        assert str(raised.value).startswith(f"{cost} <= ")


def test_expected_has_every_budget(tiny_space: MobileSpace, choice: Choice) -> None:
    budgets = budgets_at(tiny_space, choice, flops=1.25, memory=0.5)
    expected = budgets.expected(certain(budgets, choice))
    exact = costs(tiny_space.arch(choice))
    assert {k: v.item() for k, v in expected.items()} == {
        "flops": exact.flops,
        "memory": exact.memory,
    }


# loss by hand at F/T = 1.25 and 0.5: g = 0.25 and -0.5
@pytest.mark.parametrize(
    ("kind", "over", "under"),
    [
        ("penalty", 3 * 1.25, 3 * 0.5),
        ("hinge", 3 * 0.25, 0.0),
        ("lagrangian", 0.125**2 / (2 * RHO), 0.0),  # mu = 0: max(0, 0.5 * 0.25)^2 / (2 * 0.5)
    ],
)
def test_the_losses_by_hand(
    tiny_space: MobileSpace, choice: Choice, kind: str, over: float, under: float
) -> None:
    for ratios, value in (
        ({"flops": 1.25}, over),
        ({"flops": 0.5}, under),
        ({"flops": 1.25, "params": 0.5}, over + under),
        ({"flops": 1.25, "params": 1.25}, 2 * over),
    ):
        budgets = budgets_at(tiny_space, choice, **ratios)
        term = loss(kind, budgets)(certain(budgets, choice))
        assert term.shape == ()
        assert term.item() == pytest.approx(value, rel=1e-3)


def test_the_multipliers_by_hand(tiny_space: MobileSpace, choice: Choice) -> None:
    budgets = budgets_at(tiny_space, choice, flops=1.25, params=0.5)
    constraint, p = loss("lagrangian", budgets), certain(budgets, choice)
    assert constraint.state_dict() == {"flops": 0.0, "params": 0.0}
    constraint(p)
    constraint.update()  # 0 + 0.5 * 0.25, and max(0, 0 - 0.5 * 0.5)
    assert constraint.state_dict() == pytest.approx({"flops": 0.125, "params": 0.0}, rel=1e-3)
    constraint.update()
    assert constraint.state_dict() == pytest.approx({"flops": 0.25, "params": 0.0}, rel=1e-3)
    # ((0.25 + 0.125)^2 - 0.25^2) / 1 for flops; (0 - 0) / 1 for params
    assert constraint(p).item() == pytest.approx(0.078125, rel=1e-3)
    constraint.load_state_dict({"flops": 0.1, "params": 0.4})
    # (0.225^2 - 0.1^2) + (0.15^2 - 0.4^2): a satisfied budget pulls back down to its multiplier
    assert constraint(p).item() == pytest.approx(0.040625 - 0.1375, rel=2e-3)
    constraint.update()
    assert constraint.state_dict() == pytest.approx({"flops": 0.225, "params": 0.15}, rel=1e-3)


def test_the_state_round_trips(tiny_space: MobileSpace, choice: Choice) -> None:
    budgets = budgets_at(tiny_space, choice, flops=1.3, memory=1.1)
    first, second = loss("lagrangian", budgets), loss("lagrangian", budgets)
    p = certain(budgets, choice)
    for _ in range(3):
        first(p)
        first.update()
    second.load_state_dict(first.state_dict())
    assert second.state_dict() == first.state_dict()
    assert second(p).item() == first(p).item()


@pytest.mark.parametrize("kind", ["penalty", "hinge"])
def test_only_the_lagrangian_has_multipliers(
    tiny_space: MobileSpace, choice: Choice, kind: str
) -> None:
    budgets = budgets_at(tiny_space, choice, flops=2.0)
    constraint = loss(kind, budgets)
    constraint(certain(budgets, choice))
    constraint.update()
    assert constraint.state_dict() == {"flops": 0.0}


def test_the_gradient_pushes_down_only_what_is_over(tiny_space: MobileSpace) -> None:
    alphas = Alphas(tiny_space)
    for limit, pushed in ((1, True), (10**12, False)):
        budgets = Budgets(tiny_space, [Budget(cost="flops", limit=limit)])
        alphas.zero_grad()
        loss("lagrangian", budgets)(alphas.soft(1.0)).backward()
        assert all(bool(w.grad is not None and w.grad.any()) is pushed for w in alphas.parameters())
        if pushed:  # a descent step makes the first, cheapest width likelier
            grad = alphas.logits["width"].grad
            assert grad is not None and bool((grad[:, 0] < 0).all())


def test_an_unknown_kind_is_named(tiny_space: MobileSpace, choice: Choice) -> None:
    budgets = budgets_at(tiny_space, choice, flops=1.0)
    with pytest.raises(MobileNASError, match="constraint is 'wall'; it must be one of lagrangian"):
        loss("wall", budgets)


@pytest.fixture(params=["2/node", "3/cell"])
def cell_space(request: pytest.FixtureRequest) -> CellSpace:
    return CellSpace(
        image_size=16,
        in_channels=3,
        classes=5,
        channels=4,
        edges=EdgeTarget.parse(request.param),
    )


def even(space: CellSpace) -> CellProbabilities:
    edges, kept = len(space.edge_ends), torch.zeros(len(space.edge_ends))
    for group in space.groups():
        kept[group] = min(1.0, space.edges.kept / len(group))
    rows = torch.full((edges, len(space.operations)), 1 / len(space.operations))
    return CellProbabilities(
        operations=dict.fromkeys(KINDS, rows),
        edges=dict.fromkeys(KINDS, torch.ones(edges)),
        kept=dict.fromkeys(KINDS, kept.requires_grad_()),
    )


def test_budgets_hold_in_the_cell_space_too(cell_space: CellSpace) -> None:
    source = random.Random(0)
    exact = costs(cell_space.arch(cell_space.random(source)))
    limits = {"flops": exact.flops, "params": exact.params}
    budgets = Budgets(cell_space, [Budget(cost=c, limit=n) for c, n in limits.items()])
    for _ in range(20):
        choice = budgets.random(source)
        drawn = costs(cell_space.arch(choice))
        utilizations = [drawn.flops / exact.flops, drawn.params / exact.params]
        assert budgets.utilization(choice) == max(utilizations)
        assert 0.9 <= max(utilizations) <= 1
    p = even(cell_space)
    expected = budgets.expected(p)
    assert list(expected) == ["flops", "params"]
    term = loss("penalty", budgets)(p)
    by_hand = sum(3 * expected[cost].item() / limit for cost, limit in limits.items())
    assert term.item() == pytest.approx(by_hand)
    term.backward()
    assert bool(p.kept["normal"].grad.gt(0).all())  # type: ignore[union-attr]


def test_the_cell_space_needs_no_budget(cell_space: CellSpace) -> None:
    budgets = Budgets(cell_space, ())
    assert budgets.floor == 0
    assert list(budgets.tables) == ["flops", "params"]
    budgets.check_reachable()
    for choice in (cell_space.smallest(), cell_space.largest(), budgets.random(random.Random(0))):
        assert budgets.utilization(choice) == 0
        assert budgets.is_feasible(choice)
    p = even(cell_space)
    assert budgets.expected(p) == {}
    for kind in CONSTRAINTS:
        constraint = loss(kind, budgets)
        term = constraint(p)
        constraint.update()
        assert term.shape == ()
        assert term.item() == 0
        assert constraint.state_dict() == {}


def test_memory_and_latency_are_of_the_mobile_space(
    cell_space: CellSpace, tiny_space: MobileSpace
) -> None:
    for cost in ("memory", "latency"):
        message = f"a {cost} budget is for the mobile space only; the cell space has flops and par"
        with pytest.raises(BudgetError, match=message):
            Budgets(cell_space, [Budget(cost=cost, limit=10)])
    with pytest.raises(BudgetError, match="a latency budget needs the profile of a device"):
        family_of(tiny_space).table(tiny_space, "latency", None)
