"""Metrics of a search, which do not change it."""

from collections.abc import Iterable, Sequence
from itertools import combinations
from statistics import fmean

import torch
from torch import Tensor, nn

from mobilenas.core.errors import MobileNASError
from mobilenas.spaces.base import AnyChoice


def normalized_entropy(p: Tensor, options: Tensor | None = None) -> Tensor:
    """p: probabilities [rows, columns] -> entropy of each row over its maximum [rows], 0 to 1.

    `options` [rows]: number of options of each row, if some have fewer than there are columns. A
    row with one option has nothing to decide and gets 0.
    """
    count = p.new_full(p.shape[:1], p.shape[1]) if options is None else options.to(p)
    entropy: Tensor = torch.special.entr(p).sum(-1)
    return entropy / count.clamp(min=2).log()


def gradient_norm(parameters: Iterable[nn.Parameter]) -> float:
    """Return the Euclidean norm of all gradients together; 0 if there are none."""
    norms = [weight.grad.norm() for weight in parameters if weight.grad is not None]
    return torch.stack(norms).norm().item() if norms else 0.0


def agreement(choices: Sequence[AnyChoice]) -> float:
    """Return the mean similarity, 0 to 1, over all pairs of networks of several searches.

    The similarity of two networks is defined by their family: `alike` of their choices.
    """
    if len(choices) < 2:
        raise MobileNASError(f"agreement needs two networks or more, not {len(choices)}")
    return fmean(a.alike(b) for a, b in combinations(choices, 2))


def chosen_channels(net: nn.Module) -> dict[str, list[float]]:
    """Return the share of training steps in which each channel entered, by name of the sampler."""
    frequencies = {
        name: module.frequencies()
        for name, module in net.named_modules()
        if callable(getattr(module, "frequencies", None))
    }
    return {name: [round(f, 3) for f in row.tolist()] for name, row in frequencies.items()}
