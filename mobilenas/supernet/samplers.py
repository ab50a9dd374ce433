"""Channel samplers: which 1/K of the channels enter a mixed operation; the rest pass by."""

import math

import torch
from torch import Tensor, nn

from mobilenas.core import processes
from mobilenas.core.errors import MobileNASError
from mobilenas.nn.parallel import weight_of
from mobilenas.supernet.settings import OWN_ATTENTION, SamplerSettings

_SMOOTHING = 0.9
_REDUCTION = 4


class ChannelSampler(nn.Module):
    """Names the channels that enter, and returns them, weighted where the method does that."""

    chosen: Tensor
    steps: Tensor

    def __init__(self, channels: int, partial: int) -> None:
        super().__init__()
        self.channels = channels
        self.entering = channels // partial
        self.register_buffer("chosen", torch.zeros(channels), persistent=False)
        self.register_buffer("steps", torch.zeros(()), persistent=False)

    def forward(self, x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """x: [N, C, H, W] -> channels that enter [N, C/K, H, W] and their sorted places [C/K]."""
        raise TypeError(f"{type(self).__name__} chooses no channels")

    def frequencies(self) -> Tensor:
        """Return how often each channel was chosen in training, 0 to 1: [C]."""
        return self.chosen / self.steps.clamp(min=1)

    def reset_counts(self) -> None:
        """Forget how often each channel was chosen."""
        self.chosen.zero_()
        self.steps.zero_()

    def _count(self, indices: Tensor) -> None:
        if self.training:
            self.chosen[indices] += 1
            self.steps += 1


class RandomSampler(ChannelSampler):
    """A fresh uniform choice each step (PC-DARTS, Xu et al. 2020)."""

    def forward(self, x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """x: [N, C, H, W] -> channels that enter and their places."""
        order = torch.randperm(self.channels, generator=generator)[: self.entering]
        indices = order.sort().values.to(x.device)
        self._count(indices)
        return take(x, indices), indices


class ScoredSampler(ChannelSampler):
    """Scores each channel of an image, 0 to 1, and weighs with the score what enters.

    - se: sigmoid(MLP(mean x)) (squeeze-excite, Hu et al. 2018);
    - eca: sigmoid(convolution over the channels of mean x) (Wang et al. 2020);
    - cbam: sigmoid(MLP(mean x) + MLP(max x)), one MLP (Woo et al. 2018, equation 2).
    """

    def __init__(self, channels: int, partial: int, attention: str) -> None:
        super().__init__(channels, partial)
        self.attention = attention
        if attention == "eca":
            # |log2(C)/2 + 1/2| channels wide, made odd (Wang et al. 2020, equation 12)
            kernel = int(abs((math.log2(channels) + 1) / 2))
            kernel += 1 - kernel % 2
            self.convolution = nn.Conv1d(1, 1, kernel, padding=kernel // 2, bias=False)
        else:
            inner = max(channels // _REDUCTION, 4)
            layers = nn.Linear(channels, inner), nn.ReLU(), nn.Linear(inner, channels)
            self.mlp = nn.Sequential(*layers)

    def scores(self, x: Tensor) -> Tensor:
        """x: [N, C, H, W] -> [N, C]."""
        if self.attention == "eca":
            score: Tensor = self.convolution(mean(x)[:, None])[:, 0]
            return score.sigmoid()
        score = self.mlp(mean(x))
        if self.attention == "cbam":
            # of a flat image: its gradient needs the places of the maxima and not the whole x
            score = score + self.mlp(x.permute(0, 2, 3, 1).flatten(1, 2).max(1).values)
        return score.sigmoid()

    def _enter(self, x: Tensor, score: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
        self._count(indices)
        return take(x, indices) * score[:, indices, None, None], indices


class AttentionSampler(ScoredSampler):
    """The C/K largest batch sums of the scores enter (ADARTS, equations 4 to 6: cbam)."""

    def forward(self, x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """x: [N, C, H, W] -> channels that enter, times their scores, and their places."""
        score = self.scores(x)
        total = processes.add_up(score.detach().sum(0))
        return self._enter(x, score, _largest(total, self.entering))


class RankedSampler(ScoredSampler):
    """Batch means of the scores, smoothed over steps, rank the channels: performance measurement.

    Published with the squeeze-excite form (Pan, Zheng, Zou 2024).
    """

    importance: Tensor

    def __init__(self, channels: int, partial: int, attention: str) -> None:
        super().__init__(channels, partial, attention)
        self.register_buffer("importance", torch.full((channels,), 0.5))

    def forward(self, x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """x: [N, C, H, W] -> channels that enter, times their scores, and their places."""
        score = self.scores(x)
        if self.training:
            batch = processes.add_up(score.detach().mean(0) * weight_of(len(x)))
            self.importance.lerp_(batch.to(self.importance), 1 - _SMOOTHING)
        return self._enter(x, score, _largest(self.importance, self.entering))


def mean(x: Tensor) -> Tensor:
    """x: [N, C, H, W] -> [N, C]; its gradient lies in memory as x does, channels last."""
    return x.permute(0, 2, 3, 1).mean((1, 2))


def take(x: Tensor, indices: Tensor) -> Tensor:
    """x: [N, C, H, W] -> the channels of `indices`; along the last dimension, as in memory."""
    return x.permute(0, 2, 3, 1).index_select(3, indices).permute(0, 3, 1, 2)


def put_back(x: Tensor, indices: Tensor, y: Tensor) -> Tensor:
    """x: [N, C, H, W], y: [N, C/K, H, W] -> x with y added at `indices`, as a new tensor."""
    added = x.permute(0, 2, 3, 1).index_add(3, indices, y.permute(0, 2, 3, 1))
    return added.permute(0, 3, 1, 2)


def make_sampler(settings: SamplerSettings, channels: int) -> ChannelSampler | None:
    """Return the sampler for `channels` channels; None where every one of them enters."""
    name, partial = settings.name, settings.partial
    if name == "full" or partial == 1:
        return None
    if channels < partial:
        raise MobileNASError(
            f"partial channels K is {partial}, but there are {channels} channels: none would enter"
        )
    if name == "random":
        return RandomSampler(channels, partial)
    kinds = {"attention": AttentionSampler, "ranked": RankedSampler}
    return kinds[name](channels, partial, settings.attention or OWN_ATTENTION[name])


def _largest(score: Tensor, count: int) -> Tensor:
    # sorted places keep the channels' order; top-k itself passes no gradient
    return score.topk(count).indices.sort().values
