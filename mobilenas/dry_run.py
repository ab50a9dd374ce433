"""What a run could reach and how long it would take, before it is started."""

from pathlib import Path
from typing import Any

import torch

from mobilenas.estimate import estimate
from mobilenas.progress import Reporter
from mobilenas.request import Request, profile_of, read_images, tell_targets
from mobilenas.runs import Run, latency_model, make_space


def dry_run(request: Request, reporter: Reporter) -> dict[str, Any]:
    """Return the range of every cost of the space, and an estimate of the time from a few steps.

    By cost `smallest`, `largest` and, where there is one, `budget`. `remarks` has a sentence for
    each budget that limits nothing, `seconds` each part of `mobilenas run`; it is empty where no
    network uses the budgets.
    """
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
        found[cost] = {name: table.exact(choice) for name, choice in ends.items()}
        if cost in limits:
            found[cost]["budget"] = limits[cost]
    usable = not limits or budgets.load(space.largest()) >= budgets.floor
    return found | {
        "remarks": budgets.unlimiting(),
        "seconds": estimate(run) if usable else {},
    }
