import math
import random
import re
from collections.abc import Mapping

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mobilenas.channels.annealing import (
    SizeRange,
    fill,
    project,
    propose,
    push_probability,
    scale_back,
    temperature,
)
from mobilenas.errors import BudgetError, MobileNASError

Ranges = dict[str, SizeRange]


def chain_cost(sizes: Mapping[str, int]) -> float:
    """FLOPs of 3x3 convolutions in a row on 3 channels, at 8x8."""
    before, total = 3, 0
    for size in sizes.values():
        total += 9 * 64 * before * size
        before = size
    return float(total)


@st.composite
def size_ranges(draw: st.DrawFn, step: int | None = None) -> SizeRange:
    step = step or draw(st.sampled_from([1, 2, 6, 8, 32]))
    least = draw(st.integers(1, 8)) * step
    most = least + draw(st.integers(0, 40)) * step
    # limits that are no multiples themselves
    low = least - draw(st.integers(0, step - 1))
    return SizeRange(low=low, high=most + draw(st.integers(0, step - 1)), step=step)


@st.composite
def problems(draw: st.DrawFn) -> tuple[dict[str, int], Ranges, dict[str, float], float]:
    """Proposed sizes, legal or not, ranges, priorities, and a limit that can be kept."""
    ranges = {f"g{i}": draw(size_ranges()) for i in range(draw(st.integers(1, 8)))}
    sizes = {name: draw(st.integers(1, 2 * r.high)) for name, r in ranges.items()}
    priority = {name: draw(st.sampled_from([-0.5, 0.0, 0.3, 1.0])) for name in ranges}
    least = chain_cost({name: r.smallest for name, r in ranges.items()})
    most = chain_cost({name: r.largest for name, r in ranges.items()})
    return sizes, ranges, priority, least + draw(st.floats(0, 1.1)) * (most - least)


def legal(sizes: Mapping[str, int], ranges: Ranges) -> bool:
    return all(r.low <= sizes[n] <= r.high and sizes[n] % r.step == 0 for n, r in ranges.items())


# ranges


@given(size_ranges(), st.floats(0, 2000))
def test_nearest_and_under_are_legal_and_what_they_say(one: SizeRange, size: float) -> None:
    choices = [s for s in range(one.low, one.high + 1) if s % one.step == 0]
    assert (one.smallest, one.largest) == (choices[0], choices[-1])
    nearest = one.nearest(size)
    assert nearest in choices
    assert abs(nearest - size) == min(abs(choice - size) for choice in choices)
    assert one.under(size) == max([s for s in choices if s <= size], default=choices[0])


def test_the_larger_of_two_nearest_sizes() -> None:
    one = SizeRange(low=8, high=64)
    assert [one.nearest(size) for size in (12, 20, 28, 11.9)] == [16, 24, 32, 8]


@pytest.mark.parametrize(("low", "high", "step"), [(9, 15, 8), (0, 15, 8), (16, 8, 8), (1, 8, 0)])
def test_a_range_without_sizes_is_an_error(low: int, high: int, step: int) -> None:
    with pytest.raises(MobileNASError, match=f"no multiple of {step} .* {low} and {high}"):
        SizeRange(low=low, high=high, step=step)


# proposals

WIDE = SizeRange(low=8, high=4096)


def proposed(
    size: int, change: float, *, delta: float = 1.0, heat: float = 0.0, seed: int = 0
) -> int:
    return propose(
        {"g": size}, {"g": change}, {"g": WIDE}, delta=delta, heat=heat, source=random.Random(seed)
    ).sizes["g"]


@pytest.mark.parametrize(
    ("change", "delta", "size"),
    [(0.0, 1, 64), (0.25, 1, 80), (0.25, 2, 96), (-0.25, 1, 48), (-0.9, 1, 32), (7, 1, 128)],
)
def test_greedy_by_hand(change: float, delta: float, size: int) -> None:
    assert proposed(64, change, delta=delta) == size


def test_temperature_falls_from_five_to_nothing() -> None:
    assert [temperature(t, 4) for t in (0, 1, 3, 4, 9)] == [5.0, 3.75, 1.25, 0.0, 0.0]


@given(st.floats(-3, 3), st.floats(0, 5))
def test_push_probability(change: float, heat: float) -> None:
    p = push_probability(change, heat)
    assert 0 <= p < 1
    assert p == push_probability(-change, heat)
    assert p <= push_probability(2 * change, heat) and p <= push_probability(change, 2 * heat)


def test_pushes_are_as_frequent_and_as_large_as_said() -> None:
    # |D| T = 2: p = exp(-1/2) = 0.61, and D = -0.4 becomes 0.21
    p = math.exp(-0.5)
    names = [f"g{i}" for i in range(20_000)]
    one = propose(
        dict.fromkeys(names, 800),
        dict.fromkeys(names, -0.4),
        dict.fromkeys(names, SizeRange(low=1, high=4096, step=1)),
        delta=1.0,
        heat=5.0,
        source=random.Random(1),
    )
    assert len(one.pushed) / len(names) == pytest.approx(p, abs=0.01)
    assert set(one.sizes.values()) == {480, round(800 * (0.6 + p))}
    assert all(one.sizes[name] > 800 for name in one.pushed)


@given(problems(), st.floats(-2, 2), st.floats(0, 5), st.integers(0, 99), st.floats(0, 4))
def test_proposals_are_legal_and_repeat_by_seed(
    problem: tuple[dict[str, int], Ranges, dict[str, float], float],
    shift: float,
    heat: float,
    seed: int,
    delta: float,
) -> None:
    sizes, ranges, priority, _ = problem
    changes = {name: value + shift for name, value in priority.items()}
    first, again = (
        propose(sizes, changes, ranges, delta=delta, heat=heat, source=random.Random(seed))
        for _ in range(2)
    )
    assert first == again
    assert legal(first.sizes, ranges)
    greedy = propose(sizes, changes, ranges, delta=delta, heat=0.0, source=random.Random(seed))
    assert not greedy.pushed
    for name in sizes:
        if name in first.pushed:
            assert first.sizes[name] >= greedy.sizes[name]
        else:
            assert first.sizes[name] == greedy.sizes[name]


@given(st.integers(8, 2000), st.integers(0, 500), st.floats(-2, 2), st.floats(0, 2))
def test_greedy_is_monotone(size: int, more: int, change: float, rise: float) -> None:
    assert proposed(size, change) <= proposed(size + more, change)
    assert proposed(size, change) <= proposed(size, change + rise)


# projection


@given(problems())
def test_projection_keeps_the_budget_and_the_rules(
    problem: tuple[dict[str, int], Ranges, dict[str, float], float],
) -> None:
    sizes, ranges, priority, limit = problem
    found = project(sizes, ranges, chain_cost, limit, priority)
    assert list(found) == list(sizes)
    assert legal(found, ranges)
    assert chain_cost(found) <= limit
    wanted = {name: ranges[name].nearest(size) for name, size in sizes.items()}
    assert all(found[name] <= wanted[name] for name in found)
    if chain_cost(wanted) <= limit:
        assert found == wanted
    # and nothing more fits
    for name in found:
        grown = {**found, name: found[name] + ranges[name].step}
        assert grown[name] > wanted[name] or chain_cost(grown) > limit
    assert project(found, ranges, chain_cost, limit, priority) == found
    assert project(sizes, ranges, chain_cost, limit, priority) == found


@given(problems(), st.floats(0, 1))
def test_scaling_back_is_monotone_in_the_limit_and_keeps_proportions(
    problem: tuple[dict[str, int], Ranges, dict[str, float], float], share: float
) -> None:
    sizes, ranges, _, limit = problem
    wanted = {name: ranges[name].nearest(size) for name, size in sizes.items()}
    least = chain_cost({name: r.smallest for name, r in ranges.items()})
    lower = scale_back(wanted, ranges, chain_cost, least + share * (limit - least))
    higher = scale_back(wanted, ranges, chain_cost, limit)
    assert all(lower[name] <= higher[name] for name in wanted)
    # one factor explains every size: largest of the lower ends, smallest of the upper ends
    low = [higher[n] / wanted[n] for n, r in ranges.items() if higher[n] > r.smallest]
    high = [(higher[n] + r.step) / wanted[n] for n, r in ranges.items() if higher[n] < wanted[n]]
    assert max(low, default=0) < min(high, default=math.inf)


@given(
    st.lists(st.integers(40, 400), min_size=4, max_size=12),
    st.floats(0.2, 0.99),
    st.sampled_from([1, 2]),
)
def test_fine_sizes_use_the_budget(sizes: list[int], share: float, step: int) -> None:
    ranges = {str(i): SizeRange(low=step, high=400, step=step) for i in range(len(sizes))}
    wanted = {name: size // step * step for name, size in zip(ranges, sizes, strict=True)}
    limit = share * chain_cost(wanted)
    found = project(wanted, ranges, chain_cost, limit, dict.fromkeys(ranges, 0.0))
    assert 0.95 * limit <= chain_cost(found) <= limit


def test_the_rest_goes_to_the_highest_priority_in_turns() -> None:
    ranges = {name: SizeRange(low=8, high=64) for name in "abc"}
    sizes = dict.fromkeys("abc", 64)

    def channels(sizes: Mapping[str, int]) -> float:
        return float(sum(sizes.values()))

    def found(limit: float, **priority: float) -> list[int]:
        return list(project(sizes, ranges, channels, limit, priority).values())

    assert scale_back(sizes, ranges, channels, 191) == dict.fromkeys("abc", 56)
    assert found(191, a=0, b=1, c=0.5) == [56, 64, 64]
    assert found(183, a=0, b=1, c=0.5) == [56, 64, 56]
    assert found(183, a=0, b=-1, c=-2) == [64, 56, 56]


def test_equal_priorities_fill_the_one_that_lost_most() -> None:
    ranges = {"a": SizeRange(low=8, high=64), "b": SizeRange(low=8, high=64)}

    def channels(sizes: Mapping[str, int]) -> float:
        return float(sum(sizes.values()))

    start, most = {"a": 40, "b": 24}, {"a": 48, "b": 48}
    zero = {"a": 0.0, "b": 0.0}
    assert fill(start, most, ranges, channels, 72, zero) == {"a": 40, "b": 32}
    assert fill(start, most, ranges, channels, 1e9, zero) == most


def test_a_budget_under_the_smallest_names_the_smallest_cost() -> None:
    ranges = {"a": SizeRange(low=10, high=64), "b": SizeRange(low=16, high=64)}
    least = chain_cost({"a": 16, "b": 16})  # 175.1k
    sizes = {"a": 64, "b": 64}
    assert project(sizes, ranges, chain_cost, least, nobody_first(ranges)) == {"a": 16, "b": 16}
    with pytest.raises(BudgetError, match=re.escape("budget of 100k: the smallest cost 175.1k")):
        project(sizes, ranges, chain_cost, 100e3, nobody_first(ranges))


def nobody_first(ranges: Ranges) -> dict[str, float]:
    return dict.fromkeys(ranges, 0.0)


@given(problems(), st.integers(0, 10**6))
def test_a_cost_with_bumps_is_still_never_over(
    problem: tuple[dict[str, int], Ranges, dict[str, float], float], seed: int
) -> None:
    # measured latencies need not grow with the sizes
    sizes, ranges, priority, limit = problem

    def bumpy(at: Mapping[str, int]) -> float:
        return chain_cost(at) * random.Random(f"{seed} {sorted(at.items())}").uniform(0.8, 1.2)

    assume(bumpy({name: r.smallest for name, r in ranges.items()}) <= limit)
    found = project(sizes, ranges, bumpy, limit, priority)
    assert bumpy(found) <= limit and legal(found, ranges)
