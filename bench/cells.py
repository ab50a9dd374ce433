"""Ratios of a search step in the cell space, measured interleaved in one process run.

    python bench/cells.py [--rounds 6] [--side 32] [--batch 16] [--channels 16] [--layers 8]

As bench/run.py measures. What it is held against are two training steps of a fixed network of the
same size, DARTS_V2. The public DARTS step (weights and alphas, first order) takes as long as 15.6
times that on two cores: ratios to it are computed with that figure, not measured here.
Writes bench/cells.json.
"""

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from common import CLASSES, make_data, only, peak_mib, ratio, seconds, show, two_steps
from torch import nn

from mobilenas.core.files import write_json
from mobilenas.cost.budgets import Budgets
from mobilenas.data import Augmentation, batches
from mobilenas.search import SearchSettings
from mobilenas.search.loop import Searcher
from mobilenas.spaces.cell.genotypes import CELL_NETWORKS
from mobilenas.spaces.cell.space import CellSpace
from mobilenas.spaces.networks import build
from mobilenas.supernet.settings import SamplerSettings

HERE = Path(__file__).parent
SEARCHES = ("search full", "search random K=4", "search attention K=4", "search ranked K=4")
TRAINING = "two training steps of DARTS_V2"
PUBLIC_STEP = 1 / 0.064
"""The public DARTS step in steps of TRAINING: a planning figure, see docs/methods.md."""


class Bench:
    """The workloads."""

    def __init__(self, side: int, batch: int, channels: int, layers: int) -> None:
        self.batch = batch
        self.data = make_data(side, 4 * batch)
        self.space = CellSpace(
            image_size=side,
            in_channels=3,
            classes=CLASSES,
            layers=layers,
            channels=channels,
            search_layers=layers,
            search_channels=channels,
        )
        given = batches(
            self.data.train,
            self.data,
            batch_size=batch,
            seed=(0,),
            augmentation=Augmentation(),
        )
        self.x, self.y = next(iter(given))

    def search(self, name: str) -> Callable[[], None]:
        """One step of the weights and one of the alphas."""
        kind: Any = name.split()[1]
        settings = SearchSettings(
            batch_size=self.batch,
            epochs=4,
            warmup=0,
            sampling="softmax",
            edge_weights="none" if kind == "full" else "softmax",
            sampler=SamplerSettings(name=kind, partial=1 if kind == "full" else 4),
        )
        searcher = Searcher(Budgets(self.space, ()), self.data, settings, seed=0)
        searcher.start_epoch(0)
        searcher.net.train()

        def step() -> None:
            searcher.weight_step(self.x, self.y, 0)
            searcher.alpha_step(self.x, self.y)

        return step

    def training(self) -> Callable[[], None]:
        """Two steps of a fixed network of the supernet's size."""
        arch = replace(
            CELL_NETWORKS["darts_v2"](self.space.image_size, CLASSES),
            layers=self.space.layers,
            channels=self.space.channels,
            auxiliary=False,
            drop_path=0.0,
        )
        model: nn.Module = build(arch)
        return two_steps(model, self.x, self.y, rate=0.025)

    def workload(self, name: str) -> Callable[[], None]:
        """Return a workload by name."""
        return self.training() if name == TRAINING else self.search(name)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, usual in {"rounds": 6, "side": 32, "batch": 16, "channels": 16, "layers": 8}.items():
        parser.add_argument(f"--{name}", type=int, default=usual)
    parser.add_argument("--only", help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    bench = Bench(given.side, given.batch, given.channels, given.layers)
    if given.only:
        only(bench.workload(given.only))
        return
    times = seconds({name: bench.workload(name) for name in (*SEARCHES, TRAINING)}, given.rounds)
    names = ("side", "batch", "channels", "layers")
    options = [f"--{name}={getattr(given, name)}" for name in names]
    memory = {name: peak_mib(__file__, name, options) for name in SEARCHES}
    ratios = {}
    for name in SEARCHES:
        own = ratio(times[name], times[TRAINING])
        most = 0.45 if name == "search full" else 0.20
        ratios[f"{name} / {TRAINING}"] = own
        label = f"{name} / public DARTS step, planned (at most {most})"
        ratios[label] = [value / PUBLIC_STEP for value in own]
    for name in SEARCHES[1:]:
        label = f"{name} / full, peak memory (at most 0.30)"
        ratios[label] = [memory[name] / memory["search full"]]
    show(times, ratios)
    record = {"options": vars(given), "seconds": times, "peak_mib": memory}
    record |= {"medians": {name: median(values) for name, values in times.items()}}
    write_json(HERE / "cells.json", record | {"ratios": ratios, "torch": torch.__version__})


if __name__ == "__main__":
    main()
