"""Figures that tell how a search is doing; nothing here changes it."""

from collections.abc import Iterable, Sequence
from itertools import combinations
from statistics import fmean

import torch
from torch import Tensor, nn

from mobilenas.core.errors import MobileNASError
from mobilenas.spaces.cell.arch import Cell
from mobilenas.spaces.cell.space import KINDS, LEFT_OUT, CellChoice
from mobilenas.spaces.mobile.space import Choice


def normalized_entropy(p: Tensor, options: Tensor | None = None) -> Tensor:
    """p: probabilities [rows, columns] -> entropy of each row over its maximum [rows], 0 to 1.

    `options` [rows] is how many options a row has, where that is less than the columns; a row with
    one option has nothing to decide and gets 0.
    """
    count = p.new_full(p.shape[:1], p.shape[1]) if options is None else options.to(p)
    entropy: Tensor = torch.special.entr(p).sum(-1)
    return entropy / count.clamp(min=2).log()


def skips(cell: Cell) -> int:
    """Return how many edges of the cell are skip connections."""
    return sum(edge.operation == "skip_connect" for node in cell.nodes for edge in node)


def gradient_norm(parameters: Iterable[nn.Parameter]) -> float:
    """Return the Euclidean norm of all gradients together; 0 where there is none."""
    norms = [weight.grad.norm() for weight in parameters if weight.grad is not None]
    return torch.stack(norms).norm().item() if norms else 0.0


def agreement(choices: Sequence[CellChoice] | Sequence[Choice]) -> float:
    """Return how alike the networks of several searches are, 0 to 1, as a mean over all pairs.

    Cells: (kind, edge, operation) triples that both networks keep, over those that either keeps.
    Chains: the share of equal decisions; what a block does counts where either network has it.
    """
    if len(choices) < 2:
        raise MobileNASError(f"agreement is of two networks or more, not of {len(choices)}")
    return fmean(
        _cells_alike(a, b)
        if isinstance(a, CellChoice) and isinstance(b, CellChoice)
        else _chains_alike(a, b)  # type: ignore[arg-type]  # pairs are of one type
        for a, b in combinations(choices, 2)
    )


def _cells_alike(a: CellChoice, b: CellChoice) -> float:
    first, second = (
        {
            (kind, edge, operation)
            for kind in KINDS
            for edge, operation in enumerate(choice.of(kind))
            if operation != LEFT_OUT
        }
        for choice in (a, b)
    )
    return len(first & second) / len(first | second)


def _chains_alike(a: Choice, b: Choice) -> float:
    same = [x == y for x, y in zip(a.width, b.width, strict=True)]
    for slot, (x, y) in enumerate(zip(a.keep, b.keep, strict=True)):
        same.append(x == y)
        if x or y:
            # what only one of the networks has cannot be equal
            names = ("kernel", "expansion", "squeeze", "start")
            same += [x == y and getattr(a, n)[slot] == getattr(b, n)[slot] for n in names]
    return fmean(same)


def chosen_channels(net: nn.Module) -> dict[str, list[float]]:
    """Return how often each channel entered, 0 to 1, by the name of the module that samples."""
    frequencies = {
        name: module.frequencies()
        for name, module in net.named_modules()
        if callable(getattr(module, "frequencies", None))
    }
    return {name: [round(f, 3) for f in row.tolist()] for name, row in frequencies.items()}
