"""Layer tables for `mobilenas profile flops`, with our count and fvcore's."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mobilenas.channel_graph import load_model
from mobilenas.channel_graph.models import FORMS
from mobilenas.core.errors import MobileNASError
from mobilenas.cost.networks import layer_costs
from mobilenas.nn.costs import LayerCost
from mobilenas.onnx.recount import count_fvcore, count_onnx
from mobilenas.spaces.base import Arch
from mobilenas.spaces.cell.genotypes import CELL_NETWORKS
from mobilenas.spaces.channels.costs import module_layer_costs
from mobilenas.spaces.mobile.mobilenets import MOBILENETS
from mobilenas.spaces.networks import build, read_arch


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One row of the table."""

    name: str
    """Path in the network."""
    flops: int
    """Multiply-adds by our count."""
    params: int
    """Trainable parameters."""
    fvcore_flops: int | None
    """Multiply-adds by fvcore's count; None for ONNX files, which it does not read."""
    out_shape: tuple[int, ...]
    """Shape of the output without the batch."""


@dataclass(frozen=True, kw_only=True)
class Counted:
    """A layer table with totals."""

    name: str
    """The name that the user gave."""
    flops: int
    """Sum of the layers."""
    params: int
    """Sum of the layers."""
    fvcore_flops: int | None
    """Total of fvcore's count."""
    layers: tuple[Layer, ...]
    """In the network's order."""


def count(target: str, **shape: Any) -> Counted:
    """Count a network given by name, arch.json, ONNX file or run folder.

    A name is one of this project's, torchvision:NAME or package.module:factory. `shape` is for
    names only: image_size, classes and, for MobileNets, width.
    """
    if target in MOBILENETS:
        whole = {"width": 1.0, "image_size": 224, "classes": 1000} | shape
        return count_arch(target, MOBILENETS[target](**whole))
    if target in CELL_NETWORKS:
        return count_arch(target, CELL_NETWORKS[target](**shape))
    path = Path(target)
    if ":" in target and not path.exists():
        return _of_model(target, **({"image_size": 224, "classes": None} | shape))
    if shape:
        raise MobileNASError(f"{', '.join(shape)} cannot be combined with {target!r}, only a name")
    if path.is_dir():
        return count_arch(target, read_arch(path / "arch.json"))
    if not path.exists():
        legal = ", ".join((*MOBILENETS, *CELL_NETWORKS))
        raise MobileNASError(
            f"{target!r} is neither a file or run folder, nor one of {legal}, nor {FORMS}"
        )
    return _of_onnx(path) if path.suffix == ".onnx" else count_arch(target, read_arch(path))


def count_arch(name: str, arch: Arch) -> Counted:
    """Count an arch; `name` is for the table."""
    network = build(arch)
    by_module = count_fvcore(network, arch.image_size, arch.in_channels)
    by_layer: Counter[str] = Counter()
    for place, flops in by_module.items():
        by_layer[network.layer_of(place)] += flops
    return _beside(name, layer_costs(arch), by_layer)


def _of_model(name: str, *, image_size: int, classes: int | None) -> Counted:
    model = load_model(name, classes=classes, image_size=image_size)
    rows = module_layer_costs(model, image_size=image_size, in_channels=3)
    return _beside(name, rows, count_fvcore(model, image_size, 3))


def _beside(name: str, ours: Sequence[LayerCost], fvcore: Mapping[str, int]) -> Counted:
    layers = tuple(
        Layer(
            name=layer.name,
            flops=layer.flops,
            params=layer.params,
            fvcore_flops=fvcore.get(layer.name, 0),
            out_shape=layer.out_shape,
        )
        for layer in ours
    )
    return _summed(name, layers, sum(fvcore.values()))


def _of_onnx(path: Path) -> Counted:
    layers = tuple(
        Layer(
            name=layer.name,
            flops=layer.flops,
            params=layer.params,
            fvcore_flops=None,
            out_shape=layer.out_shape,
        )
        for layer in count_onnx(path).layers
    )
    return _summed(str(path), layers, None)


def _summed(name: str, layers: tuple[Layer, ...], fvcore_flops: int | None) -> Counted:
    return Counted(
        name=name,
        flops=sum(layer.flops for layer in layers),
        params=sum(layer.params for layer in layers),
        fvcore_flops=fvcore_flops,
        layers=layers,
    )
