"""Networks of every space: what reads an arch and what builds it, whichever space it is of."""

from pathlib import Path
from typing import Any

from mobilenas.errors import FileError
from mobilenas.files import read_json
from mobilenas.spaces.arch import MobileArch
from mobilenas.spaces.build import MobileNetwork, Network
from mobilenas.spaces.build_cell import CellNetwork
from mobilenas.spaces.cell import CellArch
from mobilenas.spaces.widths import WidthsArch, WidthsNetwork

Arch = MobileArch | CellArch | WidthsArch
"""One network of any space."""

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
    return _ARCHS[space].from_dict(data, source)


def read_arch(path: Path) -> Arch:
    """Read an arch from its own JSON file or a run's arch.json (there under the key `arch`)."""
    data = read_json(path)
    return arch_from_dict(data.get("arch", data), str(path))
