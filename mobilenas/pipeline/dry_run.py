"""Dry runs: the range of costs, and how long a run would take."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from mobilenas.core.progress import Reporter
from mobilenas.cost.budget import LATENCY
from mobilenas.data import load_data
from mobilenas.data.settings import AUTO
from mobilenas.pipeline.estimate import estimate
from mobilenas.pipeline.image_size import image_sizes
from mobilenas.pipeline.request import ANY_COUNT, Request
from mobilenas.pipeline.run_folder import Run
from mobilenas.pipeline.space import latency_model, make_space
from mobilenas.pipeline.starting import profile_of, read_images, tell_targets
from mobilenas.search.space import SIDES, cost_ranges

_CHOOSE = (
    "A budget decides which of them are searched: set --flops, --params, --memory or, with "
    "--profile, --latency. --image-size sets the side"
)


@dataclass(frozen=True, kw_only=True)
class Outlook(Request):
    """A request that needs no budget."""

    @property
    def _needs_budget(self) -> bool:
        return False


Range = dict[str, float]
"""Values of a cost: `smallest`, `largest` and, if there is one, `budget`."""


@dataclass(frozen=True, kw_only=True)
class DryRun:
    """Result of a dry run."""

    costs: dict[str, Range]
    """Ranges by cost."""
    remarks: list[str]
    """Sentences on budgets that limit nothing."""
    seconds: dict[str, float]
    """Expected seconds by part of `mobilenas run`; empty if no network uses the budgets."""
    image_size: int | None = None
    """Image size, without budgets."""
    sides: dict[int, dict[str, Range]] = field(default_factory=dict)
    """The ranges for other image sizes, without budgets."""

    def to_dict(self) -> dict[str, object]:
        """Return what `--json` prints."""
        plain: dict[str, object] = {**self.costs}
        if self.sides:
            plain["image_size"] = self.image_size
            plain["sides"] = [{"image_size": side} | costs for side, costs in self.sides.items()]
        return plain | {"remarks": self.remarks, "seconds": self.seconds}


def dry_run(request: Request, reporter: Reporter) -> DryRun:
    """Return the range of every cost of the space, and an estimated time from a few steps.

    Without budgets, an `Outlook` has no space yet: the ranges are over all spaces, by image size.
    """
    if not request.budgets and request.space != "cell":
        return _every_budget(request, reporter)
    profile = profile_of(request, reporter)
    tell_targets(request, reporter)
    data = read_images({"": request}, profile, reporter, make_space)
    settings = request.settings(len(data.train))
    torch.set_num_threads(settings.threads)
    latency = latency_model(settings, profile)
    sides = image_sizes(settings, data, latency)
    space = make_space(settings, data.at(sides[-1]) if sides else data, latency)
    run = Run(folder=Path(), settings=settings, reporter=reporter)
    run.__dict__ |= {"data": data, "fingerprint": data.fingerprint, "space": space}
    run.__dict__ |= {"latency": latency, "image_sizes": sides}
    budgets, limits = run.budgets, {budget.cost: budget.limit for budget in request.budgets}
    found: dict[str, Range] = {}
    for cost, table in budgets.tables.items():
        count = float if cost == LATENCY else int
        found[cost] = {
            "smallest": count(table.exact(space.smallest())),
            "largest": count(table.exact(space.largest())),
        }
        if cost in limits:
            found[cost]["budget"] = limits[cost]
    usable = not limits or budgets.utilization(space.largest()) >= budgets.floor
    remarks = budgets.non_binding()
    if sides:
        listed = ", ".join(map(str, sides))
        remarks.append(f"--image-size {AUTO} chooses from {listed}; costs are at {sides[-1]}")
    return DryRun(costs=found, remarks=remarks, seconds=estimate(run) if usable else {})


def _every_budget(request: Request, reporter: Reporter) -> DryRun:
    """Return the ranges of costs over all spaces, for the images' own and common sizes."""
    limited = replace(request, flops=1)  # settings need a budget, which is not used
    settings = limited.settings(ANY_COUNT)
    tell_targets(request, reporter)
    data = load_data(request.data_settings, reporter)
    sides: dict[int, dict[str, Range]] = {
        side: cost_ranges(
            image_size=side,
            classes=len(data.classes),
            in_channels=data.channels,
            activation=settings.activation,
            squeeze=settings.squeeze,
            extra_depthwise=settings.extra_depthwise,
            operations=settings.operations,
        )
        for side in sorted({*SIDES, data.image_size})
    }
    return DryRun(
        costs=sides[data.image_size],
        remarks=[_CHOOSE],
        seconds={},
        image_size=data.image_size,
        sides=sides,
    )
