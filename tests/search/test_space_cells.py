import math
import random
import re
import statistics
from typing import Any

import pytest

from mobilenas.core.errors import BudgetError, MobileNASError
from mobilenas.core.settings import parse_count
from mobilenas.cost.budget import Budget
from mobilenas.cost.budgets import Budgets
from mobilenas.search.space_cells import cell_space_for
from mobilenas.spaces.cell.space import CellSpace, EdgeTarget

IMAGES = {"image_size": 32, "classes": 10, "in_channels": 3}
TARGETS = [EdgeTarget(), EdgeTarget(kept=3, of="cell")]


def flops(limit: float) -> Budget:
    return Budget(cost="flops", limit=limit)


def params(limit: float) -> Budget:
    return Budget(cost="params", limit=limit)


def distance(budgets: list[Budget], space: CellSpace, seed: int = 0, draws: int = 64) -> float:
    """How far, in logarithms, the median load of drawn networks is from 1."""
    limits, source = Budgets(space, budgets), random.Random(seed)
    utilizations = [limits.utilization(space.random(source)) for _ in range(draws)]
    return abs(math.log(statistics.median(utilizations)))


def test_without_budgets_it_is_8_cells_and_16_channels() -> None:
    space = cell_space_for((), **IMAGES)
    assert space == CellSpace(image_size=32, classes=10, in_channels=3, layers=8, channels=16)
    space = cell_space_for((), **IMAGES, layers=None, channels=20, edges=TARGETS[1], nodes=3)
    assert (space.layers, space.channels, space.nodes, str(space.edges)) == (8, 20, 3, "3/cell")


@pytest.mark.parametrize("edges", TARGETS, ids=str)
@pytest.mark.parametrize(
    "budgets", [[flops(60e6)], [params(300e3)], [flops(9e6), params(1e6)], [flops(2e9)]], ids=str
)
def test_typical_networks_lie_at_the_budget(edges: EdgeTarget, budgets: list[Budget]) -> None:
    space = cell_space_for(budgets, **IMAGES, edges=edges)
    for step in (-2, 2):
        other = cell_space_for((), **IMAGES, edges=edges, channels=space.channels + step)
        assert distance(budgets, space) < distance(budgets, other)
    assert distance(budgets, space, seed=1, draws=400) < 0.3
    limits, source = Budgets(space, budgets), random.Random(0)
    assert all(limits.is_feasible(limits.random(source)) for _ in range(10))


def test_more_cells_leave_fewer_channels() -> None:
    shallow, deep = (
        cell_space_for([flops(60e6)], **IMAGES, layers=layers, search_layers=5, search_channels=8)
        for layers in (8, 20)
    )
    assert shallow.channels > deep.channels
    assert (deep.layers, deep.search_layers, deep.search_channels) == (20, 5, 8)


@pytest.mark.parametrize("options", [{}, {"channels": 16}])
def test_a_budget_that_cannot_be_kept_names_the_smallest_network(options: dict[str, Any]) -> None:
    channels = options.get("channels", 2)
    least = Budgets(cell_space_for((), **IMAGES, channels=channels), ()).tables["params"].minimum()
    message = rf"params <= 1k.* has {least / 1000:.4g}k params"
    with pytest.raises(BudgetError, match=message):
        cell_space_for([params(1000)], **IMAGES, **options)


def test_given_channels_are_only_checked() -> None:
    assert cell_space_for([flops(10e9)], **IMAGES, channels=4).channels == 4


def test_the_smallest_network_may_be_the_only_one_that_fits() -> None:
    two = cell_space_for((), **IMAGES, channels=2)
    least = Budgets(two, ()).tables["flops"].minimum()
    assert cell_space_for([flops(least)], **IMAGES) == two


def test_the_parts_of_the_mobile_space_are_refused() -> None:
    with pytest.raises(BudgetError, match="a memory budget is for the mobile space only"):
        cell_space_for([Budget(cost="memory", limit=10**6)], **IMAGES)
    with pytest.raises(MobileNASError, match="image_size is 2; it must be a whole number, 4 to"):
        cell_space_for([flops(1e6)], **IMAGES | {"image_size": 2})


@pytest.mark.parametrize(
    ("layers", "channels", "limit"), [(3, 8, 3e6), (2, 4, 3e6), (3, None, 300e3)]
)
def test_a_budget_that_no_random_network_uses_is_refused_with_one_that_some_do(
    monkeypatch: pytest.MonkeyPatch, layers: int, channels: int | None, limit: float
) -> None:
    monkeypatch.setattr("mobilenas.cost.budgets._MAX_DRAWS", 2000)
    sizes: dict[str, Any] = {"layers": layers, "search_layers": 3, "search_channels": 8}
    space = cell_space_for([flops(limit)], **IMAGES, **sizes, channels=channels)
    with pytest.raises(BudgetError, match=r"none of 2000 random .* --channels or --layers"):
        Budgets(space, [flops(limit)]).check_used()
    with pytest.raises(BudgetError) as caught:
        Budgets(space, [flops(limit), params(1e9)]).check_used()
    advised = re.search(r"ask for --flops (\S+) --params (\S+),", str(caught.value))
    assert advised is not None
    budgets = [flops(parse_count(advised[1])), params(parse_count(advised[2]))]
    for some in (budgets, budgets[:1], budgets[1:]):
        Budgets(cell_space_for(some, **IMAGES, **sizes, channels=space.channels), some).check_used()
    Budgets(space, ()).check_used()
    Budgets(space, [flops(1e12)], filled=False).check_used()
