"""What the log keeps of an epoch beside its losses; no network is chosen by it."""

from typing import Any

import torch
from torch import Tensor

from mobilenas.cost import DECISIONS
from mobilenas.cost.budget import Budgets
from mobilenas.cost.expected_cells import CellProbabilities
from mobilenas.search.diagnostics import chosen_channels, normalized_entropy, skips
from mobilenas.search.discretize_cells import CellProgram
from mobilenas.search.loop import Searcher
from mobilenas.search.statistics import fresh_statistics
from mobilenas.spaces.any import AnyChoice
from mobilenas.spaces.cell_space import KINDS, CellChoice, CellSpace
from mobilenas.spaces.mobile import Choice
from mobilenas.supernet import Alphas


@torch.no_grad()
def observe(searcher: Searcher) -> dict[str, Any]:
    """Return how supernet and alphas stand after the epochs that are done."""
    s, tau = searcher.settings, searcher.tau_at(searcher.epochs_done - 1)
    p = searcher.alphas.soft(tau)
    channels = chosen_channels(searcher.net)
    searcher.net.eval()
    record: dict[str, Any] = {
        "val_top1": searcher.top1(lambda x: searcher.net(x, p), searcher.glance),
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
    uncertain = [
        normalized_entropy(rows, _options(searcher, name))
        for name, rows in _distributions(p).items()
    ]
    return record | {
        "skips": _skips(searcher, choice),
        "uncertainty": float(torch.cat(uncertain).mean()),
    }


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


def _batch_top1(searcher: Searcher, p: Any) -> float:
    """Percent with the statistics of each batch: a network of its own has none in the supernet."""
    with fresh_statistics(searcher.net):
        searcher.net.train()
        searcher.net.channels_generator.manual_seed(searcher.seed)
        return searcher.top1(lambda x: searcher.net(x, p), searcher.glance)
