"""The model from which a search for channel sizes starts."""

from pathlib import Path
from typing import TypeGuard

import torch

from mobilenas.channel_graph.models import FORMS, allow_model, check_exists
from mobilenas.channels.settings import ChannelSettings
from mobilenas.channels.weight_transfer import changed
from mobilenas.core.errors import FileError, MobileNASError
from mobilenas.data import ImageKind
from mobilenas.nn.network import Network
from mobilenas.nn.weights import load_into
from mobilenas.spaces.base import Arch
from mobilenas.spaces.channels.space import Base, ChannelsArch, ChannelsNetwork
from mobilenas.spaces.networks import build, read_arch
from mobilenas.train import load_weights
from mobilenas.train.pretrained import SOURCES, load

UNKNOWN = "model is {!r}: no pretrained network, run folder or arch.json, and not " + FORMS
"""Error for an unknown model, to be formatted with its name."""


def check_start(settings: ChannelSettings) -> None:
    """Raise if model or weights do not exist, before images are read."""
    if settings.model in SOURCES:
        load(settings.model, weights=settings.weights)
        return
    file = _arch_file(settings.model)
    if file is None:
        check_exists(settings.model)
    else:
        read_arch(file)
    if settings.weights is not None and not settings.weights.exists():
        raise FileError(f"{settings.weights} does not exist")


def base_of(model: str, data: ImageKind) -> Base:
    """Return the model of `--model` for these images.

    `model`: a pretrained network, a run folder, an arch.json, torchvision:NAME, or
    package.module:factory, which files of the run may name from then on.
    """
    if model in SOURCES:
        return Base.of(SOURCES[model].arch(data.image_size, len(data.classes)))
    file = _arch_file(model)
    if file is None:
        allow_model(model)
        return Base(
            name=model,
            image_size=data.image_size,
            in_channels=data.channels,
            classes=len(data.classes),
        )
    arch = read_arch(file)
    if has_sizes(arch):
        raise FileError(f"{file} holds channel sizes of {arch.base}; start from that model")
    base = Base.of(arch)
    for name, own, given in (
        ("image_size", arch.image_size, data.image_size),
        ("in_channels", arch.in_channels, data.channels),
        ("classes", arch.classes, len(data.classes)),
    ):
        if own != given:
            raise MobileNASError(f"{name} is {own} in {file} and {given} in {data.name}")
    return base


def _arch_file(model: str) -> Path | None:
    """Return the arch.json of `--model`; None for a model from torchvision or a factory."""
    path = Path(model)
    if path.exists():
        return path / "arch.json" if path.is_dir() else path
    if ":" not in model:
        raise MobileNASError(UNKNOWN.format(model))
    return None


def start_network(base: Base, weights: Path | None, source: str = "") -> ChannelsNetwork | None:
    """Return the model at its own sizes with its given weights; None without weights.

    `source`: name of a pretrained network, whose own weights `weights` replace if given.
    """
    if source in SOURCES:
        return ChannelsNetwork(_pretrained(base, weights, source), base)
    if weights is None:
        return None
    if base.name is not None:
        model = base.module()
        load_into(model, weights, base.name)
    else:
        arch = base.mobile or base.cell
        assert arch is not None
        model = load_weights(arch, weights)
        model.auxiliary = None  # type: ignore[assignment]  # the auxiliary classifier of cells
    return ChannelsNetwork(model, base)


def _pretrained(base: Base, weights: Path | None, source: str) -> Network:
    arch = base.mobile
    assert arch is not None
    _, state = load(source, weights=weights, classes=arch.classes, image_size=arch.image_size)
    network = build(arch)
    network.load_state_dict(state)
    return network


def has_sizes(arch: Arch) -> TypeGuard[ChannelsArch]:
    """Whether an arch is a model at other channel sizes."""
    return arch.family == ChannelsArch.family


def kept_network(arch: ChannelsArch, settings: ChannelSettings) -> ChannelsNetwork | None:
    """Return the initial network of trainings at these sizes; None without given weights.

    Its weights are transferred from those of the model.
    """
    given = start_network(arch.base, settings.weights, settings.model)
    if given is None:
        return None
    generator = torch.Generator().manual_seed(0)
    method = settings.weight_transfer
    model = changed(given.model, arch.base.graph, arch.sizes, method=method, generator=generator)
    return ChannelsNetwork(model, arch.base)
