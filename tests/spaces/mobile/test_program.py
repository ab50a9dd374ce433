import random

import pytest
import torch
from torch import Tensor

from mobilenas.core.errors import BudgetError
from mobilenas.cost.budget import Budget
from mobilenas.cost.budgets import Budgets
from mobilenas.spaces.mobile.program import ArchProgram
from mobilenas.spaces.mobile.relaxation import Alphas
from mobilenas.spaces.mobile.space import Choice, MobileSpace
from mobilenas.spaces.mobile.table import DECISIONS
from mobilenas.spaces.mobile.template import Shape, template
from mobilenas.spaces.program import perturbed

COSTS = [("flops",), ("flops", "params"), ("flops", "memory"), ("memory",), ("params", "memory")]


def scores(space: MobileSpace, seed: int) -> dict[str, Tensor]:
    alphas, generator = Alphas(space), torch.Generator().manual_seed(seed)
    for logits in alphas.parameters():
        logits.data.normal_(std=2, generator=generator)
    return alphas.scores()


def value(space: MobileSpace, log_p: dict[str, Tensor], choice: Choice) -> float:
    """The sum over decisions that count of log p less the best log p of the decision."""
    total = 0.0
    for name in DECISIONS:
        rows = (log_p[name] - log_p[name].amax(-1, keepdim=True)).tolist()
        for index, pick in enumerate(getattr(choice, name)):
            counts = name in ("width", "keep") or choice.keep[index]
            if name == "start":  # of an expansion layer
                slot = space.slots[index]
                counts = counts and slot.expansions[choice.expansion[index]] > 1
            total += rows[index][int(pick)] if counts else 0.0
    return total


def several(program: ArchProgram, count: int, distance: int) -> list[Choice]:
    found: list[Choice] = []
    while len(found) < count:
        choice = program.solve(exclude=found, distance=distance)
        if choice is None:
            break
        found.append(choice)
    return found


def limits(space: MobileSpace, costs: tuple[str, ...], seed: int) -> Budgets:
    """Budgets around the costs of a random network."""
    any_budget = Budgets(space, [Budget(cost="flops", limit=1)])
    choice = space.random(random.Random(seed))
    return Budgets(
        space,
        [Budget(cost=c, limit=round(1.02 * any_budget.tables[c].exact(choice))) for c in costs],
    )


@pytest.mark.parametrize("costs", COSTS, ids="+".join)
@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))]
)
def test_the_optimum_is_that_of_trying_every_network(
    micro_space: MobileSpace, every_choice: list[Choice], costs: tuple[str, ...], seed: int
) -> None:
    budgets, log_p = limits(micro_space, costs, seed), scores(micro_space, seed)
    best = max(value(micro_space, log_p, c) for c in every_choice if budgets.is_feasible(c))
    found = ArchProgram(budgets, log_p).best()
    assert budgets.is_feasible(found)
    assert value(micro_space, log_p, found) == pytest.approx(best, rel=2e-4, abs=1e-6)


@pytest.mark.parametrize("costs", COSTS, ids="+".join)
def test_further_optima_are_distinct_fit_and_come_in_order(
    micro_space: MobileSpace, every_choice: list[Choice], costs: tuple[str, ...]
) -> None:
    budgets, log_p = limits(micro_space, costs, 1), scores(micro_space, 1)
    found = several(ArchProgram(budgets, log_p), 6, 1)
    archs = {micro_space.arch(c): value(micro_space, log_p, c) for c in every_choice}
    fit = {micro_space.arch(c) for c in every_choice if budgets.is_feasible(c)}
    best = sorted((archs[arch] for arch in fit), reverse=True)
    assert len({micro_space.arch(choice) for choice in found}) == len(found) == min(6, len(fit))
    assert all(map(budgets.is_feasible, found))
    values = [value(micro_space, log_p, choice) for choice in found]
    assert values == pytest.approx(best[: len(found)], rel=2e-4, abs=1e-6)


def test_distance_asks_for_that_many_other_slots(tiny_space: MobileSpace) -> None:
    budgets, log_p = limits(tiny_space, ("flops", "params"), 0), scores(tiny_space, 0)
    found = several(ArchProgram(budgets, log_p), 3, 3)
    assert len(found) == 3

    def seen(choice: Choice) -> list[object]:
        rows = []
        for index, slot in enumerate(tiny_space.slots):
            widths = choice.width[slot.stage], slot.first and choice.width[max(0, slot.stage - 1)]
            operations = choice.kernel[index], choice.expansion[index], choice.squeeze[index]
            start = slot.start_of(choice.expansion[index], choice.start[index])
            rows.append((widths, (*operations, start) if choice.keep[index] else None))
        return rows

    for i, first in enumerate(found):
        for second in found[:i]:
            pairs = zip(seen(first), seen(second), strict=True)
            assert sum(a != b for a, b in pairs) >= 3


def test_perturbed_scores_are_drawn_with_the_probabilities(tiny_space: MobileSpace) -> None:
    log_probabilities = scores(tiny_space, 0)
    generator = torch.Generator().manual_seed(0)
    counts = {name: torch.zeros_like(rows) for name, rows in log_probabilities.items()}
    for _ in range(4000):
        for name, rows in perturbed(log_probabilities, generator).items():
            counts[name].scatter_add_(-1, rows.argmax(-1, keepdim=True), torch.ones_like(rows))
    for name, rows in log_probabilities.items():
        torch.testing.assert_close(counts[name] / 4000, rows.softmax(-1), atol=0.04, rtol=0)


@pytest.mark.parametrize("size", [32, 224])
def test_every_solution_of_a_whole_space_fits(size: int) -> None:
    space = template(0.5, image_size=size, classes=10, shape=Shape(blocks=2))
    budgets, log_p = limits(space, ("flops", "params", "memory"), 5), scores(space, 5)
    for choice in several(ArchProgram(budgets, log_p), 2, 2):
        assert budgets.is_feasible(choice)


def test_one_flop_over_the_limit_is_over() -> None:
    # the solver's own tolerance is 1e-6 of the limit: at a few hundred MFLOPs, hundreds of FLOPs
    space = template(1.0, image_size=224, classes=10, shape=Shape(blocks=1))
    alphas, largest = Alphas(space), space.largest()
    for name in DECISIONS:
        rows = torch.tensor([int(pick) for pick in getattr(largest, name)])
        alphas.logits[name].data.scatter_(-1, rows[:, None], 4.0)
    table = Budgets(space, [Budget(cost="flops", limit=1)]).tables["flops"]
    exactly = int(table.exact(largest))
    for limit in (exactly, exactly - 1):
        budgets = Budgets(space, [Budget(cost="flops", limit=limit)])
        found = ArchProgram(budgets, alphas.scores()).best()
        assert (found == largest) is (limit == exactly)
        assert budgets.is_feasible(found)


def test_a_budget_may_be_loose_where_memory_is_the_tight_one(
    micro_space: MobileSpace, every_choice: list[Choice]
) -> None:
    peak = Budgets(micro_space, [Budget(cost="memory", limit=1)]).tables["memory"]
    limit = int(sorted(map(peak.exact, every_choice))[len(every_choice) // 2])
    budgets = Budgets(
        micro_space, [Budget(cost="flops", limit=10**9), Budget(cost="memory", limit=limit)]
    )
    found = ArchProgram(budgets, scores(micro_space, 0)).best()
    assert budgets.is_feasible(found)


@pytest.mark.parametrize("cost", ["flops", "params", "memory"])
def test_an_impossible_budget_names_the_smallest(
    micro_space: MobileSpace, every_choice: list[Choice], cost: str
) -> None:
    table = Budgets(micro_space, [Budget(cost=cost, limit=1)]).tables[cost]
    least = int(min(map(table.exact, every_choice)))
    other = "params" if cost == "flops" else "flops"
    budgets = Budgets(
        micro_space, [Budget(cost=other, limit=10**5), Budget(cost=cost, limit=least - 1)]
    )
    with pytest.raises(BudgetError) as raised:
        ArchProgram(budgets, scores(micro_space, 0)).best()
    assert f"cannot be met: the smallest network of the space has {least / 1000:.4g}k" in str(
        raised.value
    )


def test_a_budget_that_nothing_uses_says_so(micro_space: MobileSpace) -> None:
    budgets = Budgets(micro_space, [Budget(cost="flops", limit=10**9)])
    with pytest.raises(BudgetError, match="no network of the space meets flops <= 1G and uses 90"):
        ArchProgram(budgets, scores(micro_space, 0)).best()


def test_memory_alone_need_not_be_used(micro_space: MobileSpace) -> None:
    # peaks lie far apart: there may be none between 90 and 100 % of a limit
    budgets = Budgets(micro_space, [Budget(cost="memory", limit=10**6)])
    log_p = scores(micro_space, 0)
    found = ArchProgram(budgets, log_p).best()
    assert value(micro_space, log_p, found) == pytest.approx(0.0, abs=1e-6)
