"""Channel samplers: which 1/K of the channels enter a mixed operation; the rest pass by."""

import torch
from torch import Tensor, nn

from mobilenas.config import check_choice

SAMPLERS = ("full", "random", "attention", "ranked")
PARTIALS = (1, 2, 4, 8)
"""Legal K: 1/K of the channels enter."""

_SMOOTHING = 0.9
_REDUCTION = 4


class ChannelSampler(nn.Module):
    """Names the channels that enter, and returns them, weighted where the method does that."""

    def __init__(self, channels: int, partial: int) -> None:
        super().__init__()
        self.channels = channels
        self.entering = channels // partial

    def forward(self, x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """x: [N, C, H, W] -> channels that enter [N, C/K, H, W] and their sorted places [C/K]."""
        raise TypeError(f"{type(self).__name__} chooses no channels")


class RandomSampler(ChannelSampler):
    """A fresh uniform choice each step (PC-DARTS, Xu et al. 2020)."""

    def forward(self, x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """x: [N, C, H, W] -> channels that enter and their places."""
        order = torch.randperm(self.channels, generator=generator)[: self.entering]
        places = order.sort().values.to(x.device)
        return take(x, places), places


class AttentionSampler(ChannelSampler):
    """a = sigmoid(MLP(mean x) + MLP(max x)); the largest enter (ADARTS, equations 4 to 6)."""

    def __init__(self, channels: int, partial: int) -> None:
        super().__init__(channels, partial)
        self.mlp = _mlp(channels)

    def forward(self, x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """x: [N, C, H, W] -> a * x of the C/K largest batch sums of a, and their places."""
        a = torch.sigmoid(self.mlp(mean(x)) + self.mlp(x.amax((2, 3))))  # [N, C]
        places = _largest(a.detach().sum(0), self.entering)
        return take(x, places) * a[:, places, None, None], places


class RankedSampler(ChannelSampler):
    """Squeeze-excite scores, smoothed over steps, rank the channels (performance measurement)."""

    importance: Tensor

    def __init__(self, channels: int, partial: int) -> None:
        super().__init__(channels, partial)
        self.mlp = _mlp(channels)
        self.register_buffer("importance", torch.full((channels,), 0.5))

    def forward(self, x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """x: [N, C, H, W] -> s * x of the C/K channels ranked first, and their places."""
        score = torch.sigmoid(self.mlp(mean(x)))  # [N, C]
        if self.training:
            self.importance.lerp_(score.detach().mean(0), 1 - _SMOOTHING)
        places = _largest(self.importance, self.entering)
        return take(x, places) * score[:, places, None, None], places


def mean(x: Tensor) -> Tensor:
    """x: [N, C, H, W] -> [N, C]; its gradient lies in memory as x does, channels last."""
    return x.permute(0, 2, 3, 1).mean((1, 2))


def take(x: Tensor, places: Tensor) -> Tensor:
    """x: [N, C, H, W] -> the channels of `places`; along the last dimension, as in memory."""
    return x.permute(0, 2, 3, 1).index_select(3, places).permute(0, 3, 1, 2)


def put_back(x: Tensor, places: Tensor, y: Tensor) -> Tensor:
    """x: [N, C, H, W], y: [N, C/K, H, W] -> x with y added at `places`, as a new tensor."""
    added = x.permute(0, 2, 3, 1).index_add(3, places, y.permute(0, 2, 3, 1))
    return added.permute(0, 3, 1, 2)


def make_sampler(name: str, channels: int, partial: int) -> ChannelSampler | None:
    """Return the sampler of that name for `channels` channels; None where every one enters."""
    check_choice("sampler", name, SAMPLERS)
    check_choice("partial channels K", partial, PARTIALS)
    if name == "full" or partial == 1:
        return None
    kinds = {"random": RandomSampler, "attention": AttentionSampler, "ranked": RankedSampler}
    return kinds[name](channels, partial)


def _mlp(channels: int) -> nn.Sequential:
    inner = max(channels // _REDUCTION, 4)
    return nn.Sequential(nn.Linear(channels, inner), nn.ReLU(), nn.Linear(inner, channels))


def _largest(score: Tensor, count: int) -> Tensor:
    # sorted places keep the channels' order; top-k itself passes no gradient
    return score.topk(count).indices.sort().values
