"""The last round of a search: a few archs begin their final training, and the better ones go on.

Successive halving (Jamieson and Talwalkar 2016) on the final schedule itself, not on a short one:
the order of networks after a short schedule is another. They train on training images and are
compared on validation images. The winner's epochs are the first of its final training, which
continues them (`train(..., begun=...)`), so they are not paid for twice.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from mobilenas.core.progress import Reporter
from mobilenas.core.settings import check_between
from mobilenas.data import ImageData
from mobilenas.nn.network import Network
from mobilenas.spaces.base import Arch
from mobilenas.train import CHECKPOINT, Recipe, train_part

FINALISTS = "finalists"
"""Below the folder of a search: a folder for each training that has begun."""
_RUNGS = 3
_FEW = 6


@dataclass(frozen=True, kw_only=True)
class FinalistSettings:
    """How many archs enter, and how long they train."""

    count: int = 4
    """Archs that enter; 0 and 1 turn the round off."""
    epochs: int = 1
    """Epochs of the first rung: there are three, or two for six archs and fewer."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_between(self, "count", 0, 1000)
        check_between(self, "epochs", 1, 1000)

    def rungs(self, count: int) -> list[int]:
        """Return how many of `count` archs train in each rung: a geometric row that ends at two."""
        last = (_RUNGS if count > _FEW else _RUNGS - 1) - 1
        return [round(count * (2 / count) ** (rung / last)) for rung in range(last + 1)]

    def compared_at(self, count: int, final: int) -> list[int]:
        """Return after how many of `final` epochs of the final training each rung compares.

        The last one after half of them: before, the order of good networks is hardly that at the
        end.
        """
        first, steps = min(self.epochs, final), len(self.rungs(count)) - 1
        last = max(first, math.ceil(final / 2))
        return [round(first * (last / first) ** (rung / steps)) for rung in range(steps + 1)]

    def lost(self, count: int, final: int) -> int:
        """Return epochs of the archs that do not win, which lead nowhere."""
        ends = self.compared_at(count, final)
        parts = [end - start for start, end in pairwise([0, *ends])]
        return (
            sum(size * part for size, part in zip(self.rungs(count), parts, strict=True)) - ends[-1]
        )


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
        self.scores: list[dict[str, Any]] = []
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
            if (known["arch"], known["rung"]) == (index, rung):
                return float(known["val_top1"])
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
        top1 = float(log[-1]["val_top1"])
        score = {"arch": index, "rung": rung, "epochs": epochs, "val_top1": top1}
        self.scores.append(score)
        self._seconds[index] = sum(line["seconds"] for line in log)
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
