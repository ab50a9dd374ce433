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
"""Name of random networks among baselines."""

_Label = TypeVar("_Label")
_WIDTH_STEP = 0.01
_WIDEST = 6.0
_STRIDE = 1.5
_AT_ONCE = 12


@dataclass(frozen=True, kw_only=True)
class ComparedNetwork:
    """One network of the comparison, before training."""

    name: str
    """Such as mobilenet_v2 x0.35 or random-3."""
    kind: str
    """One of `table.KINDS`."""
    arch: Arch
    """The network."""
    seed: int
    """Seed of its training."""
    epochs: int | None = None
    """Epochs of its training; None: the recipe's."""
    network: str | None = None
    """Which of the others it is, where it is one of them trained for longer."""
    begun: Path | None = None
    """A folder of trainings that have begun, where its own may be one of them."""
    source: str | None = None
    """The pretrained network whose weights it starts from; None: its run's, if that has one."""

    @property
    def folder(self) -> str:
        """Name of its folder below RUN/compare."""
        return f"{self.name.replace(' ', '-')}-seed-{self.seed}"


@dataclass(frozen=True, kw_only=True)
class BaselineSettings:
    """Which baselines a result is compared with."""

    mobilenets: tuple[str, ...]
    """Names of MobileNets, each at the largest width that meets the budgets."""
    random: int
    """How many random networks of the budgets."""
    random_search: bool
    """Whether random networks also get the search's time."""
    equal_time: bool
    """Whether the best MobileNet also gets the time of search and final training."""

    def __post_init__(self) -> None:
        """Check the names and the number."""
        for name in self.mobilenets:
            check_choice("baseline", name, (*MOBILENETS, RANDOM))
        check_between(self, "random", 0, 10_000)


def keeps(arch: Arch, budgets: Sequence[Budget]) -> bool:
    """Whether an arch meets every budget that can be counted; latency is measured."""
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
    """Return the largest width multiplier that meets the budgets, with its arch; None: none does.

    Widths come in hundredths. Rounding to multiples of 8 makes costs rise unevenly, so all are
    tried; of several with the same network the smallest number is named. Under a latency budget
    `measure` measures the networks around the limit.
    """
    ladder: list[tuple[float, MobileArch]] = []
    for step in range(1, round(_WIDEST / _WIDTH_STEP) + 1):
        width = round(step * _WIDTH_STEP, 2)
        arch = MOBILENETS[name](width, image_size, classes, placement)
        if keeps(arch, budgets):
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
    """Return a ladder of growing networks up to the largest that was measured to keep the limit.

    Upwards in strides of half again the FLOPs until one is too slow, then between the last two.
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
    """Return the baselines that fit, and the names of those that fit at no width.

    On small images each comes with its strides kept early and kept late: which one suits a
    budget differs from network to network, by more than ten points. Under a latency budget that
    cannot be measured here, none is known to fit.
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
    """Return uniform networks of the space that use at least 90 % of a budget; seeds take turns."""
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
