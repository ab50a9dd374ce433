"""Figures that tell how a search is doing; nothing here changes it."""

from collections.abc import Iterable, Sequence
from itertools import combinations
from statistics import fmean

import torch
from torch import Tensor, nn

from mobilenas.core.errors import MobileNASError
from mobilenas.spaces.base import AnyChoice


def normalized_entropy(p: Tensor, options: Tensor | None = None) -> Tensor:
    """p: probabilities [rows, columns] -> entropy of each row over its maximum [rows], 0 to 1.

    `options` [rows] is how many options a row has, where that is less than the columns; a row with
    one option has nothing to decide and gets 0.
    """
    count = p.new_full(p.shape[:1], p.shape[1]) if options is None else options.to(p)
    entropy: Tensor = torch.special.entr(p).sum(-1)
    return entropy / count.clamp(min=2).log()


def gradient_norm(parameters: Iterable[nn.Parameter]) -> float:
    """Return the Euclidean norm of all gradients together; 0 where there is none."""
    norms = [weight.grad.norm() for weight in parameters if weight.grad is not None]
    return torch.stack(norms).norm().item() if norms else 0.0


def agreement(choices: Sequence[AnyChoice]) -> float:
    """Return how alike the networks of several searches are, 0 to 1, as a mean over all pairs.

    What two networks have in common is up to their family: `alike` of their choices.
    """
    if len(choices) < 2:
        raise MobileNASError(f"agreement needs two networks or more, not {len(choices)}")
    return fmean(a.alike(b) for a, b in combinations(choices, 2))


def chosen_channels(net: nn.Module) -> dict[str, list[float]]:
    """Return how often each channel entered, 0 to 1, by the name of the module that samples."""
    frequencies = {
        name: module.frequencies()
        for name, module in net.named_modules()
        if callable(getattr(module, "frequencies", None))
    }
    return {name: [round(f, 3) for f in row.tolist()] for name, row in frequencies.items()}
