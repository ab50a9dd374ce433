"""Tables of the cell space against exact costs, enumeration and central differences."""

import math
import random
from itertools import combinations, product
from typing import Any

import pytest
import torch
from torch import Tensor

from mobilenas.core.errors import MobileNASError
from mobilenas.cost.networks import costs
from mobilenas.spaces.cell.space import KINDS, LEFT_OUT, CellChoice, CellSpace, EdgeTarget
from mobilenas.spaces.cell.table import CELL_COSTS, CellCostTable, CellProbabilities

TARGETS = ("1/node", "2/node", "1/cell", "3/cell")
OPERATIONS = ("sep_conv_3x3", "skip_connect", "max_pool_3x3")


def space(edges: str, **changes: Any) -> CellSpace:
    fields: dict[str, Any] = {"image_size": 16, "in_channels": 3, "classes": 5, "channels": 4}
    return CellSpace(**fields | changes, edges=EdgeTarget.parse(edges))


def small(edges: str, operations: tuple[str, ...] = OPERATIONS[:2], nodes: int = 2) -> CellSpace:
    return space(edges, nodes=nodes, operations=operations, layers=6)


def legal_cells(space: CellSpace) -> list[tuple[int, ...]]:
    options = range(LEFT_OUT, len(space.operations))
    cells = product(options, repeat=len(space.edge_ends))
    return [c for c in cells if space.is_legal(CellChoice(normal=c, reduce=c))]


def relaxation(space: CellSpace, seed: int, *, none: bool = False) -> CellProbabilities:
    """Random distributions; edges are kept by chances that need not sum to anything."""
    generator = torch.Generator().manual_seed(seed)
    shape = (len(space.edge_ends), len(space.operations) + none)
    fields: dict[str, dict[str, Tensor]] = {"operations": {}, "edges": {}, "kept": {}}
    for kind in KINDS:
        logits = torch.randn(shape, generator=generator, dtype=torch.float64)
        fields["operations"][kind] = logits.softmax(-1)
        fields["kept"][kind] = torch.rand(shape[0], generator=generator, dtype=torch.float64)
        fields["edges"][kind] = torch.ones(shape[0])
    return CellProbabilities(**fields)


def certain(space: CellSpace, choice: CellChoice, *, none: bool) -> CellProbabilities:
    columns = len(space.operations) + none
    picks = {kind: torch.tensor(choice.of(kind)) for kind in KINDS}
    operations = {
        # an edge that is left out may have any operation
        kind: torch.eye(columns)[torch.where(p == LEFT_OUT, columns - 1, p)]
        for kind, p in picks.items()
    }
    kept = {kind: (p != LEFT_OUT).float() for kind, p in picks.items()}
    return CellProbabilities(operations=operations, edges=kept, kept=kept)


@pytest.mark.parametrize("cost", CELL_COSTS)
@pytest.mark.parametrize("target", [*TARGETS, "2/cell", "9/cell", "14/cell", "5/node"])
def test_the_table_and_certainty_are_exact(target: str, cost: str) -> None:
    source = random.Random(target)
    for stem, layers in (("cifar", 8), ("imagenet", 5), ("cifar", 1), ("cifar", 2), ("cifar", 3)):
        here = space(target, stem=stem, layers=layers, image_size=33, channels=6)
        table = CellCostTable(here, cost)
        for number in range(5):
            choice = here.random(source)
            exact = getattr(costs(here.arch(choice)), cost)
            assert table.exact(choice) == exact
            p = certain(here, choice, none=bool(number % 2))
            assert table.expected(p).item() == pytest.approx(exact, rel=1e-12)


@pytest.mark.parametrize("cost", CELL_COSTS)
@pytest.mark.parametrize(
    ("target", "nodes"),
    [
        *(("1/node", 2), ("2/node", 2), ("1/cell", 2), ("4/cell", 2)),
        *(("1/node", 3), ("2/cell", 3), ("3/cell", 3)),
    ],
)
def test_least_is_that_of_every_network(target: str, nodes: int, cost: str) -> None:
    for operations in (OPERATIONS[:1], OPERATIONS[:2])[: 4 - nodes]:
        here = small(target, operations, nodes)
        table, cells = CellCostTable(here, cost), legal_cells(here)
        least = min(table.exact(CellChoice(normal=n, reduce=r)) for n in cells for r in cells)
        assert table.minimum() == least


@pytest.mark.parametrize("target", ["1/node", "2/node", "3/node"])
def test_of_a_by_node_target_the_extremes_are_those_of_params(target: str) -> None:
    here = small(target, OPERATIONS)
    table, cells = CellCostTable(here, "params"), legal_cells(here)
    exact = [table.exact(CellChoice(normal=cell, reduce=cells[0])) for cell in cells]
    best = {kind: cells[exact.index(kind(exact))] for kind in (min, max)}
    extremes = {min: here.smallest(), max: here.largest()}
    for kind, choice in extremes.items():
        replaced = CellChoice(normal=best[kind], reduce=choice.reduce)
        assert table.exact(choice) == table.exact(replaced)


def subsets(space: CellSpace, seed: int) -> tuple[list[dict[tuple[int, ...], float]], Tensor]:
    """Independent draws of a cell's edges: chances of sets of edges by group, and of each edge.

    Of a by-node target a node draws one of all sets of the right size, else every edge is drawn
    for itself.
    """
    source = random.Random(seed)
    groups: list[dict[tuple[int, ...], float]] = []
    if space.edges.of == "node":
        for group in space.groups():
            sets = list(combinations(group, min(space.edges.kept, len(group))))
            weights = [source.random() for _ in sets]
            groups.append({s: w / sum(weights) for s, w in zip(sets, weights, strict=True)})
    else:
        for e in range(len(space.edge_ends)):
            chance = source.random()
            groups.append({(): 1 - chance, (e,): chance})
    kept = torch.zeros(len(space.edge_ends), dtype=torch.float64)
    for chances in groups:
        for edges, chance in chances.items():
            kept[list(edges)] += chance
    return groups, kept


@pytest.mark.parametrize("cost", CELL_COSTS)
@pytest.mark.parametrize("target", ["1/node", "2/node", "3/cell"])
def test_the_expectation_is_the_mean_over_all_choices(target: str, cost: str) -> None:
    here = small(target)
    table, p = CellCostTable(here, cost), relaxation(here, 3)
    cells: dict[str, list[tuple[tuple[int, ...], float]]] = {kind: [] for kind in KINDS}
    for seed, kind in enumerate(KINDS):
        groups, p.kept[kind][:] = subsets(here, seed)
        for sets in product(*(chances.items() for chances in groups)):
            edges = [e for chosen, _ in sets for e in chosen]
            chance = math.prod(c for _, c in sets)
            for operations in product(range(2), repeat=len(edges)):
                picks = [LEFT_OUT] * len(here.edge_ends)
                each = chance
                for e, o in zip(edges, operations, strict=True):
                    picks[e] = o
                    each *= float(p.operations[kind][e, o])
                cells[kind].append((tuple(picks), each))
    mean = sum(
        a * b * table.exact(CellChoice(normal=n, reduce=r))
        for (n, a), (r, b) in product(cells["normal"], cells["reduce"])
    )
    assert table.expected(p).item() == pytest.approx(mean, rel=1e-9)


def test_the_expectation_is_near_the_mean_of_uniform_networks() -> None:
    here = space("2/node")
    table, source = CellCostTable(here, "flops"), random.Random(0)
    kept = torch.cat([torch.full((len(g),), min(2, len(g)) / len(g)) for g in here.groups()])
    rows = torch.full((14, 7), 1 / 7)
    p = CellProbabilities(
        operations=dict.fromkeys(KINDS, rows), edges={}, kept=dict.fromkeys(KINDS, kept)
    )
    mean = sum(table.exact(here.random(source)) for _ in range(2000)) / 2000
    assert table.expected(p).item() == pytest.approx(mean, rel=0.01)


@pytest.mark.parametrize("none", [False, True])
@pytest.mark.parametrize("target", ["2/node", "3/cell"])
def test_autograd_agrees_with_central_differences(target: str, none: bool) -> None:
    here = small(target)
    table, p = CellCostTable(here, "flops"), relaxation(here, 1, none=none)
    p.kept["normal"][0] = 1.0  # nothing is left of the chance that no edge is kept
    p.kept["reduce"][2:] = 1.0
    given = [*p.operations.values(), *p.kept.values()]

    def expected(*tensors: Tensor) -> Tensor:
        q = CellProbabilities(
            operations=dict(zip(KINDS, tensors[:2], strict=True)),
            edges={},
            kept=dict(zip(KINDS, tensors[2:], strict=True)),
        )
        return table.expected(q) / 1e4

    assert torch.autograd.gradcheck(expected, [t.requires_grad_() for t in given])
    assert all(
        bool(g.any()) for g in torch.autograd.grad(expected(*given), given, allow_unused=False)
    )


def test_the_share_of_none_goes_to_the_others() -> None:
    here = small("3/cell")
    table, with_none = CellCostTable(here, "params"), relaxation(here, 2, none=True)
    without = CellProbabilities(
        operations={
            kind: rows[:, :-1] / (1 - rows[:, -1:]) for kind, rows in with_none.operations.items()
        },
        edges=with_none.edges,
        kept=with_none.kept,
    )
    assert table.expected(with_none).item() == pytest.approx(table.expected(without).item())


def test_an_edge_certain_of_none_is_free_and_has_a_gradient() -> None:
    here = small("2/node", ("sep_conv_3x3", "max_pool_3x3"))
    table, kept = CellCostTable(here, "params"), relaxation(here, 2).kept
    logits = torch.tensor([[0.0, 0.0, 1e4]] * 5, requires_grad=True)
    none, pool = (
        CellProbabilities(operations=dict.fromkeys(KINDS, rows), edges={}, kept=kept)
        for rows in (logits.softmax(-1), torch.tensor([[0.0, 1.0]] * 5))
    )
    cost = table.expected(none)
    assert cost.item() == table.expected(pool).item()
    cost.backward()
    assert logits.grad is not None
    assert bool(logits.grad.isfinite().all())


def test_other_costs_are_refused() -> None:
    with pytest.raises(MobileNASError, match="cost is 'memory'; it must be one of flops, params"):
        CellCostTable(small("2/node"), "memory")
