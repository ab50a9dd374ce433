import math

import pytest

from mobilenas.core.errors import MobileNASError
from mobilenas.core.settings import from_plain, to_plain
from mobilenas.supernet.schedules import ENTROPY_TERMS, EntropySchedule, parse_terms

# the factors before L_O of the schedule that had no terms: weight 2, epochs 0 to 10, warm-up 2
OPERATIONS_BEFORE = {
    "const": [0, 0, 0, 0, 0, 0, 1, 1.25, 1.5, 1.75, 2],
    "linear": [0, 0, 0, 0, 0, 0, 0, 0.3125, 0.75, 1.3125, 2],
    "log": [0, 0, 0, 0, 0, 0, 0, 0.4467175, 0.9301718, 1.4489806, 2],
    "step": [0, 0, 0, 0, 0, 0, 0, 0, 1.5, 1.75, 2],
}


@pytest.mark.parametrize("shape", OPERATIONS_BEFORE)
def test_the_operations_factor_is_what_it_was(shape: str) -> None:
    schedule = EntropySchedule(weight=2.0, shape=shape, start=0.5)
    factors = [schedule.factors(epoch, 2, 11)["operations"] for epoch in range(11)]
    assert factors == pytest.approx(OPERATIONS_BEFORE[shape], abs=1e-6)


@pytest.mark.parametrize("shape", OPERATIONS_BEFORE)
def test_the_edges_factor_rises_from_the_end_of_warm_up(shape: str) -> None:
    schedule = EntropySchedule(weight=0.4, shape=shape)
    factors = [schedule.factors(epoch, 2, 7)["edges"] for epoch in (0, 1, 2, 3, 4.5, 6, 9)]
    assert factors == pytest.approx([0, 0, 0, 0.1, 0.25, 0.4, 0.4])


@pytest.mark.parametrize("terms", [ENTROPY_TERMS, ("operations",), ("edges",)])
def test_only_terms_that_are_on_have_factors(terms: tuple[str, ...]) -> None:
    schedule = EntropySchedule(terms=terms)
    for epoch in range(9):
        factors = schedule.factors(epoch, 3, 9)
        assert factors.keys() == set(terms)
        assert epoch > 3 or not any(factors.values())
    assert schedule.factors(8, 3, 9) == dict.fromkeys(terms, 0.1)


def test_short_searches_and_extreme_starts_have_finite_factors() -> None:
    for start in (0.0, 1.0):
        schedule = EntropySchedule(start=start)
        for epochs in (1, 2, 5):
            for warmup in range(epochs + 1):
                factors = [schedule.factors(epoch, warmup, epochs) for epoch in range(epochs)]
                assert all(0 <= f <= 0.1 for row in factors for f in row.values())
    assert EntropySchedule(weight=0).factors(9, 0, 10) == {"operations": 0.0, "edges": 0.0}
    early = EntropySchedule(weight=1.0, start=0.0).factors(1, 0, 5)["operations"]
    assert early == pytest.approx(0.25 * math.log(1 + (math.e - 1) * 0.25))


def test_terms_are_read_as_written() -> None:
    assert parse_terms("operations,edges") == ("operations", "edges")
    assert parse_terms(" edges ") == ("edges",)


@pytest.mark.parametrize("text", ["", "nodes", "operations,", "edges,edges", "operations edges"])
def test_unreadable_terms_are_quoted(text: str) -> None:
    with pytest.raises(MobileNASError, match=f"entropy terms '{text}' cannot be read: .*edges"):
        parse_terms(text)


def test_settings_are_checked_and_keep_their_json_form() -> None:
    for wrong in ({"weight": -1}, {"start": 1.5}, {"shape": "cubic"}):
        with pytest.raises(MobileNASError, match=r"it must be"):
            EntropySchedule(**wrong)
    with pytest.raises(MobileNASError, match=r"entropy terms are \[\]; .* a weight of 0 turns"):
        EntropySchedule(terms=())
    schedule = EntropySchedule(terms=("edges",), shape="step")
    assert from_plain(EntropySchedule, to_plain(schedule), "entropy") == schedule
