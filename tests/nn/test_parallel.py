"""Two processes do what one does: the same losses, weights, alphas and statistics."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from mobilenas.core.settings import to_plain
from mobilenas.cost.budgets import Budgets
from mobilenas.data import ImageData

CASES = Path(__file__).with_name("in_step.py")
NAMES = (
    *("layers", "photos", "training", "diverging", "random", "attention", "ranked"),
    *("sandwich", "single-path", "second-order"),
)


@pytest.fixture(scope="module")
def results(
    tmp_path_factory: pytest.TempPathFactory, micro_images: ImageData, micro_budgets: Budgets
) -> dict[str, Any]:
    """What one process and each of two found, by `rank-of-count`."""
    out = tmp_path_factory.mktemp("in_step")
    (budget,) = micro_budgets.budgets
    inputs = {"space": to_plain(micro_budgets.space), "budget": budget, "images": micro_images}
    torch.save(inputs, out / "inputs.pt")
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for launcher in ([], torchrun):
        subprocess.run(
            [sys.executable, *launcher, str(CASES), str(out / "inputs.pt"), str(out)],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            check=True,
            timeout=600,
        )
    return {path.stem: torch.load(path) for path in out.glob("*-of-*.pt")}


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_two_processes_do_what_one_does(results: dict[str, Any], name: str) -> None:
    alone, *shared = (results[key][name] for key in ("0-of-1", "0-of-2", "1-of-2"))
    assert alone
    for found in shared:
        assert found.keys() == alone.keys()
        for key, value in alone.items():
            torch.testing.assert_close(
                found[key], value, rtol=1e-6, atol=1e-9, msg=lambda said, key=key: f"{key}: {said}"
            )


def test_both_processes_are_alike_to_the_bit(results: dict[str, Any]) -> None:
    first, second = results["0-of-2"], results["1-of-2"]
    for name in first:
        for key, value in first[name].items():
            assert torch.equal(value, second[name][key]), f"{name}: {key}"


def test_there_are_as_many_cases_as_are_compared(results: dict[str, Any]) -> None:
    assert set(results["0-of-1"]) == set(NAMES)
