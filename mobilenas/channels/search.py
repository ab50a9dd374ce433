"""The search for channel sizes: short trials within the budgets, then finalists."""

import hashlib
import json
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from mobilenas.channel_graph import Graph
from mobilenas.channels.annealing import propose, remainder, temperature
from mobilenas.channels.limits import Limits, MeasureArchs
from mobilenas.channels.metric import LayerQuality, Member, Momentum, qualities
from mobilenas.channels.records import TrialLine
from mobilenas.channels.settings import ChannelSettings
from mobilenas.channels.start import kept_network, start_network
from mobilenas.channels.trial import TrialTrainer
from mobilenas.core.errors import FileError
from mobilenas.core.files import (
    load_checkpoint,
    restoring,
    save_checkpoint,
)
from mobilenas.core.progress import Reporter, clock
from mobilenas.core.records import read_checkpoint_log, write_log, write_record
from mobilenas.core.settings import to_plain, to_plain_without_added
from mobilenas.cost.budgets import Budgets
from mobilenas.data import ImageData
from mobilenas.search import FinalistSettings
from mobilenas.search.records import FinalistsRecord, Score
from mobilenas.spaces.channels.space import ChannelsSpace
from mobilenas.train import Recipe, train


@dataclass(frozen=True, kw_only=True)
class ChannelResult:
    """Result of a search for channel sizes."""

    sizes: dict[str, int]
    """Channels of every group that can change."""
    costs: dict[str, float]
    """Their costs, including latency in ms if it has a budget."""
    candidates: int
    """Number of sizes among the finalists."""
    seconds: dict[str, float]
    """Seconds of trials and finalists, measured by `clock`, summed over resumes."""


def search_channels(
    budgets: Budgets,
    data: ImageData,
    settings: ChannelSettings,
    finalists: FinalistSettings,
    recipe: Recipe,
    *,
    folder: Path,
    seed: int,
    device: str,
    reporter: Reporter,
    measure: MeasureArchs | None = None,
) -> ChannelResult:
    """Search, and decide by finalists; resumes from the folder's last checkpoint.

    `recipe` is that of the final training; trials use its schedule over the epochs of all trials.
    Finalists are complete trainings of few epochs, because in the first part of a longer one, at
    its highest rate, many networks stay at chance. Like the final training they start from the
    model's weights, if it has any. `measure` measures latencies, if that is possible.
    """
    search = _Search(budgets, data, settings, recipe, folder, seed, device, measure)
    search.run(reporter)
    candidates = search.candidates(max(1, finalists.count))
    seconds = {"trials": float(sum(line.seconds for line in search.log))}
    winner = 0
    if len(candidates) > 1:
        short = recipe.lasting(finalists.epochs)
        archs = [budgets.space.arch(sizes) for sizes in candidates]
        trained = [
            train(
                arch,
                data,
                short,
                folder=folder / f"finalists/{number}",
                seed=seed,
                device=device,
                reporter=reporter,
                stage=f"finalist {number + 1}",
                network=kept_network(arch, settings),
            )
            for number, arch in enumerate(archs)
        ]
        scores = [result.last_val_top1 for result in trained]
        winner = scores.index(max(scores))
        seconds["finalists"] = sum(result.seconds for result in trained)
        record = FinalistsRecord(
            winner=winner,
            scores=[
                Score(arch=n, rung=0, epochs=short.epochs, val_top1=top1)
                for n, top1 in enumerate(scores)
            ],
            archs=[arch.to_dict() for arch in archs],
        )
        write_record(folder / "finalists.json", record)
    line = next(line for line in search.log if line.sizes == candidates[winner])
    return ChannelResult(
        sizes=candidates[winner],
        costs=line.costs,
        candidates=len(candidates),
        seconds=seconds,
    )


class _Search:
    """The sequence of trials; each is followed by a complete checkpoint."""

    def __init__(
        self,
        budgets: Budgets,
        data: ImageData,
        settings: ChannelSettings,
        recipe: Recipe,
        folder: Path,
        seed: int,
        device: str,
        measure: MeasureArchs | None,
    ) -> None:
        self.space: ChannelsSpace = budgets.space
        self.data, self.settings, self.seed, self.device = data, settings, seed, device
        self.folder = folder
        self.recipe = recipe.lasting(settings.trials * settings.epochs)
        self.limits = Limits(budgets, measure)
        self.momentum = Momentum(settings.gamma)
        self.proportions: dict[str, float] = {}  # those of the last accepted trial
        self.log: list[TrialLine] = []
        parts = {
            "space": to_plain(self.space),
            "budgets": to_plain(budgets.budgets),
            "settings": to_plain(settings),
            "recipe": to_plain_without_added(recipe),
            "seed": seed,
            "data": data.fingerprint,
        }
        self.identity = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def run(self, reporter: Reporter) -> None:
        """Run all trials that the checkpoint does not have."""
        trials = self.settings.trials
        accepted = self._restore()
        reporter.start("channels", trials)
        while len(self.log) < trials:
            accepted, line = self._trial(accepted)
            self.log.append(line)
            self._save(accepted)
            figures = {"loss": f"{line.loss:.3f}", "val top-1": f"{line.val_top1:.1f} %"}
            reporter.step(len(self.log), figures)

    def candidates(self, count: int) -> list[dict[str, int]]:
        """Return distinct accepted sizes, best trials first, then the sizes of the start.

        The start, mostly the model's own proportions within the budget, is what a search must beat.
        """
        accepted = [line for line in self.log if line.accepted]
        accepted.sort(key=lambda line: (-line.val_top1, -line.trial))
        found: list[dict[str, int]] = []
        for sizes in (line.sizes for line in accepted):
            found += [] if sizes in found else [sizes]
        start = self.log[0].sizes
        best = [sizes for sizes in found if sizes != start][: max(1, count - 1)]
        return [*best, start] if count > 1 or not best else best

    def _trial(self, before: TrialTrainer | None) -> tuple[TrialTrainer, TrialLine]:
        """Change the sizes, train, and accept or undo the change."""
        began, number, settings = clock(self.device), len(self.log), self.settings
        source = random.Random(f"trial/{self.seed}/{number}")
        annealed = settings.schedule == "annealed"
        heat = temperature(number, settings.trials) if annealed else 0.0
        changes, pushed = dict[str, float](), tuple[str, ...]()
        if before is None:
            trial, costs = self._start()
            proportions = dict[str, float](trial.arch.sizes)
        else:
            changes = self._changes(before)
            proposal = propose(
                self.proportions, changes, delta=settings.delta, heat=heat, source=source
            )
            pushed = proposal.pushed
            sizes, costs = self.limits.keep(proposal.proportions, changes)
            proportions = remainder(proposal.proportions, sizes, self.space.ranges)
            trial = before.changed(self.space, sizes)
        loss = fmean(trial.run_epoch()["loss"] for _ in range(settings.epochs))
        val_top1 = trial.evaluate(self.data.val).top1
        self.momentum.update(self._measured(trial))
        accepted = before is None or self._accepts(val_top1, heat, source)
        line = TrialLine(
            trial=number,
            sizes=dict(trial.arch.sizes),
            costs=costs,
            temperature=heat,
            changes=changes,
            pushed=pushed,
            quality=self._quality(trial),
            loss=loss,
            val_top1=val_top1,
            accepted=accepted,
            seconds=clock(self.device) - began,
        )
        if before is not None and not accepted:
            before.epochs_done = trial.epochs_done  # learning rate and order of images continue
            trial = before
        else:
            self.proportions = proportions
        trial.teacher = None  # the next change sets its own
        return trial, line

    def _accepts(self, val_top1: float, heat: float, source: random.Random) -> bool:
        """Apply Metropolis's rule to the drop in validation top-1 since the last accepted trial."""
        last = next(line.val_top1 for line in reversed(self.log) if line.accepted)
        drop = last - val_top1
        return drop <= 0 or (heat > 0 and source.random() < math.exp(-drop / heat))

    def _start(self) -> tuple[TrialTrainer, dict[str, float]]:
        """Build the model at its start sizes; its untrained weights give the metric's baseline."""
        wanted = self.space.start() if self.settings.start == "model" else self.space.smallest()
        sizes, costs = self.limits.keep(wanted)
        given = start_network(self.space.base, self.settings.weights, self.settings.model)
        first = TrialTrainer(
            self.space.arch(self.space.start() if given is not None else sizes),
            self.data,
            self.recipe,
            self.settings,
            seed=self.seed,
            device=self.device,
            network=given,
        )
        trial = first if given is None else first.changed(self.space, sizes)
        self.momentum.update(self._measured(trial))
        return trial, costs

    def _measured(self, trial: TrialTrainer) -> dict[str, LayerQuality]:
        found = qualities(trial.inner)
        if self.settings.metric == "constant":
            return dict.fromkeys(found, LayerQuality.constant())
        return found

    def _changes(self, trial: TrialTrainer) -> dict[str, float]:
        members = _members(self.space.base.graph)
        return {name: self.momentum.change(members[name]) for name in trial.arch.sizes}

    def _quality(self, trial: TrialTrainer) -> dict[str, float]:
        """Return the mean momentum of the metric over each group."""
        now, members = self.momentum.now, _members(self.space.base.graph)
        return {
            name: fmean(now[layer][side] for layer, side in members[name])
            for name in trial.arch.sizes
        }

    def _save(self, accepted: TrialTrainer) -> None:
        state = {
            "identity": self.identity,
            "log": to_plain(self.log),
            "sizes": dict(accepted.arch.sizes),
            "proportions": self.proportions,
            "trainer": accepted.state_dict(),
            "momentum": self.momentum.state_dict(),
            "limits": self.limits.state_dict(),
        }
        save_checkpoint(self.folder / "checkpoint.pt", state)
        write_log(self.folder / "log.jsonl", self.log)

    def _restore(self) -> TrialTrainer | None:
        path = self.folder / "checkpoint.pt"
        state = load_checkpoint(path)
        if state is None:
            return None
        if state.get("identity") != self.identity:
            raise FileError(f"{path} belongs to another search; choose another folder")
        self.log = read_checkpoint_log(state, TrialLine, path)
        # a kill between writing the two files may have lost a line
        write_log(self.folder / "log.jsonl", self.log)
        with restoring(path):
            self.proportions = state["proportions"]
            self.momentum.load_state_dict(state["momentum"])
            self.limits.load_state_dict(state["limits"])
            trial = TrialTrainer(
                self.space.arch(state["sizes"]),
                self.data,
                self.recipe,
                self.settings,
                seed=self.seed,
                device=self.device,
            )
            trial.load_state_dict(state["trainer"])
        return trial


def _members(graph: Graph) -> dict[str, Sequence[Member]]:
    """Return the sides of convolutions and linear layers that belong to each group."""
    layers = {layer.module for layer in graph.layers}
    return {
        group.name: [
            (member.module, member.kind)
            for member in group.members
            if member.kind in ("in", "out") and member.module in layers
        ]
        for group in graph.groups
    }
