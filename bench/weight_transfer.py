"""What weight transfer buys: accuracy one epoch after a change of channel sizes.

    python bench/weight_transfer.py [--data digits] [--size 8] [--images 6000] [--epochs 12]
        [--seeds 3]

A small ResNet is trained; then all of its sizes are cut, or every other one is cut and the
rest grown, and one more epoch follows with weights kept by each method, or with none kept (fresh).
The images measured on are the validation split, which no training sees. Writes
bench/weight_transfer.json.
"""

import argparse
import time
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from statistics import fmean, stdev

import torch
from torch import Tensor, nn
from torch.nn import functional

from mobilenas.channel_graph import Graph, extract, sizes
from mobilenas.channels.settings import WEIGHT_TRANSFERS
from mobilenas.channels.weight_transfer import apply, choose, follow
from mobilenas.core.files import write_json
from mobilenas.data import (
    Augmentation,
    DataSettings,
    ImageData,
    Split,
    batches,
    load_data,
    stratified_subset,
)
from mobilenas.train import evaluate, parameter_groups

HERE = Path(__file__).parent
BATCH, RATE = 32, 0.05
CHANGES = {"all to 3/4": (0.75, 0.75), "all to 1/2": (0.5, 0.5), "to 1/2 and 3/2": (0.5, 1.5)}
WIDTHS = (16, 32, 64)


class Block(nn.Module):
    """A basic residual block."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = _convolution(inputs, outputs, 3, stride)
        self.second = _convolution(outputs, outputs, 3, 1)
        self.shortcut = _convolution(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """x: [N, inputs, H, W]."""
        return functional.relu(self.second(functional.relu(self.first(x))) + self.shortcut(x))


def _convolution(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
    )


def start(classes: int, seed: int) -> nn.Module:
    """Build the network."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = [_convolution(3, WIDTHS[0], 3, 1), nn.ReLU()]
    for inputs, outputs in pairwise((WIDTHS[0], *WIDTHS)):
        layers.append(Block(inputs, outputs, 1 if inputs == outputs else 2))
    head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(WIDTHS[-1], classes)
    return nn.Sequential(*layers, *head)


def new_optimizer(net: nn.Module) -> torch.optim.Optimizer:
    """Return what every training here uses."""
    return torch.optim.SGD(parameter_groups(net, 4e-5), lr=RATE, momentum=0.9, nesterov=True)


def train(
    net: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: Split,
    data: ImageData,
    seeds: list[tuple[int, ...]],
) -> None:
    """One epoch for each seed, at a constant rate: a search goes on from here."""
    net.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    for seed in seeds:
        for x, y in batches(images, data, batch_size=BATCH, seed=seed, augmentation=Augmentation()):
            optimizer.zero_grad()
            functional.cross_entropy(net(x), y).backward()
            optimizer.step()


def changed_sizes(graph: Graph, factors: tuple[float, float]) -> Mapping[str, int]:
    """Sizes times the factors in turn, at least 4."""
    return {
        name: max(4, round(size * factors[place % 2]))
        for place, (name, size) in enumerate(sizes(graph).items())
    }


def measure(images: Split, data: ImageData, epochs: int, seed: int) -> dict[str, list[float]]:
    """Return validation accuracies by change and method: right after it, and an epoch later."""
    net = start(len(data.classes), seed)
    optimizer = new_optimizer(net)
    train(net, optimizer, images, data, [(seed, epoch) for epoch in range(epochs)])
    graph = extract(net, image_size=data.image_size)
    found = {"before": [evaluate(net, data.val, data).top1]}
    for change, factors in CHANGES.items():
        for method in WEIGHT_TRANSFERS:
            what = choose(net, graph, changed_sizes(graph, factors), method=method)
            other = apply(net, what, generator=torch.Generator().manual_seed(seed))
            at_once = evaluate(other, data.val, data).top1
            follower = follow(optimizer, net, other, what)
            train(other, follower, images, data, [(seed, epochs)])
            found[f"{change}, {method}"] = [at_once, evaluate(other, data.val, data).top1]
    return found


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="digits")
    for name, usual in {"size": 8, "images": 6000, "epochs": 12, "seeds": 3}.items():
        parser.add_argument(f"--{name}", type=int, default=usual)
    given = parser.parse_args()
    torch.set_num_threads(1)
    data = load_data(DataSettings(source=given.data, image_size=given.size))
    images = stratified_subset(data.train, min(given.images, len(data.train)), 0)
    before = time.monotonic()
    runs = [measure(images, data, given.epochs, seed) for seed in range(given.seeds)]
    print(f"{'top-1, %':24}{'right after':>16}{'an epoch later':>20}")
    for name in runs[0]:
        columns = zip(*(run[name] for run in runs), strict=True)
        texts = [f"{fmean(c):.1f} ± {stdev(c) if len(c) > 1 else 0:.1f}" for c in columns]
        print(f"{name:24}{''.join(f'{text:>18}' for text in texts)}")
    print(f"{time.monotonic() - before:.0f} s")
    write_json(HERE / "weight_transfer.json", {"options": vars(given), "runs": runs})


if __name__ == "__main__":
    main()
