"""Calibrations find the line they were made from; their errors are what a hand would compute."""

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobilenas.core.errors import MobileNASError
from mobilenas.latency.calibration import (
    Calibration,
    NetworkTime,
    calibrate,
    evaluate,
    fit,
    leave_one_out,
    split,
)


def network(
    summed_ms: float, measured_ms: float, flops: int = 1000, image_size: int = 16
) -> NetworkTime:
    return NetworkTime(
        image_size=image_size, flops=flops, summed_ms=summed_ms, measured_ms=measured_ms
    )


@given(
    scale=st.floats(0.01, 100),
    share=st.floats(-0.5, 2),
    sums=st.lists(st.floats(1, 100), min_size=3, max_size=9, unique_by=lambda x: round(x, 1)),
    unit=st.sampled_from([1.0, 1e-3, 1e8]),
)
def test_the_line_the_times_were_made_from_is_found(
    scale: float, share: float, sums: list[float], unit: float
) -> None:
    sums = [value * unit for value in sums]
    offset = share * scale * min(sums)
    found = fit(sums, [scale * value + offset for value in sums])
    assert found[0] == pytest.approx(scale, rel=1e-5)
    assert found[1] == pytest.approx(offset, rel=1e-4, abs=1e-5 * scale * max(sums))


def test_the_fit_is_of_relative_errors() -> None:
    # Of networks with the same sum, the least relative error lies at sum(1/m) / sum(1/m^2), ...
    scale, offset = fit([1.0, 1.0], [1.0, 2.0])
    assert (scale, offset) == pytest.approx((1.5 / 1.25, 0))
    # ... and no line near the best one has less of it.
    sums, times = [1.0, 2.0, 5.0, 9.0], [1.3, 2.0, 5.9, 8.0]

    def error(scale: float, offset: float) -> float:
        return sum(((scale * s + offset - m) / m) ** 2 for s, m in zip(sums, times, strict=True))

    scale, offset = fit(sums, times)
    assert all(
        error(scale, offset) < error(scale + a, offset + b)
        for a, b in [(1e-3, 0), (-1e-3, 0), (0, 1e-3), (0, -1e-3), (1e-3, -4e-3)]
    )


def test_the_scale_is_above_zero_even_where_times_fall() -> None:
    assert fit([1.0, 2.0, 3.0], [3.0, 2.0, 1.0])[0] > 0
    assert fit([4.0], [2.0]) == pytest.approx((0.5, 0))


def test_leaving_one_out_predicts_each_from_the_others() -> None:
    assert leave_one_out([1.0, 2.0, 4.0], [3.0, 5.0, 9.0]) == pytest.approx([3.0, 5.0, 9.0])
    # the line through the first two, 2 x + 1, knows nothing of the third
    assert leave_one_out([1.0, 2.0, 4.0], [3.0, 5.0, 99.0])[2] == pytest.approx(9.0)
    with pytest.raises(MobileNASError, match="at least 2 networks"):
        leave_one_out([1.0], [3.0])


def test_errors_are_relative_to_what_was_measured() -> None:
    mape, most, tau = evaluate([11.0, 16.0, 30.0], [10.0, 20.0, 30.0], [8, 8, 8])
    assert (mape, most, tau) == pytest.approx((10, 20, 1))


def test_the_order_counts_within_an_image_size_only() -> None:
    predicted, measured = [1.0, 2.0, 10.0, 20.0], [2.0, 1.0, 20.0, 10.0]
    assert evaluate(predicted, measured, [8, 8, 8, 8])[2] == pytest.approx(1 / 3)
    assert evaluate(predicted, measured, [8, 8, 16, 16])[2] == pytest.approx(-1)
    # three pairs in order, one not: weighted by pairs
    groups = [8, 8, 8, 16, 16]
    assert evaluate([1, 2, 3, 1, 2], [1, 2, 3, 2, 1], groups)[2] == pytest.approx(0.5)
    # no pair, no order
    assert evaluate([1.0, 2.0], [1.0, 2.0], [8, 16])[2] == 0
    assert evaluate([1.0, 1.0], [1.0, 2.0], [8, 8])[2] == 0


def test_a_calibration_is_fitted_on_some_and_tested_on_others() -> None:
    sums = [1.0, 2.0, 3.0, 4.0, 5.0]
    networks = [network(s, 2 * s + 1, flops=int(1000 * s)) for s in sums]
    # the two that test it take a tenth more than the line, in the order that FLOPs do not see
    networks[3:] = [
        replace(networks[3], measured_ms=9.9, flops=9000, halves_ms=(9.0, 11.0)),
        replace(networks[4], measured_ms=12.1, flops=4000, halves_ms=(12.0, 12.0)),
    ]
    found = calibrate(split(networks, held_out=2))
    assert (found.scale, found.offset_ms) == (pytest.approx(2), pytest.approx(1))
    assert (found.networks, found.held_out) == (3, 2)
    expected = 100 * (1 - 1 / 1.1)
    assert (found.mape_percent, found.max_error_percent) == pytest.approx((expected, expected))
    assert (found.kendall_tau, found.flops_kendall_tau) == pytest.approx((1, -1))
    flops_errors = [abs(19 - 9.9) / 9.9, abs(9 - 12.1) / 12.1]
    assert found.flops_mape_percent == pytest.approx(50 * sum(flops_errors))
    assert found.noise_percent == pytest.approx((20 + 0) / 2)


def test_without_others_each_network_is_predicted_from_the_rest() -> None:
    source = random.Random(0)
    sums = [source.uniform(1, 9) for _ in range(6)]
    times = [3 * s + source.uniform(0, 1) for s in sums]
    found = calibrate([network(s, t) for s, t in zip(sums, times, strict=True)])
    guesses = leave_one_out(sums, times)
    errors = [100 * abs(g - t) / t for g, t in zip(guesses, times, strict=True)]
    assert found.mape_percent == pytest.approx(sum(errors) / 6)
    assert found.max_error_percent == pytest.approx(max(errors))
    assert (found.networks, found.held_out, found.noise_percent) == (6, 0, 0)
    assert (found.scale, found.offset_ms) == pytest.approx(fit(sums, times))


def test_too_few_networks_are_refused() -> None:
    with pytest.raises(MobileNASError, match="at least 2 networks to fit, not 1"):
        calibrate(split([network(1, 1), network(2, 2)], held_out=1))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("scale", 0.0),
        ("scale", float("nan")),
        ("offset_ms", float("inf")),
        ("kendall_tau", 1.1),
        ("networks", 0),
        ("mape_percent", -1.0),
    ],
)
def test_a_calibration_that_cannot_be_is_refused(field: str, value: float) -> None:
    good = Calibration(
        scale=1.0,
        offset_ms=-1.0,
        mape_percent=1.0,
        kendall_tau=1.0,
        networks=2,
        held_out=2,
        max_error_percent=1.0,
        flops_mape_percent=1.0,
        flops_kendall_tau=1.0,
        noise_percent=0.0,
    )
    with pytest.raises(MobileNASError, match=f"{field} is {value}; it must be between"):
        replace(good, **{field: value})
