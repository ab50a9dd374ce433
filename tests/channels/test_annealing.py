import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobilenas.channels.annealing import propose, push_probability, remainder, temperature
from mobilenas.cost.projection import SizeRange

# proposals


def proposed(
    size: float, change: float, *, delta: float = 1.0, heat: float = 0.0, seed: int = 0
) -> float:
    return propose(
        {"g": size}, {"g": change}, delta=delta, heat=heat, source=random.Random(seed)
    ).proportions["g"]


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
        dict.fromkeys(names, 800.0),
        dict.fromkeys(names, -0.4),
        delta=1.0,
        heat=5.0,
        source=random.Random(1),
    )
    assert len(one.pushed) / len(names) == pytest.approx(p, abs=0.01)
    assert {round(size) for size in one.proportions.values()} == {480, round(800 * (0.6 + p))}
    assert all(one.proportions[name] > 800 for name in one.pushed)


@given(
    st.lists(st.tuples(st.integers(1, 300), st.floats(-2.5, 3)), min_size=1, max_size=8),
    st.floats(0, 5),
    st.integers(0, 99),
    st.floats(0, 4),
)
def test_proposals_repeat_by_seed_and_chance_only_adds(
    groups: list[tuple[int, float]], heat: float, seed: int, delta: float
) -> None:
    sizes = {f"g{number}": float(size) for number, (size, _) in enumerate(groups)}
    changes = {f"g{number}": change for number, (_, change) in enumerate(groups)}
    first, again = (
        propose(sizes, changes, delta=delta, heat=heat, source=random.Random(seed))
        for _ in range(2)
    )
    assert first == again
    assert all(0.5 <= first.proportions[name] / sizes[name] <= 2 for name in sizes)
    greedy = propose(sizes, changes, delta=delta, heat=0.0, source=random.Random(seed))
    assert not greedy.pushed
    for name in sizes:
        if name in first.pushed:
            assert first.proportions[name] >= greedy.proportions[name]
        else:
            assert first.proportions[name] == greedy.proportions[name]


@given(st.integers(8, 2000), st.integers(0, 500), st.floats(-2, 2), st.floats(0, 2))
def test_greedy_is_monotone(size: int, more: int, change: float, rise: float) -> None:
    assert proposed(size, change) <= proposed(size + more, change)
    assert proposed(size, change) <= proposed(size, change + rise)


def test_what_rounding_leaves_over_adds_up() -> None:
    ranges = {"a": SizeRange(low=8, high=64), "b": SizeRange(low=8, high=64)}
    # b was to grow by a quarter against a; rounded both stay as they were
    left = remainder({"a": 16.0, "b": 20.0}, {"a": 16, "b": 16}, ranges)
    assert left["b"] / left["a"] == pytest.approx(1.25)
    assert left["a"] * left["b"] == pytest.approx(16 * 16)
    # no debt of more than half a step
    left = remainder({"a": 10.0, "b": 90.0}, {"a": 16, "b": 16}, ranges)
    assert left == {"a": 12.0, "b": 20.0}
