"""A baseline: a network narrowed uniformly, and the weights that it keeps."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from mobilenas.nn import make_divisible
from mobilenas.nn.blocks import ALIGNMENT
from mobilenas.spaces.mobile.arch import Block, MobileArch


def narrowed(arch: MobileArch, width: float) -> MobileArch:
    """Return the network with `width` times the channels everywhere, in multiples of 8."""
    blocks, before, narrow = list[Block](), arch.stem.channels, _scaled(arch.stem.channels, width)
    stem = narrow
    for block in arch.blocks:
        # without an expansion layer, the hidden channels are the input's
        hidden, out = _scaled(block.hidden, width), _scaled(block.out, width)
        hidden = narrow if block.hidden == before else _avoid(hidden, narrow, block.hidden)
        if block.stride == 1:
            out = narrow if block.out == before else _avoid(out, narrow, block.out)
        squeeze = _scaled(block.squeeze, width)
        blocks.append(replace(block, hidden=hidden, out=out, squeeze=squeeze))
        before, narrow = block.out, out
    head = replace(
        arch.head,
        channels=_scaled(arch.head.channels, width),
        hidden=_scaled(arch.head.hidden, width),
    )
    return replace(arch, stem=replace(arch.stem, channels=stem), blocks=tuple(blocks), head=head)


def same_layers(one: MobileArch, other: MobileArch) -> bool:
    """Whether the blocks of both have the same expansion layers and the same shortcuts."""
    return _layers(one) == _layers(other)


def _layers(arch: MobileArch) -> list[tuple[bool, bool]]:
    widths = [arch.stem.channels, *(block.out for block in arch.blocks)]
    return [
        (block.hidden != before, block.stride == 1 and block.out == before)
        for before, block in zip(widths, arch.blocks, strict=False)
    ]


def _avoid(channels: int, other: int, largest: int) -> int:
    """Avoid `channels` equal to `other`, which would add a shortcut or remove a layer."""
    return min(largest, channels + ALIGNMENT) if channels == other else channels


def _scaled(channels: int, width: float) -> int:
    return min(channels, make_divisible(channels * width)) if channels else 0


def narrowed_state(
    arch: MobileArch, narrow: MobileArch, state: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return the weights of `arch` that the narrowed network keeps, by the largest L1 norms.

    Channels tied by shortcuts are kept or dropped together (Li et al. 2017, arXiv 1608.08710).
    """
    found = dict(state)
    entering, *outputs = _outputs(arch, narrow, state)
    _select(found, ("stem.0", "stem.1"), rows=entering)
    for number, (block, other) in enumerate(zip(arch.blocks, narrow.blocks, strict=True)):
        name, out = f"blocks.{number}", outputs[number]
        if f"{name}.start.0.weight" in found:
            _select(found, (f"{name}.start.0", f"{name}.start.1"), rows=entering)
        hidden = entering
        if f"{name}.expand.0.weight" in found:
            norms = scaled_norms(state, f"{name}.depthwise.0", f"{name}.depthwise.1")
            hidden = _largest(norms, other.hidden)
            _select(found, (f"{name}.expand.0",), rows=hidden, columns=entering)
            _select(found, (f"{name}.expand.1",), rows=hidden)
        _select(found, (f"{name}.depthwise.0", f"{name}.depthwise.1"), rows=hidden)
        if block.squeeze:
            gate = f"{name}.squeeze_excite"
            inner = _largest(_norms(state[f"{gate}.reduce.weight"]), other.squeeze)
            _select(found, (f"{gate}.reduce",), rows=inner, columns=hidden)
            _select(found, (f"{gate}.expand",), rows=hidden, columns=inner)
        _select(found, (f"{name}.project.0",), rows=out, columns=hidden)
        _select(found, (f"{name}.project.1",), rows=out)
        entering = out
    head = _largest(scaled_norms(state, "head.0", "head.1"), narrow.head.channels)
    _select(found, ("head.0",), rows=head, columns=entering)
    _select(found, ("head.1",), rows=head)
    if arch.head.hidden:
        hidden = _largest(_norms(state["classifier.0.weight"]), narrow.head.hidden)
        _select(found, ("classifier.0",), rows=hidden, columns=head)
        _select(found, ("classifier.3",), columns=hidden)
    else:
        _select(found, ("classifier.1",), columns=head)
    return found


def _outputs(arch: MobileArch, narrow: MobileArch, state: Mapping[str, Tensor]) -> list[Tensor]:
    """Return the channels that stem and blocks keep, the same across shortcuts."""
    layers, groups, before = [("stem.0", "stem.1")], [[0]], arch.stem.channels
    for number, block in enumerate(arch.blocks, 1):
        layers.append((f"blocks.{number - 1}.project.0", f"blocks.{number - 1}.project.1"))
        if block.stride == 1 and block.out == before:
            groups[-1].append(number)
        else:
            groups.append([number])
        before = block.out
    widths, found = [narrow.stem.channels, *(block.out for block in narrow.blocks)], list[Tensor]()
    for group in groups:
        norms = [scaled_norms(state, *layers[number]) for number in group]
        found += [_largest(torch.stack(norms).sum(0), widths[group[0]])] * len(group)
    return found


def scaled_norms(state: Mapping[str, Tensor], layer: str, norm: str) -> Tensor:
    """Return the L1 norms of a convolution's outputs, times the scale of the norm after it."""
    return _norms(state[f"{layer}.weight"]) * state[f"{norm}.weight"].abs()


def _norms(weight: Tensor) -> Tensor:
    """Return the L1 norm of each output's weights: [outputs, ...] -> [outputs]."""
    return weight.abs().flatten(1).sum(1)


def _largest(norms: Tensor, count: int) -> Tensor:
    """Return the indices of the largest norms, in order."""
    return norms.argsort(descending=True, stable=True)[:count].sort().values


def _select(
    state: dict[str, Tensor],
    layers: tuple[str, ...],
    *,
    rows: Tensor | None = None,
    columns: Tensor | None = None,
) -> None:
    """Keep only these outputs (`rows`) and inputs (`columns`) of layers."""
    for key, value in state.items():
        if key.rpartition(".")[0] not in layers or not value.dim():
            continue
        if columns is not None and value.dim() > 1:
            value = value[:, columns]
        state[key] = value if rows is None else value[rows]
