"""Which sides the budgets ask for."""

from functools import partial

import pytest

from mobilenas.core.errors import BudgetError, MobileNASError, UnreachableError
from mobilenas.cost.budget import Budget
from mobilenas.search.space_subnetworks import sides_up_to, subnetwork_space_for
from mobilenas.spaces.mobile.efficientnet_lite import efficientnet_lite

WHOLE = partial(efficientnet_lite, 0, classes=12)
SIDES = sides_up_to(128)


def limit(number: int, cost: str = "flops") -> list[Budget]:
    return [Budget(cost=cost, limit=number)]


@pytest.mark.parametrize(
    ("flops", "sides"),
    [
        # the whole network has 22.1 M at 48, 31.4 M at 64, 56.0 M at 80, 70.5 M at 96, 125 M at 128
        (30_000_000, (64, 80, 96)),
        (60_000_000, (80, 96, 112, 128)),
        (100_000_000, (112, 128)),
        # no side costs less than three times as much
        (2_000_000, (32,)),
    ],
)
def test_sides_at_which_the_whole_network_is_near_the_budget(
    flops: int, sides: tuple[int, ...]
) -> None:
    space = subnetwork_space_for(limit(flops), WHOLE, SIDES)
    assert space.sides == sides
    assert space.whole == WHOLE(sides[-1])


@pytest.mark.parametrize("params", [1_000_000, 2_000_000])
def test_params_are_the_same_at_all_sides(params: int) -> None:
    # also where the whole network has more than three times as many
    assert subnetwork_space_for(limit(params, "params"), WHOLE, SIDES).sides == SIDES


def test_budgets_that_no_side_keeps_or_that_limit_nothing_are_refused() -> None:
    with pytest.raises(UnreachableError, match=r"--flops .*at 32x32"):
        subnetwork_space_for(limit(100_000), WHOLE, SIDES)
    with pytest.raises(BudgetError, match=r"limits nothing.*larger than 128x128"):
        subnetwork_space_for(limit(500_000_000), WHOLE, SIDES)
    with pytest.raises(MobileNASError, match="24x24 are too small"):
        subnetwork_space_for(limit(30_000_000), WHOLE, [24])


def test_images_of_any_side_are_among_those_that_are_chosen_from() -> None:
    assert sides_up_to(100) == (32, 48, 64, 80, 96, 100)
    assert sides_up_to(32) == (32,)
