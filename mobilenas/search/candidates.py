"""Which networks enter the finalists: many are looked at, by what is known before any training."""

import random
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from typing import Any

import torch

from mobilenas.cost.budget import PENALTY, Budgets
from mobilenas.search.loop import Searcher
from mobilenas.search.observe import uncertainty
from mobilenas.search.prior import Prior
from mobilenas.search.rank import alpha_score
from mobilenas.search.settings import SearchSettings
from mobilenas.spaces.base import AnyChoice, searchable
from mobilenas.spaces.cell.program import CellProgram
from mobilenas.spaces.mobile.program import ArchProgram, perturbed
from mobilenas.spaces.mobile.relaxation import Alphas
from mobilenas.spaces.mobile.space import Choice, MobileSpace
from mobilenas.spaces.mobile.table import DECISIONS

_FLAT = 0.9
"""Uncertainty of alphas over which their likeliest network is arbitrary."""
_MOST_DRAWS = 20_000
_USUAL = 64
"""Random networks that say what is usual under the budgets."""
_POPULATION, _TOURNAMENT, _CHILDREN = 100, 10, 1000
_MOST_CHANGES = 3
_DISTANCE = 1 / 3
"""Share of the slots that two of the best differ in, at least."""


def candidates(searcher: Searcher, budgets: Budgets, count: int) -> list[AnyChoice]:
    """Return up to `count` networks under the budgets.

    In cells the likeliest, which differ in two edges or more. In the mobile space draws from the
    alphas' distribution; where the settings give the prior a say, under a FLOPs budget, what an
    evolution finds best.
    """
    program = searchable(budgets.space).program(budgets, searcher.alphas.scores())
    if isinstance(program, CellProgram):
        cells = [program.best()]
        while len(cells) < count and (cell := program.solve(unlike=cells)) is not None:
            cells.append(cell)
        return list(cells)
    assert isinstance(program, ArchProgram)
    if prior_has_say(searcher.settings, budgets):
        return list(_evolved(searcher, budgets, program, count))
    return list(_drawn(searcher, budgets, program, count))


def prior_has_say(settings: SearchSettings, budgets: Budgets) -> bool:
    """Whether networks that were trained before have a say in which are candidates.

    They tell networks of equal FLOPs apart: nothing is known where FLOPs have no limit, or where
    the alphas choose the size.
    """
    limited = any(budget.cost == "flops" for budget in budgets.budgets)
    return settings.prior and limited and settings.constraint != PENALTY


def _drawn(searcher: Searcher, budgets: Budgets, program: ArchProgram, count: int) -> list[Choice]:
    """Return the likeliest network if the alphas have decided anything, then others by their odds.

    Of flat alphas the likeliest is arbitrary, and has few blocks. So flat alphas give random
    networks, and sure ones its neighbors.
    """
    alphas = searcher.alphas
    assert isinstance(alphas, Alphas)
    found = [] if count > 1 and _flat(searcher) else [program.best()]
    source = random.Random(f"candidates/{searcher.seed}")
    archs = set(map(budgets.space.arch, found))
    for choice in islice(alphas.draws(source, 1.0), _MOST_DRAWS):
        if len(found) == count:
            break
        if budgets.fits(choice) and (arch := budgets.space.arch(choice)) not in archs:
            found.append(choice)
            archs.add(arch)
    # the draws of sure alphas may all be over a budget: then scores with Gumbel noise are solved
    # (perturb and MAP, Papandreou and Yuille 2011)
    generator = torch.Generator().manual_seed(searcher.seed)
    for _ in range(count - len(found)):
        scores = perturbed(alphas.scores(), generator)
        drawn = ArchProgram(budgets, scores).solve(unlike=found)
        found += [] if drawn is None else [drawn]
    return found


def _flat(searcher: Searcher) -> bool:
    assert isinstance(searcher.alphas, Alphas)
    return uncertainty(searcher, searcher.alphas.soft(1.0)) > _FLAT


def _evolved(
    searcher: Searcher, budgets: Budgets, program: ArchProgram, count: int
) -> list[Choice]:
    """Return the best of an evolution that differ from each other in a third of the slots.

    It goes by the prior, and by the log probability of alphas that have decided anything.
    """
    source = random.Random(f"candidates/{searcher.seed}")
    usual = [budgets.random(source) for _ in range(_USUAL)]
    images, flat = len(searcher.data.train), _flat(searcher)
    prior = Prior([budgets.space.arch(choice) for choice in usual], images)

    def score(choice: Choice) -> float:
        (known,) = prior.scores([budgets.space.arch(choice)])
        return known if flat else known + alpha_score(searcher, choice)

    likeliest = [] if flat else [program.best()]
    scores = evolve(budgets, [*likeliest, *usual], score, source)
    best, least = list[Choice](), _DISTANCE * len(budgets.space.slots)
    for choice in sorted(scores, key=scores.__getitem__, reverse=True):
        if all(_distance(budgets.space, choice, other) >= least for other in best):
            best.append(choice)
        if len(best) == count:
            break
    return best


def evolve(
    budgets: Budgets,
    first: list[Choice],
    score: Callable[[Choice], float],
    source: random.Random,
) -> dict[Choice, float]:
    """Return the scores of all networks that an evolution came by, each within the budgets.

    Aging evolution (Real et al. 2019): the best of a few grows a child with up to three other
    decisions, and the oldest dies.
    """
    scores = {choice: score(choice) for choice in first}
    alive = list(scores)
    for _ in range(_CHILDREN):
        parent = max(source.sample(alive, min(_TOURNAMENT, len(alive))), key=scores.__getitem__)
        child = _changed(budgets.space, parent, source)
        if child not in scores and budgets.fits(child):
            scores[child] = score(child)
            alive = [*alive, child][-_POPULATION:]
    return scores


def _changed(space: MobileSpace, choice: Choice, source: random.Random) -> Choice:
    """Return a choice with one to three decisions drawn again."""
    fresh, changes = space.random(source), dict[str, Any]()
    for _ in range(source.randint(1, _MOST_CHANGES)):
        name = source.choice(DECISIONS)
        row = list(changes.get(name, getattr(choice, name)))
        place = source.randrange(len(row))
        row[place] = getattr(fresh, name)[place]
        changes[name] = tuple(row)
    return replace(choice, **changes)


def _distance(space: MobileSpace, one: Choice, other: Choice) -> int:
    """Return in how many slots two networks differ."""

    def slots(choice: Choice) -> list[Any]:
        return [
            (
                choice.width[slot.stage],
                choice.kernel[number],
                choice.expansion[number],
                choice.squeeze[number],
                slot.start_of(choice.expansion[number], choice.start[number]),
            )
            if choice.keep[number]
            else None
            for number, slot in enumerate(space.slots)
        ]

    return sum(a != b for a, b in zip(slots(one), slots(other), strict=True))
