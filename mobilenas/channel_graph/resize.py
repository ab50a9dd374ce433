"""Resizes models: the same modules, with tensors and attributes of other channel sizes.

By default the leading channels of each group are kept (of each block in grouped convolutions);
`keep` selects others. New weights are drawn from a normal distribution with the standard deviation
of the old ones; new entries of vectors (biases, norms) are the old mean. So resizing an untrained
model gives an untrained model.
"""

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from mobilenas.channel_graph.groups import Dimension, Graph
from mobilenas.channel_graph.tracing import trace
from mobilenas.core.errors import MobileNASError
from mobilenas.core.settings import counted

Keep = Mapping[str, Tensor]
"""By group, [new size]: the old channel from which each channel comes, -1 for new ones."""


def resized(
    model: nn.Module,
    graph: Graph,
    sizes: Mapping[str, int],
    *,
    keep: Keep | None = None,
    generator: torch.Generator | None = None,
) -> nn.Module:
    """Return a copy of `model` with other group sizes.

    `graph` is that of `model`; the result's is `graph.at(sizes)`. Groups not in `sizes` keep their
    size. `generator` draws new weights. MobileNASError for illegal sizes.
    """
    _check_fits(model, graph)
    resizing = Resizing(graph, sizes, keep=keep)
    result = copy.deepcopy(model)
    modules = dict(result.named_modules())
    for dimension in graph.dimensions:
        _set_attributes(modules[dimension.module], dimension, dimension.size(resizing.sizes))
    for name in resizing.tensors:
        owner, _, key = name.rpartition(".")
        tensor = getattr(modules[owner], key)
        moved, missing = resizing.move(name, tensor.detach())
        if not missing.is_meta and missing.any():
            moved = torch.where(missing, _like(tensor.detach(), moved.shape, generator), moved)
        if isinstance(tensor, nn.Parameter):
            moved = nn.Parameter(moved, requires_grad=tensor.requires_grad)
        setattr(modules[owner], key, moved)
    # a pass on the meta device, so that an overlooked size fails here, not in training
    trace(result, image_size=graph.image_size, in_channels=graph.in_channels)
    return result


class Resizing:
    """Maps channels and entries of the new sizes to those of the old ones.

    Also moves other tensors with a parameter's shape, such as optimizer state.
    """

    def __init__(self, graph: Graph, sizes: Mapping[str, int], *, keep: Keep | None = None) -> None:
        self.graph = graph
        self.sizes = graph.checked(sizes)
        self.channels: dict[str, Tensor] = {}  # by group, [new size], as Keep
        for name, size in self.sizes.items():
            chosen = (keep or {}).get(name)
            self.channels[name] = leading(graph, name, size) if chosen is None else chosen
            _check_kept(graph, name, size, self.channels[name])
        self.tensors: dict[str, list[tuple[int, Dimension]]] = {}
        for dimension in graph.dimensions:
            for name, axis in dimension.axes:
                self.tensors.setdefault(name, []).append((axis, dimension))
                self.tensors[name].sort(key=lambda item: item[0])
        self._entries: dict[tuple[str, str], Tensor] = {}

    def entries(self, dimension: Dimension) -> Tensor:
        """Return [new entries]: the old entry from which each one comes, -1 for new ones."""
        key = dimension.module, dimension.kind
        if key not in self._entries:
            pieces = []
            for part, start, stop in dimension.spans(self.graph.sizes):
                channels = self.channels[part.group]
                if part.aligned:
                    old = channels[:, None]  # [channels, 1]
                    entries = start + old * part.repeat + torch.arange(part.repeat)
                    pieces.append(torch.where(old < 0, -1, entries).flatten())
                else:
                    entries = start + torch.arange(len(channels) * part.repeat)
                    pieces.append(torch.where(entries < stop, entries, -1))
            self._entries[key] = torch.cat(pieces)
        return self._entries[key]

    def move(self, name: str, tensor: Tensor) -> tuple[Tensor, Tensor]:
        """Return a tensor in its new shape, and a mask of its new entries.

        `name` is the state-dict name of a parameter or buffer, and `tensor` has its old shape. The
        mask broadcasts to the new shape; where it is true, values are arbitrary.
        """
        missing = torch.zeros((1,) * tensor.dim(), dtype=torch.bool)
        outputs = len(tensor) if tensor.dim() else 1
        rows = torch.arange(outputs)
        for axis, dimension in self.tensors.get(name, []):
            source = self.entries(dimension)
            if dimension.blocks > 1:
                source = _in_block(self.graph, dimension, source, rows, outputs)
                source = source.view(*source.shape, *(1,) * (tensor.dim() - 2))
                index = source.clamp(min=0).to(tensor.device)
                tensor = torch.take_along_dim(tensor, index, dim=1)
            else:
                tensor = tensor.index_select(axis, source.clamp(min=0).to(tensor.device))
                rows = source if axis == 0 else rows
                source = source.view(*(-1 if place == axis else 1 for place in range(tensor.dim())))
            missing = missing | (source < 0)
        return tensor, missing.to(tensor.device)


def leading(graph: Graph, name: str, size: int) -> Tensor:
    """Return [size]: the old channels of a group that are kept by default.

    A group whose sizes are multiples of d has d blocks; channel c of block b comes from channel c
    of block b. So channels stay in their block of a grouped convolution.
    """
    blocks = graph.divisors[name]
    old, new = graph.sizes[name] // blocks, size // blocks
    place = torch.arange(new).expand(blocks, new)
    return torch.where(place < old, place + old * torch.arange(blocks)[:, None], -1).flatten()


def _in_block(
    graph: Graph, dimension: Dimension, inputs: Tensor, rows: Tensor, outputs: int
) -> Tensor:
    """Return the old column of each entry of a grouped weight: [new outputs, inputs / groups].

    `inputs` [new inputs] and `rows` [new outputs] are the old inputs and outputs that they come
    from; `outputs` is the old number. -1 if old input and output were in different blocks.
    """
    blocks, width = dimension.blocks, dimension.size(graph.sizes) // dimension.blocks
    block = torch.arange(len(rows)) // (len(rows) // blocks)  # [new outputs]: their new group
    columns = inputs.view(blocks, -1)[block]  # [new outputs, new inputs / groups]: old inputs
    same = (columns >= 0) & (columns // width == rows[:, None] // (outputs // blocks))
    return torch.where(same, columns % width, -1)


def _like(tensor: Tensor, shape: torch.Size, generator: torch.Generator | None) -> Tensor:
    """Return new values with the statistics of a tensor."""
    drawn = torch.empty(shape, dtype=tensor.dtype, device=tensor.device)
    if not tensor.is_floating_point() or sum(size > 1 for size in tensor.shape) < 2:
        return drawn.fill_(tensor.double().mean().item())
    return drawn.normal_(0.0, tensor.std(correction=0).item(), generator=generator)


def _set_attributes(module: nn.Module, dimension: Dimension, size: int) -> None:
    names: list[str] = []
    if isinstance(module, _ConvNd | nn.Linear):
        unit = "channels" if isinstance(module, _ConvNd) else "features"
        names = [f"{dimension.kind}_{unit}"] if dimension.kind in ("in", "out") else []
        if dimension.kind == "in" and not dimension.axes:
            names.append("groups")  # depthwise
    elif isinstance(module, _NormBase):
        names = ["num_features"]
    elif isinstance(module, nn.GroupNorm):
        names = ["num_channels"]
    elif isinstance(module, nn.PReLU):
        names = ["num_parameters"]
    elif isinstance(module, nn.LayerNorm | nn.RMSNorm):
        module.normalized_shape = (size,)
    for name in names:
        setattr(module, name, size)


def _check_fits(model: nn.Module, graph: Graph) -> None:
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    for name in [*graph.shapes, *shapes]:
        have, want = shapes.get(name), graph.shapes.get(name)
        if have != want:
            raise MobileNASError(
                f"the model's {name} has shape {have}, the graph's {want}; extract the graph of "
                "this model, or take graph.at(sizes) after a change"
            )


def _check_kept(graph: Graph, name: str, size: int, chosen: Tensor) -> None:
    old = graph.sizes[name]
    if chosen.shape != (size,) or bool(((chosen < -1) | (chosen >= old)).any()):
        raise MobileNASError(
            f"keep[{name!r}] must have {counted(size, 'channel')}, each below {old} or -1 for a "
            "new one"
        )
