"""What a run could reach and how long it would take, before it is started."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from mobilenas.core.progress import Reporter
from mobilenas.cost.budget import LATENCY
from mobilenas.data import load_data
from mobilenas.pipeline.estimate import estimate
from mobilenas.pipeline.request import ANY_COUNT, Request
from mobilenas.pipeline.run_folder import Run, latency_model, make_space
from mobilenas.pipeline.starting import profile_of, read_images, tell_targets
from mobilenas.search.space import SIDES, reachable

_CHOOSE = (
    "A budget decides which of them are searched: set --flops, --params, --memory or, with "
    "--profile, --latency. --image-size sets the side"
)


@dataclass(frozen=True, kw_only=True)
class Outlook(Request):
    """A job of which nothing need be limited yet."""

    @property
    def _needs_budget(self) -> bool:
        return False


def dry_run(request: Request, reporter: Reporter) -> dict[str, Any]:
    """Return the range of every cost of the space, and an estimate of the time from a few steps.

    By cost `smallest`, `largest` and, where there is one, `budget`. `remarks` has a sentence for
    each budget that limits nothing, `seconds` each part of `mobilenas run`; it is empty where no
    network uses the budgets. An `Outlook` without any budget has no space yet: the ranges are those
    of all spaces, also by side in `sides`.
    """
    if not request.budgets and request.space != "cell":
        return _every_budget(request, reporter)
    profile = profile_of(request, reporter)
    tell_targets(request, reporter)
    data = read_images({"": request}, profile, reporter, make_space)
    settings = request.settings(len(data.train))
    torch.set_num_threads(settings.threads)
    latency = latency_model(settings, profile)
    space = make_space(settings, data, latency)
    run = Run(folder=Path(), settings=settings, reporter=reporter)
    run.__dict__ |= {"data": data, "space": space, "latency": latency}
    budgets, limits = run.budgets, {budget.cost: budget.limit for budget in request.budgets}
    found: dict[str, Any] = {}
    for cost, table in budgets.tables.items():
        ends = {"smallest": space.smallest(), "largest": space.largest()}
        count = float if cost == LATENCY else int
        found[cost] = {name: count(table.exact(choice)) for name, choice in ends.items()}
        if cost in limits:
            found[cost]["budget"] = limits[cost]
    usable = not limits or budgets.load(space.largest()) >= budgets.floor
    return found | {
        "remarks": budgets.unlimiting(),
        "seconds": estimate(run) if usable else {},
    }


def _every_budget(request: Request, reporter: Reporter) -> dict[str, Any]:
    """Return what any budget could ask for, with images of the own and of the usual sides."""
    limited = replace(request, flops=1)  # settings are not made without, and nothing reads it
    settings = limited.settings(ANY_COUNT)
    tell_targets(request, reporter)
    data = load_data(request.data_settings, reporter)
    sides = {
        side: reachable(
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
    return sides[data.image_size] | {
        "image_size": data.image_size,
        "sides": [{"image_size": side} | costs for side, costs in sides.items()],
        "remarks": [_CHOOSE],
        "seconds": {},
    }
