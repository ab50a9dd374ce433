"""Networks of the mobile space with weights inherited from a supernet."""

import torch
from torch import nn

from mobilenas.nn import ConvNorm, InvertedResidual, SqueezeExcite, squeeze_channels
from mobilenas.spaces.mobile.build import MobileNetwork
from mobilenas.spaces.mobile.mixed import BlockPick, MixedBlock
from mobilenas.spaces.mobile.space import Choice
from mobilenas.spaces.mobile.supernet import SuperNetwork

_ALL = slice(None)


@torch.no_grad()
def inherited(net: SuperNetwork, choice: Choice, seed: int) -> MobileNetwork:
    """Return the network of `choice` with the slices of the supernet's weights that `run` uses.

    Blocks that only a part of the channels enters are drawn by the seed, as from scratch, because
    the supernet has no weights for all their channels. Running statistics are not inherited,
    because they are not those of a single network.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        network = MobileNetwork(net.space.arch(choice))
    picks = list(net.picks(choice))
    for own, (block, pick) in zip(network.blocks, picks, strict=True):
        assert isinstance(own, InvertedResidual)
        if block.partial == 1:
            _copy_block(own, block, pick)
    _copy(network.stem[0], net.stem[0])
    _copy(network.stem[1], net.stem[1])
    _copy(network.head[0], net.head[0], columns=slice(picks[-1][1].out_width))
    _copy(network.head[1], net.head[1])
    _copy(network.classifier[-1], net.classifier)
    return network


def _copy_block(own: InvertedResidual, block: MixedBlock, pick: BlockPick) -> None:
    span = block.span(pick.expansion, pick.in_width)
    entering, hidden = slice(pick.in_width), slice(span.stop - span.start)
    if isinstance(own.start, ConvNorm):
        own.start[0].get_parameter("weight").copy_(block.start[entering])
        _copy(own.start[1], block.start_norm, entering)
    if isinstance(own.expand, ConvNorm):
        _copy(own.expand[0], block.expand, hidden, entering)
        _copy(own.expand[1], block.expand_norm, hidden)
    if isinstance(pick.kernel, str):
        _copy(own.depthwise[0], block.operations[pick.kernel], span)
    else:
        own.depthwise[0].get_parameter("weight").copy_(block.kernel_of(pick.kernel, span))
    _copy(own.depthwise[1], block.depthwise_norm, span)
    if isinstance(own.squeeze_excite, SqueezeExcite):
        inner = slice(squeeze_channels(hidden.stop))
        _copy(own.squeeze_excite.reduce, block.reduce, inner, span)
        _copy(own.squeeze_excite.expand, block.excite, span, inner)
    _copy(own.project[0], block.project, slice(pick.out_width), span)
    _copy(own.project[1], block.project_norm, slice(pick.out_width))


def _copy(own: nn.Module, whole: nn.Module, rows: slice = _ALL, columns: slice = _ALL) -> None:
    """Copy the parameters of a layer for these outputs (`rows`) and inputs (`columns`)."""
    for name, weight in own.named_parameters():
        given = whole.get_parameter(name)[rows]
        weight.copy_(given[:, columns] if given.dim() > 1 else given)
