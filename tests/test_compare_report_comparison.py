"""The result in one sentence."""

from typing import Any

import pytest

from mobilenas.compare.report_comparison import headline, limit_text


def entry(name: str, kind: str, top1: float, seed: int = 0) -> dict[str, Any]:
    return {
        "name": name,
        "kind": kind,
        "seed": seed,
        "flops": 1_900_000,
        "params": 100_000,
        "size_bytes": 400_000,
        "latency_ms": 0.5,
        "top1": top1,
    }


FOUND = entry("found", "found", 91.5)
NETWORKS = [
    FOUND,
    entry("mobilenet_v2 x0.1", "mobilenet", 90.0),
    entry("mobilenet_v3_small x0.2", "mobilenet", 90.5),
    entry("random-1", "random", 99.0),
]
BUDGETS = [{"cost": "flops", "limit": 2_000_000}, {"cost": "latency", "limit": 1.5}]


def test_it_has_budget_result_and_the_best_mobilenet() -> None:
    assert headline(BUDGETS, NETWORKS) == (
        "With at most 2M FLOPs and 1.5 ms, the found network (1.9M FLOPs) reaches 91.50 % top-1 on "
        "the test images, and the best MobileNet, mobilenet_v3_small x0.2 (1.9M FLOPs), "
        "90.50 % top-1."
    )


def test_over_seeds_it_tells_means() -> None:
    again = [entry("found", "found", 92.5, 1), entry("mobilenet_v2 x0.1", "mobilenet", 97.0, 1)]
    told = headline(BUDGETS[:1], [*NETWORKS, *again])
    assert "reaches 92.00 ± 0.71 % top-1 (2 seeds)" in told
    assert "mobilenet_v2 x0.1 (1.9M FLOPs), 93.50 ± 4.95 % top-1 (2 seeds)." in told


def test_what_is_not_there_is_not_told() -> None:
    assert headline([], [FOUND]) == (
        "The found network (1.9M FLOPs) reaches 91.50 % top-1 on the test images; no MobileNet was "
        "compared with it."
    )
    assert "holds no found network" in headline(BUDGETS, NETWORKS[1:])


@pytest.mark.parametrize(
    ("cost", "limit", "told"),
    [
        ("flops", 300_000, "300k FLOPs"),
        ("params", 1_500_000, "1.5M params"),
        ("memory", 64_000, "64k bytes of activations"),
        ("latency", 8.0, "8 ms"),
    ],
)
def test_limits_are_told_as_they_are_written(cost: str, limit: float, told: str) -> None:
    assert limit_text({"cost": cost, "limit": limit}) == told
