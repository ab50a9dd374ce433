import math
import random
from dataclasses import replace

import pytest
import torch

from mobilenas.core.errors import BudgetError
from mobilenas.cost.budget import Budget
from mobilenas.cost.budgets import Budgets
from mobilenas.latency.cost_model import Latency
from mobilenas.latency.measured import Failed
from mobilenas.latency.named_profiles import find_profile
from mobilenas.latency.profile import Profile, ProfileError
from mobilenas.latency.units import Unit, arch_units
from mobilenas.pipeline.request import ACTIVATION_FOR
from mobilenas.search.space import space_for
from mobilenas.spaces.mobile.program import ArchProgram
from mobilenas.spaces.mobile.relaxation import Alphas
from mobilenas.spaces.mobile.space import MobileSpace
from mobilenas.spaces.mobile.table import CostTable


def broken(profile: Profile, share: float) -> tuple[Profile, set[str]]:
    """Let the device refuse some blocks with squeeze-excite or large kernels."""
    source, times = random.Random(0), dict(profile.blocks["fp32"])
    keys = [key for key in times if Unit.parse(key).squeeze and source.random() < share]
    times |= {key: Failed(reason="no kernel") for key in keys}
    return replace(profile, blocks={"fp32": times}), set(keys)


def test_the_table_predicts_what_the_profile_predicts_for_the_arch(
    micro_space: MobileSpace, made_up_profile: Profile
) -> None:
    latency = Latency(made_up_profile, "fp32")
    table, source = CostTable(micro_space, "latency", latency), random.Random(3)
    for _ in range(20):
        choice = micro_space.random(source)
        units = arch_units(micro_space.arch(choice))
        assert table.exact(choice) == pytest.approx(made_up_profile.predict_ms(units, "fp32"))
        assert latency.arch(micro_space.arch(choice)) == pytest.approx(table.exact(choice))


def test_gradients_of_expected_latency_are_those_of_central_differences(
    micro_space: MobileSpace, made_up_profile: Profile
) -> None:
    profile, _ = broken(made_up_profile, 0.5)
    table = CostTable(micro_space, "latency", Latency(profile, "fp32"))
    alphas, step = Alphas(micro_space).double(), 1e-5
    torch.manual_seed(0)
    for logits in alphas.logits.values():
        torch.nn.init.normal_(logits)
    table.expected(alphas.soft(0.7)).backward()
    for logits in alphas.logits.values():
        given = logits.grad
        assert given is not None and given.isfinite().all()
        for place, slope in enumerate(given.flatten().tolist()):
            sides = []
            for sign in (1, -2):
                logits.data.view(-1)[place] += sign * step
                sides.append(table.expected(alphas.soft(0.7)).item())
            logits.data.view(-1)[place] += step
            assert slope == pytest.approx((sides[0] - sides[1]) / (2 * step), rel=1e-4, abs=1e-6)


def test_a_block_that_the_device_cannot_run_is_never_found(
    micro_space: MobileSpace, made_up_profile: Profile
) -> None:
    profile, refused = broken(made_up_profile, 0.7)
    table = CostTable(micro_space, "latency", Latency(profile, "fp32"))
    source = random.Random(0)
    costs = sorted(table.exact(micro_space.random(source)) for _ in range(500))
    typical = costs[len([cost for cost in costs if cost < math.inf]) // 2]
    budgets = Budgets(
        micro_space, [Budget(cost="latency", limit=typical)], Latency(profile, "fp32")
    )
    alphas = Alphas(micro_space)
    with torch.no_grad():
        alphas.logits["squeeze"][:, -1] = 5.0  # the alphas want what the device refuses
    found = [ArchProgram(budgets, alphas.scores()).best(), budgets.random(random.Random(1))]
    for choice in found:
        keys = {unit.key for unit in arch_units(micro_space.arch(choice))}
        assert not keys & refused
        assert 0.9 * typical <= table.exact(choice) <= typical
    worst = micro_space.largest()
    assert {u.key for u in arch_units(micro_space.arch(worst))} & refused
    assert table.exact(worst) == math.inf


def test_latency_and_flops_bind_at_once(micro_space: MobileSpace, made_up_profile: Profile) -> None:
    latency, source = Latency(made_up_profile, "fp32"), random.Random(0)
    tables = [CostTable(micro_space, "latency", latency), CostTable(micro_space, "flops")]
    draws = [micro_space.random(source) for _ in range(51)]
    limits = [sorted(table.exact(c) for c in draws)[25] for table in tables]
    both = Budgets(
        micro_space,
        [Budget(cost="latency", limit=limits[0]), Budget(cost="flops", limit=limits[1])],
        latency,
    )
    choice = ArchProgram(both, Alphas(micro_space).scores()).best()
    assert all(table.exact(choice) <= limit for table, limit in zip(tables, limits, strict=True))


def test_a_latency_budget_needs_a_profile(micro_space: MobileSpace) -> None:
    with pytest.raises(BudgetError, match="--profile NAME"):
        Budgets(micro_space, [Budget(cost="latency", limit=8.0)])


def test_a_budget_under_the_fastest_network_says_how_fast_that_is(
    micro_space: MobileSpace, made_up_profile: Profile
) -> None:
    latency = Latency(made_up_profile, "fp32")
    least = CostTable(micro_space, "latency", latency).minimum()
    options = {"image_size": 8, "classes": micro_space.classes, "in_channels": 3}
    with pytest.raises(BudgetError, match=f"smallest network of the space has {least:.3g} ms"):
        space_for([Budget(cost="latency", limit=least / 2)], latency, **options)


def test_the_space_is_the_nearest_of_those_that_were_measured(
    micro_space: MobileSpace, made_up_profile: Profile
) -> None:
    latency = Latency(made_up_profile, "fp32")
    options = {"image_size": 8, "classes": 7, "in_channels": 3}
    space = space_for([Budget(cost="latency", limit=1e4)], latency, **options)
    assert space == replace(micro_space, classes=7)
    off = space_for([Budget(cost="latency", limit=1e4)], latency, squeeze="off", **options)
    assert off.squeeze == (False,)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"image_size": 16}, "--activation hard_swish --name shelf-1-16`"),
        ({"activation": "relu"}, "--activation relu --name shelf-1`"),
    ],
)
def test_a_space_that_was_not_measured_is_named_with_the_command_that_does(
    made_up_profile: Profile, changed: dict[str, object], named: str
) -> None:
    latency = Latency(made_up_profile, "fp32")
    options = {"image_size": 8, "classes": 7, "in_channels": 3} | changed
    with pytest.raises(ProfileError, match="mobilenas profile latency") as raised:
        space_for([Budget(cost="latency", limit=1e4)], latency, **options)
    assert named in str(raised.value)


@pytest.mark.parametrize(("precision", "activation"), ACTIVATION_FOR.items())
def test_the_shipped_profile_serves_images_of_its_size(precision: str, activation: str) -> None:
    latency = Latency(find_profile("x86-1thread"), precision)
    assert latency.profile.warnings() == []
    options = {"image_size": 224, "classes": 47, "in_channels": 3, "activation": activation}
    space = space_for([Budget(cost="latency", limit=6.0)], latency, **options)
    assert space.classes == 47
    table = CostTable(space, "latency", latency)
    assert table.minimum() < 6 < table.exact(space.largest()) < 100
