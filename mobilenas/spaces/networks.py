"""Reading and building archs of any family."""

from pathlib import Path

from mobilenas.core.errors import FileError
from mobilenas.core.files import read_json
from mobilenas.nn.network import Network
from mobilenas.spaces.base import Arch, families, family, family_of

_MAX_NUMBERS = 2**30
"""Limit for networks from files, in weights and in values of a feature map."""


def build(arch: Arch) -> Network:
    """Build the module of an arch; weights are drawn from torch's global generator."""
    return family_of(arch).build(arch)


def arch_from_dict(data: object, source: str = "arch") -> Arch:
    """Read the JSON form of an arch of any family; `source` names the file in errors."""
    if not isinstance(data, dict):
        raise FileError(f"{source}: arch is {data!r}; it must be an object")
    space = data.get("space")
    if not isinstance(space, str) or space not in families():
        names = ", ".join(families())
        raise FileError(f"{source}: arch.space is {space!r}; it must be one of {names}")
    arch: Arch = family(space).arch.from_dict(data, source)
    weights, largest = family(space).rough_size(arch)
    if max(weights, largest) > _MAX_NUMBERS:
        raise FileError(
            f"{source}: the arch has some {weights:,} weights and {largest:,} numbers in its "
            f"largest feature map; there must be at most {_MAX_NUMBERS:,}"
        )
    return arch


def read_arch(path: Path) -> Arch:
    """Read an arch from its own JSON file, or from a run's arch.json (key `arch`)."""
    data = read_json(path, oldest=1)
    return arch_from_dict(data.get("arch", data), str(path))
