"""Channel samplers: which 1/K of the channels enter a mixed operation; others bypass it."""

import math

import torch
from torch import Tensor, nn

from mobilenas.core import processes
from mobilenas.core.devices import on_device
from mobilenas.core.errors import MobileNASError
from mobilenas.nn.parallel import weight_of
from mobilenas.supernet.settings import DEFAULT_ATTENTION, SamplerSettings

_SMOOTHING = 0.9
_REDUCTION = 4


class ChannelSampler(nn.Module):
    """Selects the channels that enter, and may weight them."""

    chosen: Tensor
    steps: Tensor

    def __init__(self, channels: int, partial: int) -> None:
        super().__init__()
        self.channels = channels
        self.entering = channels // partial
        self.register_buffer("chosen", torch.zeros(channels), persistent=False)
        self.register_buffer("steps", torch.zeros(()), persistent=False)

    def forward(self, x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """x: [N, C, H, W] -> entering channels [N, C/K, H, W] and their sorted indices [C/K]."""
        raise TypeError(f"{type(self).__name__} chooses no channels")

    def frequencies(self) -> Tensor:
        """Return the share of training steps in which each channel was chosen: [C]."""
        return self.chosen / self.steps.clamp(min=1)

    def reset_counts(self) -> None:
        """Reset the counts of `frequencies`."""
        self.chosen.zero_()
        self.steps.zero_()

    def _count(self, indices: Tensor) -> None:
        if self.training:
            self.chosen[indices] += 1
            self.steps += 1


class RandomSampler(ChannelSampler):
    """Draws channels uniformly in each step (PC-DARTS, Xu et al. 2020)."""

    def forward(self, x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """x: [N, C, H, W] -> entering channels [N, C/K, H, W] and their indices [C/K]."""
        order = torch.randperm(self.channels, generator=generator)[: self.entering]
        indices = on_device(order.sort().values, x.device)
        self._count(indices)
        return take(x, indices), indices


class ScoredSampler(ChannelSampler):
    """Scores each channel of an image from 0 to 1, and multiplies entering channels by it.

    - se: sigmoid(MLP(mean x)) (squeeze-excite, Hu et al. 2018);
    - eca: sigmoid(convolution over the channels of mean x) (Wang et al. 2020);
    - cbam: sigmoid(MLP(mean x) + MLP(max x)), one MLP (Woo et al. 2018, equation 2).
    """

    def __init__(self, channels: int, partial: int, attention: str) -> None:
        super().__init__(channels, partial)
        self.attention = attention
        if attention == "eca":
            # kernel size |log2(C)/2 + 1/2|, made odd (Wang et al. 2020, equation 12)
            kernel = int(abs((math.log2(channels) + 1) / 2))
            kernel += 1 - kernel % 2
            self.convolution = nn.Conv1d(1, 1, kernel, padding=kernel // 2, bias=False)
        else:
            inner = max(channels // _REDUCTION, 4)
            layers = nn.Linear(channels, inner), nn.ReLU(), nn.Linear(inner, channels)
            self.mlp = nn.Sequential(*layers)

    def scores(self, x: Tensor) -> Tensor:
        """Return the scores: x [N, C, H, W] -> [N, C]."""
        if self.attention == "eca":
            score: Tensor = self.convolution(mean(x)[:, None])[:, 0]
            return score.sigmoid()
        score = self.mlp(mean(x))
        if self.attention == "cbam":
            # max over a flattened image: the gradient needs the positions of maxima, not all of x
            score = score + self.mlp(x.permute(0, 2, 3, 1).flatten(1, 2).max(1).values)
        return score.sigmoid()

    def _enter(self, x: Tensor, score: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
        self._count(indices)
        return take(x, indices) * score[:, indices, None, None], indices


class AttentionSampler(ScoredSampler):
    """The C/K channels with the largest batch sums of scores enter (ADARTS, eq. 4 to 6: cbam)."""

    def forward(self, x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """x: [N, C, H, W] -> entering channels times their scores, and their indices."""
        score = self.scores(x)
        total = processes.add_up(score.detach().sum(0))
        return self._enter(x, score, _largest(total, self.entering))


class RankedSampler(ScoredSampler):
    """Channels with the largest batch mean of scores, averaged over steps, enter.

    The "performance measurement" of Pan, Zheng, Zou 2024, who use squeeze-excite scores.
    """

    importance: Tensor

    def __init__(self, channels: int, partial: int, attention: str) -> None:
        super().__init__(channels, partial, attention)
        self.register_buffer("importance", torch.full((channels,), 0.5))

    def forward(self, x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """x: [N, C, H, W] -> entering channels times their scores, and their indices."""
        score = self.scores(x)
        if self.training:
            batch = processes.add_up(score.detach().mean(0) * weight_of(len(x)))
            self.importance.lerp_(batch.to(self.importance), 1 - _SMOOTHING)
        return self._enter(x, score, _largest(self.importance, self.entering))


def mean(x: Tensor) -> Tensor:
    """x: [N, C, H, W] -> [N, C]; its gradient is channels last, like x."""
    return x.permute(0, 2, 3, 1).mean((1, 2))


def take(x: Tensor, indices: Tensor) -> Tensor:
    """x: [N, C, H, W] -> its channels `indices`, taken along the last dimension in memory."""
    return x.permute(0, 2, 3, 1).index_select(3, indices).permute(0, 3, 1, 2)


def add_at(x: Tensor, indices: Tensor, y: Tensor) -> Tensor:
    """x: [N, C, H, W], y: [N, C/K, H, W] -> x with y added at `indices`, as a new tensor."""
    added = x.permute(0, 2, 3, 1).index_add(3, indices, y.permute(0, 2, 3, 1))
    return added.permute(0, 3, 1, 2)


def make_sampler(settings: SamplerSettings, channels: int) -> ChannelSampler | None:
    """Return the sampler for `channels` channels; None if all of them enter."""
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
    return kinds[name](channels, partial, settings.attention or DEFAULT_ATTENTION[name])


def _largest(score: Tensor, count: int) -> Tensor:
    # sorted to keep the order of channels; top-k passes no gradient
    return score.topk(count).indices.sort().values
