import random
from dataclasses import replace

from mobilenas.cost.budget import Budget
from mobilenas.cost.budgets import Budgets
from mobilenas.cost.networks import costs
from mobilenas.data import ImageData
from mobilenas.search.candidates import candidates, evolve, uses_prior
from mobilenas.search.loop import Searcher
from mobilenas.search.settings import SearchSettings
from mobilenas.spaces.mobile.space import Choice, MobileSpace

SETTINGS = SearchSettings(epochs=1, warmup=0, batch_size=16, prior=True)


def test_evolution_climbs_and_keeps_the_budgets(tiny_budgets: Budgets) -> None:
    source = random.Random(0)
    first = [tiny_budgets.random(source) for _ in range(20)]

    def score(choice: Choice) -> float:
        return float(sum(choice.kernel) + sum(choice.expansion))

    scores = evolve(tiny_budgets, first, lambda choices: list(map(score, choices)), source)
    assert all(map(tiny_budgets.is_feasible, scores))
    assert all(scores[choice] == score(choice) for choice in scores)
    random_ones = [score(tiny_budgets.random(source)) for _ in range(200)]
    assert max(scores.values()) >= max(random_ones) > max(map(score, first)) - 1


def test_the_prior_s_candidates_differ_and_keep_the_budget(
    tiny_budgets: Budgets, tiny_images: ImageData
) -> None:
    searcher = Searcher(tiny_budgets, tiny_images, SETTINGS, seed=0)
    found = candidates(searcher, tiny_budgets, 3)
    assert len({tiny_budgets.space.arch(choice) for choice in found}) == len(found) == 3
    assert all(map(tiny_budgets.is_feasible, found))
    assert candidates(searcher, tiny_budgets, 3) == found
    drawn = candidates(
        Searcher(tiny_budgets, tiny_images, replace(SETTINGS, prior=False), seed=0), tiny_budgets, 3
    )
    assert drawn != found


def test_sure_alphas_outweigh_the_prior(tiny_budgets: Budgets, tiny_images: ImageData) -> None:
    searcher = Searcher(tiny_budgets, tiny_images, SETTINGS, seed=0)
    (wanted,) = candidates(
        Searcher(tiny_budgets, tiny_images, replace(SETTINGS, prior=False), seed=0), tiny_budgets, 1
    )
    for name, logits in searcher.alphas.named_parameters():
        for row, option in enumerate(getattr(wanted, name.removeprefix("logits."))):
            logits.data[row, int(option)] = 50.0
    (best,) = candidates(searcher, tiny_budgets, 1)
    space: MobileSpace = tiny_budgets.space
    assert space.arch(best) == space.arch(wanted)


def test_where_the_alphas_choose_the_size_the_prior_has_no_say(tiny_budgets: Budgets) -> None:
    assert uses_prior(SETTINGS, tiny_budgets)
    assert not uses_prior(replace(SETTINGS, constraint="penalty", strength=1.0), tiny_budgets)


def test_without_a_flops_budget_the_prior_has_no_say(
    tiny_space: MobileSpace, tiny_images: ImageData, tiny_budgets: Budgets
) -> None:
    middle = costs(tiny_space.arch(tiny_budgets.random(random.Random(0)))).params
    budgets = Budgets(tiny_space, [Budget(cost="params", limit=middle)])
    searchers = [
        Searcher(budgets, tiny_images, replace(SETTINGS, prior=prior), seed=0)
        for prior in (True, False)
    ]
    first, second = (candidates(searcher, budgets, 3) for searcher in searchers)
    assert first == second
