"""Ratios of a search step to what it replaces, measured interleaved in one process run.

    python bench/run.py [--rounds 12] [--side 32] [--flops 2000000] [--batch 64]

Every round times each workload once, in turn, so that drift hits all alike; the first rounds are
thrown away: until the process has touched its largest memory, steps are up to three times slower.
One thread, processor seconds. Peak memory is that of a process of its own per workload, above the
same process before its step (Linux). Writes bench/steps-SIDE.json.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from common import CLASSES, make_data, only, peak_mib, ratio, seconds, show, two_steps
from torch import nn

from mobilenas.core.files import write_json
from mobilenas.cost.budget import Budget
from mobilenas.cost.budgets import Budgets, ConstraintLoss
from mobilenas.data import Augmentation, batches
from mobilenas.search import SearchSettings, space_for
from mobilenas.search.loop import Searcher
from mobilenas.spaces.mobile.table import CostTable
from mobilenas.spaces.networks import build
from mobilenas.supernet.settings import SamplerSettings

HERE = Path(__file__).parent
SEARCHES = ("search full", "search attention K=4", "search ranked K=4", "search random K=4")
TRAINING = "two training steps of the largest network"
MEASURED_MEMORY = (*SEARCHES[:2], TRAINING)


class Bench:
    """The workloads of one space."""

    def __init__(self, side: int, flops: int, batch: int) -> None:
        budgets = (Budget(cost="flops", limit=flops),)
        self.batch = batch
        self.data = make_data(side, 8 * batch)
        self.space = space_for(
            budgets, image_size=side, classes=CLASSES, squeeze="on", extra_depthwise="searched"
        )
        self.budgets = Budgets(self.space, budgets)
        self.x, self.y = next(self.loader())

    def loader(self) -> Any:
        """Batches as training reads them."""
        return batches(
            self.data.train,
            self.data,
            batch_size=self.batch,
            seed=(0,),
            augmentation=Augmentation(),
        )

    def search(self, name: str) -> Callable[[], None]:
        """One step of the weights and one of the alphas."""
        kind: Any = name.split()[1]
        sampler = SamplerSettings(name=kind, partial=1 if kind == "full" else 4)
        settings = SearchSettings(batch_size=self.batch, epochs=4, warmup=0, sampler=sampler)
        searcher = Searcher(self.budgets, self.data, settings, seed=0)
        searcher.start_epoch(0)

        def step() -> None:
            searcher.weight_step(self.x, self.y, 0)
            searcher.alpha_step(self.x, self.y)

        return step

    def training(self) -> Callable[[], None]:
        """Two steps of the largest network of the space."""
        model: nn.Module = build(self.space.arch(self.space.largest()))
        return two_steps(model, self.x, self.y, rate=0.1)

    def cost(self) -> Callable[[], None]:
        """Expected cost, its gradient for all alphas, and the multiplier's step."""
        settings = SearchSettings()
        searcher = Searcher(self.budgets, self.data, settings, seed=0)
        constraint = ConstraintLoss("lagrangian", self.budgets, strength=1.0, rho=0.1)

        def step() -> None:
            constraint(searcher.alphas.soft(1.0)).backward()
            constraint.update()

        return step

    def loading(self) -> Callable[[], None]:
        """Two batches, read and augmented: what a search step uses."""
        given = iter(self.loader())

        def step() -> None:
            nonlocal given
            for _ in range(2):
                if next(given, None) is None:
                    given = iter(self.loader())
                    next(given)

        return step

    def workload(self, name: str) -> Callable[[], None]:
        """Return a workload by name."""
        if name.startswith("search"):
            return self.search(name)
        return {
            TRAINING: self.training,
            "cost and gradient": self.cost,
            "data loading": self.loading,
        }[name]()


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--flops", type=int, default=2_000_000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--only", help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    bench = Bench(given.side, given.flops, given.batch)
    if given.only:
        only(bench.workload(given.only))
        return
    names = (*SEARCHES, TRAINING, "cost and gradient", "data loading")
    times = seconds({name: bench.workload(name) for name in names}, given.rounds)
    full, attention = times[SEARCHES[0]], times[SEARCHES[1]]
    options = [f"--{name}={getattr(given, name)}" for name in ("side", "flops", "batch")]
    memory = {name: peak_mib(__file__, name, options) for name in MEASURED_MEMORY}
    ratios = {
        "K=4 / full, time (at most 0.45)": ratio(attention, full),
        "K=4 / full, peak memory (at most 0.5)": [memory[SEARCHES[1]] / memory[SEARCHES[0]]],
        "full / two training steps (at most 1.4)": ratio(full, times[TRAINING]),
        "K=4 / two training steps (at most 0.8)": ratio(attention, times[TRAINING]),
        "cost and gradient / K=4 (under 0.01)": ratio(times["cost and gradient"], attention),
        "data loading / K=4 (under 0.05)": ratio(times["data loading"], attention),
    }
    load = CostTable(bench.space, "flops").exact(bench.space.largest()) / given.flops
    help_seconds = [help_time() for _ in range(5)]
    ratios["mobilenas --help, seconds (under 0.3)"] = help_seconds
    print(f"largest network of the space: {load:.1f} times the budget; batch {given.batch}")
    show(times, ratios)
    record = {"options": vars(given), "largest_load": load, "seconds": times}
    record |= {"peak_mib": memory, "ratios": ratios, "torch": torch.__version__}
    write_json(HERE / f"steps-{given.side}.json", record)


def help_time() -> float:
    """Wall seconds of `mobilenas --help`."""
    before = time.perf_counter()
    subprocess.run([sys.executable, "-m", "mobilenas", "--help"], capture_output=True, check=True)
    return time.perf_counter() - before


if __name__ == "__main__":
    main()
