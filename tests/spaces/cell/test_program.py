"""The program of the cell space against trying every network, and against the rule of DARTS."""

import random
from collections.abc import Sequence
from functools import cache
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from mobilenas.core.errors import BudgetError
from mobilenas.cost.budget import Budget
from mobilenas.cost.budgets import Budgets
from mobilenas.spaces.cell.program import CellProgram
from mobilenas.spaces.cell.space import KINDS, LEFT_OUT, CellChoice, CellSpace, EdgeTarget

TARGETS = [("1/node", 2), ("2/node", 2), ("1/cell", 2), ("3/cell", 2), ("4/cell", 2), ("3/cell", 3)]
COSTS = [("flops",), ("params",), ("flops", "params")]


def space(target: str, nodes: int = 4, **changes: Any) -> CellSpace:
    fields: dict[str, Any] = {"image_size": 16, "in_channels": 3, "classes": 5, "channels": 4}
    return CellSpace(**fields | changes, nodes=nodes, edges=EdgeTarget.parse(target))


def small(target: str, nodes: int) -> CellSpace:
    operations = ("sep_conv_3x3", "skip_connect")[: 4 - nodes]
    return space(target, nodes, operations=operations, layers=6)


def scores(space: CellSpace, seed: int) -> dict[str, Tensor]:
    """Log of edge weight x operation probability, with a share of the latter for `none`."""
    generator = torch.Generator().manual_seed(seed)
    shape = (len(space.edge_ends), len(space.operations) + 1)
    return {
        kind: torch.randn(shape, generator=generator, dtype=torch.float64).log_softmax(-1)[:, :-1]
        + torch.randn(shape[0], 1, generator=generator, dtype=torch.float64)
        for kind in KINDS
    }


def cell_value(rows: Tensor, cell: tuple[int, ...]) -> float:
    return sum(float(rows[e, o]) for e, o in enumerate(cell) if o != LEFT_OUT)


def value(rows: dict[str, Tensor], choice: CellChoice) -> float:
    """The sum of the scores of what is kept."""
    return sum(cell_value(rows[kind], choice.of(kind)) for kind in KINDS)


def ranked(rows: dict[str, Tensor], choices: Sequence[CellChoice]) -> list[CellChoice]:
    """Best first."""
    cells = {kind: {choice.of(kind) for choice in choices} for kind in KINDS}
    values = {kind: {cell: cell_value(rows[kind], cell) for cell in cells[kind]} for kind in KINDS}
    return sorted(choices, key=lambda c: -sum(values[kind][c.of(kind)] for kind in KINDS))


@cache
def every_choice(space: CellSpace) -> list[CellChoice]:
    options = range(LEFT_OUT, len(space.operations))
    cells = [
        picks
        for picks in product(options, repeat=len(space.edge_ends))
        if space.is_legal(CellChoice(normal=picks, reduce=picks))
    ]
    return [CellChoice(normal=n, reduce=r) for n, r in product(cells, cells)]


def limits(space: CellSpace, costs: Sequence[str], seed: int) -> Budgets:
    """Budgets around the costs of a random network."""
    tables = Budgets(space, ()).tables
    choice = space.random(random.Random(seed))
    return Budgets(
        space, [Budget(cost=c, limit=round(1.02 * tables[c].exact(choice))) for c in costs]
    )


def difference(first: CellChoice, second: CellChoice) -> int:
    """Edges that are not the same in both."""
    pairs = zip(first.normal + first.reduce, second.normal + second.reduce, strict=True)
    return sum(a != b for a, b in pairs)


def darts(space: CellSpace, rows: dict[str, Tensor]) -> CellChoice:
    """Per group the edges with the largest score of all, each with its best operation."""
    cells = {}
    for kind in KINDS:
        best, operation = rows[kind].max(-1)
        picks = [LEFT_OUT] * len(space.edge_ends)
        for group in space.groups():
            order = best[group].argsort(descending=True).tolist()
            for e in [group[place] for place in order[: space.edges.kept]]:
                picks[e] = int(operation[e])
        cells[kind] = tuple(picks)
    return CellChoice(**cells)


@pytest.mark.parametrize("costs", [(), *COSTS], ids="+".join)
@pytest.mark.parametrize(("target", "nodes"), TARGETS)
def test_the_optimum_is_that_of_trying_every_network(
    target: str, nodes: int, costs: tuple[str, ...]
) -> None:
    here = small(target, nodes)
    choices = every_choice(here)
    for seed in range(3):
        budgets, rows = limits(here, costs, seed), scores(here, seed)
        found = CellProgram(budgets, rows).best()
        assert here.is_legal(found)
        assert budgets.is_feasible(found)
        assert found == next(filter(budgets.is_feasible, ranked(rows, choices)))


@pytest.mark.parametrize("target", ["2/node", "3/node", "5/node"])
def test_without_budgets_it_is_the_rule_of_darts(target: str) -> None:
    here = space(target)
    for seed in range(10):
        rows = scores(here, seed)
        assert CellProgram(Budgets(here, ()), rows).best() == darts(here, rows)


def test_a_whole_cell_has_the_best_edges_where_those_make_a_network() -> None:
    here, whole = space("7/cell"), 0
    for seed in range(20):
        rows = scores(here, seed)
        best, found = darts(here, rows), CellProgram(Budgets(here, ()), rows).best()
        assert here.is_legal(found)
        assert (found == best) is here.is_legal(best)
        assert value(rows, found) <= value(rows, best) + 1e-9
        whole += here.is_legal(best)
    assert 0 < whole < 20


@pytest.mark.parametrize(("target", "nodes"), [("2/node", 2), ("3/cell", 2)])
@pytest.mark.parametrize("distance", [1, 2, 3])
def test_further_optima_come_in_order_and_differ(target: str, nodes: int, distance: int) -> None:
    here = small(target, nodes)
    budgets, rows = limits(here, ("flops",), 1), scores(here, 1)
    program, found = CellProgram(budgets, rows), list[CellChoice]()
    fitting = ranked(rows, list(filter(budgets.is_feasible, every_choice(here))))
    for _ in range(4):
        far = (c for c in fitting if all(difference(c, other) >= distance for other in found))
        expected, choice = next(far, None), program.solve(exclude=found, distance=distance)
        assert choice == expected
        if choice is None:
            break
        found.append(choice)
    assert len(found) > 1


@pytest.mark.parametrize("target", ["2/node", "3/cell", "7/cell"])
def test_solutions_of_a_whole_space_fit_both_budgets(target: str) -> None:
    here = space(target, image_size=32, layers=8, channels=16)
    for seed in range(3):
        budgets, rows = limits(here, ("flops", "params"), seed), scores(here, seed)
        program = CellProgram(budgets, rows)
        first = program.best()
        second = program.solve(exclude=[first])
        assert budgets.is_feasible(first)
        assert here.is_legal(first)
        if second is not None:
            assert budgets.is_feasible(second)
            assert value(rows, second) < value(rows, first)


def wanting(space: CellSpace, choice: CellChoice) -> dict[str, Tensor]:
    """Scores that are best for `choice`, by far."""
    shape = (len(space.edge_ends), len(space.operations))
    rows = {kind: torch.zeros(shape, dtype=torch.float64) for kind in KINDS}
    for kind in KINDS:
        for e, o in enumerate(choice.of(kind)):
            rows[kind][e, o] = 9.0 if o != LEFT_OUT else 0.0
    return rows


@pytest.mark.parametrize("cost", ["flops", "params"])
@pytest.mark.parametrize("target", ["2/node", "3/cell", "7/cell"])
def test_a_network_is_found_exactly_where_it_keeps_and_uses_the_limit(
    target: str, cost: str
) -> None:
    source = random.Random(0)
    for layers in (4, 5, 8):
        here = space(target, layers=layers)
        choice = here.random(source)
        rows, exact = wanting(here, choice), Budgets(here, ()).tables[cost].exact(choice)
        most = int(exact / 0.9)
        for limit, right in ((exact, True), (exact - 1, False), (most, True), (most + 10, False)):
            budgets = Budgets(here, [Budget(cost=cost, limit=limit)])
            found = CellProgram(budgets, rows).best()
            assert budgets.is_feasible(found)
            assert (found == choice) is right


def test_one_more_flop_than_the_limit_is_over() -> None:
    # the solver's own tolerance is 1e-6 of the limit: at a few GFLOPs, thousands of FLOPs
    here = space("2/node", image_size=224, stem="imagenet", channels=48, layers=14)
    largest = here.largest()
    exactly = Budgets(here, ()).tables["flops"].exact(largest)
    for limit in (exactly, exactly - 1):
        budgets = Budgets(here, [Budget(cost="flops", limit=limit)])
        found = CellProgram(budgets, wanting(here, largest)).best()
        assert (found == largest) is (limit == exactly)
        assert budgets.is_feasible(found)


@pytest.mark.parametrize(("target", "nodes"), TARGETS)
def test_a_budget_is_used_where_the_best_network_would_not(target: str, nodes: int) -> None:
    here = small(target, nodes)
    exact = Budgets(here, ()).tables["flops"].exact
    choices = every_choice(here)
    budgets = Budgets(here, [Budget(cost="flops", limit=max(map(exact, choices)))])
    rows = wanting(here, min(choices, key=exact))
    noise = scores(here, 0)
    rows = {kind: rows[kind] + 0.1 * noise[kind] for kind in KINDS}
    assert CellProgram(budgets, rows).best() == next(
        filter(budgets.is_feasible, ranked(rows, choices))
    )


@pytest.mark.parametrize("target", ["2/node", "5/cell"])
def test_a_whole_space_has_a_network_that_uses_the_budget(target: str) -> None:
    here = space(target)
    exact = Budgets(here, ()).tables["params"].exact
    rows, noise = wanting(here, here.smallest()), scores(here, 0)
    rows = {kind: rows[kind] + 0.1 * noise[kind] for kind in KINDS}
    for share in (0.5, 0.9):
        budgets = Budgets(here, [Budget(cost="params", limit=share * exact(here.largest()))])
        assert budgets.is_feasible(CellProgram(budgets, rows).best())


def test_an_impossible_budget_names_the_smallest() -> None:
    here = small("3/cell", 2)
    least = min(map(Budgets(here, ()).tables["params"].exact, every_choice(here)))
    budgets = Budgets(here, [Budget(cost="params", limit=least - 1)])
    with pytest.raises(
        BudgetError, match=f"the smallest network of the space has {least / 1e3:.4g}k"
    ):
        CellProgram(budgets, scores(here, 0)).best()


def test_a_budget_that_nothing_uses_says_so() -> None:
    budgets = Budgets(small("2/node", 2), [Budget(cost="flops", limit=10**12)])
    with pytest.raises(BudgetError, match="no network of the space meets flops <= 1000G and uses"):
        CellProgram(budgets, scores(budgets.space, 0)).best()
