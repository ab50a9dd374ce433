"""The subnetworks of a pretrained network for budgets, and the image sizes to search them at."""

from collections.abc import Callable, Sequence
from pathlib import Path

from msgspec import UNSET, UnsetType

from mobilenas.core.errors import BudgetError, MobileNASError, UnreachableError
from mobilenas.cost.budget import Budget
from mobilenas.cost.budgets import FLOOR, Budgets
from mobilenas.latency.cost_model import Latency
from mobilenas.latency.profile import ProfileError
from mobilenas.latency.units import Unit, space_units
from mobilenas.spaces.mobile.arch import MobileArch
from mobilenas.spaces.subnetworks.space import SubnetworkSpace
from mobilenas.train.pretrained import source_of

_STEP = 16
_MIN_SIDE = 32
_MAX_CUT = 3.0
"""Maximum utilization of the whole network at a side that is searched: smaller images cost less
accuracy than omitting most of the network (docs/results/pretrained.md)."""


def sides_up_to(image_size: int) -> tuple[int, ...]:
    """Return the sides to choose from: 32, 48 and so on below `image_size`, and `image_size`."""
    return (*range(_MIN_SIDE, image_size, _STEP), image_size)


def parts_up_to(name: str, image_size: int, classes: int) -> SubnetworkSpace:
    """Return all subnetworks of a pretrained network at the sides up to `image_size`."""
    _check_side(image_size)
    source = source_of(name)
    return _space(lambda side: source.arch(side, classes), sides_up_to(image_size))


def measured_sides(
    latency: Latency, name: str, classes: int, sides: Sequence[int]
) -> tuple[int, ...]:
    """Return the `sides` at which a profile has all units of a pretrained network's subnetworks.

    Raises ProfileError if there are none.
    """
    source, profile, precision = source_of(name), latency.profile, latency.precision

    def lacking(side: int) -> list[Unit]:
        space = _space(lambda side: source.arch(side, classes), [side])
        return profile.lacking(space_units(space), precision)

    found = tuple(side for side in sides if not lacking(side))
    if not found:
        side = sides[-1]
        raise ProfileError(
            f"profile {profile.name} lacks {lacking(side)[0].key!r} and other {precision} units of "
            f"{name} at {side}x{side}; `mobilenas profile latency --pretrained {name} --image-size "
            f"{side} --precision {precision} --name {profile.name}-{Path(name).name}` measures them"
        )
    return found


def subnetwork_space_for(
    budgets: Sequence[Budget],
    whole: Callable[[int], MobileArch],
    sides: Sequence[int],
    latency: Latency | None = None,
    stage_shares: tuple[float, ...] | None = None,
) -> SubnetworkSpace:
    """Return the subnetworks of a network at those of the `sides` that suit the budgets.

    `whole` returns the network at a side. A side suits if its smallest subnetwork meets the budgets
    and the whole network's utilization is 0.9 to 3; if that holds for no side, those of the lowest
    utilization above 0.9 do. `stage_shares` are the options for the widths of stages, as shares;
    None: they are not searched.

    Raises UnreachableError if no subnetwork meets the budgets, and BudgetError if they limit
    nothing.
    """
    _check_side(min(sides))
    shares = UNSET if stage_shares is None else stage_shares
    each = {
        side: Budgets(_space(whole, [side], shares), budgets, latency) for side in sorted(sides)
    }
    reachable = {side: at for side, at in each.items() if _is_reachable(at)}
    if not reachable:
        side, at = next(iter(each.items()))
        try:
            at.check_reachable()
        except UnreachableError as error:
            raise UnreachableError(f"{error} (subnetworks at {side}x{side})") from error
    used = {side: at.utilization(at.space.largest()) for side, at in reachable.items()}
    if max(used.values()) < FLOOR:
        side = max(reachable)
        remarks = "; ".join(reachable[side].non_binding())
        raise BudgetError(f"{remarks}, or use images larger than {side}x{side}")
    suited = [side for side, share in used.items() if FLOOR <= share <= _MAX_CUT]
    if not suited:
        lowest = min(share for share in used.values() if share >= FLOOR)
        suited = [side for side, share in used.items() if share == lowest]
    return _space(whole, suited, shares)


def _check_side(side: int) -> None:
    if side < _MIN_SIDE:
        raise MobileNASError(
            f"images of {side}x{side} are too small for a pretrained network: "
            f"--image-size {_MIN_SIDE} or more"
        )


def _space(
    whole: Callable[[int], MobileArch],
    sides: Sequence[int],
    stage_shares: tuple[float, ...] | UnsetType = UNSET,
) -> SubnetworkSpace:
    return SubnetworkSpace(whole=whole(sides[-1]), sides=tuple(sides), stage_shares=stage_shares)


def _is_reachable(budgets: Budgets) -> bool:
    return all(budgets.tables[b.cost].minimum() <= b.limit for b in budgets.budgets)
