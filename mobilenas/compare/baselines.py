"""What a result is held against: scaled MobileNets and random networks of the same budgets."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from mobilenas.cost import costs
from mobilenas.cost.budget import Budget, Budgets
from mobilenas.spaces import MOBILENETS, PLACEMENTS, MobileArch

_WIDTH_STEP = 0.01
_WIDEST = 6.0


@dataclass(frozen=True, kw_only=True)
class Contender:
    """One network of the comparison, before training."""

    name: str
    """Such as mobilenet_v2 x0.35 or random-3."""
    kind: str
    """found, mobilenet, random or rival."""
    arch: MobileArch
    """The network."""
    seed: int
    """Seed of its training."""

    @property
    def folder(self) -> str:
        """Name of its folder below RUN/compare."""
        return f"{self.name.replace(' ', '-')}-seed-{self.seed}"


def keeps(arch: MobileArch, budgets: Sequence[Budget]) -> bool:
    """Whether an arch keeps every budget."""
    exact = costs(arch)
    return all(getattr(exact, budget.cost) <= budget.limit for budget in budgets)


def scaled_mobilenet(
    name: str,
    budgets: Sequence[Budget],
    image_size: int,
    classes: int,
    placement: str = "early",
) -> tuple[float, MobileArch] | None:
    """Return the largest width multiplier that keeps the budgets, with its arch; None: none does.

    Widths come in hundredths. Rounding to multiples of 8 makes costs rise unevenly, so all are
    tried; of several with the same network the smallest number is named.
    """
    best: tuple[float, MobileArch] | None = None
    for step in range(1, round(_WIDEST / _WIDTH_STEP) + 1):
        width = round(step * _WIDTH_STEP, 2)
        arch = MOBILENETS[name](width, image_size, classes, placement)
        if keeps(arch, budgets):
            best = best if best and best[1] == arch else (width, arch)
        elif width > 1 and best is None:
            break
    return best


def mobilenets(
    names: Sequence[str], budgets: Sequence[Budget], image_size: int, classes: int, seed: int
) -> tuple[list[Contender], list[str]]:
    """Return the baselines that fit, and the names of those that fit at no width.

    On small images each comes with its strides kept early and kept late: which one suits a
    budget differs from network to network, by more than ten points.
    """
    fit: list[Contender] = []
    for name in names:
        for placement in PLACEMENTS:
            scaled = scaled_mobilenet(name, budgets, image_size, classes, placement)
            if scaled is None or any(scaled[1] == other.arch for other in fit):
                continue
            label = f"{name} x{scaled[0]:g}" + (" late" if placement == "late" else "")
            fit.append(Contender(name=label, kind="mobilenet", arch=scaled[1], seed=seed))
    fitting = {contender.name.split()[0] for contender in fit}
    return fit, [name for name in names if name not in fitting]


def random_networks(budgets: Budgets, count: int, seeds: Sequence[int]) -> list[Contender]:
    """Return uniform networks of the space that use at least 90 % of a budget; seeds take turns."""
    source = random.Random(f"random networks/{seeds[0]}")
    return [
        Contender(
            name=f"random-{number + 1}",
            kind="random",
            arch=budgets.space.arch(budgets.random(source)),
            seed=seeds[number % len(seeds)],
        )
        for number in range(count)
    ]
