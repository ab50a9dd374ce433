"""How well predictors rank the networks of a table, and what they cost.

    python bench/ranking.py bench/tables/glyphs-32-1M.jsonl --data ./glyphs

A line for each predictor: Kendall's tau with the test top-1 that the networks reached, and its 95 %
interval over 1,000 resamples of the networks; what the network it puts first among ten random ones
is over the mean of all, and how far under the best of the ten, in points; its cost for a network in
final trainings. The last line is the most that can be reached: how one training ranks networks
against another one from a second seed. `--searches RUN ...` adds the alphas and the supernets of
searches in the table's space, whose cost is that of the whole search; `--sandwich N` adds a
supernet of the mobile space that is trained for N epochs by the sandwich rule. The prior was fitted
to tables of `bench/explore.py`, to none of `bench/tables.py`.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import table_lines
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from scipy.stats import kendalltau, rankdata
from torch import Tensor, nn
from torch.nn import functional

from mobilenas.core.files import load_checkpoint
from mobilenas.core.progress import NullReporter
from mobilenas.core.records import read_record
from mobilenas.core.settings import from_plain
from mobilenas.cost.budget import Budget
from mobilenas.cost.budgets import Budgets
from mobilenas.cost.networks import costs
from mobilenas.data import DataSettings, ImageData, batches, load_data
from mobilenas.pipeline.run_folder import open_run
from mobilenas.search.evaluation import supernet_top1
from mobilenas.search.loop import Searcher
from mobilenas.search.prior import FLOPS, features, features_and_places, process
from mobilenas.search.rank import alpha_score
from mobilenas.search.records import ArchRecord
from mobilenas.search.settings import SearchSettings
from mobilenas.spaces.base import AnyChoice, Arch, family
from mobilenas.spaces.mobile.arch import MobileArch
from mobilenas.spaces.mobile.build import MobileNetwork
from mobilenas.spaces.networks import build
from mobilenas.supernet.settings import SamplerSettings
from mobilenas.train import Recipe, Trainer

RESAMPLES, TEN, BATCH, INITIAL_SEEDS = 1000, 10, 64, 2
ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.Hardswish)


def naswot(network: nn.Module, x: Tensor, y: Tensor) -> float:
    """Log determinant of how alike the images' activation patterns are (arXiv 2006.04647)."""
    codes: list[Tensor] = []
    hooks = [
        module.register_forward_hook(lambda *given: codes.append((given[2] > 0).flatten(1).float()))
        for module in network.modules()
        if isinstance(module, ACTIVATIONS)
    ]
    with torch.no_grad():
        network(x)
    for hook in hooks:
        hook.remove()
    alike = torch.stack([c @ c.T + (1 - c) @ (1 - c).T for c in codes]).sum(0)
    return float(torch.linalg.slogdet(alike.double())[1])


def zico(network: nn.Module, x: Tensor, y: Tensor) -> float:
    """Sum over layers of the log of mean over deviation of gradients (arXiv 2301.11300)."""
    layers = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    gradients: list[list[Tensor]] = []
    for part, labels in zip(x.split(BATCH // 4), y.split(BATCH // 4), strict=True):
        loss = functional.cross_entropy(network(part), labels)
        given = torch.autograd.grad(loss, [layer.weight for layer in layers])
        gradients.append([gradient.abs().flatten() for gradient in given])
    total = 0.0
    for parts in zip(*gradients, strict=True):
        stacked = torch.stack(parts)
        deviation = stacked.std(0)
        moving = deviation > 0
        total += float((stacked.mean(0)[moving] / deviation[moving]).sum().clamp(min=1e-9).log())
    return total


def gradient_norm(network: nn.Module, x: Tensor, y: Tensor) -> float:
    """Log of the squared norm of the loss's gradient."""
    loss = functional.cross_entropy(network(x), y)
    given = torch.autograd.grad(loss, list(network.parameters()))
    return float(sum((gradient**2).sum() for gradient in given).log())  # type: ignore[union-attr]


def block_entropies(network: MobileNetwork, x: Tensor) -> NDArray[np.float64]:
    """Entropy of the principal components of what stem and blocks put out: [1 + blocks]."""
    found = []
    with torch.no_grad():
        for part in (network.stem, *network.blocks):
            x = part(x)
            rows = x.permute(0, 2, 3, 1).flatten(0, 2)
            shares = torch.linalg.eigvalsh(torch.cov(rows.T)).clamp(min=1e-12)
            shares = shares / shares.sum()
            found.append(-float((shares * shares.log()).sum()))
    return np.array(found)


def expressivity(network: MobileNetwork, x: Tensor, y: Tensor) -> float:
    """Sum of the blocks' entropies."""
    return float(block_entropies(network, x).sum())


def progressivity(network: MobileNetwork, x: Tensor, y: Tensor) -> float:
    """Least that a block adds to the entropy."""
    return float(np.diff(block_entropies(network, x)).min())


def trainability(network: MobileNetwork, x: Tensor, y: Tensor) -> float:
    """How near 1 the spectral norms of the blocks' Jacobians are: mean of 2 - norm - 1 / norm.

    A Jacobian is approximated by the product of random signs at the output and of what they become
    at the input, mean over places; the pixels of a stride are channels there.
    """
    scores, x = [], network.stem(x)
    for block in network.blocks:
        x = x.detach().requires_grad_()
        out = block(x)
        signs = torch.randint_like(out, 2) * 2 - 1
        (back,) = torch.autograd.grad(out, x, signs)
        stride = -(-x.shape[-1] // out.shape[-1])
        back = functional.pad(back, (0, -x.shape[-1] % stride, 0, -x.shape[-2] % stride))
        back = functional.pixel_unshuffle(back, stride)
        into, of = (each.permute(0, 2, 3, 1).flatten(0, 2) for each in (back, signs))
        norm = float(torch.linalg.matrix_norm(into.T @ of / len(of), 2))
        scores.append(2 - norm - 1 / norm)
        x = out
    return statistics.mean(scores)


def activations(arch: MobileArch) -> float:
    """Numbers in all hidden maps, for each FLOP."""
    side, total = -(-arch.image_size // arch.stem.stride), 0
    for block in arch.blocks:
        total += block.hidden * side**2
        side = -(-side // block.stride)
        total += block.hidden * side**2
    return total / costs(arch).flops


def feature(name: str, arch: MobileArch) -> float:
    """One of the figures that the prior looks at."""
    return features(arch)[name]


_ROUNDING = 0.01
"""Networks whose scaled features are nearer to each other than this are the same."""
OF_ARCHS: dict[str, Callable[[Any], float]] = {
    "fewer params": lambda arch: -costs(arch).params,
    "more blocks": lambda arch: len(arch.blocks),
    "activations": activations,
    "fewer 5x5 kernels": lambda arch: -statistics.mean(block.kernel for block in arch.blocks),
    "FLOPs on maps of half the side": partial(feature, "larger_share"),
    "FLOPs on maps of a quarter": partial(feature, "quarter_share"),
    "shortcuts": partial(feature, "shortcuts"),
}
"""Predictors that look at a mobile arch alone."""
AT_START: dict[str, Callable[[Any, Tensor, Tensor], float]] = {
    "naswot": naswot,
    "zico": zico,
    "gradient norm": gradient_norm,
}
"""Predictors that look at a network with random weights, and a batch."""
AZ_NAS: dict[str, Callable[[Any, Tensor, Tensor], float]] = {
    "az-nas expressivity": expressivity,
    "az-nas progressivity": progressivity,
    "az-nas trainability": trainability,
}
"""What AZ-NAS (arXiv 2403.19232) takes together, beside FLOPs; of mobile networks."""


def at_start(archs: Sequence[Arch], data: ImageData) -> dict[str, tuple[list[float], float]]:
    """Return scores and seconds a network of every predictor of networks with random weights."""
    x, y = next(iter(batches(data.train, data, batch_size=BATCH, seed=(0,))))
    found, mobile = {}, all(isinstance(arch, MobileArch) for arch in archs)
    for name, score in (AT_START | AZ_NAS if mobile else AT_START).items():
        began, scores = time.process_time(), []
        for arch in archs:
            drawn = []
            for seed in range(INITIAL_SEEDS):
                torch.manual_seed(seed)
                network = build(arch)
                for module in network.modules():
                    if isinstance(module, nn.BatchNorm2d):  # blocks start as the identity
                        nn.init.ones_(module.weight)
                drawn.append(score(network, x, y))
            scores.append(statistics.mean(drawn))
        found[name] = (scores, (time.process_time() - began) / len(archs))
    if mobile:
        parts = [found[name] for name in AZ_NAS]
        columns = [*(scores for scores, _ in parts), [costs(arch).flops for arch in archs]]
        ranks = rankdata(columns, axis=1) / len(archs)
        found["az-nas"] = (list(np.log(ranks).sum(0)), sum(seconds for _, seconds in parts))
    return found


def unseen(archs: Sequence[MobileArch], images: int) -> list[float]:
    """Return what the prior would expect of networks, had it not been fitted to them too."""
    rows, places = features_and_places(archs, images)
    rows = rows - rows.mean(0)
    known = process()
    apart = cdist(known.points, rows / np.array(known.scale)).min(1)
    kept = np.flatnonzero(apart > _ROUNDING)
    others = replace(
        known,
        points=tuple(known.points[n] for n in kept),
        places=tuple(known.places[n] for n in kept),
        top1=tuple(known.top1[n] for n in kept),
    )
    return list(others.predict(rows, places)[0] + known.per_doubling * places[:, FLOPS])


def ridge(choices: Sequence[AnyChoice], truth: NDArray[np.float64]) -> list[float]:
    """Return what ridge regression on one-hot decisions expects of each from all the others."""
    rows = [[option for row in vars(choice).values() for option in row] for choice in choices]
    options = np.array(rows, dtype=int)
    columns = [options[:, [n]] == np.unique(options[:, n]) for n in range(options.shape[1])]
    x = np.hstack(columns).astype(float)
    x, y = x - x.mean(0), truth - truth.mean()
    hat = x @ np.linalg.solve(x.T @ x + len(columns) * np.eye(x.shape[1]), x.T)
    # the residual of leaving one out
    return list(truth - (y - hat @ y) / (1 - np.diag(hat)))


@dataclass(frozen=True)
class Table:
    """The networks of a table, each once."""

    choices: list[AnyChoice]
    archs: list[Arch]
    lines: list[dict[str, Any]]
    """What became of each."""
    twice: dict[str, float]
    """Test top-1 from a second seed, by the choice."""
    image_size: int
    images: int
    """Of training."""
    budgets: Budgets
    recipe: Recipe

    @property
    def truth(self) -> NDArray[np.float64]:
        """Test top-1 of each."""
        return np.array([line["test_top1"] for line in self.lines])

    def final_seconds(self, data: ImageData) -> float:
        """Processor seconds of a training here, by one epoch; the table may be from a GPU."""
        trainer = Trainer(self.archs[0], data, self.recipe, seed=0)
        began = time.process_time()
        trainer.run_epoch()
        return (time.process_time() - began) * self.recipe.epochs


def read_table(path: Path) -> Table:
    """Return the networks of a file of `bench/tables.py`."""
    head, *lines = table_lines(path)
    first = [line for line in lines if line["seed"] == 0]
    kind = family("cell" if "nodes" in head["space"] else "mobile")
    space = from_plain(kind.space, head["space"], "")
    choices = [from_plain(kind.choice, line["choice"], "choice") for line in first]
    return Table(
        choices=choices,
        archs=[space.arch(choice) for choice in choices],
        lines=first,
        twice={str(line["choice"]): line["test_top1"] for line in lines if line["seed"] == 1},
        image_size=head["image_size"],
        images=head["training_images"],
        budgets=Budgets(space, [from_plain(Budget, each, "") for each in head["budgets"]]),
        recipe=from_plain(Recipe, head["recipe"], "recipe"),
    )


def searcher_of(folder: Path, data: ImageData) -> Searcher:
    """Return a search as it was at its end."""
    run = open_run(folder, NullReporter())
    searcher = Searcher(run.budgets, data, run.settings.search, seed=run.settings.seed)
    state = load_checkpoint(folder / "search/checkpoint.pt")
    assert state is not None
    searcher.load_state_dict(state["searcher"])
    return searcher


def supernet_seconds(folder: Path) -> float:
    """Return what a search's supernet took."""
    return read_record(folder / "arch.json", ArchRecord).seconds["supernet"]


def picked(scores: Sequence[float], truth: NDArray[np.float64]) -> tuple[float, float]:
    """Return what the first of ten random networks is over the mean, and under the ten's best."""
    source, guess = np.random.default_rng(0), np.asarray(scores, dtype=float)
    over, under = [], []
    for _ in range(RESAMPLES):
        ten = source.choice(len(truth), min(TEN, len(truth)), replace=False)
        first = truth[ten[guess[ten].argmax()]]
        over.append(first - truth.mean())
        under.append(truth[ten].max() - first)
    return float(np.mean(over)), float(np.mean(under))


def line(name: str, scores: Sequence[float], truth: NDArray[np.float64], cost: float) -> str:
    """Return what is printed of a predictor."""
    source, guess = np.random.default_rng(0), np.asarray(scores, dtype=float)
    resamples = source.integers(len(truth), size=(RESAMPLES, len(truth)))
    taus = [kendalltau(guess[again], truth[again]).statistic for again in resamples]
    low, high = np.nanquantile(taus, (0.025, 0.975))
    tau, (over, under) = kendalltau(guess, truth).statistic, picked(scores, truth)
    return f"{name:40} {tau:5.2f} ({low:5.2f} to {high:5.2f}) {over:6.2f} {under:6.2f} {cost:7.3f}"


def sandwich_top1(
    table: Table, choices: Sequence[AnyChoice], data: ImageData, epochs: int
) -> tuple[list[float], float]:
    """Return validation top-1 with a supernet's weights by the sandwich rule, and its seconds."""
    settings = SearchSettings(
        epochs=epochs,
        warmup=epochs,
        sampling="sandwich",
        batch_size=table.recipe.batch_size,
        learning_rate=table.recipe.learning_rate,
        sampler=SamplerSettings(name="full"),
    )
    began, searcher = time.process_time(), Searcher(table.budgets, data, settings, seed=0)
    for _ in range(epochs):
        searcher.run_epoch()
    seconds = time.process_time() - began
    return supernet_top1(searcher, choices, data.val), seconds


def main() -> None:
    """Print a line a predictor."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("table", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--searches", type=Path, nargs="*", default=())
    parser.add_argument("--sandwich", type=int, default=0, metavar="N")
    given = parser.parse_args()
    torch.set_num_threads(1)
    table = read_table(given.table)
    data = load_data(DataSettings(source=given.data, image_size=table.image_size))
    choices, archs, first = table.choices, table.archs, table.lines
    truth, final = table.truth, table.final_seconds(data)
    print(
        f"{len(first)} networks, test top-1 {truth.mean():.1f}, deviation {truth.std(ddof=1):.1f}, "
        f"best {truth.max():.1f}, a training takes {final:.0f} processor seconds"
    )
    print(f"{'predictor':40} {'tau':>5} {'95 %':^16} {'over':>6} {'under':>6} {'cost':>7}")
    mobile = [arch for arch in archs if isinstance(arch, MobileArch)]
    if mobile:
        for name, score in OF_ARCHS.items():
            print(line(name, [score(arch) for arch in mobile], truth, 0.0))
        print(line("the prior, without these networks", unseen(mobile, table.images), truth, 0.0))
    print(line("ridge on the others' decisions", ridge(choices, truth), truth, len(first) - 1))
    for name, (scores, seconds) in at_start(archs, data).items():
        print(line(name, scores, truth, seconds / final))
    for folder in given.searches:
        searcher, cost = searcher_of(folder, data), supernet_seconds(folder) / final
        alphas = [alpha_score(searcher, choice) for choice in choices]
        print(line(f"alphas, {folder.name}", alphas, truth, cost))
        shared = supernet_top1(searcher, choices, data.val)
        print(line(f"supernet, {folder.name}", shared, truth, cost))
    if given.sandwich:
        shared, seconds = sandwich_top1(table, choices, data, given.sandwich)
        name = f"supernet by the sandwich rule, {given.sandwich} epochs"
        print(line(name, shared, truth, seconds / final))
    epochs = len(first[0]["losses"])
    for count in (1, 2, 3, 4, 5, 6, 8, 10, 12):
        if count < epochs:
            top1 = [each["val_top1"][count - 1] for each in first]
            losses = [-each["losses"][count - 1] for each in first]
            print(line(f"validation after {count} epochs", top1, truth, count / epochs))
            print(line(f"training loss after {count} epochs", losses, truth, count / epochs))
    pairs = [(each["test_top1"], table.twice.get(str(each["choice"]))) for each in first]
    both = np.array([pair for pair in pairs if pair[1] is not None], dtype=float)
    if len(both) > 2:
        print(line("a training from another seed", list(both[:, 1]), both[:, 0], 1.0))
        noise = np.sqrt(np.mean((both[:, 0] - both[:, 1]) ** 2 / 2))
        print(f"two seeds of a network deviate by {noise:.2f} points ({len(both)} networks)")


if __name__ == "__main__":
    main()
