"""Which MobileNet is trained for the search's time, and for how many epochs."""

import pytest

from mobilenas.baselines.equal_time import MAX_EPOCHS, best_mobilenet, epochs_for
from mobilenas.baselines.records import Trained


@pytest.mark.parametrize(
    ("seconds", "train_seconds", "epochs"),
    [
        (100.0, 50.0, 30),
        (100.0, 30.0, 50),
        (100.0, 28.9, 52),  # 51.9
        (100.0, 29.1, 52),  # 51.5
        (100.0, 29.2, 51),  # 51.4
        (50.0, 50.0, 15),
        (10.0, 50.0, 15),  # never fewer than all others have
        (0.0, 0.0, 15),
        (1e300, 1e-300, MAX_EPOCHS),
    ],
)
def test_epochs_fill_the_time(seconds: float, train_seconds: float, epochs: int) -> None:
    assert epochs_for(seconds, 15, train_seconds) == epochs


def entry(name: str, seed: int, val_top1: float, top1: float, kind: str) -> Trained:
    return Trained(
        name=name,
        kind=kind,
        seed=seed,
        flops=1,
        params=1,
        memory=1,
        predicted_ms=None,
        top1=top1,
        val_top1=val_top1,
        onnx="model.onnx",
        size_bytes=1,
    )


def test_validation_chooses_where_test_would_choose_another() -> None:
    entries = [
        entry("a", 0, 80.0, 99.0, "mobilenet"),
        entry("b", 0, 81.0, 10.0, "mobilenet"),
        entry("random-1", 0, 90.0, 99.0, "random"),
        entry("a", 1, 82.0, 10.0, "mobilenet"),
        entry("b", 1, 81.0, 99.0, "mobilenet"),
    ]
    best = [best_mobilenet(entries, seed) for seed in range(3)]
    assert [one and one.name for one in best] == ["b", "a", None]
