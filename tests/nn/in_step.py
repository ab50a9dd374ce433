"""What `test_parallel.py` runs in one process and in two: `python in_step.py INPUTS OUT`.

In float64, so that only what is wrong makes a difference, and not the order of a sum.
"""

import os
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from mobilenas.core import processes
from mobilenas.core.errors import DivergedError
from mobilenas.core.records import Json
from mobilenas.core.settings import from_plain
from mobilenas.cost.budget import Budget
from mobilenas.cost.budgets import Budgets
from mobilenas.data import Augmentation, ImageData, batches
from mobilenas.nn.parallel import add_up, gradients, shared_batches, weight_of
from mobilenas.search import SearchSettings
from mobilenas.search.loop import Searcher
from mobilenas.spaces.base import Arch
from mobilenas.spaces.mobile.space import MobileSpace
from mobilenas.supernet.schedules import Temperature
from mobilenas.supernet.settings import SamplerSettings
from mobilenas.train import Recipe
from mobilenas.train.trainer import Trainer

Results = dict[str, Tensor]


def layers() -> Results:
    """Return outputs, gradients and statistics of layers that do not see images one by one."""
    torch.manual_seed(0)
    net = nn.Sequential(
        *(nn.BatchNorm2d(6), nn.Conv2d(6, 4, 3), nn.BatchNorm2d(4, affine=False), nn.Dropout(0.3))
    )
    x = (torch.randn(7, 6, 5, 5) * 3 + 1).requires_grad_()  # an odd number of images
    own = processes.share_of(len(x))
    with shared_batches():
        y = net(x[own])
        functional.mse_loss(y, x.detach()[own, :4, 1:4, 1:4]).mul(weight_of(len(y))).backward()
    assert x.grad is not None
    add_up([x.grad, *gradients(net.parameters())])
    found = {f"grad {name}": weight.grad for name, weight in net.named_parameters()}
    return {**net.state_dict(), **found, "x": x.grad, "y": torch.cat(processes.gather(y.detach()))}


def photos(images: ImageData) -> Results:
    """Return a pass with all kinds of augmentation."""
    augmentation = Augmentation(
        crop_scale=0.5, trivialaugment=True, random_erasing=0.5, mixup=0.2, cutmix=1.0
    )
    given = batches(
        images.train, images, batch_size=5, seed=(1,), augmentation=augmentation, shared=True
    )
    parts = [processes.gather(batch) for batch in given]
    return {
        "x": torch.cat([x for batch in parts for x, _ in batch]),
        "y": torch.cat([y for batch in parts for _, y in batch]),
    }


def training(arch: Arch, images: ImageData) -> Results:
    """Return weights, losses and accuracy of two epochs."""
    trainer = Trainer(arch, images, Recipe(epochs=2, batch_size=10, learning_rate=0.1), seed=0)
    losses = [trainer.run_epoch()["loss"] for _ in range(2)]
    scored = trainer.evaluate(images.val)
    figures = torch.tensor([*losses, scored.top1, scored.loss])
    return {**trainer.weights(), "figures": figures, "predictions": scored.predictions}


def diverging(arch: Arch, images: ImageData) -> Results:
    """Return what stops a training in which the last process alone has a loss that is no number."""
    trainer = Trainer(arch, images, Recipe(epochs=1, batch_size=10, learning_rate=0.1), seed=0)
    if processes.rank() == processes.count() - 1:
        *_, bias = trainer._network.parameters()
        bias.detach().fill_(float("nan"))
    try:
        trainer.run_epoch()
    except DivergedError as error:
        return {"error": torch.tensor(list(str(error).encode()))}
    return {}


def searching(budgets: Budgets, images: ImageData, **changes: Any) -> Results:
    """Return weights, alphas and losses of two epochs."""
    settings = SearchSettings(
        epochs=2,
        warmup=1,
        batch_size=10,
        sampling="gumbel",
        learning_rate=0.05,
        alpha_learning_rate=0.05,
        temperature=Temperature(start=1.0, end=0.5),
        constraint="lagrangian",
    )
    searcher = Searcher(budgets, images, replace(settings, **changes), seed=3)
    searcher.net.double()
    searcher.alphas.double()
    lines = [searcher.run_epoch() for _ in range(2)]
    figures = [(line.loss, line.alpha_loss, line.weight_gradient_norm) for line in lines]
    state = searcher.state_dict()
    return {
        **{f"net {name}": value for name, value in state["net"].items()},
        **{f"alphas {name}": value for name, value in state["alphas"].items()},
        "multipliers": torch.tensor(list(state["constraint"].values())),
        "figures": torch.tensor(figures),
    }


def cases(space: Json, budget: Budget, images: ImageData) -> Any:
    """Return what is run, by name."""
    budgets = Budgets(from_plain(MobileSpace, space, "space"), [budget])
    arch = budgets.space.arch(budgets.space.largest())
    search = partial(searching, budgets, images)
    sampled = {
        name: partial(search, sampler=SamplerSettings(name=name, partial=4))
        for name in ("random", "attention", "ranked")
    }
    return {
        "layers": layers,
        "photos": partial(photos, images),
        "training": partial(training, arch, images),
        "diverging": partial(diverging, arch, images),
        **sampled,
        "sandwich": partial(search, sampling="sandwich"),
        "single-path": partial(search, sampling="single-path"),
        "second-order": partial(search, order=2, sampling="softmax"),
    }


if __name__ == "__main__":
    inputs, out = map(Path, sys.argv[1:])
    torch.set_default_dtype(torch.float64)
    with processes.joined():
        loaded = torch.load(inputs, weights_only=False)
        results = {name: case() for name, case in cases(**loaded).items()}
        torch.save(results, out / f"{processes.rank()}-of-{processes.count()}.pt")
    os._exit(0)  # as the command does: a thread of torch may abort the shutdown
