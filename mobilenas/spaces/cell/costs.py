"""Exact costs of a cell arch, layer by layer, without building it.

Counting rule: one multiply-add is one FLOP. The auxiliary classifier, which only training uses, is
not counted. A feature map is in memory from the step that writes it to the last that reads it; ReLU
and norms work in place. Pools, sums and concatenations write maps but have no row of their own:
their memory counts in the row before.
"""

from dataclasses import dataclass, replace

from mobilenas.nn.costs import BYTES_PER_VALUE, LayerCost, alive_bytes, output_side
from mobilenas.spaces.cell.arch import INPUTS, CellArch, Edge, PlacedCell


def cell_layer_costs(arch: CellArch) -> list[LayerCost]:
    """Return all layers (convolutions with their norm, classifier) in the order they run."""
    tape = _Tape()
    image = tape.map((), arch.in_channels, arch.image_size)
    before, last = _stems(tape, image, arch)
    for number, placed in enumerate(arch.cells):
        before, last = last, _cell(tape, f"cells.{number}", placed, (before, last))
    features = arch.cells[-1].out_channels
    # the mean reads the last map; the classifier reads one value per channel
    pooled = tape.map((last,), features, 1)
    tape.linear("classifier", pooled, arch.classes)
    return tape.layers()


def ends_cost(arch: CellArch, cost: str, features: int) -> int:
    """Return the cost of stems and classifier, if the last cell has `features` output channels.

    `cost` is flops or params. This, `entrance_cost` and `edge_cost` add up to `cell_layer_costs`.
    """
    tape = _Tape()
    _stems(tape, tape.map((), arch.in_channels, arch.image_size), arch)
    tape.linear("classifier", tape.map((), features, 1), arch.classes)
    return tape.total(cost)


def entrance_cost(placed: PlacedCell, cost: str, number: int, channels: int) -> int:
    """Return the cost of the entrance of input `number` (0 or 1), which has `channels` channels."""
    tape = _Tape()
    _entrance(tape, "enter", placed, number, tape.map((), channels, placed.in_sides[number]))
    return tape.total(cost)


def edge_cost(placed: PlacedCell, cost: str, edge: Edge) -> int:
    """Return the cost of an edge of a cell."""
    tape = _Tape()
    side = placed.in_sides[1] if edge.input < INPUTS else placed.out_side
    read = tape.map((), placed.channels, side)
    _edge(tape, "edge", edge, placed, {edge.input: read})
    return tape.total(cost)


@dataclass(frozen=True, kw_only=True)
class _Step:
    """A step that writes one map; both have the same number."""

    reads: tuple[int, ...]
    channels: int
    side: int
    name: str
    """Name of its row; empty for a step without weights."""
    flops: int
    params: int

    @property
    def size_bytes(self) -> int:
        return self.channels * self.side**2 * BYTES_PER_VALUE


class _Tape:
    """The steps of a network in order; a map has the number of the step that writes it."""

    def __init__(self) -> None:
        self._steps: list[_Step] = []

    def map(
        self,
        reads: tuple[int, ...],
        channels: int,
        side: int,
        *,
        name: str = "",
        flops: int = 0,
        params: int = 0,
    ) -> int:
        self._steps.append(
            _Step(reads=reads, channels=channels, side=side, name=name, flops=flops, params=params)
        )
        return len(self._steps) - 1

    def conv(
        self,
        name: str,
        read: int,
        channels: int,
        kernel: int = 1,
        stride: int = 1,
        *,
        groups: int = 1,
        norm: bool = True,
    ) -> int:
        source = self._steps[read]
        side = output_side(source.side, stride)
        weights = channels * (source.channels // groups) * kernel**2
        params = weights + 2 * channels if norm else weights
        return self.map((read,), channels, side, name=name, flops=weights * side**2, params=params)

    def linear(self, name: str, read: int, classes: int) -> int:
        features = self._steps[read].channels
        params = (features + 1) * classes
        return self.map((read,), classes, 1, name=name, flops=features * classes, params=params)

    def side(self, number: int) -> int:
        return self._steps[number].side

    def total(self, cost: str) -> int:
        return sum(getattr(step, cost) for step in self._steps)

    def layers(self) -> list[LayerCost]:
        """Return the rows of the steps with weights."""
        count = len(self._steps)
        last = {read: number for number, step in enumerate(self._steps) for read in step.reads}
        maps = ((s.size_bytes, n, last.get(n, count - 1)) for n, s in enumerate(self._steps))
        rows: list[LayerCost] = []
        for step, alive in zip(self._steps, alive_bytes(maps, count), strict=True):
            if step.name:
                row = LayerCost(
                    name=step.name,
                    flops=step.flops,
                    params=step.params,
                    memory=alive,
                    out_shape=(step.channels, step.side, step.side),
                )
                rows.append(row)
            elif rows:
                rows[-1] = replace(rows[-1], memory=max(rows[-1].memory, alive))
        return rows


def _stems(tape: _Tape, image: int, arch: CellArch) -> tuple[int, int]:
    """Return the maps that the first cell reads."""
    channels = arch.channels
    if arch.stem == "cifar":
        stem = tape.conv("stem", image, 3 * channels, 3)
        return stem, stem
    half = tape.conv("stem.0", image, channels // 2, 3, 2)
    quarter = tape.conv("stem.1", half, channels, 3, 2)
    return quarter, tape.conv("second_stem", quarter, channels, 3, 2)


def _cell(tape: _Tape, name: str, placed: PlacedCell, inputs: tuple[int, int]) -> int:
    states: dict[int, int] = {}
    for number, read in enumerate(inputs):
        if number in placed.cell.reads:
            states[number] = _entrance(tape, f"{name}.enter.{number}", placed, number, read)
    for number, edges in enumerate(placed.cell.nodes):
        node = number + INPUTS
        for index, edge in enumerate(edges):
            result = _edge(tape, f"{name}.nodes.{number}.{index}", edge, placed, states)
            if node in states:
                result = tape.map((states[node], result), placed.channels, placed.out_side)
            states[node] = result
    parts = tuple(states[output] for output in placed.cell.outputs)
    return tape.map(parts, placed.out_channels, placed.out_side)


def _entrance(tape: _Tape, name: str, placed: PlacedCell, number: int, read: int) -> int:
    if placed.in_sides[number] != placed.in_sides[1]:
        return _factorized_reduce(tape, name, read, placed.channels)
    return tape.conv(name, read, placed.channels)


def _edge(tape: _Tape, name: str, edge: Edge, placed: PlacedCell, states: dict[int, int]) -> int:
    read, channels = states[edge.input], placed.channels
    stride = placed.stride if edge.input < INPUTS else 1
    if edge.operation == "skip_connect":
        return read if stride == 1 else _factorized_reduce(tape, name, read, channels)
    kind, _, size = edge.operation.rpartition("_")
    if kind in ("avg_pool", "max_pool"):
        return tape.map((read,), channels, placed.out_side)
    kernel = int(size[0])
    if kind == "dil_conv":
        return _separable(tape, name, read, channels, kernel, stride)
    first = _separable(tape, f"{name}.0", read, channels, kernel, stride)
    return _separable(tape, f"{name}.1", first, channels, kernel, 1)


def _separable(tape: _Tape, name: str, read: int, channels: int, kernel: int, stride: int) -> int:
    depthwise = tape.conv(
        f"{name}.depthwise", read, channels, kernel, stride, groups=channels, norm=False
    )
    return tape.conv(f"{name}.project", depthwise, channels)


def _factorized_reduce(tape: _Tape, name: str, read: int, channels: int) -> int:
    # half of the norm after the concatenation counts with each half of the channels
    even = tape.conv(f"{name}.even", read, channels // 2, 1, 2)
    odd = tape.conv(f"{name}.odd", read, channels // 2, 1, 2)
    return tape.map((even, odd), channels, tape.side(odd))
