"""Exact costs of a model at the channel sizes of an arch, layer by layer.

Counting rule: one multiply-add is one FLOP. Layers are counted in a trace without data,
independently of the graph's totals, with the feature maps alive while each runs. Norms, activations
and views work in place, and so does an addition to a map that nothing else reads; any other
operation writes a map, whose memory counts in the row of the last layer before it.
"""

from dataclasses import replace
from functools import lru_cache

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.conv import _ConvNd

from mobilenas.channel_graph.tracing import BATCH, Traced, trace
from mobilenas.core.errors import BudgetError
from mobilenas.cost.projection import Sizes
from mobilenas.nn.costs import BYTES_PER_VALUE, LayerCost, alive_bytes
from mobilenas.spaces.channels.space import Base, ChannelsArch, ChannelsSpace

CHANNELS_COSTS = ("flops", "params")
"""Costs of channel sizes that are counted, without running the model."""


class ChannelsTable:
    """A cost of the channels space, computed from the groups without building a model."""

    is_peak = False

    def __init__(self, space: ChannelsSpace, cost: str) -> None:
        if cost not in CHANNELS_COSTS:
            raise BudgetError(
                f"a {cost} budget is for the mobile space only; channel sizes have "
                f"{' and '.join(CHANNELS_COSTS)}"
            )
        self.space, self.cost = space, cost

    def exact(self, sizes: Sizes) -> int:
        """Return the cost of these sizes."""
        count = getattr(self.space.base.graph, self.cost)
        return int(count(sizes))

    def minimum(self) -> int:
        """Return the smallest cost."""
        return self.exact(self.space.smallest())


def channels_layer_costs(arch: ChannelsArch) -> list[LayerCost]:
    """Return all convolutions and linear layers, each with the norms after it, in order."""
    return list(_layer_costs(arch.base, tuple(arch.sizes.items())))


@lru_cache(maxsize=64)
def _layer_costs(base: Base, sizes: tuple[tuple[str, int], ...]) -> tuple[LayerCost, ...]:
    with torch.random.fork_rng(devices=[]):  # the drawn weights are not used
        model = base.resized(dict(sizes))
    rows = module_layer_costs(model, image_size=base.image_size, in_channels=base.in_channels)
    return tuple(rows)


def module_layer_costs(model: nn.Module, *, image_size: int, in_channels: int) -> list[LayerCost]:
    """Return the layers of a module that torch.fx can trace, as `channels_layer_costs` does."""
    traced = trace(model, image_size=image_size, in_channels=in_channels)
    rows: list[LayerCost] = []
    counted: set[int] = set()
    early = 0  # params before the first layer
    for node, alive in zip(traced.graph.nodes, _alive(traced), strict=True):
        params = _new_params(traced, node, counted)
        name, layer = traced.layer(node) or ("", None)
        if isinstance(layer, _ConvNd | nn.Linear):
            result = traced.results[node]
            rows.append(
                LayerCost(
                    name=name,
                    flops=layer.weight.numel() * _positions(result, layer),
                    params=params + early,
                    memory=alive,
                    out_shape=_shape(result),
                )
            )
            early = 0
        elif rows:
            last = rows[-1]
            rows[-1] = replace(last, params=last.params + params, memory=max(last.memory, alive))
        else:
            early += params
    return rows


def _positions(result: Tensor, layer: _ConvNd | nn.Linear) -> int:
    """Return the number of outputs per channel of a layer, for one image."""
    channels = layer.out_channels if isinstance(layer, _ConvNd) else layer.out_features
    return result.numel() // (BATCH * channels)


def _shape(result: Tensor) -> tuple[int, int, int]:
    channels, *spatial = result.shape[1:]
    height, width = (*spatial, 1, 1)[:2]
    return int(channels), int(height), int(width)


def _new_params(traced: Traced, node: fx.Node, counted: set[int]) -> int:
    """Return the number of a node's parameters, without those of earlier nodes."""
    found: list[Tensor] = []
    if node.op == "call_module":
        found = list(traced.modules[str(node.target)].parameters())
    elif node.op != "get_attr":  # counted with the node that uses it
        own = [source for source in node.all_input_nodes if source.op == "get_attr"]
        values = [traced.results[source] for source in own]
        found = [value for value in values if isinstance(value, nn.Parameter)]
    fresh = [tensor for tensor in found if id(tensor) not in counted]
    counted.update(map(id, fresh))
    return sum(tensor.numel() for tensor in fresh)


def _alive(traced: Traced) -> list[int]:
    """Return the bytes of maps alive while each node runs, for one image."""
    nodes = list(traced.graph.nodes)
    buffers: dict[fx.Node, fx.Node] = {}
    for node in nodes:
        buffers[node] = _buffer(traced, node, buffers)
    last = {buffers[source]: place for place, node in enumerate(nodes) for source in _maps(node)}
    maps = ((_size_bytes(traced.results[b]), nodes.index(b), end) for b, end in last.items())
    return alive_bytes(maps, len(nodes))


def _maps(node: fx.Node) -> list[fx.Node]:
    return [source for source in node.all_input_nodes if source.op != "get_attr"]


def _buffer(traced: Traced, node: fx.Node, buffers: dict[fx.Node, fx.Node]) -> fx.Node:
    """Return the node that allocated the memory of a node's result: itself, or a source."""
    sources = _maps(node)
    result = traced.results[node]
    if not sources or not isinstance(result, Tensor):
        return buffers[sources[0]] if sources else node
    _, layer = traced.layer(node) or ("", None)
    name = (type(layer).__name__ if layer is not None else str(node.target)).lower()
    if isinstance(layer, _ConvNd | nn.Linear) or "pool" in name:
        return node
    if len(sources) > 1 and "add" not in name:
        return node
    same = [
        source
        for source in sources
        if _size_bytes(traced.results[source]) == _size_bytes(result)
        and list(source.users)[-1] is node  # all other reads of that map are done
    ]
    return buffers[same[0]] if same else node


def _size_bytes(result: object) -> int:
    return result.numel() // BATCH * BYTES_PER_VALUE if isinstance(result, Tensor) else 0
