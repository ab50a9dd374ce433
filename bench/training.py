"""Throughput of the package's training against a bare loop: `python bench/training.py`.

An epoch of the trainer (augmentation, clipping and averaged weights with it) against as many steps
of a loop over one batch that is in memory, normalized. One thread, processor seconds; every round
times each once, in turn. Shown are medians, then the bare loop's time / the trainer's. --compile
adds a trainer with torch.compile.
"""

import argparse
from collections.abc import Callable
from dataclasses import replace

import torch
from common import CLASSES, make_data, ratio, seconds, show, two_steps

from mobilenas.core.progress import NullReporter
from mobilenas.cost.budget import Budget
from mobilenas.search import space_for
from mobilenas.spaces.base import Arch
from mobilenas.spaces.networks import build
from mobilenas.train import Recipe
from mobilenas.train.pretrained import SOURCES
from mobilenas.train.recipes import fields_of
from mobilenas.train.trainer import Trainer


def searched_kind(side: int, flops: int) -> Arch:
    """Return the largest network of the space that a budget sizes."""
    budgets = (Budget(cost="flops", limit=flops),)
    space = space_for(
        budgets, image_size=side, classes=CLASSES, squeeze="on", extra_depthwise="searched"
    )
    return space.arch(space.largest())


CASES: dict[str, tuple[Callable[[], Arch], str, int]] = {
    "the largest of 2 M, 32x32": (lambda: searched_kind(32, 2_000_000), "scratch-small", 128),
    "EfficientNet-Lite0, 128x128": (
        lambda: SOURCES["efficientnet_lite0"].arch(128, CLASSES),
        "finetune",
        32,
    ),
}
"""The network, the recipe and its batch."""


def workloads(
    arch: Arch, name: str, batch: int, steps: int, *, compile: bool
) -> dict[str, Callable[[], object]]:
    """Return an epoch of the trainer and as many bare steps."""
    data = make_data(arch.image_size, steps * batch)
    fields = fields_of(name, steps * batch) | {"batch_size": batch}
    recipe = Recipe(epochs=10_000, **fields)
    epochs: dict[str, Callable[[], object]] = {
        "trainer": Trainer(arch, data, recipe, seed=0).run_epoch
    }
    if compile:
        compiled = Trainer(arch, data, replace(recipe, compile=True), seed=0, reporter=_Printing())
        epochs["compiled"] = compiled.run_epoch
    pixels = torch.randn(batch, 3, arch.image_size, arch.image_size)
    images = pixels.to(memory_format=torch.channels_last)
    bare = two_steps(build(arch), images, torch.arange(batch) % CLASSES, rate=0.01)

    def loop() -> None:
        for _ in range(steps // 2):
            bare()

    return epochs | {"bare loop": loop}


class _Printing(NullReporter):
    def info(self, message: str) -> None:
        print(message)


def main() -> None:
    """Print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=8, help="of a round")
    parser.add_argument("--compile", action="store_true", help="also with torch.compile")
    given = parser.parse_args()
    torch.set_num_threads(1)
    for case, (arch, recipe, batch) in CASES.items():
        steps = workloads(arch(), recipe, batch, given.steps, compile=given.compile)
        times = seconds(steps, given.rounds)
        print(f"{case}, recipe {recipe}, batches of {batch}, {given.steps} steps")
        ratios = {"bare loop / trainer (0.95 or more)": ratio(times["bare loop"], times["trainer"])}
        if given.compile:
            ratios["trainer / compiled"] = ratio(times["trainer"], times["compiled"])
        show(times, ratios)


if __name__ == "__main__":
    main()
