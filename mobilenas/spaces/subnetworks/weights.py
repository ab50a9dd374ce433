"""The part of the whole network's weights that a subnetwork has."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from mobilenas.spaces.subnetworks.narrow import scaled_norms
from mobilenas.spaces.subnetworks.space import Choice, SubnetworkSpace

State = Mapping[str, Tensor]
"""Weights and buffers by the names of `MobileNetwork`."""


def reordered(space: SubnetworkSpace, state: State) -> dict[str, Tensor]:
    """Return the weights with channels sorted by importance, wherever subnetworks may have fewer.

    Subnetworks use the first channels. The network's function does not change. The importance of a
    hidden channel is the L1 norm of the projection's weights that read it (Li et al. 2017, arXiv
    1608.08710), times the scale of the norm before. That of a stage's channel is the L1 norm of the
    weights that compute it, times the scale of the norm after them, summed over the layers whose
    outputs shortcuts add.
    """
    orders: dict[int | None, Tensor] = {None: torch.arange(space.stem_widths[-1])}
    orders |= {stage: _stage_order(space, state, stage) for stage in range(len(space.widths))}
    found = _with_ends(state, orders[space.stem_stage], orders[len(space.widths) - 1])
    for number, slot in enumerate(space.slots):
        name = f"blocks.{number}"
        hidden = torch.arange(slot.hidden[-1]) if slot.expands else orders[slot.before]
        if len(slot.hidden) > 1:
            importance = state[f"{name}.project.0.weight"].abs().sum((0, 2, 3))
            importance = importance * state[f"{name}.depthwise.1.weight"].abs()
            hidden = importance.argsort(descending=True, stable=True)
        channels = Channels(entering=orders[slot.before], hidden=hidden, out=orders[slot.stage])
        found |= {
            key: channels.select(key.removeprefix(f"{name}."), value)
            for key, value in state.items()
            if key.startswith(f"{name}.")
        }
    return found


def _stage_order(space: SubnetworkSpace, state: State, stage: int) -> Tensor:
    """Return the channels of a stage by importance; in order if it has a single width."""
    if len(space.widths[stage]) == 1:
        return torch.arange(space.widths[stage][-1])
    layers = [("stem.0", "stem.1")] if space.stem_stage == stage else []
    layers += [
        (f"blocks.{number}.project.0", f"blocks.{number}.project.1")
        for number, slot in enumerate(space.slots)
        if slot.stage == stage
    ]
    importance = torch.stack([scaled_norms(state, *layer) for layer in layers]).sum(0)
    return importance.argsort(descending=True, stable=True)


def part(space: SubnetworkSpace, choice: Choice, state: State) -> dict[str, Tensor]:
    """Return the weights of the network of a choice, by its own names."""
    arch = space.arch(choice)
    last = torch.arange(arch.blocks[-1].out)
    kept = {key: value for key, value in state.items() if not key.startswith("blocks.")}
    found = _with_ends(kept, torch.arange(arch.stem.channels), last)
    for own, number in enumerate(n for n in range(len(space.slots)) if space.has_block(choice, n)):
        slot, name, picks = space.slots[number], f"blocks.{number}", space.picks(choice, number)
        block = slot.part(picks)
        counts = slot.inputs[picks[0]], block.hidden, block.out
        channels = Channels(*map(torch.arange, counts))
        for key, whole in state.items():
            layer = key.removeprefix(f"{name}.")
            if layer == key or (layer.startswith("squeeze_excite.") and not block.squeeze):
                continue
            value = channels.select(layer, whole)
            if layer == "depthwise.0.weight":
                value = cropped(value, block.kernel)
            found[f"blocks.{own}.{layer}"] = value
    return found


def cropped(kernel: Tensor, side: int | str) -> Tensor:
    """Crop a kernel to its centre: [C, 1, k, k] -> [C, 1, side, side]."""
    if isinstance(side, str):
        return kernel
    edge = (kernel.shape[-1] - side) // 2
    return kernel[..., edge : edge + side, edge : edge + side]


def _with_ends(state: State, stem: Tensor, last: Tensor) -> dict[str, Tensor]:
    """Return the weights with these outputs of the stem, and inputs of the head."""
    found = {
        key: value[stem] if key.startswith("stem.") and value.dim() else value
        for key, value in state.items()
    }
    return found | {"head.0.weight": state["head.0.weight"][:, last]}


class Channels(NamedTuple):
    """Which channels of a block are selected, in which order."""

    entering: Tensor
    """Indices of channels of the block's input."""
    hidden: Tensor
    """Indices of channels of its depthwise convolution."""
    out: Tensor
    """Indices of channels of its output."""

    def select(self, layer: str, value: Tensor) -> Tensor:
        """Select these channels in a tensor of the block; `layer` is its name in the block."""
        if not value.dim() or layer == "squeeze_excite.reduce.bias":
            return value
        if layer.startswith("start."):
            return value[self.entering]
        if layer.startswith("project.1."):
            return value[self.out]
        if layer == "project.0.weight":
            return value[self.out][:, self.hidden]
        if layer == "squeeze_excite.reduce.weight":
            return value[:, self.hidden]
        if layer == "expand.0.weight":
            return value[self.hidden][:, self.entering]
        return value[self.hidden]
