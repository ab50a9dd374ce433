"""The supernet of subnetworks: the whole network, whose leading weights each of them uses."""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from mobilenas.nn import InvertedResidual, SqueezeExcite
from mobilenas.nn.network import resized
from mobilenas.nn.operations import SameConv2d
from mobilenas.spaces.mobile.build import MobileNetwork
from mobilenas.spaces.subnetworks.space import Choice, Slot, SlotPicks, SubnetworkSpace
from mobilenas.spaces.subnetworks.table import Probabilities
from mobilenas.spaces.subnetworks.weights import State, cropped, part, reordered
from mobilenas.supernet.base import Supernet, full_precision
from mobilenas.supernet.settings import SamplerSettings

_MIXED_SIDES = 2
"""A relaxation is run only at its most probable image sizes, since each takes a separate pass."""


class SubnetworkSupernet(Supernet):
    """The whole network; a mixture costs as much as the whole network at two image sizes."""

    def __init__(self, space: SubnetworkSpace, sampler: SamplerSettings) -> None:
        super().__init__()
        self.space = space
        self.whole = MobileNetwork(space.whole)

    def start_from(self, state: State) -> None:
        """Load the weights of the whole network, with channels sorted by importance."""
        self.whole.load_state_dict(reordered(self.space, state))

    def forward(self, x: Tensor, p: Probabilities) -> Tensor:
        """x: [N, C, S, S] at the largest size -> logits [N, classes] of the mixture under `p`."""
        weights, indices = p.side[0].topk(min(_MIXED_SIDES, len(self.space.sides)))
        weights = weights / weights.sum()
        logits = [
            weight * self._mixed(resized(x, self.space.sides[index]), p)
            for weight, index in zip(weights, indices.tolist(), strict=True)
            if weight > 0
        ]
        return torch.stack(logits).sum(0)

    def _mixed(self, x: Tensor, p: Probabilities) -> Tensor:
        first = self.space.slots[0]
        x = _masked(self.whole.stem(x), p, first.before, first.inputs)
        for number, (slot, block) in enumerate(
            zip(self.space.slots, self.whole.blocks, strict=True)
        ):
            y = _mixture(cast(InvertedResidual, block), x, slot, number, p)
            x = x + p.keep(slot.stage, slot.position) * y if block.shortcut else y
        return self._classify(self.whole.head(x))

    def run(self, x: Tensor, choice: Choice) -> Tensor:
        """x: [N, C, S, S] -> logits [N, classes] of one network, at its own image size and cost."""
        x = resized(x, self.space.sides[choice.side[0]])
        stem = self.space.stem_widths[self.space.width(choice, self.space.stem_stage)]
        x = _leading_part(self.whole.stem, x, stem)
        for number, (slot, block) in enumerate(
            zip(self.space.slots, self.whole.blocks, strict=True)
        ):
            if self.space.has_block(choice, number):
                picks = self.space.picks(choice, number)
                y = _alone(cast(InvertedResidual, block), x, slot, picks)
                x = x + y if block.shortcut else y
        return self._classify(_leading_part(self.whole.head, x, self.space.whole.head.channels))

    def _classify(self, x: Tensor) -> Tensor:
        x = x.mean((2, 3))
        for layer in self.whole.classifier:
            # no dropout: supernets are evaluated in training mode, for batch statistics
            x = x if isinstance(layer, nn.Dropout) else layer(x)
        return x


def inherited(net: SubnetworkSupernet, choice: Choice, seed: int) -> MobileNetwork:
    """Return the network of `choice` with its part of the supernet's weights and statistics."""
    with torch.random.fork_rng(devices=[]):  # the drawn weights are not used
        network = MobileNetwork(net.space.arch(choice))
    network.load_state_dict(part(net.space, choice, net.whole.state_dict()))
    return network


def _mixture(
    block: InvertedResidual, x: Tensor, slot: Slot, number: int, p: Probabilities
) -> Tensor:
    """x: [N, Cin, H, W] -> [N, Cout, ...]: the mixture of a block's options, without shortcut.

    As in the mobile space's supernet, a mixture of kernels is one convolution with the mixed
    kernel, and a mixture of channel counts is a projection of masked channels.
    """
    h: Tensor = block.start(x)
    if isinstance(block.start, nn.Sequential):
        h = _masked(h, p, slot.before, slot.inputs)
    h = block.expand(h)
    operation, norm, activation = block.depthwise
    if isinstance(operation, nn.Conv2d) and len(slot.kernels) > 1:
        sides = [int(kernel) for kernel in slot.kernels]
        h = _convolved(operation, h, operation.weight * _mixed_mask(p.kernel[number], sides))
    else:
        h = operation(h)
    # mask [hidden, 1, 1]: probability that a channel exists
    h = activation(norm(h)) * _leading(p.hidden[number], slot.hidden)[:, None, None]
    if not slot.expands:
        h = _masked(h, p, slot.before, slot.inputs)
    if isinstance(block.squeeze_excite, SqueezeExcite):
        h = torch.lerp(h, block.squeeze_excite(h), p.squeeze[number, 1])
    return _masked(block.project(h), p, slot.stage, slot.outputs)


def _masked(x: Tensor, p: Probabilities, stage: int | None, widths: tuple[int, ...]) -> Tensor:
    """x: [N, C, H, W] -> same shape, times the probability that a stage has each channel."""
    if p.width is None or stage is None:
        return x
    return x * _leading(p.width[stage], widths)[:, None, None]


def _leading(p: Tensor, counts: tuple[int, ...]) -> Tensor:
    """p: [options, ...] -> [counts[-1]]: probability that each channel exists."""
    mask = (
        torch.arange(counts[-1], device=p.device) < torch.tensor(counts, device=p.device)[:, None]
    )
    with full_precision(p):
        chances: Tensor = p[: len(counts)] @ mask.to(p)
    return chances


def _mixed_mask(p: Tensor, sides: list[int]) -> Tensor:
    """p: [options, ...] -> [k, k] of the largest kernel: probability that each weight exists."""
    masks = [
        functional.pad(p.new_ones(side, side), [(sides[-1] - side) // 2] * 4) for side in sides
    ]
    with full_precision(p):
        mixed: Tensor = torch.tensordot(p[: len(sides)], torch.stack(masks), 1)
    return mixed


def _alone(block: InvertedResidual, x: Tensor, slot: Slot, picks: SlotPicks) -> Tensor:
    """x: [N, c, H, W] -> [N, out, ...]: the block of one network, without shortcut."""
    part, entering = slot.part(picks), x.shape[1]
    hidden, out = part.hidden, part.out
    h = x
    if isinstance(block.start, nn.Sequential):
        h = _leading_part(block.start, x, entering)
    if isinstance(block.expand, nn.Sequential):
        convolution, norm, activation = block.expand
        h = functional.conv2d(h, convolution.get_parameter("weight")[:hidden, :entering])
        h = activation(_normalized(norm, h))
    operation, norm, activation = block.depthwise
    if isinstance(operation, nn.Conv2d):
        h = _convolved(operation, h, cropped(operation.weight[:hidden], part.kernel))
    else:
        # a registered operation has weights for all channels, and treats each separately
        whole = functional.pad(h, (0, 0, 0, 0, 0, slot.hidden[-1] - hidden))
        h = operation(whole)[:, :hidden]
    h = activation(_normalized(norm, h))
    if part.squeeze:
        gate = cast(SqueezeExcite, block.squeeze_excite)
        pooled = h.mean((2, 3), keepdim=True)
        inner = torch.relu(
            functional.conv2d(pooled, gate.reduce.weight[:, :hidden], gate.reduce.bias)
        )
        assert gate.expand.bias is not None
        h = h * functional.hardsigmoid(
            functional.conv2d(inner, gate.expand.weight[:hidden], gate.expand.bias[:hidden])
        )
    assert isinstance(block.project, nn.Sequential)
    convolution, norm = block.project
    h = functional.conv2d(h, convolution.get_parameter("weight")[:out, :hidden])
    y: Tensor = norm(h) if out == slot.outputs[-1] else _normalized(norm, h)
    return y


def _leading_part(layer: nn.Module, x: Tensor, out: int) -> Tensor:
    """x: [N, c, H, W] -> [N, out, ...]: a `ConvNorm` with its first `out` outputs and c inputs."""
    convolution, norm, *activations = cast(nn.Sequential, layer)
    assert isinstance(convolution, nn.Conv2d)
    if (x.shape[1], out) == (convolution.in_channels, convolution.out_channels):
        y: Tensor = layer(x)
        return y
    y = _normalized(norm, _convolved(convolution, x, convolution.weight[:out, : x.shape[1]]))
    for activation in activations:
        y = activation(y)
    return y


def _convolved(layer: nn.Conv2d, x: Tensor, weight: Tensor) -> Tensor:
    """Run a convolution with part of its weight, padded so that it has the same centre."""
    side, stride = weight.shape[-1], layer.stride[0]
    groups = 1 if layer.groups == 1 else len(weight)
    if isinstance(layer, SameConv2d):
        zeros = side - stride + -x.shape[-1] % stride
        x = functional.pad(x, [zeros // 2, zeros - zeros // 2] * 2)
        return functional.conv2d(x, weight, None, stride, groups=groups)
    return functional.conv2d(x, weight, None, stride, side // 2, groups=groups)


def _normalized(norm: nn.Module, x: Tensor) -> Tensor:
    """x: [N, c, H, W] -> same shape, normalized by the first c entries of the norm."""
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None and norm.running_var is not None
    count = x.shape[1]
    return functional.batch_norm(
        x,
        norm.running_mean[:count],
        norm.running_var[:count],
        norm.weight[:count],
        norm.bias[:count],
        norm.training,
        norm.momentum or 0.0,
        norm.eps,
    )
