"""Synthetic devices of known weights: the fit finds them, and a line where there is one."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import kendalltau

from mobilenas.latency import calibration
from mobilenas.latency.draws import draw_networks
from mobilenas.latency.kinds import KINDS, amounts, fit_kinds, leave_one_out, most_informative
from mobilenas.latency.measured import Measured
from mobilenas.latency.units import Unit, arch_units
from mobilenas.spaces.mobile.costs import costs
from mobilenas.spaces.mobile.space import MobileSpace

COUNT = len(KINDS)
Table = NDArray[np.float64]


@pytest.fixture(scope="module")
def table() -> Table:
    """Sums of unit times, which follow dense FLOPs, and independent amounts of 60 networks."""
    others = np.random.default_rng(0).uniform(1, 3, (60, COUNT))
    return np.column_stack([0.5 + others[:, 1], others])


def device(table: Table, offset_ms: float = 1.0, **weights: float) -> Table:
    """Latencies of a device with these weights."""
    true = [weights.get(name, 0.0) for name in ("unit_times", *KINDS)]
    return np.asarray(table @ true + offset_ms)


def tau(predicted: Table, true: Table) -> float:
    return float(kendalltau(predicted, true).statistic)


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("stem 32px 3>16 k3 s2 relu", (1, 16 * 16 * 27 * 16, 0, 0, 0, 0, 27 * 16 + 32)),
        (
            # expansion, 5x5 with stride 2, two squeeze layers, projection
            "block 8px 16>64>24 k5 s2 se8 hard_swish",
            (
                5,
                64 * 16 * 64 + 2 * 64 * 8 + 16 * 64 * 24,
                0,
                16 * 25 * 64,
                0,
                1,
                16 * 64 + 128 + 27 * 64 + (64 + 1) * 8 + (8 + 1) * 64 + 64 * 24 + 48,
            ),
        ),
        (
            # no expansion: a depthwise convolution and the projection
            "block 4px 16>16>16 k7 s1 relu",
            (2, 16 * 256, 0, 0, 16 * 49 * 16, 0, 51 * 16 + 256 + 32),
        ),
        (
            "block 4px 8>16>8 start3 k5 s1 relu",
            (4, 16 * 256, 16 * 72, 16 * 400, 0, 0, 11 * 8 + 128 + 32 + 27 * 16 + 128 + 16),
        ),
        ("features 4px 24>32 relu", (1, 16 * 24 * 32, 0, 0, 0, 0, 24 * 32 + 64)),
        ("linear 32>10", (1, 320, 0, 0, 0, 0, 330)),
    ],
)
def test_the_work_of_a_unit(key: str, expected: tuple[int, ...]) -> None:
    assert amounts(Unit.parse(key)) == expected


def test_the_work_of_all_units_is_that_of_the_network(tiny_space: MobileSpace) -> None:
    for arch in draw_networks(tiny_space, 20, 0):
        _, *flops, _, params = np.sum([amounts(unit) for unit in arch_units(arch)], axis=0)
        assert (sum(flops), params) == (costs(arch).flops, costs(arch).params)


def test_the_weights_of_a_device_are_found(table: Table) -> None:
    true = {"unit_times": 2.0, "layers": 3.0, "depthwise_5x5_flops": 1.5, "squeeze_excites": 4.0}
    times = device(table, **true)
    found = fit_kinds(table[:20], times[:20])
    assert not found.is_line
    expected = [true.get(name, 0.0) for name in ("unit_times", *KINDS)]
    assert found.weights == pytest.approx(expected, abs=0.02)
    assert found.offset_ms == pytest.approx(1, abs=0.05)
    scale, offset_ms = calibration.fit(table[:20, 0].tolist(), times[:20].tolist())
    assert tau(found.predict(table[20:]), times[20:]) > 0.98
    assert tau(scale * table[20:, 0] + offset_ms, times[20:]) < 0.5


def test_a_device_that_is_a_line_gets_the_line(table: Table) -> None:
    noise = np.random.default_rng(1).normal(1, 0.02, len(table))
    times = device(table, unit_times=3.0) * noise
    found = fit_kinds(table[:10], times[:10])
    line = calibration.fit(table[:10, 0].tolist(), times[:10].tolist())
    assert found.is_line
    assert (found.weights, found.offset_ms) == ((line[0], *[0.0] * COUNT), line[1])


def test_networks_of_one_kind_get_the_line() -> None:
    table = np.outer([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0], np.ones(1 + COUNT))
    times = device(table, layers=3.0) * ([1.01, 0.99] * 4)
    found = fit_kinds(table, times)
    assert found.is_line
    assert found.weights[0] == pytest.approx(3, rel=0.02)


@given(seed=st.integers(0, 10_000), networks=st.integers(3, 12))
def test_no_weight_is_negative(seed: int, networks: int) -> None:
    source = np.random.default_rng(seed)
    found = fit_kinds(
        source.uniform(1, 9, (networks, 1 + COUNT)), source.uniform(0.1, 10, networks)
    )
    assert min(found.weights) >= 0
    unit, time = Unit.parse("linear 32>10"), Measured.of([1e6] * 4)
    assert found.corrected(unit, time).minimum_ms > 0


def test_the_time_of_a_unit_is_scaled_and_gets_longer(table: Table) -> None:
    found = fit_kinds(table[:20], device(table[:20], unit_times=2.0, layers=3.0, params=0.5))
    time = found.corrected(Unit.parse("linear 32>10"), Measured.of([1e6, 2e6, 3e6, 4e6]))
    assert time.median_ms == pytest.approx(2 * 2.5 + 3 + 0.5 * 330, rel=0.01)
    assert time.minimum_ms == pytest.approx(2 * 1 + 3 + 0.5 * 330, rel=0.01)
    assert time.iqr_ms == pytest.approx(2 * 1.5, rel=0.01)


def test_a_network_has_no_part_in_its_own_prediction(table: Table) -> None:
    few, times = table[:9], device(table[:9], unit_times=1.0, layers=2.0)
    before = leave_one_out(few, times)
    assert before == pytest.approx(times, rel=0.01)
    for one in range(len(few)):
        others = np.arange(len(few)) != one
        after = leave_one_out(few, np.where(others, times, 50.0))
        assert after[one] == before[one]
        assert after[one - 1] != before[one - 1]


def test_the_most_informative_networks_come_first(table: Table) -> None:
    odd = table[0] + 9 * np.eye(1 + COUNT)[6]  # nothing else says what a squeeze-excite costs
    networks = np.vstack([table, odd])
    chosen = most_informative(networks, 12)
    assert chosen[0] == len(table)
    assert len(set(chosen)) == 12
    assert chosen[:5] == most_informative(networks, 5)
    assert sorted(most_informative(networks[:4], 12)) == [0, 1, 2, 3]

    def information(rows: list[int]) -> float:
        scaled = (networks[rows] - networks.mean(axis=0)) / networks.std(axis=0)
        return float(np.linalg.slogdet(scaled.T @ scaled)[1])

    source = np.random.default_rng(0)
    drawn = [list(source.permutation(len(networks))[:12]) for _ in range(200)]
    assert information(chosen) > max(map(information, drawn))
