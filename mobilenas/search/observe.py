"""What the log keeps of an epoch beside its losses; no network is chosen by it."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from mobilenas.cost.budget import Budgets
from mobilenas.search.diagnostics import chosen_channels, normalized_entropy, skips
from mobilenas.search.gap import reestimate
from mobilenas.search.loop import GLANCE_IMAGES, Searcher
from mobilenas.search.settings import SearchSettings
from mobilenas.search.statistics import fresh_statistics
from mobilenas.spaces.base import Choice as AnyChoice
from mobilenas.spaces.cell.program import CellProgram
from mobilenas.spaces.cell.space import KINDS, CellChoice, CellSpace
from mobilenas.spaces.cell.table import CellProbabilities
from mobilenas.spaces.mobile.relaxation import Alphas
from mobilenas.spaces.mobile.space import Choice
from mobilenas.spaces.mobile.table import DECISIONS

_DRAWS = 4
_NORM_IMAGES = 128
"""For each draw: batch norm's own noise is small from here on, and an epoch must not wait."""


def images_looked_at(settings: SearchSettings, val_images: int) -> int:
    """Return about how many images a search classifies beside its steps, for estimates."""
    glance = min(GLANCE_IMAGES, val_images)
    draws = 1 if settings.paths == "mixture" else _DRAWS
    late = settings.epochs - settings.warmup
    # the last term is the discretization gap: two relaxations, each before and after
    return settings.epochs * (glance + draws * _NORM_IMAGES) + late * 2 * glance + 4 * val_images


@torch.no_grad()
def observe(searcher: Searcher) -> dict[str, Any]:
    """Return how supernet and alphas stand after the epochs that are done."""
    s, tau = searcher.settings, searcher.tau_at(searcher.epochs_done - 1)
    p = searcher.alphas.soft(tau)
    channels = chosen_channels(searcher.net)
    record: dict[str, Any] = {
        "val_top1": _trained_top1(searcher),
        "tau": tau,
        "entropy": float(searcher.alphas.entropy(tau)),
        "edge_entropy": float(searcher.alphas.edge_entropy()),
        "entropies": {name: _entropies(rows) for name, rows in _distributions(p).items()},
        "expected": {cost: float(v) for cost, v in searcher.budgets.expected(p).items()},
        "multipliers": searcher.constraint.state_dict(),
        "alphas": searcher.alphas.table(),
        "channels": channels,
        "gap_estimate": None,
    }
    choice = likeliest(searcher)
    if searcher.epochs_done > s.warmup:
        hard = searcher.alphas.one_hot(choice)
        record["gap_estimate"] = _batch_top1(searcher, p) - _batch_top1(searcher, hard)
    return record | {
        "skips": _skips(searcher, choice),
        "utilization": searcher.budgets.load(choice),
        "uncertainty": uncertainty(searcher, p),
    }


def uncertainty(searcher: Searcher, p: Any) -> float:
    """Return the mean entropy over its maximum of the decisions that have several options."""
    found = []
    for name, rows in _distributions(p).items():
        options = _options(searcher, name)
        options = rows.new_full(rows.shape[:1], rows.shape[1]) if options is None else options
        found.append(normalized_entropy(rows, options)[options > 1])
    shares = torch.cat(found).detach()
    return float(shares.mean()) if len(shares) else 0.0


def likeliest(searcher: Searcher) -> AnyChoice:
    """Return the likeliest network, whatever it costs."""
    alphas, space = searcher.alphas, searcher.space
    if isinstance(alphas, Alphas):
        return alphas.most_likely()
    return CellProgram(Budgets(space, ()), alphas.scores()).best()


def _skips(searcher: Searcher, choice: AnyChoice) -> dict[str, int]:
    """Skip connections of each cell; in a chain, blocks that are left out."""
    space = searcher.space
    if isinstance(space, CellSpace) and isinstance(choice, CellChoice):
        genotype = space.genotype(choice)
        return {kind: skips(getattr(genotype, kind)) for kind in KINDS}
    return {"blocks": choice.keep.count(False)} if isinstance(choice, Choice) else {}


def _distributions(p: Any) -> dict[str, Tensor]:
    if isinstance(p, CellProbabilities):
        return dict(p.operations)
    return {name: p[name] for name in DECISIONS}


def _options(searcher: Searcher, name: str) -> Tensor | None:
    """How many options each decision has; None where all have as many as there are columns."""
    alphas = searcher.alphas
    return alphas.legal(name).sum(-1) if isinstance(alphas, Alphas) else None


def _entropies(rows: Tensor) -> list[float]:
    """Nats of each row."""
    nats = torch.special.entr(rows).sum(-1)
    return [round(value, 4) for value in nats.tolist()]


def _trained_top1(searcher: Searcher) -> float:
    """Percent under the relaxations that the last epoch trained, each with norms of its own.

    Running statistics are a mean over all relaxations of the past, and fit none of them. So a few
    are drawn as the steps draw them, the norms re-estimated for each, and each classifies its part
    of the images.
    """
    net, glance = searcher.net, searcher.glance
    draws = 1 if searcher.settings.paths == "mixture" else min(_DRAWS, len(glance))
    generator = torch.Generator().manual_seed(searcher.seed)
    right = 0.0
    for number in range(draws):
        p = searcher.relaxation(generator, searcher.epochs_done - 1)
        forward = partial(_as_steps_run, searcher, p)
        part = glance.subset(torch.arange(number, len(glance), draws))
        with fresh_statistics(net):
            reestimate(searcher, forward, _NORM_IMAGES)
            right += searcher.top1(forward, part) * len(part) / 100
    return 100 * right / len(glance)


def _as_steps_run(searcher: Searcher, p: Any, x: Tensor) -> Tensor:
    searcher.net.channels_generator.manual_seed(searcher.seed)
    logits: Tensor = searcher.net(x, p)
    return logits


def _batch_top1(searcher: Searcher, p: Any) -> float:
    """Percent with the statistics of each batch: a network of its own has none in the supernet."""
    with fresh_statistics(searcher.net):
        searcher.net.train()
        searcher.net.channels_generator.manual_seed(searcher.seed)
        return searcher.top1(lambda x: searcher.net(x, p), searcher.glance)
