from collections.abc import Sequence
from dataclasses import replace

import pytest

from mobilenas.core.settings import to_plain
from mobilenas.search.collapse import (
    ENTROPY,
    GAP,
    SKIPS,
    UTILIZATION,
    Signals,
    alarms,
    last_good,
)

FINE = Signals(
    epoch=1,
    skips=2,
    kept=8,
    utilization=0.5,
    entropy=0.3,
    entropy_wanted=False,
    gap_points=None,
)


def epochs(**rows: Sequence[object]) -> list[Signals]:
    """Signals whose named fields go through `rows`; all else is fine."""
    count = len(next(iter(rows.values())))
    return [
        replace(FINE, epoch=index + 1, **{name: row[index] for name, row in rows.items()})
        for index in range(count)
    ]


def test_nothing_is_no_alarm() -> None:
    assert alarms([]) == []
    assert alarms([FINE]) == []
    assert last_good([]) == 0


@pytest.mark.parametrize(("skips", "kept", "alarm"), [(4, 8, 0), (5, 8, 1), (2, 3, 1), (0, 0, 0)])
def test_skip_connections_dominate_above_half(skips: int, kept: int, alarm: int) -> None:
    found = alarms(epochs(skips=[skips], kept=[kept]))
    assert len(found) == alarm
    if alarm:
        figures = f"skip connections dominate: {skips} of the {kept} edges of the normal cell; "
        assert found[0].startswith(figures)


@pytest.mark.parametrize(
    ("utilization", "alarm"), [(0.49, True), (0.0, True), (0.5, False), (3.0, False), (None, False)]
)
def test_a_likeliest_network_under_half_of_the_budget(
    utilization: float | None, alarm: bool
) -> None:
    found = alarms(epochs(utilization=[utilization]))
    assert len(found) == alarm
    if alarm and utilization is not None:
        told = "the budget is left unused: the most probable network uses"
        assert found[0].startswith(f"{told} {100 * utilization:.0f} % of it, ")


@pytest.mark.parametrize(
    ("entropy", "alarm"),
    [
        ([0.9, 0.9, 0.9, 0.9, 0.9, 0.9], True),
        ([0.9, 0.8, 0.85, 0.9, 0.95, 0.95], True),  # it rose
        ([0.9, 0.899, 0.898, 0.897, 0.895, 0.8915], True),
        ([0.9, 0.898, 0.896, 0.894, 0.892, 0.8905], False),  # 1.06 %
        ([0.7, 0.9, 0.85, 0.8, 0.75, 0.7, 0.7], False),  # the window is the last five
        ([0.5] * 6, False),  # decided already
        ([0.9] * 5, False),  # four epochs of change
    ],
)
def test_an_entropy_that_should_fall_and_does_not(entropy: list[float], alarm: bool) -> None:
    wanted = [False] + [True] * (len(entropy) - 1)
    found = alarms(epochs(entropy=entropy, entropy_wanted=wanted))
    assert len(found) == alarm
    if alarm:
        assert found[0].startswith("the entropy stalls: it went from 90.0 to ")
    assert not alarms(epochs(entropy=entropy, entropy_wanted=[False, *wanted[:-1]]))


@pytest.mark.parametrize(
    ("gaps", "alarm"),
    [
        ([1.0, 5.0, 9.0, 11.0], True),
        ([30.0, 1.0, 5.0, 9.0, 11.0], True),
        ([1.0, None, 5.0, 9.0, None, 11.0], True),
        ([1.0, 5.0, 9.0, 10.9], False),  # 9.9 points
        ([1.0, 9.0, 8.0, 30.0], False),
        ([1.0, 9.0, 9.0, 30.0], False),
        ([-5.0, 0.0, -1.0, 5.0, 30.0], False),  # 0 is an estimate, too
        ([-10.0, 0.0, 9.0], False),  # two rises
        ([None] * 6, False),
    ],
)
def test_a_gap_that_rises_three_times_and_by_ten_points(
    gaps: list[float | None], alarm: bool
) -> None:
    found = alarms(epochs(gap_points=gaps))
    assert len(found) == alarm
    told = "the gap estimate grows: from 1.0 to 11.0 points in 3 rises in a row, "
    assert all(sentence.startswith(told) for sentence in found)


def test_each_sign_is_a_sentence_of_its_own_that_says_what_to_try() -> None:
    history = epochs(
        skips=[8] * 6,
        utilization=[0.1] * 6,
        entropy=[0.9] * 6,
        entropy_wanted=[True] * 6,
        gap_points=[0.0, 0.0, 1.0, 20.0, 30.0, 50.0],
    )
    found = alarms(history)
    names = [sentence.partition(":")[0] for sentence in found]
    assert names == [SKIPS, UTILIZATION, ENTROPY, GAP]
    assert all("; try " in sentence and "--" in sentence for sentence in found)


def test_the_last_good_epoch_is_the_one_to_go_back_to() -> None:
    history = epochs(skips=[0, 6, 3, 5, 8])
    assert last_good(history) == 3
    assert last_good(history[:2]) == 1
    assert last_good(history[3:]) == 0
    assert last_good(epochs(skips=[0, 0])) == 2
    late = [replace(signals, epoch=signals.epoch + 20) for signals in history]
    assert last_good(late) == 23


def test_signals_have_a_json_form() -> None:
    assert Signals(**to_plain(FINE)) == FINE
