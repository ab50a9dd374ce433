"""A block of the mobile supernet, which computes the exact mixture of all its candidates.

A convolution is linear in its kernel, and a projection in its input. So a mixture of kernels is one
convolution with the mixed kernel, and a mixture of channel counts one projection of masked
channels. A step costs as much as the largest candidate, whatever their number. With one-hot
probabilities, the block is that candidate; `run` computes it from slices of the same weights, at
the candidate's own cost.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from mobilenas.nn import ACTIVATIONS, squeeze_channels
from mobilenas.nn.operations import OPERATIONS, Kernel
from mobilenas.spaces.mobile.space import MobileSpace, Slot
from mobilenas.supernet.base import full_precision
from mobilenas.supernet.samplers import ChannelSampler, add_at, make_sampler, mean
from mobilenas.supernet.settings import SamplerSettings

_VECTOR = 16


@dataclass(frozen=True, kw_only=True)
class BlockProbabilities:
    """The part of a relaxation that concerns one slot."""

    in_width: Tensor
    """[Wi]: probabilities of the input's widths."""
    out_width: Tensor
    """[Wo]: probabilities of the output's widths."""
    kernel: Tensor
    """[K]: probabilities of kernel sizes, then of operations."""
    expansion: Tensor
    """[E]: probabilities of the slot's expansions, without padding."""
    squeeze: Tensor
    """Scalar: probability of squeeze-excite."""
    start: Tensor
    """Scalar: probability of the last of the slot's start kernels."""
    keep: Tensor
    """Scalar: probability that the block is kept."""


@dataclass(frozen=True, kw_only=True)
class BlockPick:
    """One candidate of a slot, as values instead of indices."""

    in_width: int
    """Channels of the input."""
    out_width: int
    """Channels of the output."""
    kernel: Kernel
    """Size of the depthwise kernel, or the operation that replaces it."""
    expansion: int
    """Hidden channels as a multiple of the input's."""
    squeeze: bool
    """Whether it has squeeze-excite."""
    start: bool
    """Whether a depthwise convolution precedes the expansion layer."""


class Norm(nn.BatchNorm2d):
    """Batch norm that can also normalize a slice of its channels."""

    def part(self, x: Tensor, span: slice) -> Tensor:
        """x: [N, c, H, W] -> same shape, normalized by the c entries of `span`."""
        if self.running_mean is None or self.running_var is None:
            raise TypeError("this norm keeps no running statistics")
        return functional.batch_norm(
            x,
            self.running_mean[span],
            self.running_var[span],
            self.weight[span],
            self.bias[span],
            self.training,
            self.momentum or 0.0,
            self.eps,
        )


class MixedBlock(nn.Module):
    """All candidates of one slot, in one set of weights."""

    hidden_mask: Tensor
    in_mask: Tensor
    squeeze_mask: Tensor
    out_mask: Tensor
    same_width: Tensor

    def __init__(self, space: MobileSpace, slot: Slot, sampler: SamplerSettings) -> None:
        super().__init__()
        self.slot, self.kernels = slot, space.sides
        self.stride = slot.stride
        self.can_squeeze = True in space.squeeze
        self.start_kernels = slot.start_kernels
        widest_in, widest_out = slot.in_widths[-1], slot.out_widths[-1]
        keeps_shape = not slot.first
        self.sampler: ChannelSampler | None = (
            make_sampler(sampler, widest_in) if keeps_shape else None
        )
        self.partial = sampler.partial if self.sampler else 1
        self.in_channels = widest_in // self.partial
        self.out_channels = widest_out // self.partial
        # expansion 1 has no expansion layer: its hidden channels are the input's, and come first
        self.unexpanded = self.in_channels if slot.expansions[0] == 1 else 0
        hidden, self.expanded = self.unexpanded, 0
        if slot.expansions[-1] > 1:
            hidden += self.in_channels * slot.expansions[-1]
            # rounded up, by channels that no candidate uses, because depthwise convolutions are
            # slow unless channels fill whole vectors
            hidden = -(-hidden // _VECTOR) * _VECTOR
            self.expanded = hidden - self.unexpanded
            if start_kernel := slot.start_kernels[-1]:
                kernel = (start_kernel,) * 2
                self.start = nn.Parameter(torch.empty(self.in_channels, 1, *kernel))
                self.start_norm = Norm(self.in_channels)
            self.expand = nn.Conv2d(self.in_channels, self.expanded, 1, bias=False)
            self.expand_norm = Norm(self.expanded)
        self.depthwise = nn.ParameterList(torch.empty(hidden, 1, k, k) for k in self.kernels)
        self.operations = nn.ModuleDict(
            {name: OPERATIONS[name].module(hidden, slot.stride) for name in space.operations}
        )
        self.depthwise_norm = Norm(hidden)
        if self.can_squeeze:
            self.reduce = nn.Conv2d(hidden, squeeze_channels(hidden), 1)
            self.excite = nn.Conv2d(squeeze_channels(hidden), hidden, 1)
        self.project = nn.Conv2d(hidden, self.out_channels, 1, bias=False)
        self.project_norm = Norm(self.out_channels)
        self.activation = ACTIVATIONS[space.activation]()
        self._initialize_depthwise()
        self._make_masks()

    def _initialize_depthwise(self) -> None:
        """Initialize the smallest kernel at random, and the rings around it with zeros."""
        for number, ring in enumerate(self.depthwise):
            nn.init.zeros_(ring) if number else nn.init.kaiming_normal_(ring, mode="fan_out")
        if self.start_kernels[-1]:
            nn.init.kaiming_normal_(self.start, mode="fan_out")

    def span(self, expansion: int, in_width: int) -> slice:
        """Return the slice of a candidate's hidden channels."""
        start = 0 if expansion == 1 else self.unexpanded
        return slice(start, start + expansion * (in_width // self.partial))

    def _make_masks(self) -> None:
        slot, hidden = self.slot, self.project.in_channels
        spans = [[self.span(e, w) for w in slot.in_widths] for e in slot.expansions]
        squeezes = [[squeeze_channels(s.stop - s.start) for s in row] for row in spans]
        same = [[float(a == b) for b in slot.out_widths] for a in slot.in_widths]
        starts = _leading([[span.start for span in row] for row in spans], hidden)
        stops = _leading([[span.stop for span in row] for row in spans], hidden)
        masks = {
            "hidden_mask": stops - starts,  # [E, Wi, H]
            "in_mask": _leading([list(slot.in_widths)], slot.in_widths[-1])[0],  # [Wi, Ci]
            "squeeze_mask": _leading(squeezes, squeeze_channels(hidden)),  # [E, Wi, Sq]
            "out_mask": _leading([list(slot.out_widths)], slot.out_widths[-1])[0],  # [Wo, Co]
            "same_width": torch.tensor(same),  # [Wi, Wo]
        }
        for name, mask in masks.items():
            self.register_buffer(name, mask, persistent=False)

    def forward(self, x: Tensor, p: BlockProbabilities, generator: torch.Generator) -> Tensor:
        """x: [N, Ci, H, W] -> [N, Co, H/stride, W/stride], the mixture under `p`."""
        with full_precision(x):
            out = p.keep * (p.out_width @ self.out_mask)  # [Co]
            alive = p.in_width @ self.in_mask  # [Ci]
        if self.sampler is None:
            y = self._mixture(x, p, alive)
            y = y * out[:, None, None]
            return y if self.stride == 2 else y + self._shortcut(x, p)
        entering, indices = self.sampler(x, generator)
        y = self._mixture(entering, p, alive[indices]) * out[indices][:, None, None]
        return add_at(x, indices, y)

    def _mixture(self, x: Tensor, p: BlockProbabilities, alive: Tensor) -> Tensor:
        pairs = p.expansion[:, None] * p.in_width  # [E, Wi]
        with full_precision(x):
            hidden = torch.tensordot(pairs, self.hidden_mask, 2)  # [H]
        h = self._hidden(x, p, alive)
        h = self.activation(self.depthwise_norm(self._mixed_operation(h, p.kernel)))
        scale = hidden[:, None, None]  # [H, 1, 1]
        if self.can_squeeze:
            with full_precision(x):
                squeeze = torch.tensordot(pairs, self.squeeze_mask, 2)[:, None, None]
            scale = scale * (1 - p.squeeze + p.squeeze * self._gate(h, scale, squeeze))
        y: Tensor = self.project_norm(self.project(h * scale))
        return y

    def _hidden(self, x: Tensor, p: BlockProbabilities, alive: Tensor) -> Tensor:
        if not self.expanded:
            return x
        entering = self._apply_start(x, alive) if self.start_kernels[-1] else x
        if len(self.start_kernels) > 1:
            entering = torch.lerp(x, entering, p.start)
        h: Tensor = self.activation(self.expand_norm(self.expand(entering)))
        return torch.cat([x, h], 1) if self.unexpanded else h

    def _apply_start(self, x: Tensor, alive: Tensor) -> Tensor:
        """Apply the start convolution: x [N, c, H, W], probability of each channel [c] -> as x."""
        channels = x.shape[1]
        kernel = self.start[:channels]
        x = functional.conv2d(x, kernel, padding=kernel.shape[-1] // 2, groups=channels)
        # the norm has scaled up improbable channels, and shifted missing ones
        return self.start_norm.part(x, slice(0, channels)) * alive[:, None, None]

    def _mixed_operation(self, h: Tensor, p: Tensor) -> Tensor:
        """h: [N, H, ...], p: [K] -> the mixture of depthwise convolutions and operations."""
        sides = len(self.kernels)
        kernel = self._mixed_kernel(p[:sides])
        y = functional.conv2d(
            h, kernel, stride=self.stride, padding=kernel.shape[-1] // 2, groups=len(kernel)
        )
        for share, operation in zip(p[sides:], self.operations.values(), strict=True):
            y = y + share * operation(h)
        return y

    def _mixed_kernel(self, p: Tensor) -> Tensor:
        # W_k is the sum of the rings up to k, so sum_k p_k W_k weights each ring by the
        # probability that the kernel includes it
        largest = self.kernels[-1]
        needed = p.flip(0).cumsum(0).flip(0)  # [K]
        return torch.stack(
            [
                needed[i] * functional.pad(ring, [(largest - k) // 2] * 4)
                for i, (k, ring) in enumerate(zip(self.kernels, self.depthwise, strict=True))
            ]
        ).sum(0)

    def kernel_of(self, size: int, span: slice) -> Tensor:
        """Return the depthwise kernel of one candidate, [hidden, 1, size, size]."""
        rings = [
            functional.pad(ring[span], [(size - k) // 2] * 4)
            for k, ring in zip(self.kernels, self.depthwise, strict=True)
            if k <= size
        ]
        return torch.stack(rings).sum(0)

    def _gate(self, h: Tensor, hidden: Tensor, squeeze: Tensor) -> Tensor:
        pooled = mean(h)[..., None, None] * hidden  # [N, H, 1, 1]
        inner = torch.relu(self.reduce(pooled)) * squeeze
        return functional.hardsigmoid(self.excite(inner))

    def _shortcut(self, x: Tensor, p: BlockProbabilities) -> Tensor:
        if not self.slot.first:
            return x  # input and output width are one decision, so they are always equal
        with full_precision(x):
            same = p.in_width @ self.same_width @ p.out_width
        missing = self.slot.out_widths[-1] - x.shape[1]
        return same * (functional.pad(x, (0, 0, 0, 0, 0, missing)) if missing else x)

    def _apply_operation(self, h: Tensor, kernel: Kernel, span: slice) -> Tensor:
        """h: [N, hidden of `span`, H, W] -> [N, hidden, H/stride, W/stride]: one operation."""
        if isinstance(kernel, str):
            whole = self.project.in_channels
            # the operation has weights for all channels, and treats each separately
            padded = functional.pad(h, (0, 0, 0, 0, span.start, whole - span.stop))
            operated: Tensor = self.operations[kernel](padded)
            return operated[:, span]
        weight = self.kernel_of(kernel, span)
        return functional.conv2d(
            h, weight, stride=self.stride, padding=kernel // 2, groups=len(weight)
        )

    def run(self, x: Tensor, pick: BlockPick, generator: torch.Generator) -> Tensor:
        """x: [N, in_width, H, W] -> [N, out_width, ...]: one candidate, from slices of weights."""
        if self.sampler is None:
            y = self._run_candidate(x, x.new_ones(x.shape[1]), pick, pick.in_width, pick.out_width)
            return x + y if self.stride == 1 and pick.in_width == pick.out_width else y
        padded = functional.pad(x, (0, 0, 0, 0, 0, self.slot.in_widths[-1] - x.shape[1]))
        entering, indices = self.sampler(padded, generator)
        in_channels = pick.in_width // self.partial
        alive = (indices < pick.in_width).to(x)
        y = self._run_candidate(entering, alive, pick, in_channels, self.out_channels)
        y = y * alive[:, None, None]  # such blocks have equal input and output widths
        return add_at(padded, indices, y)[:, : pick.out_width]

    def _run_candidate(
        self, x: Tensor, alive: Tensor, pick: BlockPick, in_channels: int, out_channels: int
    ) -> Tensor:
        span = self.span(pick.expansion, pick.in_width)
        hidden = span.stop - span.start
        if pick.expansion == 1:
            h = x[:, :in_channels]
        else:
            entering = self._apply_start(x, alive) if pick.start else x
            h = _conv(self.expand, entering, slice(0, hidden))
            h = self.expand_norm.part(h, slice(0, hidden))
            h = self.activation(h)
        h = self._apply_operation(h, pick.kernel, span)
        h = self.activation(self.depthwise_norm.part(h, span))
        if pick.squeeze:
            squeeze = slice(0, squeeze_channels(hidden))
            pooled = mean(h)[..., None, None]
            inner = torch.relu(_conv(self.reduce, pooled, squeeze, span))
            h = h * functional.hardsigmoid(_conv(self.excite, inner, span, squeeze))
        leading = slice(0, out_channels)
        return self.project_norm.part(_conv(self.project, h, leading, span), leading)


def _conv(conv: nn.Conv2d, x: Tensor, rows: slice, columns: slice | None = None) -> Tensor:
    """x: [N, c, H, W] -> 1x1 convolution with weight[rows, columns], default columns: first c."""
    columns = slice(0, x.shape[1]) if columns is None else columns
    bias = None if conv.bias is None else conv.bias[rows]
    return functional.conv2d(x, conv.weight[rows, columns], bias)


def _leading(counts: list[list[int]], length: int) -> Tensor:
    """counts: [R, C] -> [R, C, length]: ones at the first `counts` positions, then zeros."""
    return (torch.arange(length) < torch.tensor(counts)[..., None]).float()
