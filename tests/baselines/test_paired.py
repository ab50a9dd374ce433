"""What may be called better: figures, words, and how often chance alone would say it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_rel

from mobilenas.baselines.paired import LEVEL, OPEN, difference, format_difference, mean_std
from mobilenas.baselines.records import MeanStd


def test_a_difference_is_claimed_where_the_paired_test_shows_it() -> None:
    own, control = [71.0, 72.5, 70.9, 74.0], [70.0, 71.3, 70.0, 72.9]
    found = difference(own, control)
    assert found.mean == pytest.approx(1.05)
    assert found.p == pytest.approx(ttest_rel(own, control).pvalue)
    assert (found.verdict, found.seeds) == ("better", 4)
    assert difference(control, own).verdict == "worse"
    wide = difference([70.0, 75.0, 69.0], [70.5, 71.0, 70.0])
    assert wide.p > LEVEL
    assert wide.verdict == "no difference shown"


@pytest.mark.parametrize("points", [[5.0], [5.0, 6.0], [5.0, 5.0, 5.0], [0.0, 0.0, 0.0, 0.0]])
def test_no_difference_is_claimed_without_a_test(points: list[float]) -> None:
    # 70.1 + 5 - 70.1 is 5 but for rounding
    control = [70.1, 71.3, 69.7, 72.9][: len(points)]
    found = difference([a + b for a, b in zip(control, points, strict=True)], control)
    assert found.p is None
    assert found.verdict == "no difference shown"
    assert (found.sd is None) == (len(points) == 1)


def test_a_difference_is_told_with_what_it_rests_on() -> None:
    own, control = [71.0, 72.5, 70.9, 74.0], [70.0, 71.3, 70.0, 72.9]
    assert format_difference(difference(own[:1], control[:1])) == "+1.00 points, one seed"
    assert format_difference(difference(control[:2], own[:2])) == (
        "-1.10 ± 0.14 points over 2 seeds (a test needs 3)"
    )
    assert format_difference(difference([1.0, 2.0, 3.0], [0.0, 1.0, 2.0])) == (
        "+1.00 ± 0.00 points over 3 seeds (no spread to test)"
    )
    p = ttest_rel(own, control).pvalue
    assert format_difference(difference(own, control)) == (
        f"+1.05 ± 0.13 points over 4 seeds (p = {p:.2g})"
    )


percents = st.floats(0, 100, allow_subnormal=False)


@given(st.lists(st.tuples(percents, percents), min_size=1, max_size=6))
def test_swapping_sides_turns_the_sign_and_nothing_else(pairs: list[tuple[float, float]]) -> None:
    own, control = zip(*pairs, strict=True)
    there, back = difference(own, control), difference(control, own)
    assert there.mean == pytest.approx(-back.mean)
    assert there.seeds == back.seeds == len(pairs)
    if there.p is None:
        assert there.verdict == back.verdict == OPEN
    else:
        assert there.p == pytest.approx(back.p)
        turned = {"better": "worse", "worse": "better", OPEN: OPEN}
        assert back.verdict == turned[there.verdict]


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("images", [360, 10_000])
def test_chance_alone_seldom_looks_like_a_difference(seeds: int, images: int) -> None:
    # networks that are no different, whose accuracy comes in whole images: one in twenty may
    source = np.random.default_rng(0)
    drawn = source.normal(97, 0.5, (2000, 2, seeds))
    top1 = np.round(drawn * images / 100) * 100 / images
    claims = sum(difference(*pair.tolist()).verdict != OPEN for pair in top1)
    assert 0.02 < claims / len(top1) < 0.065


@pytest.mark.parametrize(("seeds", "found"), [(3, 0.29), (5, 0.66)])
def test_a_point_of_lead_is_found_by_more_seeds_sooner(seeds: int, found: float) -> None:
    drawn = np.random.default_rng(1).normal(97, 0.5, (2000, 2, seeds))
    drawn[:, 0] += 1
    claims = [difference(*pair.tolist()).verdict for pair in drawn]
    assert claims.count("better") / len(claims) == pytest.approx(found, abs=0.03)


def test_spread_of_one_value_is_none() -> None:
    assert mean_std([3.0]) == MeanStd(mean=3.0, sd=None)
    assert mean_std([3.0, 5.0]) == MeanStd(mean=4.0, sd=2**0.5)
