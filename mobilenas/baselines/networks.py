"""Baselines: scaled MobileNets and random networks of the same budgets."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from mobilenas.core.settings import check_between, check_choice
from mobilenas.cost.budget import LATENCY, Budget
from mobilenas.cost.budgets import Budgets
from mobilenas.cost.networks import costs, costs_by_name
from mobilenas.search import MeasureArchs
from mobilenas.spaces.base import Arch
from mobilenas.spaces.mobile.arch import MobileArch
from mobilenas.spaces.mobile.mobilenets import MOBILENETS, PLACEMENTS

RANDOM = "random"
"""Name of the random networks in --baselines."""

_Label = TypeVar("_Label")
_WIDTH_STEP = 0.01
_WIDEST = 6.0
_STRIDE = 1.5
_AT_ONCE = 12


@dataclass(frozen=True, kw_only=True)
class ComparedNetwork:
    """One network of the comparison, before training."""

    name: str
    """Name, such as mobilenet_v2 x0.35 or random-3."""
    kind: str
    """One of `table.KINDS`."""
    arch: Arch
    """Its architecture."""
    seed: int
    """Seed of its training."""
    epochs: int | None = None
    """Epochs of its training; None: the recipe's."""
    network: str | None = None
    """Name of the network that this one is, trained for longer; None for others."""
    begun: Path | None = None
    """Folder of partial trainings, which may include its own first epochs."""
    source: str | None = None
    """The pretrained network whose weights it starts from; None: that of its run, if any."""

    @property
    def folder(self) -> str:
        """Name of its folder below RUN/compare."""
        return f"{self.name.replace(' ', '-')}-seed-{self.seed}"


@dataclass(frozen=True, kw_only=True)
class BaselineSettings:
    """The baselines of a comparison."""

    mobilenets: tuple[str, ...]
    """Names of MobileNets, each at the largest width that meets the budgets."""
    random: int
    """Number of random networks that meet the budgets."""
    random_search: bool
    """Whether there is a random search of equal time."""
    equal_time: bool
    """Whether the best MobileNet is also trained for as long as search and final training."""

    def __post_init__(self) -> None:
        """Check names and number."""
        for name in self.mobilenets:
            check_choice("baseline", name, (*MOBILENETS, RANDOM))
        check_between(self, "random", 0, 10_000)


def meets(arch: Arch, budgets: Sequence[Budget]) -> bool:
    """Whether an arch meets all budgets except latency, which is measured instead."""
    exact = costs_by_name(arch)
    return all(exact[b.cost] <= b.limit for b in budgets if b.cost != LATENCY)


def scaled_mobilenet(
    name: str,
    budgets: Sequence[Budget],
    image_size: int,
    classes: int,
    placement: str = "early",
    measure: MeasureArchs | None = None,
) -> tuple[float, MobileArch] | None:
    """Return the largest width multiplier that meets the budgets, and its arch; None: none does.

    Widths are multiples of 0.01. Rounding to multiples of 8 makes costs rise unevenly, so all are
    tried; of several with the same network the smallest is returned. Under a latency budget,
    `measure` measures the networks around the limit.
    """
    ladder: list[tuple[float, MobileArch]] = []
    for step in range(1, round(_WIDEST / _WIDTH_STEP) + 1):
        width = round(step * _WIDTH_STEP, 2)
        arch = MOBILENETS[name](width, image_size, classes, placement)
        if meets(arch, budgets):
            ladder += [] if ladder and ladder[-1][1] == arch else [(width, arch)]
        elif width > 1 and not ladder:
            break
    limit = next((b.limit for b in budgets if b.cost == LATENCY), None)
    if limit is not None and measure is not None:
        ladder = fast_enough(ladder, limit, measure)
    return ladder[-1] if ladder else None


def fast_enough(
    ladder: list[tuple[_Label, MobileArch]], limit_ms: float, measure: MeasureArchs
) -> list[tuple[_Label, MobileArch]]:
    """Return the part of a ladder of growing networks up to the largest that meets the limit.

    Measures upwards in steps of 1.5 times the FLOPs until one is too slow, then in between.
    """
    flops = [costs(arch).flops for _, arch in ladder]
    place, low, high = 0, -1, len(ladder)
    while place < high:
        (ms,) = measure([ladder[place][1]])
        low, high = (place, high) if ms <= limit_ms else (low, place)
        goal = _STRIDE * flops[place]
        place = next((n for n in range(place + 1, high) if flops[n] >= goal), high)
    between = list(range(low + 1, high))[:: max(1, (high - low) // _AT_ONCE)]
    if between:
        measured = measure([ladder[n][1] for n in between])
        low = max([low, *(n for n, ms in zip(between, measured, strict=True) if ms <= limit_ms)])
    return ladder[: low + 1]


def mobilenets(
    names: Sequence[str],
    budgets: Sequence[Budget],
    image_size: int,
    classes: int,
    seed: int,
    measure: MeasureArchs | None = None,
) -> tuple[list[ComparedNetwork], list[str]]:
    """Return MobileNets that meet the budgets, and the names of those that do so at no width.

    On small images each has two variants, that keep its first or its last strides: which one is
    better differs from network to network, by more than ten points. Under a latency budget that
    cannot be measured here, there are none.
    """
    fit: list[ComparedNetwork] = []
    known = measure is not None or all(budget.cost != LATENCY for budget in budgets)
    for name in names if known else ():
        for placement in PLACEMENTS:
            scaled = scaled_mobilenet(name, budgets, image_size, classes, placement, measure)
            if scaled is None or any(scaled[1] == other.arch for other in fit):
                continue
            label = f"{name} x{scaled[0]:g}" + (" late" if placement == "late" else "")
            fit.append(ComparedNetwork(name=label, kind="mobilenet", arch=scaled[1], seed=seed))
    fitting = {network.name.split()[0] for network in fit}
    return fit, [name for name in names if name not in fitting]


def random_networks(budgets: Budgets, count: int, seeds: Sequence[int]) -> list[ComparedNetwork]:
    """Draw feasible networks of the space uniformly; `seeds` are assigned to them in turn."""
    source = random.Random(f"random networks/{seeds[0]}")
    return [
        ComparedNetwork(
            name=f"random-{number + 1}",
            kind="random",
            arch=budgets.space.arch(budgets.random(source)),
            seed=seeds[number % len(seeds)],
        )
        for number in range(count)
    ]
