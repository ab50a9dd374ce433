"""The drawings of a search for channel sizes; warnings of the plotting library are errors."""

import pytest

from mobilenas.channels.records import TrialLine
from mobilenas.report.channels import trials_plots


def trial(number: int) -> TrialLine:
    return TrialLine(
        trial=number,
        sizes={"a": 16 - number},
        costs={"flops": 100},
        temperature=5.0,
        changes={},
        pushed=[],
        quality={"a": 0.5},
        loss=1.0,
        val_top1=20.0,
        accepted=number % 2 == 0,
        seconds=1.0,
    )


@pytest.mark.parametrize("trials", [1, 2])
def test_a_search_of_few_trials_is_drawn_over_trials(trials: int) -> None:
    plots = dict(trials_plots([trial(number) for number in range(trials)]))
    assert len(plots) == 4
    assert "Temperature by trial" in plots["Temperature of the annealing"]
