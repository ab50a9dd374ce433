"""Random networks of a measured space, made of blocks that the device can run."""

import random
from collections.abc import Collection
from dataclasses import replace

from mobilenas.latency.units import MeasuredSpace, arch_units
from mobilenas.spaces.base import AnySpace
from mobilenas.spaces.mobile.arch import MobileArch
from mobilenas.spaces.subnetworks.space import SubnetworkSpace

_DRAWS = 20  # tries for each network
_REPAIRS = 50  # redraws of the blocks that a device cannot run
_CHAIN_ROWS = ("kernel", "expansion", "squeeze", "start", "keep")
_PART_ROWS = ("hidden", "kernel", "squeeze")


def draw_networks(
    space: MeasuredSpace, number: int, seed: int, excluded: Collection[str] = ()
) -> list[MobileArch]:
    """Draw distinct networks with the space's distribution, except for `excluded` unit keys.

    Blocks with such a key are redrawn. Returns fewer if the space has no more.
    """
    source = random.Random(seed)
    found: dict[MobileArch, None] = {}
    for _ in range(_DRAWS * number):
        arch = _draw(space, source, excluded) if len(found) < number else None
        if arch:
            found[arch] = None
    return list(found)


def _draw(space: AnySpace, source: random.Random, excluded: Collection[str]) -> MobileArch | None:
    of_parts = isinstance(space, SubnetworkSpace)
    choice = space.random(source)
    for _ in range(_REPAIRS):
        arch: MobileArch = space.arch(choice)
        blocks = [unit for unit in arch_units(arch) if unit.kind == "block"]
        kept = [
            number
            for number in range(len(space.slots))
            if (space.has_block(choice, number) if of_parts else choice.keep[number])
        ]
        wrong = {n for n, unit in zip(kept, blocks, strict=True) if unit.key in excluded}
        if not wrong:
            return arch
        fresh = space.random(source)
        mixed = {
            name: tuple(
                new if number in wrong else old
                for number, (old, new) in enumerate(
                    zip(getattr(choice, name), getattr(fresh, name), strict=True)
                )
            )
            for name in (_PART_ROWS if of_parts else _CHAIN_ROWS)
        }
        choice = replace(choice, **mixed)
    return None
