"""Discretization among the parts of a network."""

import pytest

from mobilenas.core.errors import MobileNASError
from mobilenas.cost.budget import Budget
from mobilenas.cost.budgets import Budgets
from mobilenas.spaces.mobile.efficientnet_lite import efficientnet_lite
from mobilenas.spaces.mobile.mobilenets import MOBILENETS
from mobilenas.spaces.subnetworks.program import least_pruned
from mobilenas.spaces.subnetworks.space import SubnetworkSpace


def test_what_leaves_out_least_is_nearly_whole_at_the_smallest_side() -> None:
    space = SubnetworkSpace(whole=efficientnet_lite(0, 96, 12), sides=(48, 64, 80, 96))
    budgets = Budgets(space, [Budget(cost="flops", limit=30_000_000)])
    found = least_pruned(budgets)
    # at 48 the whole network has 22 M, which uses too little of the budget
    assert [space.sides[choice.side[0]] for choice in found] == [64, 80, 96]
    assert all(map(budgets.is_feasible, found))
    kept = [sum(block.hidden for block in space.arch(choice).blocks) for choice in found]
    whole = sum(block.hidden for block in space.whole.blocks)
    assert kept == sorted(kept, reverse=True)
    assert kept[0] > 0.85 * whole
    assert len(space.arch(found[0]).blocks) == len(space.whole.blocks)


def test_the_whole_network_leaves_out_nothing() -> None:
    space = SubnetworkSpace(whole=efficientnet_lite(0, 64, 12), sides=(64,))
    (found,) = least_pruned(Budgets(space, [Budget(cost="flops", limit=10**9)], filled=False))
    assert found == space.largest()


def test_other_chains_have_no_parts() -> None:
    for name in ("mobilenet_v1", "mobilenet_v4_conv_small"):
        with pytest.raises(MobileNASError, match="only a chain of inverted residuals"):
            SubnetworkSpace(whole=MOBILENETS[name](1.0, 64, 10), sides=(64,))
