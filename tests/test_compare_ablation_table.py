import pytest
from scipy.stats import ttest_rel

from mobilenas.compare.ablation_table import difference, sentences


def test_a_difference_is_claimed_where_the_paired_test_shows_it() -> None:
    own, control = [71.0, 72.5, 70.9, 74.0], [70.0, 71.3, 70.0, 72.9]
    found = difference(own, control)
    assert found["mean"] == pytest.approx(1.05)
    assert found["p"] == pytest.approx(ttest_rel(own, control).pvalue)
    assert (found["verdict"], found["seeds"]) == ("better", 4)
    assert difference(control, own)["verdict"] == "worse"
    wide = difference([70.0, 75.0, 69.0], [70.5, 71.0, 70.0])
    assert wide["p"] > 0.05
    assert wide["verdict"] == "no difference shown"


@pytest.mark.parametrize("points", [[5.0], [5.0, 6.0], [5.0, 5.0, 5.0], [0.0, 0.0, 0.0, 0.0]])
def test_no_difference_is_claimed_without_a_test(points: list[float]) -> None:
    # 70.1 + 5 - 70.1 is 5 but for rounding
    control = [70.1, 71.3, 69.7, 72.9][: len(points)]
    found = difference([a + b for a, b in zip(control, points, strict=True)], control)
    assert found["p"] is None
    assert found["verdict"] == "no difference shown"
    assert (found["sd"] is None) == (len(points) == 1)


def test_sentences_name_control_seeds_and_p() -> None:
    control = [70.0, 71.3, 70.0, 72.9]
    arms = [{"name": "darts", "difference": None}]
    for count in (1, 2, 4):
        own = [71.0, 72.5, 70.9, 74.0][:count]
        arms.append({"name": f"n{count}", "difference": difference(own, control[:count])})
    one, two, four = sentences({"control": "darts", "arms": arms})
    assert one == "n1: +1.00 points against darts, one seed: no difference shown."
    assert "over 2 seeds: no difference shown (a test needs 3 seeds)" in two
    assert "over 4 seeds (p = 0.0" in four
    assert four.endswith("better.")
