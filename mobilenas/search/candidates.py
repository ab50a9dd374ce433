"""Which networks become finalists: the best of many, by what is known without training them."""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice

import torch

from mobilenas.cost.budget import PENALTY
from mobilenas.cost.budgets import Budgets
from mobilenas.search.epoch_metrics import uncertainty
from mobilenas.search.gap import supernet_loss
from mobilenas.search.loop import Searcher
from mobilenas.search.prior import Prior
from mobilenas.search.rank import alpha_score
from mobilenas.search.settings import SearchSettings
from mobilenas.spaces.base import AnyChoice, AnySpace, Program
from mobilenas.spaces.program import perturbed

_FLAT = 0.9
"""Uncertainty of alphas over which their likeliest network is arbitrary."""
_MAX_DRAWS = 20_000
_USUAL = 64
"""Random networks that say what is usual under the budgets."""
_POPULATION, _TOURNAMENT, _BROOD = 100, 10, 50
_ENOUGH, _MAX_BROODS = 3000, 400
"""Networks that an evolution evaluates; most children exceed the budget, and are not evaluated."""
_DISTANCE = 1 / 3
"""Share of the slots that two of the best differ in, at least."""


def candidates(searcher: Searcher, budgets: Budgets, count: int) -> list[AnyChoice]:
    """Return up to `count` networks under the budgets.

    In cells the most probable, which differ in two edges or more. In the mobile space draws from
    the alphas' distribution; where the settings give the prior a say, under a FLOPs budget, the
    best of an evolution. Where the settings say how many networks to evaluate with the supernet's
    weights, the best of an evolution by that.
    """
    program = searcher.searchable.program(budgets, searcher.alphas.scores())
    if searcher.settings.evaluated:
        return _evaluated(searcher, budgets, program, count)
    if searcher.searchable.draws is None:
        found = [program.best()]
        while len(found) < count and (other := program.solve(exclude=found)) is not None:
            found.append(other)
        return found
    if uses_prior(searcher.settings, budgets):
        return _evolved(searcher, budgets, program, count)
    source = random.Random(f"candidates/{searcher.seed}")
    draws = searcher.searchable.draws(searcher.alphas, source)
    return _drawn(searcher, budgets, program, draws, count)


def uses_prior(settings: SearchSettings, budgets: Budgets) -> bool:
    """Whether networks that were trained before have a say in which are candidates.

    They tell networks of equal FLOPs apart: nothing is known where FLOPs have no limit, or where
    the alphas choose the size; and nothing of operations that none of them has.
    """
    limited = any(budget.cost == "flops" for budget in budgets.budgets)
    known = settings.prior and not budgets.space.operations
    return known and limited and settings.constraint != PENALTY


def before_search(budgets: Budgets, settings: SearchSettings, images: int, seed: int) -> AnyChoice:
    """Return the network that is most promising before any training.

    It is the prior's first, as long as the prior has a say, and else a random one.
    """
    if uses_prior(settings, budgets):
        return best_by_prior(budgets, images, seed, 1)[0]
    return budgets.random(random.Random(f"candidates/{seed}"))


def _drawn(
    searcher: Searcher,
    budgets: Budgets,
    program: Program,
    draws: Iterator[AnyChoice],
    count: int,
) -> list[AnyChoice]:
    """Return the likeliest network if the alphas have decided anything, then others by their odds.

    Of flat alphas the likeliest is arbitrary, and has few blocks. So flat alphas give random
    networks, and sure ones its neighbors.
    """
    found = [] if count > 1 and _flat(searcher) else [program.best()]
    archs = set(map(budgets.space.arch, found))
    for choice in islice(draws, _MAX_DRAWS):
        if len(found) == count:
            break
        if budgets.is_feasible(choice) and (arch := budgets.space.arch(choice)) not in archs:
            found.append(choice)
            archs.add(arch)
    # the draws of sure alphas may all be over a budget: then scores with Gumbel noise are solved
    # (perturb and MAP, Papandreou and Yuille 2011)
    generator = torch.Generator().manual_seed(searcher.seed)
    for _ in range(count - len(found)):
        scores = perturbed(searcher.alphas.scores(), generator)
        drawn = searcher.searchable.program(budgets, scores).solve(exclude=found)
        found += [] if drawn is None else [drawn]
    return found


def _flat(searcher: Searcher) -> bool:
    return uncertainty(searcher, searcher.alphas.soft(1.0)) > _FLAT


def _evolved(searcher: Searcher, budgets: Budgets, program: Program, count: int) -> list[AnyChoice]:
    """Return the best by the prior, and by the log probability of alphas that are not flat."""
    images = len(searcher.data.train)
    if _flat(searcher):
        return best_by_prior(budgets, images, searcher.seed, count)
    likely = partial(alpha_score, searcher)
    return best_by_prior(budgets, images, searcher.seed, count, [program.best()], likely)


def best_by_prior(
    budgets: Budgets,
    images: int,
    seed: int,
    count: int,
    likeliest: Sequence[AnyChoice] = (),
    likely: Callable[[AnyChoice], float] = lambda _: 0.0,
) -> list[AnyChoice]:
    """Return the best of an evolution that differ from each other in a third of the slots.

    It starts from random networks and `likeliest`, and ranks by the prior for so many training
    images and by what `likely` adds.
    """
    source = random.Random(f"candidates/{seed}")
    usual = [budgets.random(source) for _ in range(_USUAL)]
    prior = Prior([budgets.space.arch(choice) for choice in usual], images)

    def score(choices: Sequence[AnyChoice]) -> list[float]:
        known = prior.scores([budgets.space.arch(choice) for choice in choices])
        return [a + likely(choice) for a, choice in zip(known, choices, strict=True)]

    scores = evolve(budgets, [*likeliest, *usual], score, source)
    return _different(scores, budgets.space, count)


def _evaluated(
    searcher: Searcher, budgets: Budgets, program: Program, count: int
) -> list[AnyChoice]:
    """Return the best of an evolution by the validation loss with the supernet's weights.

    The loss tells networks apart that classify as many of few images correctly.

    It begins with draws from the alphas' distribution, uniform ones while they have decided
    nothing; batch norms use the statistics of the images being evaluated.
    """
    enough = searcher.settings.evaluated
    first = searcher.searchable.first(budgets) if searcher.searchable.first else ()
    source = random.Random(f"draws/{searcher.seed}")
    if _flat(searcher) or searcher.searchable.draws is None:
        drawn = [budgets.random(source) for _ in range(max(count, enough // 3))]
    else:
        draws = searcher.searchable.draws(searcher.alphas, source)
        drawn = _drawn(searcher, budgets, program, draws, max(count, enough // 3))
    source = random.Random(f"candidates/{searcher.seed}")

    def score(choices: Sequence[AnyChoice]) -> list[float]:
        return [-loss for loss in supernet_loss(searcher, choices, searcher.data.val)]

    together = list(dict.fromkeys((*first, *drawn)))
    scores = evolve(budgets, together, score, source, enough=enough, brood=max(1, enough // 8))
    return _different(scores, budgets.space, count)


def _different(scores: Mapping[AnyChoice, float], space: AnySpace, count: int) -> list[AnyChoice]:
    """Return the best that differ from each other in a third of the slots."""
    best, min_distance = list[AnyChoice](), _DISTANCE * len(space.slots)
    for choice in sorted(scores, key=scores.__getitem__, reverse=True):
        if all(space.distance(choice, other) >= min_distance for other in best):
            best.append(choice)
        if len(best) == count:
            break
    return best


def evolve(
    budgets: Budgets,
    first: Sequence[AnyChoice],
    score: Callable[[Sequence[AnyChoice]], list[float]],
    source: random.Random,
    *,
    enough: int = _ENOUGH,
    brood: int = _BROOD,
) -> dict[AnyChoice, float]:
    """Return the scores of the networks that an evolution came by, `enough`, each in the budgets.

    Aging evolution (Real et al. 2019): the best of a few grow children with up to three other
    decisions, a brood at a time, and the oldest die.
    """
    scores = dict(zip(first, score(first), strict=True))
    alive = list(scores)
    for _ in range(_MAX_BROODS):
        if len(scores) >= enough:
            break
        children = dict[AnyChoice, None]()
        for _ in range(_BROOD):
            parent = max(source.sample(alive, min(_TOURNAMENT, len(alive))), key=scores.__getitem__)
            child = budgets.space.mutated(parent, source)
            if child not in scores and budgets.is_feasible(child):
                children[child] = None
            if len(children) == brood:
                break
        if children:
            scores |= zip(children, score(list(children)), strict=True)
            alive = [*alive, *children][-_POPULATION:]
    return scores
