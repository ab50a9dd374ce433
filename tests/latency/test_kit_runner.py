"""Timing beside other programs, with clocks that are told how far to go."""

from collections.abc import Iterator

import pytest

from mobilenas.latency import kit_runner
from mobilenas.latency.kit_runner import Timing, timed


class Machine:
    """Runs take `own_ns`; what `others_ns` says passes besides while another program runs."""

    def __init__(self, own_ns: int, others_ns: list[int]) -> None:
        self.wall = self.used = self.switches = self.runs = 0
        self.own_ns = own_ns
        self.others: Iterator[int] = iter(others_ns)

    def run(self) -> None:
        waited = next(self.others, 0)
        self.wall += self.own_ns + waited
        self.used += self.own_ns
        self.switches += waited > 0
        self.runs += 1


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Machine:
    made = Machine(*request.param)
    monkeypatch.setattr(kit_runner.time, "perf_counter_ns", lambda: made.wall)
    monkeypatch.setattr(kit_runner.time, "thread_time_ns", lambda: made.used)
    monkeypatch.setattr(kit_runner, "_switches", lambda: made.switches)
    return made


ALONE, ONCE, ALWAYS = [], [0, 9_000_000], [9_000_000] * 100


@pytest.mark.parametrize("machine", [(200_000, ALONE)], indirect=True)
@pytest.mark.parametrize("threads", [1, 2])
def test_alone_both_clocks_say_the_same(machine: Machine, threads: int) -> None:
    assert timed(machine.run, 5, threads) == Timing(200_000, False)
    assert machine.runs == 5


@pytest.mark.parametrize("machine", [(200_000, ONCE)], indirect=True)
@pytest.mark.parametrize("threads", [1, 2])
def test_a_timing_that_is_disturbed_is_made_again(machine: Machine, threads: int) -> None:
    assert timed(machine.run, 5, threads) == Timing(200_000, False)
    assert machine.runs == 10


@pytest.mark.parametrize("machine", [(200_000, ALWAYS)], indirect=True)
def test_waiting_for_the_processor_is_not_in_the_time_of_one_thread(machine: Machine) -> None:
    assert timed(machine.run, 5, 1) == Timing(200_000, True)
    assert timed(machine.run, 5, 2) == Timing(9_200_000, True)


@pytest.mark.parametrize("machine", [(8_000_000, ALWAYS)], indirect=True)
def test_what_lasts_longer_than_a_slice_is_not_made_again(machine: Machine) -> None:
    assert timed(machine.run, 1, 1) == Timing(8_000_000, True)
    assert machine.runs == 1


def test_real_clocks_go_on() -> None:
    timing = timed(lambda: sum(range(10_000)), 3, 1)
    assert timing.ns > 0
