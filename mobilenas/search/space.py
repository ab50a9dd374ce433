"""The mobile space for budgets: sized by them, or the nearest of a device profile."""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Unpack

from mobilenas.core.errors import BudgetError, UnreachableError
from mobilenas.core.settings import counted
from mobilenas.cost.budget import COSTS, LATENCY, NO_BUDGET, Budget
from mobilenas.cost.budgets import Budgets
from mobilenas.latency.cost_model import Latency
from mobilenas.latency.profile import ProfileError
from mobilenas.latency.units import space_units
from mobilenas.spaces.mobile.space import MobileSpace
from mobilenas.spaces.mobile.table import CostTable
from mobilenas.spaces.mobile.template import (
    SHAPES,
    Shape,
    SpaceOptions,
    narrowest,
    options_of,
    sized,
    utilization_quantile,
    widest,
)

_DRAWS = 200
SIDES = (224, 192, 160, 128, 112, 96, 80, 64, 48, 32)
"""Common image sizes (sides in pixels), decreasing."""


def space_for(
    budgets: Sequence[Budget],
    latency: Latency | None = None,
    shapes: Sequence[Shape] = SHAPES,
    **options: Unpack[SpaceOptions],
) -> MobileSpace:
    """Return the widest mobile space of which 5 % of uniformly drawn archs meet the budgets.

    `options` are arguments of `mobilenas.spaces.mobile.template.template`. With a profile, it is
    the nearest of the profile's spaces, because no other blocks have been measured.
    """
    if not budgets:
        raise BudgetError(NO_BUDGET)

    def utilizations(space: MobileSpace) -> list[float]:
        tables = [CostTable(space, b.cost, latency if b.cost == LATENCY else None) for b in budgets]
        source = random.Random(0)
        draws = [space.random(source) for _ in range(_DRAWS)]
        return [
            max(t.exact(c) / b.limit for t, b in zip(tables, budgets, strict=True)) for c in draws
        ]

    if latency is None:
        space = sized(utilizations, shapes, **options)
    else:
        spaces = measured_spaces(latency, **options)
        space = min(
            spaces, key=lambda space: abs(math.log(utilization_quantile(utilizations(space))))
        )
    try:
        Budgets(space, budgets, latency).check_reachable()
    except UnreachableError as error:

        def meets_budgets(side: int) -> bool:
            return is_reachable(budgets, **options | {"image_size": side})

        sides = () if latency else SIDES
        raise with_smaller_side(error, options["image_size"], meets_budgets, sides) from error
    return space


def is_reachable(budgets: Sequence[Budget], **options: Unpack[SpaceOptions]) -> bool:
    """Whether the narrowest space for such images has a network within all budgets."""
    small = narrowest(**options)
    return all(CostTable(small, b.cost).minimum() <= b.limit for b in budgets)


def with_smaller_side(
    error: UnreachableError,
    image_size: int,
    meets_budgets: Callable[[int], bool],
    sides: Sequence[int] = SIDES,
) -> UnreachableError:
    """Return the error with a hint: the largest side below `image_size` that meets the budgets."""
    smaller = next((side for side in sides if side < image_size and meets_budgets(side)), None)
    hint = "" if smaller is None else f", or --image-size {smaller}"
    return UnreachableError(f"{error}{hint} (images are {image_size}x{image_size} now)")


def cost_ranges(**options: Unpack[SpaceOptions]) -> dict[str, dict[str, float]]:
    """Return by cost the `smallest` and the `largest` of all networks that a search can return."""
    small, large = narrowest(**options), widest(**options)
    return {
        cost: {
            "smallest": round(CostTable(small, cost).minimum()),
            "largest": round(CostTable(large, cost).exact(large.largest())),
        }
        for cost in COSTS
    }


def measured_spaces(
    latency: Latency,
    *,
    image_size: int,
    classes: int,
    in_channels: int = 3,
    activation: str = "hard_swish",
    squeeze: str = "searched",
    extra_depthwise: str = "off",
    operations: tuple[str, ...] = (),
) -> list[MobileSpace]:
    """Return the profile's spaces for such images; ProfileError says what it lacks."""
    profile, precision = latency.profile, latency.precision
    if operations:
        raise ProfileError(f"profile {profile.name} has no blocks with {', '.join(operations)}")
    requested = (image_size, in_channels, activation)
    spaces = [
        replace(space, classes=classes, squeeze=options_of("squeeze", squeeze))
        for space in profile.spaces
        if (space.image_size, space.in_channels, space.activation) == requested
    ]
    lacking = [profile.lacking(space_units(space), precision) for space in spaces]
    whole = [space for space, units in zip(spaces, lacking, strict=True) if not units]
    if whole:
        return whole
    # a profile has one image size
    sizes = {space.image_size for space in profile.spaces}
    name = profile.name if image_size in sizes else f"{profile.name}-{image_size}"
    channels = f" --channels {in_channels}" if in_channels != 3 else ""
    command = (
        f"mobilenas profile latency --space mobile --image-size {image_size}{channels} "
        f"--precision {precision} --activation {activation} --name {name}"
    )
    missing = min(lacking, key=len) if lacking else []
    what = (
        f"{missing[0].key!r} and {counted(len(missing) - 1, 'other block')}"
        if missing
        else "any block"
    )
    raise ProfileError(
        f"profile {profile.name} lacks {what} of the {precision} space for {image_size}x"
        f"{image_size} images with {counted(in_channels, 'channel')} and {activation}; `{command}` "
        "measures it"
    )
