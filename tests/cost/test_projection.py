import math
import random
import re
from collections.abc import Mapping

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mobilenas.core.errors import BudgetError, MobileNASError
from mobilenas.cost.projection import SizeRange, fill, scale_back, scale_to_limit

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


# projection


@given(problems())
def test_sizes_keep_the_limit_and_use_it(
    problem: tuple[dict[str, int], Ranges, dict[str, float], float],
) -> None:
    sizes, ranges, priority, limit = problem
    found = scale_to_limit(sizes, ranges, chain_cost, limit, priority)
    assert list(found) == list(sizes)
    assert legal(found, ranges)
    assert chain_cost(found) <= limit
    # nothing more fits
    for name in found:
        grown = {**found, name: found[name] + ranges[name].step}
        assert grown[name] > ranges[name].largest or chain_cost(grown) > limit
    assert scale_to_limit(sizes, ranges, chain_cost, limit, priority) == found


@given(problems(), st.integers(2, 5))
def test_only_proportions_matter(
    problem: tuple[dict[str, int], Ranges, dict[str, float], float], factor: int
) -> None:
    sizes, ranges, priority, limit = problem
    larger = {name: factor * size for name, size in sizes.items()}
    one, other = (scale_to_limit(s, ranges, chain_cost, limit, priority) for s in (sizes, larger))
    # rounding may move a group by a step
    assert all(abs(one[name] - other[name]) <= 2 * ranges[name].step for name in one)


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
    wanted = dict(zip(ranges, sizes, strict=True))
    limit = share * chain_cost(wanted)
    found = scale_to_limit(wanted, ranges, chain_cost, limit)
    assert 0.95 * limit <= chain_cost(found) <= limit


def test_the_rest_goes_to_the_highest_priority_in_turns() -> None:
    ranges = {name: SizeRange(low=8, high=64) for name in "abc"}
    sizes = dict.fromkeys("abc", 64)

    def channels(sizes: Mapping[str, int]) -> float:
        return float(sum(sizes.values()))

    def found(limit: float, **priority: float) -> list[int]:
        return list(scale_to_limit(sizes, ranges, channels, limit, priority).values())

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
    assert scale_to_limit(sizes, ranges, chain_cost, least) == {"a": 16, "b": 16}
    with pytest.raises(BudgetError, match=re.escape("budget of 100k: the smallest cost 175.1k")):
        scale_to_limit(sizes, ranges, chain_cost, 100e3)


@given(problems(), st.integers(0, 10**6))
def test_a_cost_with_bumps_is_still_never_over(
    problem: tuple[dict[str, int], Ranges, dict[str, float], float], seed: int
) -> None:
    # measured latencies need not grow with the sizes
    sizes, ranges, priority, limit = problem

    def bumpy(at: Mapping[str, int]) -> float:
        return chain_cost(at) * random.Random(f"{seed} {sorted(at.items())}").uniform(0.8, 1.2)

    assume(bumpy({name: r.smallest for name, r in ranges.items()}) <= limit)
    found = scale_to_limit(sizes, ranges, bumpy, limit, priority)
    assert bumpy(found) <= limit and legal(found, ranges)
