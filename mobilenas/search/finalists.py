"""The last round of a search: a few archs begin their final training, and the better ones go on.

Successive halving (Jamieson and Talwalkar 2016) on the final schedule itself, not on a short one:
the order of networks after a short schedule is another. They train on training images and are
compared on validation images. The winner's epochs are the first of its final training, which
continues them (`train(..., begun=...)`), so they are not paid for twice.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from mobilenas.core.progress import Reporter
from mobilenas.data import ImageData
from mobilenas.nn.network import Network
from mobilenas.search.records import Score
from mobilenas.search.settings import FinalistSettings
from mobilenas.spaces.base import Arch
from mobilenas.train import CHECKPOINT, Recipe, train_part

FINALISTS = "finalists"
"""Below the folder of a search: a folder for each training that has begun."""


class SuccessiveHalving:
    """Trains archs rung by rung, each in a folder of its own below `folder`.

    `start` makes the network that an arch starts from; without it all start from scratch.
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
    ) -> None:
        self.data, self.settings, self.recipe = data, settings, recipe
        self.folder, self.seed, self.device = folder, seed, device
        self.reporter, self.start = reporter, start
        self.scores: list[Score] = []
        self._seconds: dict[int, float] = {}
        self._epochs: dict[int, int] = {}

    @property
    def entered(self) -> int:
        """How many archs the folder knows."""
        return sum(1 for _ in self.folder.glob(f"*/{CHECKPOINT}"))

    def best(self, archs: Sequence[Arch]) -> int:
        """Return the index of the arch that wins."""
        alive = list(range(len(archs)))
        sizes = self.settings.rungs(len(archs))
        ends = self.settings.compared_at(len(archs), self.recipe.epochs)
        self.reporter.start("finalists", sum(sizes))
        for rung, (size, end) in enumerate(zip(sizes, ends, strict=True)):
            alive = alive[:size]
            scores = {index: self.score(archs[index], index, rung, end) for index in alive}
            # the sort is stable: a tie goes to the arch that was ahead before
            alive.sort(key=lambda index: -scores[index])
        return alive[0]

    def score(self, arch: Arch, index: int, rung: int, epochs: int) -> float:
        """Return validation top-1 after `epochs`, from the files or by training on."""
        for known in self.scores:
            if (known.arch, known.rung) == (index, rung):
                return known.val_top1
        log = train_part(
            epochs,
            arch,
            self.data,
            self.recipe,
            folder=self.folder / str(index),
            seed=self.seed,
            device=self.device,
            network=self.start(arch) if self.start else None,
        )
        top1 = log[-1].val_top1
        self.scores.append(Score(arch=index, rung=rung, epochs=epochs, val_top1=top1))
        self._seconds[index] = sum(line.seconds for line in log)
        self._epochs[index] = len(log)
        self.reporter.step(len(self.scores), {"val top-1": f"{top1:.1f} %"})
        return top1

    @property
    def seconds(self) -> float:
        """Wall time of all epochs, summed over resumes."""
        return sum(self._seconds.values())

    @property
    def epoch_seconds(self) -> float:
        """Seconds of an epoch on average."""
        return self.seconds / sum(self._epochs.values())

    def spent_for(self, winner: int) -> float:
        """Return the seconds that the choice cost: those of the others, which lead nowhere."""
        return self.seconds - self._seconds[winner]
