import numpy as np
import pytest

from mobilenas.latency.drift import remove_drift, slowdowns


def test_what_slows_a_whole_round_is_taken_out() -> None:
    rng = np.random.default_rng(0)
    usual = {str(n): 1000.0 * 2**n for n in range(9)}
    speeds = [1.0, 1.4, 1.0, 1.4, 1.0, 1.0, 1.4]
    rounds = [{k: s * ms * rng.uniform(0.99, 1.01) for k, ms in usual.items()} for s in speeds]
    for name, times in remove_drift(rounds).items():
        assert times == pytest.approx([usual[name]] * len(speeds), rel=0.03)
    # one that is slow alone stays so, and a few models say nothing of the machine
    rounds[0]["3"] *= 2
    assert remove_drift(rounds)["3"][0] == pytest.approx(2 * usual["3"], rel=0.03)
    few = [{name: times[name] for name in "01"} for times in rounds]
    assert remove_drift(few)["1"] == [times["1"] for times in rounds]


def test_references_tell_the_speed_of_rounds_with_different_models() -> None:
    usual = {str(n): 1000.0 * 2**n for n in range(7)}
    speeds = [1.0, 2.0, 1.0, 2.0, 1.0]
    names = ["012345", "012346", "012345", "012346", "012346"]
    rounds = [{n: s * usual[n] for n in each} for s, each in zip(speeds, names, strict=True)]
    assert slowdowns(rounds, "01234") == speeds
    assert remove_drift(rounds, "01234") == {
        name: [usual[name]] * sum(name in each for each in names) for name in usual
    }
    # fewer than five say nothing
    assert slowdowns(rounds, "0123") == [1.0] * 5
