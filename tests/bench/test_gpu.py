"""bench/gpu.py: every part of it runs on a processor; without a GPU it says so."""

import importlib
import math
from pathlib import Path
from types import ModuleType

import pytest
import torch

from mobilenas.core.files import read_json


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "bench"))
    return importlib.import_module("gpu")


def test_without_a_gpu_it_says_so(
    gpu: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    out = tmp_path / "gpu.json"
    assert gpu.main(["--out", str(out)]) == 2
    assert capsys.readouterr() == ("", "torch finds no CUDA device: nothing was measured\n")
    assert not out.exists()


@pytest.mark.slow
def test_every_part_runs_on_a_processor(gpu: ModuleType, tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    words = ["--device", "cpu", "--small", "--minutes", "0", "--out", str(out)]
    assert gpu.main(words) == 0
    record = read_json(out)
    for part in ("training", "search"):
        speeds = record[part]["images_per_s"]
        # of one round
        assert record[part]["ratio"] == pytest.approx(speeds["ours"] / speeds["bare"])
    assert record["arch"]["same"]
    assert len(record["cells"]["loss"]) == 2 and all(map(math.isfinite, record["cells"]["loss"]))
