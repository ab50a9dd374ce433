from typing import Any

import pytest


@pytest.fixture(scope="session")
def log_line() -> dict[str, Any]:
    """A line of a search's log without diagnostics, but for its epoch."""
    return {
        "loss": 1.0,
        "alpha_loss": 1.0,
        "weight_gradient_norm": 1.0,
        "alpha_gradient_norm": None,
        "seconds": 1.0,
        "val_top1": 20.0,
        "tau": 1.0,
        "entropy": 1.0,
        "edge_entropy": 0.0,
        "entropies": {},
        "expected": {},
        "multipliers": {},
        "alphas": {},
        "channels": {},
        "gap_estimate": None,
        "skips": {},
        "utilization": 0.5,
        "uncertainty": 0.5,
        "alarms": [],
    }
