"""Which sides the budgets ask for."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest

from mobilenas.core.errors import BudgetError, MobileNASError, UnreachableError
from mobilenas.cost.budget import Budget
from mobilenas.latency.cost_model import Latency
from mobilenas.latency.measured import Measured
from mobilenas.latency.profile import Profile, ProfileError
from mobilenas.latency.units import space_units
from mobilenas.search.space_subnetworks import (
    measured_sides,
    parts_up_to,
    sides_up_to,
    subnetwork_space_for,
)
from mobilenas.spaces.mobile.efficientnet_lite import efficientnet_lite
from mobilenas.spaces.subnetworks.space import SubnetworkSpace
from mobilenas.spaces.subnetworks.table import CostTable

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


@pytest.fixture
def measured(made_up_profile: Profile) -> Callable[..., Latency]:
    """Make a profile with the parts of the whole network at some sides, with made-up times."""

    def made(*sides: int) -> Latency:
        space = SubnetworkSpace(whole=WHOLE(sides[-1]), sides=sides)
        times = {
            unit.key: Measured.of([1e4 * unit.side * (unit.hidden + 1)])
            for unit in space_units(space)
        }
        return Latency(replace(made_up_profile, blocks={"fp32": times}), "fp32")

    return made


def test_a_latency_is_kept_at_the_sides_that_were_measured(
    measured: Callable[..., Latency],
) -> None:
    latency = measured(32, 64, 96)
    sides = measured_sides(latency, "efficientnet_lite0", 12, sides_up_to(96))
    assert sides == (32, 64, 96)
    limits = [Budget(cost="latency", limit=latency.arch(WHOLE(64)))]
    space = subnetwork_space_for(limits, WHOLE, sides, latency)
    assert space.sides == (64, 96)
    table = CostTable(space, "latency", latency)
    for choice in (space.largest(), space.smallest()):
        assert table.exact(choice) == pytest.approx(latency.arch(space.arch(choice)))
    assert parts_up_to("efficientnet_lite0", 96, 12).sides == sides_up_to(96)


def test_a_profile_without_the_parts_says_how_to_measure_them(
    measured: Callable[..., Latency],
) -> None:
    command = (
        "`mobilenas profile latency --pretrained efficientnet_lite0 --image-size 64 --precision "
        "fp32 --name shelf-1-efficientnet_lite0` measures them"
    )
    with pytest.raises(ProfileError, match=f"lacks 'stem 64px .*{command}"):
        measured_sides(measured(32, 96), "efficientnet_lite0", 12, [48, 64])


def test_images_of_any_side_are_among_those_that_are_chosen_from() -> None:
    assert sides_up_to(100) == (32, 48, 64, 80, 96, 100)
    assert sides_up_to(32) == (32,)
