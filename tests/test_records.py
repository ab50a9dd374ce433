from pathlib import Path

from mobilenas.files import append_jsonl
from mobilenas.records import read_log


def test_an_epoch_of_warm_up_has_no_gradient_of_alphas(tmp_path: Path) -> None:
    line = {"epoch": 1, "loss": 1.5, "alpha_gradient_norm": None, "gap_estimate": None}
    append_jsonl(tmp_path / "log.jsonl", line)
    assert read_log(tmp_path / "log.jsonl") == [line]
