"""Metrics of an epoch for the log, besides its losses; no network is selected by them."""

from functools import partial

import torch
from torch import Tensor

from mobilenas.search.diagnostics import chosen_channels, normalized_entropy
from mobilenas.search.gap import reestimate
from mobilenas.search.loop import MONITOR_IMAGES, EpochFigures, Searcher
from mobilenas.search.norm_statistics import fresh_statistics
from mobilenas.search.records import SearchLine
from mobilenas.search.settings import SearchSettings
from mobilenas.spaces.base import Relaxation

_DRAWS = 4
_NORM_IMAGES = 128
"""Per draw, to re-estimate norms: enough for little noise of statistics, few enough to be fast."""


def images_evaluated(settings: SearchSettings, val_images: int) -> int:
    """Return roughly how many images a search classifies outside its steps, for time estimates."""
    monitor_split = min(MONITOR_IMAGES, val_images)
    draws = 1 if settings.sampling == "softmax" else _DRAWS
    late = settings.epochs - settings.warmup
    # the last term is the discretization gap: two relaxations, before and after re-estimation
    return (
        settings.epochs * (monitor_split + draws * _NORM_IMAGES)
        + late * 2 * monitor_split
        + 4 * val_images
    )


@torch.no_grad()
def epoch_metrics(searcher: Searcher, figures: EpochFigures) -> SearchLine:
    """Return the log line of the last epoch, that of `figures`; alarms are filled in later."""
    s, tau = searcher.settings, searcher.tau_at(searcher.epochs_done - 1)
    p = searcher.alphas.soft(tau)
    channels = chosen_channels(searcher.net)
    val_top1 = _trained_top1(searcher)
    choice, gap_estimate = searcher.alphas.likeliest(), None
    if searcher.epochs_done > s.warmup:
        hard = searcher.alphas.one_hot(choice)
        gap_estimate = _batch_top1(searcher, p) - _batch_top1(searcher, hard)
    return SearchLine(
        **vars(figures),
        val_top1=val_top1,
        tau=tau,
        entropy=float(searcher.alphas.entropy(tau)),
        edge_entropy=float(searcher.alphas.edge_entropy()),
        entropies={name: _entropies(rows) for name, rows, _ in searcher.alphas.distributions(p)},
        expected={cost: float(v) for cost, v in searcher.budgets.expected(p).items()},
        multipliers=searcher.constraint.state_dict(),
        alphas=searcher.alphas.table(),
        channels=channels,
        gap_estimate=gap_estimate,
        skips=searcher.space.skips(choice),
        utilization=searcher.budgets.utilization(choice),
        uncertainty=uncertainty(searcher, p),
        alarms=[],
    )


def uncertainty(searcher: Searcher, p: Relaxation) -> float:
    """Return the mean of entropy / maximum over the decisions with several options, 0 to 1."""
    found = []
    for _, rows, options in searcher.alphas.distributions(p):
        found.append(normalized_entropy(rows, options)[options > 1])
    shares = torch.cat(found).detach()
    return float(shares.mean()) if len(shares) else 0.0


def _entropies(rows: Tensor) -> list[float]:
    """Return the entropy of each row in nats."""
    nats = torch.special.entr(rows).sum(-1)
    return [round(value, 4) for value in nats.tolist()]


def _trained_top1(searcher: Searcher) -> float:
    """Return top-1 in percent under relaxations like those that the last epoch trained.

    Running statistics are averages over all past relaxations, and fit none of them. So a few
    relaxations are drawn as in the steps. For each, norms are re-estimated, and it classifies a
    part of the images.
    """
    net, monitor_split = searcher.net, searcher.monitor_split
    parts = len(monitor_split) // 2  # a shuffled pass needs two images or more
    draws = 1 if searcher.settings.sampling == "softmax" else min(_DRAWS, parts)
    generator = torch.Generator().manual_seed(searcher.seed)
    correct = 0.0
    for number in range(draws):
        p = searcher.relaxation(generator, searcher.epochs_done - 1)
        forward = partial(_step_logits, searcher, p)
        part = monitor_split.subset(torch.arange(number, len(monitor_split), draws))
        with fresh_statistics(net):
            reestimate(searcher, forward, _NORM_IMAGES)
            correct += searcher.top1(forward, part) * len(part) / 100
    return 100 * correct / len(monitor_split)


def _step_logits(searcher: Searcher, p: Relaxation, x: Tensor) -> Tensor:
    searcher.net.channels_generator.manual_seed(searcher.seed)
    logits: Tensor = searcher.net(x, p)
    return logits


def _batch_top1(searcher: Searcher, p: Relaxation) -> float:
    """Return top-1 in percent with batch statistics: the supernet has none of single networks."""
    with fresh_statistics(searcher.net):
        searcher.net.train()
        searcher.net.channels_generator.manual_seed(searcher.seed)
        return searcher.top1(lambda x: searcher.net(x, p), searcher.monitor_split)
