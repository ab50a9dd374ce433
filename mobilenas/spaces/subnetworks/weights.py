"""The part of the whole network's weights that a subnetwork has."""

from collections.abc import Mapping

import torch
from torch import Tensor

from mobilenas.spaces.subnetworks.space import Choice, Slot, SubnetworkSpace

State = Mapping[str, Tensor]
"""Weights and buffers by the names of `MobileNetwork`."""


def reordered(space: SubnetworkSpace, state: State) -> dict[str, Tensor]:
    """Return the weights with the hidden channels of every block sorted by importance.

    Subnetworks have the first channels. The network's function does not change. The importance of a
    channel is the L1 norm of the projection's weights that read it (Li et al. 2017, arXiv
    1608.08710), times the scale of the norm before.
    """
    found = dict(state)
    for number, slot in enumerate(space.slots):
        if len(slot.hidden) == 1:
            continue
        name = f"blocks.{number}"
        importance = state[f"{name}.project.0.weight"].abs().sum((0, 2, 3))
        importance = importance * state[f"{name}.depthwise.1.weight"].abs()
        order = importance.argsort(descending=True, stable=True)
        found |= {
            key: _hidden(key, value, name, order)
            for key, value in state.items()
            if key.startswith(f"{name}.")
        }
    return found


def part(space: SubnetworkSpace, choice: Choice, state: State) -> dict[str, Tensor]:
    """Return the weights of the network of a choice, by its own names."""
    found = {key: value for key, value in state.items() if not key.startswith("blocks.")}
    for own, number in enumerate(n for n in range(len(space.slots)) if space.keeps(choice, n)):
        slot, name = space.slots[number], f"blocks.{number}"
        channels = torch.arange(slot.hidden[choice.hidden[number]])
        for key, whole in state.items():
            layer = key.removeprefix(f"{name}.")
            if layer == key or _left_out(slot, layer, choice, number):
                continue
            value = _hidden(key, whole, name, channels)
            if layer == "depthwise.0.weight":
                value = cropped(value, slot.kernels[choice.kernel[number]])
            found[f"blocks.{own}.{layer}"] = value
    return found


def cropped(kernel: Tensor, side: int | str) -> Tensor:
    """Crop a kernel to its centre: [C, 1, k, k] -> [C, 1, side, side]."""
    if isinstance(side, str):
        return kernel
    edge = (kernel.shape[-1] - side) // 2
    return kernel[..., edge : edge + side, edge : edge + side]


def _left_out(slot: Slot, layer: str, choice: Choice, number: int) -> bool:
    return layer.startswith("squeeze_excite.") and not slot.squeeze[choice.squeeze[number]]


def _hidden(key: str, value: Tensor, name: str, channels: Tensor) -> Tensor:
    """Select these hidden channels of a block's tensor."""
    layer = key.removeprefix(f"{name}.")
    if not value.dim() or layer.startswith(("start.", "project.1.")):
        return value
    if layer in ("project.0.weight", "squeeze_excite.reduce.weight"):
        return value[:, channels]
    if layer == "squeeze_excite.reduce.bias":
        return value
    return value[channels]
