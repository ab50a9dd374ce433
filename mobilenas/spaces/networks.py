"""Networks of every space: what reads an arch and what builds it, whichever space it is of."""

from pathlib import Path
from typing import Any

from mobilenas.core.errors import FileError
from mobilenas.core.files import read_json
from mobilenas.spaces.arch import MobileArch
from mobilenas.spaces.build import MobileNetwork, Network
from mobilenas.spaces.build_cell import CellNetwork
from mobilenas.spaces.cell import CellArch
from mobilenas.spaces.widths import WidthsArch, WidthsNetwork

Arch = MobileArch | CellArch | WidthsArch
"""One network of any space."""

_MOST_NUMBERS = 2**30
"""A network from a file with more weights, or more numbers in a feature map, is not built."""

_ARCHS: dict[str, type[MobileArch] | type[CellArch] | type[WidthsArch]] = {
    "mobile": MobileArch,
    "cell": CellArch,
    "widths": WidthsArch,
}


def build(arch: Arch) -> Network:
    """Build the module; its start weights come from torch's global generator."""
    if isinstance(arch, WidthsArch):
        return WidthsNetwork.of(arch)
    return CellNetwork(arch) if isinstance(arch, CellArch) else MobileNetwork(arch)


def arch_from_dict(data: Any, source: str = "arch") -> Arch:
    """Read the JSON form of an arch of any space; `source` names the file in errors."""
    if not isinstance(data, dict):
        raise FileError(f"{source}: arch is {data!r}; it must be an object")
    space = data.get("space")
    if not isinstance(space, str) or space not in _ARCHS:
        raise FileError(f"{source}: arch.space is {space!r}; it must be one of {', '.join(_ARCHS)}")
    arch = _ARCHS[space].from_dict(data, source)
    inner = arch.base.mobile or arch.base.cell if isinstance(arch, WidthsArch) else arch
    weights, most = (0, 0) if inner is None else _sizes(inner)
    if max(weights, most) > _MOST_NUMBERS:
        raise FileError(
            f"{source}: the arch has some {weights:,} weights and {most:,} numbers in its largest "
            f"feature map; there must be at most {_MOST_NUMBERS:,}"
        )
    return arch


def _sizes(arch: MobileArch | CellArch) -> tuple[int, int]:
    """Return about how many weights there are, and numbers in the largest feature map."""
    if isinstance(arch, CellArch):
        edges = {place.cell: sum(map(len, place.cell.nodes)) for place in arch.places}
        inputs = [(place, place.in_channels) for place in arch.places]
        weights = sum(p.channels * (a + b + 2 * p.channels * edges[p.cell]) for p, (a, b) in inputs)
        return weights, max(max(ins) * place.in_sides[0] ** 2 for place, ins in inputs)
    side, before = -(-arch.image_size // arch.stem.stride), arch.stem.channels
    weights, maps = 0, [side**2 * before]
    for block in arch.blocks:
        weights += block.hidden * (before + block.kernel**2 + 2 * block.squeeze + block.out)
        weights += before * block.start_kernel**2
        maps.append(side**2 * block.hidden)
        side, before = -(-side // block.stride), block.out
        maps.append(side**2 * block.out)
    head = arch.head
    last = head.hidden * (head.channels + arch.classes) or head.channels * arch.classes
    return weights + before * head.channels + last, max(*maps, side**2 * head.channels)


def read_arch(path: Path) -> Arch:
    """Read an arch from its own JSON file or a run's arch.json (there under the key `arch`)."""
    data = read_json(path)
    return arch_from_dict(data.get("arch", data), str(path))
