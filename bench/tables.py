"""A table of trained networks: random ones of a space under a budget, each by the usual recipe.

    python bench/tables.py bench/tables/glyphs-32-1M.jsonl --data ./glyphs --image-size 32 \
        --flops 1M --networks 48 --twice 12

`bench/ranking.py` measures on it how well a predictor ranks networks. The first `--twice` networks
are trained from a second seed, too: no predictor can be better than a second training is. A killed
table goes on where it stood. One thread; with `--device cuda --processes 12` twelve networks train
at once on one GPU, by the same steps in float32.
"""

import argparse
import multiprocessing
import random
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from captured import CapturedTrainer, Passes
from common import table_lines

from mobilenas.core.files import write_jsonl
from mobilenas.core.settings import from_plain, parse_count, to_plain
from mobilenas.cost.budgets import Budgets
from mobilenas.cost.networks import costs
from mobilenas.data import ImageData, load_data
from mobilenas.pipeline.request import Request
from mobilenas.pipeline.run_folder import versions
from mobilenas.pipeline.space import make_space
from mobilenas.search.candidates import candidates
from mobilenas.search.loop import Searcher
from mobilenas.spaces.base import Arch, family_of
from mobilenas.train import Recipe, Trainer

_FIXED = ("images", "budgets", "recipe", "space", "drawn")
"""What all networks of a table have in common."""
_passes: Passes = {}
"""Of the seed that a process trains from; an epoch of 11,280 images of 32x32 is 138 MB."""


def trained(
    arch: Arch, data: ImageData, recipe: Recipe, seed: int, device: str = "cpu"
) -> dict[str, Any]:
    """Return what an arch costs and what became of it, epoch by epoch."""
    began, losses, val_top1 = time.process_time(), [], []
    if device == "cpu":
        trainer = Trainer(arch, data, recipe, seed=seed)
    else:
        torch.backends.cudnn.allow_tf32 = False
        if any(key[0] != seed for key in _passes):
            _passes.clear()
        trainer = CapturedTrainer(arch, data, recipe, seed=seed, device=device, passes=_passes)
    for _ in range(recipe.epochs):
        losses.append(trainer.run_epoch()["loss"])
        val_top1.append(trainer.evaluate(data.val).top1)
    return {
        **to_plain(costs(arch)),
        "losses": losses,
        "val_top1": val_top1,
        "test_top1": trainer.evaluate(data.test).top1,
        "processor_seconds": time.process_time() - began,
    }


Job = tuple[Any, int]
"""A choice, as plain data, and a seed."""


def line_of(job: Job, space: Any, data: ImageData, recipe: Recipe, device: str) -> dict[str, Any]:
    """Return a line of the table."""
    choice, seed = job
    arch = space.arch(from_plain(family_of(space).choice, choice, "choice"))
    return {"choice": choice, "seed": seed} | trained(arch, data, recipe, seed, device)


def lines_of(jobs: list[Job], make: "partial[dict[str, Any]]", processes: int) -> Iterator[Any]:
    """Yield lines as they come."""
    if processes == 1:
        yield from map(make, jobs)
        return
    # forked before CUDA starts, so that all share the images
    with multiprocessing.get_context("fork").Pool(processes) as pool:
        yield from pool.imap_unordered(make, jobs)


def main() -> None:
    """Train what the table lacks."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("table", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--flops", type=parse_count)
    parser.add_argument("--space", default="mobile")
    parser.add_argument("--networks", type=int, default=48)
    parser.add_argument("--twice", type=int, default=12)
    parser.add_argument("--prior", action="store_true", help="those the prior ranks first instead")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--processes", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(1)
    request = Request(
        data=given.data, image_size=given.image_size, flops=given.flops, space=given.space
    )
    data = load_data(request.data_settings)
    settings = request.settings(len(data.train))
    space = make_space(settings, data)
    head = {
        "images": data.fingerprint,
        "training_images": len(data.train),
        "image_size": data.image_size,
        "budgets": to_plain(settings.budgets),
        "recipe": to_plain(settings.recipe),
        "space": to_plain(space),
        "versions": versions(),
        "device": given.device,
        "drawn": "first by the prior" if given.prior else "at random",
    }
    lines = table_lines(given.table) or [head]
    if any(lines[0][name] != head[name] for name in _FIXED):
        raise SystemExit(f"{given.table} is another table")
    budgets, source = Budgets(space, settings.budgets), random.Random("table")
    if given.prior:  # alphas that were never trained have no say
        searcher = Searcher(budgets, data, settings.search, seed=request.seed)
        found = candidates(searcher, budgets, given.networks)
    else:
        found = [budgets.random(source) for _ in range(given.networks)]
    choices = [to_plain(choice) for choice in found]
    jobs: list[Job] = [(choice, 0) for choice in choices] + [
        (choice, 1) for choice in choices[: given.twice]
    ]
    done: list[Job] = [(line["choice"], line["seed"]) for line in lines[1:]]
    make = partial(line_of, space=space, data=data, recipe=settings.recipe, device=given.device)
    missing = [job for job in jobs if job not in done]
    for line in lines_of(missing, make, given.processes):
        lines.append(line)
        # in the order of the jobs, whichever came first
        lines[1:] = sorted(lines[1:], key=lambda each: jobs.index((each["choice"], each["seed"])))
        write_jsonl(given.table, lines)
        print(f"{line['test_top1']:.1f} % {line['processor_seconds']:.0f} s", flush=True)


if __name__ == "__main__":
    main()
