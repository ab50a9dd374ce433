"""The last round of a search: a few archs trained from scratch by successive halving.

Jamieson and Talwalkar 2016. They train on training images and are compared on validation images.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mobilenas.config import check_between
from mobilenas.data import ImageData
from mobilenas.files import load_checkpoint, restoring, save_checkpoint
from mobilenas.progress import Reporter, clock
from mobilenas.records import FinalistsState, check_record
from mobilenas.spaces import Arch
from mobilenas.train import Recipe, Trainer

_RUNGS = 3
_FEW = 6


@dataclass(frozen=True, kw_only=True)
class FinalistSettings:
    """How many archs enter, and how long they train."""

    count: int = 4
    """Archs that enter; 0 and 1 turn the round off."""
    epochs: int = 1
    """Epochs of each rung: there are three, or two for six archs and fewer."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_between(self, "count", 0, 1000)
        check_between(self, "epochs", 1, 1000)

    def rungs(self, count: int) -> list[int]:
        """Return how many of `count` archs train in each rung: a geometric row that ends at two."""
        last = (_RUNGS if count > _FEW else _RUNGS - 1) - 1
        return [round(count * (2 / count) ** (rung / last)) for rung in range(last + 1)]

    def recipe(self, recipe: Recipe) -> Recipe:
        """Return the recipe of three rungs, of which few archs see two: epochs of many small steps.

        After few large steps the shallow archs lead, which learn fast and end lower.
        """
        return replace(
            recipe,
            epochs=_RUNGS * self.epochs,
            batch_size=max(2, recipe.batch_size // 4),
            learning_rate=recipe.learning_rate / 2,
            warmup_epochs=min(0.5, recipe.warmup_epochs),
        )


class SuccessiveHalving:
    """Trains archs rung by rung; its file is whole after every arch of every rung."""

    def __init__(
        self,
        data: ImageData,
        settings: FinalistSettings,
        recipe: Recipe,
        *,
        checkpoint: Path,
        seed: int,
        device: str,
        reporter: Reporter,
    ) -> None:
        self.data = data
        self.settings, self.recipe = settings, settings.recipe(recipe)
        self.checkpoint, self.seed, self.device = checkpoint, seed, device
        self.reporter = reporter
        state = load_checkpoint(checkpoint) or {"scores": [], "trainers": {}, "seconds": 0.0}
        check_record(FinalistsState, state, checkpoint)
        self.scores: list[dict[str, float]] = state["scores"]
        self.trainers: dict[str, Any] = state["trainers"]
        self.seconds: float = state["seconds"]

    def best(self, archs: Sequence[Arch]) -> int:
        """Return the index of the arch that wins."""
        alive = list(range(len(archs)))
        sizes = self.settings.rungs(len(archs))
        self.reporter.start("finalists", sum(sizes))
        for rung, size in enumerate(sizes):
            alive = alive[:size]
            scores = {index: self.score(archs[index], index, rung) for index in alive}
            # the sort is stable: a tie goes to the arch that was ahead before
            alive.sort(key=lambda index: -scores[index])
        return alive[0]

    def score(self, arch: Arch, index: int, rung: int) -> float:
        """Return validation top-1 after `rung` + 1 rungs, from the file or by training on."""
        for record in self.scores:
            if (record["arch"], record["rung"]) == (index, rung):
                return record["val_top1"]
        began = clock(self.device)
        trainer = Trainer(arch, self.data, self.recipe, seed=self.seed, device=self.device)
        if rung:
            with restoring(self.checkpoint):
                trainer.load_state_dict(self.trainers[str(index)])
        for _ in range(self.settings.epochs):
            trainer.run_epoch()
        top1 = trainer.evaluate(self.data.val).top1
        self.scores.append({"arch": index, "rung": rung, "val_top1": top1})
        self.trainers[str(index)] = trainer.state_dict()
        self.seconds += clock(self.device) - began
        self._save()
        self.reporter.step(len(self.scores), {"val top-1": f"{top1:.1f} %"})
        return top1

    def _save(self) -> None:
        state = {"scores": self.scores, "trainers": self.trainers, "seconds": self.seconds}
        save_checkpoint(self.checkpoint, state)
