"""Chooses the networks that become finalists, without training them."""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice

import torch

from mobilenas.cost.budget import PENALTY
from mobilenas.cost.budgets import Budgets
from mobilenas.search.epoch_metrics import uncertainty
from mobilenas.search.evaluation import supernet_loss
from mobilenas.search.loop import Searcher
from mobilenas.search.prior import Prior
from mobilenas.search.rank import alpha_score
from mobilenas.search.settings import SearchSettings
from mobilenas.spaces.base import AnyChoice, AnySpace, Program
from mobilenas.spaces.program import perturbed

_FLAT = 0.9
"""Uncertainty of the alphas above which their likeliest network is arbitrary."""
_MAX_DRAWS = 20_000
_REFERENCE = 64
"""Random networks that the prior compares with."""
_POPULATION, _TOURNAMENT, _BROOD = 100, 10, 50
_ENOUGH, _MAX_BROODS = 3000, 400
"""Networks that an evolution evaluates; most children exceed the budgets and are skipped."""
_DISTANCE = 1 / 3
"""Minimum share of slots in which two candidates differ."""


def candidates(searcher: Searcher, budgets: Budgets, count: int) -> list[AnyChoice]:
    """Return up to `count` networks that meet the budgets.

    In cells they are the most probable ones, which differ in two edges or more. In the mobile space
    they are draws from the alphas' distribution, or with the prior the best of an evolutionary
    search by it. With `evaluated` networks in the settings they are the best of an evolutionary
    search by the loss with the supernet's weights.
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
    """Whether the prior proposes the candidates.

    It compares networks of equal FLOPs, so it needs a FLOPs budget and a constraint that uses it,
    and it knows no registered operations.
    """
    limited = any(budget.cost == "flops" for budget in budgets.budgets)
    known = settings.prior and not budgets.space.operations
    return known and limited and settings.constraint != PENALTY


def before_search(budgets: Budgets, settings: SearchSettings, images: int, seed: int) -> AnyChoice:
    """Return the network that is most promising before any training.

    That is the prior's first, or a random one where the prior is not used.
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
    """Return the likeliest network, unless the alphas are flat, then draws from the alphas.

    The likeliest network of flat alphas is arbitrary and has few blocks. So flat alphas give random
    networks, and confident ones neighbors of the likeliest.
    """
    found = [] if count > 1 and _flat(searcher) else [program.best()]
    archs = set(map(budgets.space.arch, found))
    for choice in islice(draws, _MAX_DRAWS):
        if len(found) == count:
            break
        if budgets.is_feasible(choice) and (arch := budgets.space.arch(choice)) not in archs:
            found.append(choice)
            archs.add(arch)
    # draws from confident alphas may all exceed a budget: then scores with Gumbel noise are solved
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
    """Return the best by the prior plus, unless the alphas are flat, their log probability."""
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
    """Return the best networks of an evolutionary search, which differ in a third of the slots.

    It starts from random networks and `likeliest`, and maximizes the prior's score for `images`
    training images plus `likely`.
    """
    source = random.Random(f"candidates/{seed}")
    reference = [budgets.random(source) for _ in range(_REFERENCE)]
    prior = Prior([budgets.space.arch(choice) for choice in reference], images)

    def score(choices: Sequence[AnyChoice]) -> list[float]:
        known = prior.scores([budgets.space.arch(choice) for choice in choices])
        return [a + likely(choice) for a, choice in zip(known, choices, strict=True)]

    scores = evolve(budgets, [*likeliest, *reference], score, source)
    return _different(scores, budgets.space, count)


def _evaluated(
    searcher: Searcher, budgets: Budgets, program: Program, count: int
) -> list[AnyChoice]:
    """Return the best of an evolutionary search by validation loss with the supernet's weights.

    Loss, because on few images many networks have the same top-1. The search starts from draws from
    the alphas' distribution, or uniform ones while the alphas are flat; batch norms use the
    statistics of the images being evaluated.
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
    """Return the best ones that differ from each other in a third of the slots."""
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
    """Return the scores of `enough` networks that meet the budgets, found by aging evolution.

    As in Real et al. 2019, but a brood at a time: the winner of each small tournament gets a child
    with up to three decisions changed, and the oldest die.
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
