"""What one GPU does, in under 8 minutes: speed against bare loops, memory, the same arch, cells.

    python bench/gpu.py [--minutes 7]
    python bench/gpu.py --device cpu --small     # tries every part of it on a processor

Images a second of MobileNetV2 at 224x224 and of a search, each against a loop over one batch in
memory with neither augmentation, checks, averaged weights nor a budget, in turn, and of MobileNetV2
with torch.compile against without; the arch of the same small search on CPU and GPU, in float32;
the cell search of A-DARTS as published (8 cells, 16 channels, batches of 256, 50 epochs of 25,000
images) for the rest of the time. Writes bench/gpu.json.

Exit status 1 where a ratio is under 0.9 or the archs differ, 2 without a GPU.
"""

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import torch
from common import CLASSES, Line, make_data, ratio, seconds, show
from torch import Tensor
from torch.nn import functional

import mobilenas as mn
from mobilenas.api import Device
from mobilenas.core.files import write_json
from mobilenas.core.progress import NullReporter
from mobilenas.cost.budget import Budget
from mobilenas.cost.budgets import Budgets
from mobilenas.data import ImageData, batches
from mobilenas.nn.weights import lay_out
from mobilenas.search import SearchSettings, space_for
from mobilenas.search.loop import Searcher
from mobilenas.search.methods import settings_for
from mobilenas.spaces.cell.space import CellSpace
from mobilenas.spaces.mobile.mobilenets import mobilenet_v2
from mobilenas.spaces.networks import build
from mobilenas.train import Recipe, Trainer, autocast, parameter_groups

MIN_RATIO = 0.9
TENTHS = 10
"""Parts of an epoch of the cell search: it ends after the last that fits."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much is done."""

    side: int = 224
    batch: int = 128
    search_side: int = 64
    search_flops: int = 20_000_000
    search_batch: int = 64
    steps: int = 16
    rounds: int = 6
    channels: int = 16
    cell_batch: int = 256
    cell_images: int = 50_000


SMALL = Sizes(
    side=32,
    batch=8,
    search_side=16,
    search_flops=300_000,
    search_batch=8,
    steps=2,
    rounds=1,
    channels=4,
    cell_batch=8,
    cell_images=320,
)


class Notes(NullReporter):
    """Keeps messages."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def info(self, message: str) -> None:
        """Print and keep it."""
        print(message)
        self.lines.append(message)


@dataclass(frozen=True)
class Bench:
    """The workloads, on a device."""

    sizes: Sizes
    device: Device

    def now(self) -> float:
        """Wall time, once the device has done all."""
        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def peak_mib(self, work: Callable[[], object]) -> float | None:
        """Peak of the GPU's memory during `work`; None on a processor."""
        if self.device != "cuda":
            work()
            return None
        torch.cuda.reset_peak_memory_stats()
        work()
        return torch.cuda.max_memory_allocated() / 2**20

    def batch(self, data: ImageData, size: int) -> tuple[Tensor, Tensor]:
        """Return a batch as training reads it."""
        given = batches(data.train, data, batch_size=size, seed=(0,), device=self.device)
        return next(iter(given))

    def training(self) -> Line:
        """MobileNetV2: an epoch of ours against as many bare steps, with the same precision."""
        size = self.sizes
        data = make_data(size.side, size.steps * size.batch)
        arch = mobilenet_v2(1.0, size.side, CLASSES)
        recipe = Recipe(epochs=1000, batch_size=size.batch)
        trainer = Trainer(arch, data, recipe, seed=0, device=self.device)
        peak = self.peak_mib(trainer.run_epoch)
        model = build(arch).train()
        lay_out(model, torch.channels_last, self.device)
        x, y = self.batch(data, size.batch)
        groups = parameter_groups(model, recipe.weight_decay)
        optimizer = torch.optim.SGD(groups, lr=1e-3, momentum=0.9, nesterov=True)
        amp = recipe.amp_on(self.device)

        def bare() -> None:
            for _ in range(size.steps):
                with autocast(self.device, amp):
                    loss = functional.cross_entropy(model(x), y)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()

        return self.compared(trainer.run_epoch, bare, size.steps * size.batch, peak)

    def compiled(self) -> Line:
        """MobileNetV2 with torch.compile (ours) against the same training without it (bare)."""
        size = self.sizes
        data = make_data(size.side, size.steps * size.batch)
        arch = mobilenet_v2(1.0, size.side, CLASSES)
        recipe = Recipe(epochs=1000, batch_size=size.batch)
        notes = Notes()
        ours, other = (
            Trainer(arch, data, how, seed=0, device=self.device, reporter=notes)
            for how in (replace(recipe, compile=True), recipe)
        )
        begun = self.now()
        peak = self.peak_mib(ours.run_epoch)
        first = self.now() - begun
        images = size.steps * size.batch
        line = self.compared(ours.run_epoch, other.run_epoch, images, peak)
        return line | {"first_epoch_s": first, "not_compiled": notes.lines}

    def search(self) -> Line:
        """A search step: weights and alphas of the whole supernet, without a budget in the loss."""
        size = self.sizes
        budgets = (Budget(cost="flops", limit=size.search_flops),)
        space = space_for(budgets, image_size=size.search_side, classes=CLASSES)
        data = make_data(size.search_side, 2 * size.steps * size.search_batch)
        settings = SearchSettings(epochs=1000, warmup=0, batch_size=size.search_batch)
        limits = Budgets(space, budgets)
        amp = Recipe(epochs=1).amp_on(self.device)
        ours = Searcher(limits, data, settings, seed=0, device=self.device, amp=amp)
        peak = self.peak_mib(ours.run_epoch)
        other = Searcher(limits, data, settings, seed=0, device=self.device, amp=amp)
        x, y = self.batch(data, size.search_batch)
        other.start_epoch(0)
        other.net.train()

        def step(relaxed: object, optimizer: torch.optim.Optimizer) -> None:
            with autocast(self.device, amp):
                loss = functional.cross_entropy(other.net(x, relaxed), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

        def bare() -> None:
            for _ in range(size.steps):
                with torch.no_grad():
                    weights_fixed = other.alphas.soft(1.0)
                step(weights_fixed, other.weight_optimizer)
                with other.net.frozen():
                    step(other.alphas.soft(1.0), other.alpha_optimizer)

        images = 2 * size.steps * size.search_batch
        return self.compared(ours.run_epoch, bare, images, peak)

    def compared(
        self,
        ours: Callable[[], object],
        bare: Callable[[], object],
        images: int,
        peak_mib: float | None,
    ) -> Line:
        """Time both in turn; return images a second, their ratio, and the peak of ours."""
        times = seconds({"ours": ours, "bare": bare}, self.sizes.rounds, self.now)
        ratios = ratio(times["bare"], times["ours"])
        show(times, {"images a second, ours / bare": ratios})
        return {
            "images_per_s": {name: images / median(values) for name, values in times.items()},
            "ratio": median(ratios),
            "peak_mib": peak_mib,
        }

    def same_arch(self) -> Line:
        """The same search of digits on the CPU and on the device, both in float32."""
        data = mn.load_data("digits")
        space = mn.mobile_space(data, flops="150k")
        devices: tuple[Device, ...] = ("cpu", self.device)
        cpu, own = (
            mn.search(
                space,
                data,
                {"flops": "150k"},
                device=device,
                search_epochs=2,
                finalists=0,
                set={"amp": "off"},
            ).arch.to_dict()
            for device in devices
        )
        print(f"the same arch as on the CPU: {cpu == own}")
        return {"same": cpu == own, "cpu": cpu, "device": own}

    def cells(self, end: float) -> Line:
        """Search cells until `end`, at least for two tenths of an epoch."""
        size = self.sizes
        space = CellSpace(
            image_size=32,
            in_channels=3,
            classes=CLASSES,
            layers=8,
            channels=size.channels,
            search_layers=8,
            search_channels=size.channels,
        )
        settings = settings_for(
            "adarts",
            {"warmup": 0},  # so that every epoch has steps of the alphas
            cells=True,
            epochs=50 * TENTHS,
            batch_size=size.cell_batch,
            learning_rate=0.1,
            alpha_steps=size.cell_images // 2 // size.cell_batch // TENTHS,
        )
        data = make_data(32, size.cell_images // TENTHS)
        amp = Recipe(epochs=1).amp_on(self.device)
        limits = Budgets(space, ())
        searcher = Searcher(limits, data, settings, seed=0, device=self.device, amp=amp)
        losses = list[float]()

        def tenth() -> float:
            begun = self.now()
            losses.append(searcher.run_epoch().loss)
            return self.now() - begun

        peak = self.peak_mib(tenth)
        taken = [tenth()]  # the first of everything is slow
        while self.now() + max(taken) < end:
            taken.append(tenth())
        epochs, epoch_s = len(losses) / TENTHS, TENTHS * median(taken)
        print(f"cell search: {epochs} epochs, {epoch_s:.1f} s each, 50 in {epoch_s / 72:.1f} h")
        return {"epochs": epochs, "seconds_per_epoch": epoch_s, "loss": losses, "peak_mib": peak}


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, write."""
    began = time.perf_counter()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--small", action="store_true", help="little of everything")
    parser.add_argument("--minutes", type=float, default=7.0, help="for all parts together")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    given = parser.parse_args(arguments)
    if given.device == "cuda" and not torch.cuda.is_available():
        print("torch finds no CUDA device: nothing was measured", file=sys.stderr)
        return 2
    bench = Bench(SMALL if given.small else Sizes(), given.device)
    record: Line = {
        "device": torch.cuda.get_device_name() if given.device == "cuda" else "cpu",
        "torch": torch.__version__,
        "sizes": vars(bench.sizes),
        "training": bench.training(),
        "search": bench.search(),
        "compiled": bench.compiled(),
        "arch": bench.same_arch(),
        "cells": bench.cells(began + 60 * given.minutes),
    }
    write_json(given.out, record | {"seconds": time.perf_counter() - began})
    slow = min(record[part]["ratio"] for part in ("training", "search")) < MIN_RATIO
    return int(given.device == "cuda" and (slow or not record["arch"]["same"]))


if __name__ == "__main__":
    sys.exit(main())
