"""Training with a teacher."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from mobilenas.core.errors import FileError
from mobilenas.train import Trainer, train
from mobilenas.train.distillation import Teacher
from tests.train.test_run import ARCH, RECIPE, tiny_data


class Constant(nn.Module):
    """Answers the same to every image, and remembers their side."""

    def __init__(self, *logits: float) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(logits))
        self.side = 0

    def forward(self, x: Tensor) -> Tensor:
        self.side = x.shape[-1]
        return self.logits.expand(len(x), -1)


def teacher(*logits: float) -> Teacher:
    return Teacher(network=Constant(*logits), image_size=12)


def test_a_network_learns_what_its_teacher_answers() -> None:
    data = tiny_data()
    sure = teacher(0.0, 9.0, 0.0)
    trainers = [Trainer(ARCH, data, RECIPE, seed=0, teacher=each) for each in (None, sure)]
    for _ in range(RECIPE.epochs):
        losses = [trainer.run_epoch()["loss"] for trainer in trainers]
    assert losses[1] > losses[0]
    alone, taught = (trainer.evaluate(data.val).predictions for trainer in trainers)
    assert int((taught == 1).sum()) > int((alone == 1).sum())
    assert sure.network.side == 12


def test_a_training_with_another_teacher_is_another_training(tmp_path: Path) -> None:
    data, first = tiny_data(), teacher(1.0, 0.0, 0.0)
    result = train(ARCH, data, RECIPE, folder=tmp_path, seed=0, teacher=first)
    assert train(ARCH, data, RECIPE, folder=tmp_path, seed=0, teacher=first) == result
    for other in (teacher(0.0, 1.0, 0.0), None):
        with pytest.raises(FileError, match="teacher differ"):
            train(ARCH, data, RECIPE, folder=tmp_path, seed=0, teacher=other)
