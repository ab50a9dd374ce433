"""Makes the space of a job from its settings and the properties of its images."""

from collections.abc import Callable
from functools import partial
from typing import TypeVar

from mobilenas.channels.checks import check_base
from mobilenas.channels.start import base_of, start_network
from mobilenas.core.errors import MobileNASError, UnreachableError
from mobilenas.cost.budget import PENALTY
from mobilenas.cost.budgets import Budgets
from mobilenas.data import ImageKind
from mobilenas.latency.cost_model import Latency
from mobilenas.latency.profile import Profile, ProfileError
from mobilenas.pipeline.settings import RunSettings
from mobilenas.search import space_for
from mobilenas.search.space import with_smaller_side
from mobilenas.search.space_cells import cell_space_for
from mobilenas.search.space_subnetworks import (
    measured_sides,
    sides_up_to,
    subnetwork_space_for,
)
from mobilenas.spaces.base import Space
from mobilenas.spaces.cell.space import CellSpace
from mobilenas.spaces.channels.space import ChannelsSpace
from mobilenas.spaces.subnetworks.space import SubnetworkSpace
from mobilenas.train.pretrained import source_of

_S = TypeVar("_S")


def latency_model(settings: RunSettings, profile: Profile | None) -> Latency | None:
    """Return the latency model for the requested precision; None without a profile."""
    if profile is None:
        return None
    if not profile.has(settings.precision):
        raise ProfileError(
            f"profile {profile.name} has no {settings.precision} times; it has "
            f"{', '.join(profile.blocks)}"
        )
    return Latency(profile, settings.precision)


def usable_space(settings: RunSettings, data: ImageKind, latency: Latency | None = None) -> Space:
    """Return the space, after checking that a network of it uses the budgets."""
    space = make_space(settings, data, latency)
    filled = settings.search.constraint != PENALTY
    Budgets(space, settings.budgets, latency, filled=filled).check_used()
    return space


def make_space(settings: RunSettings, data: ImageKind, latency: Latency | None = None) -> Space:
    """Return the space for a job's budgets and images."""
    if settings.channel_sizes is not None:
        space = _hinting(_channels_space, settings, data)
        how = settings.channel_sizes
        check_base(space.base, start_network(space.base, how.weights, how.model))
        return space
    if settings.space == CellSpace.family:
        return _hinting(_cell_space, settings, data)
    if settings.pretrained is not None:
        return _hinting(partial(_subnetwork_space, latency), settings, data)
    return space_for(
        settings.budgets,
        latency,
        image_size=data.image_size,
        classes=len(data.classes),
        in_channels=data.channels,
        activation=settings.activation,
        squeeze=settings.squeeze,
        extra_depthwise=settings.extra_depthwise,
        operations=settings.operations,
    )


def check_side(space: Space, data: ImageKind) -> None:
    """Raise unless the images have the side of the space."""
    side = space.arch(space.largest()).image_size
    if data.image_size != side:
        raise MobileNASError(
            f"the images are {data.image_size}x{data.image_size}, the space is for {side}x{side}: "
            f"make it with these images, or use load_data(..., image_size={side})"
        )


def _hinting(
    make: Callable[[RunSettings, ImageKind, int], _S], settings: RunSettings, data: ImageKind
) -> _S:
    """Return the result of `make`; an UnreachableError suggests a smaller image size."""
    try:
        return make(settings, data, data.image_size)
    except UnreachableError as error:

        def meets_budgets(side: int) -> bool:
            try:
                make(settings, data, side)
            except MobileNASError:  # a model may accept only one size
                return False
            return True

        raise with_smaller_side(error, data.image_size, meets_budgets) from error


def _cell_space(settings: RunSettings, data: ImageKind, image_size: int) -> CellSpace:
    given = {name: getattr(settings.cell, name) for name in vars(settings.cell)}
    return cell_space_for(
        settings.budgets,
        image_size=image_size,
        classes=len(data.classes),
        in_channels=data.channels,
        **given,
    )


def _subnetwork_space(
    latency: Latency | None, settings: RunSettings, data: ImageKind, image_size: int
) -> SubnetworkSpace:
    assert settings.pretrained is not None
    name, classes = settings.pretrained.name, len(data.classes)
    source = source_of(name)
    is_fixed = settings.data.image_size is not None
    sides = (image_size,) if is_fixed else sides_up_to(image_size)
    if latency is not None:
        sides = measured_sides(latency, name, classes, sides)
    return subnetwork_space_for(
        settings.budgets,
        lambda side: source.arch(side, classes),
        sides,
        latency,
        settings.pretrained.stage_widths,
    )


def _channels_space(settings: RunSettings, data: ImageKind, image_size: int) -> ChannelsSpace:
    assert settings.channel_sizes is not None
    space = ChannelsSpace(base=base_of(settings.channel_sizes.model, data.at(image_size)))
    Budgets(space, settings.budgets).check_reachable()
    return space
