"""The last round of a search: a few archs begin their final training, and the better ones continue.

This is successive halving (Jamieson and Talwalkar 2016) on the final schedule itself, because a
short schedule ranks networks differently. Archs are compared by the sum of their ranks in
validation top-1 and in training loss: top-1 on few images is noisy, and training loss alone does
not show overfitting. The final training continues the winner's epochs (`train(..., begun=...)`), so
they are not paid for twice.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from scipy.stats import rankdata

from mobilenas.core.progress import Reporter
from mobilenas.data import ImageData
from mobilenas.nn.network import Network
from mobilenas.search.records import Score
from mobilenas.search.settings import FinalistSettings
from mobilenas.spaces.base import Arch
from mobilenas.train import CHECKPOINT, Recipe, train_part
from mobilenas.train.distillation import Teacher
from mobilenas.train.records import TrainLine

FINALISTS = "finalists"
"""Folder in that of a search, with a subfolder for each finalist's training."""


class SuccessiveHalving:
    """Trains archs rung by rung, each in its own subfolder of `folder`.

    `start` makes the network that an arch starts from; without it all start from scratch. They
    are distilled from `teacher`, if any. `images` returns the images at the side of an arch if that
    is not the data's. Trainings that another stage began in `begun` are continued.
    """

    def __init__(
        self,
        data: ImageData,
        settings: FinalistSettings,
        recipe: Recipe,
        *,
        folder: Path,
        seed: int,
        device: str,
        reporter: Reporter,
        start: Callable[[Arch], Network] | None = None,
        teacher: Teacher | None = None,
        images: Callable[[int], ImageData] | None = None,
        begun: Path | None = None,
        stage: str = "finalists",
    ) -> None:
        self.data, self.settings, self.recipe = data, settings, recipe
        self.folder, self.seed, self.device = folder, seed, device
        self.reporter, self.start, self.teacher, self.images = reporter, start, teacher, images
        self.begun, self.stage = begun, stage
        self.scores: list[Score] = []
        self._reached: dict[tuple[int, int], TrainLine] = {}
        self._seconds: dict[int, float] = {}
        self._epochs: dict[int, int] = {}

    @property
    def entered(self) -> int:
        """Number of archs whose training has begun."""
        return sum(1 for _ in self.folder.glob(f"*/{CHECKPOINT}"))

    def best(self, archs: Sequence[Arch]) -> int:
        """Return the index of the arch that wins."""
        alive = list(range(len(archs)))
        sizes = self.settings.rungs(len(archs))
        ends = self.settings.compared_at(len(archs), self.recipe.epochs)
        self.reporter.start(self.stage, sum(sizes))
        for rung, (size, end) in enumerate(zip(sizes, ends, strict=True)):
            alive = alive[:size]
            reached = [self.score(archs[index], index, rung, end) for index in alive]
            ranks = rankdata([-line.val_top1 for line in reached])
            ranks += rankdata([line.loss for line in reached])
            # the sort is stable: a tie goes to the arch that was ahead before
            alive = [alive[n] for n in np.argsort(ranks, kind="stable")]
        return alive[0]

    def score(self, arch: Arch, index: int, rung: int, epochs: int) -> TrainLine:
        """Return the log line of an arch after `epochs`, from its files or by further training."""
        if (index, rung) in self._reached:
            return self._reached[index, rung]
        log = train_part(
            epochs,
            arch,
            self.images(arch.image_size) if self.images else self.data,
            self.recipe,
            folder=self.folder / str(index),
            seed=self.seed,
            device=self.device,
            network=self.start(arch) if self.start else None,
            teacher=self.teacher,
            begun=self.begun,
            # messages of the others would be the same
            reporter=None if self.scores else self.reporter,
        )
        last = self._reached[index, rung] = log[-1]
        self.scores.append(
            Score(arch=index, rung=rung, epochs=epochs, val_top1=last.val_top1, loss=last.loss)
        )
        self._seconds[index] = sum(line.seconds for line in log)
        self._epochs[index] = len(log)
        self.reporter.step(len(self.scores), {"val top-1": f"{last.val_top1:.1f} %"})
        return last

    @property
    def seconds(self) -> float:
        """Processor time of all epochs (on CUDA wall time), over all resumes."""
        return sum(self._seconds.values())

    @property
    def epoch_seconds(self) -> float:
        """Seconds of an epoch on average."""
        return self.seconds / sum(self._epochs.values())

    def spent_for(self, winner: int) -> float:
        """Return the seconds spent on all archs but the winner."""
        return self.seconds - self._seconds[winner]
