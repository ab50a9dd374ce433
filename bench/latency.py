"""A profile made, tested and used: how long it takes, how far it is off, whether budgets hold.

    python bench/latency.py [--side 224] [--flops 300000000] [--precision fp32] [--budgets 10]

The machine should have nothing else to do. Writes bench/latency-SIDE-PRECISION.json.
"""

import argparse
import random
import resource
import tempfile
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import torch
from run import Bench

from mobilenas.core.files import write_json
from mobilenas.cost.budget import Budget
from mobilenas.cost.budgets import Budgets, ConstraintLoss
from mobilenas.latency.building import build_profile
from mobilenas.latency.cache import Cache
from mobilenas.latency.cost_model import Latency
from mobilenas.latency.graphs import arch_model
from mobilenas.latency.profile import Profile
from mobilenas.latency.settings import NETWORKS
from mobilenas.latency.with_references import measure_with_references
from mobilenas.pipeline.request import ACTIVATION_FOR
from mobilenas.search import SearchSettings, space_for
from mobilenas.search.run import measured_candidates
from mobilenas.spaces.base import searchable
from mobilenas.spaces.mobile.arch import MobileArch
from mobilenas.spaces.mobile.relaxation import Alphas
from mobilenas.spaces.mobile.space import DECISIONS, MobileSpace
from mobilenas.spaces.mobile.table import CostTable

HERE = Path(__file__).parent
ON_TIME, USED = 1.03, 0.85


def make(spaces: dict[str, MobileSpace], folder: Path) -> tuple[Profile, float]:
    """Build a profile; return it and the wall seconds."""
    began = time.perf_counter()
    profile = build_profile(spaces, name="bench", cache=Cache(folder))
    return profile, time.perf_counter() - began


def measured(latency: Latency, archs: list[MobileArch]) -> list[float]:
    """Milliseconds of whole networks beside units of the profile."""
    models = {str(n): partial(arch_model, a, latency.precision) for n, a in enumerate(archs)}
    times = measure_with_references(latency.profile, latency.precision, models)
    return [times[name].median_ms for name in models]


def hits(latency: Latency, space: MobileSpace, count: int) -> list[dict[str, float]]:
    """Networks found for budgets between the fast and the slow ones, by alphas drawn at random."""
    table, source = CostTable(space, "latency", latency), random.Random(0)
    times = sorted(table.exact(space.random(source)) for _ in range(200))
    found, rows = [], []
    for number in range(count):
        limit = times[round(10 + 180 * number / max(1, count - 1))]
        alphas = Alphas(space)
        generator = torch.Generator().manual_seed(number)
        for name in DECISIONS:
            torch.nn.init.normal_(alphas.logits[name], generator=generator)
        budgets = Budgets(space, [Budget(cost="latency", limit=limit)], latency)
        searcher: Any = SimpleNamespace(
            budgets=budgets,
            alphas=alphas,
            searchable=searchable(space),
            settings=SearchSettings(),
            seed=number,
        )
        (choice,), rounds = measured_candidates(searcher, 1, partial(measured, latency))
        found.append(space.arch(choice))
        rows.append({"limit_ms": limit, "predicted_ms": table.exact(choice), "tries": len(rounds)})
    for row, ms in zip(rows, measured(latency, found), strict=True):
        row |= {"measured_ms": ms, "ratio": ms / row["limit_ms"]}
    return rows


def lookup_share(latency: Latency, space: MobileSpace, side: int, flops: int) -> float:
    """Expected latency, its gradient and the multiplier's step, against a search step."""
    bench = Bench(side, flops, 32)
    limit = CostTable(space, "latency", latency).exact(space.random(random.Random(0)))
    constraint = ConstraintLoss(
        "lagrangian",
        Budgets(space, [Budget(cost="latency", limit=limit)], latency),
        strength=1.0,
        rho=0.1,
    )
    alphas, step = Alphas(space), bench.workload("search attention K=4")

    def look_up() -> None:
        constraint(alphas.soft(1.0)).backward()
        constraint.update()

    ratios = []
    for number in range(7):
        times = []
        for work in (look_up, step):
            began = time.process_time()
            work()
            times.append(time.process_time() - began)
        ratios += [times[0] / times[1]] if number > 1 else []
    return median(ratios)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--flops", type=int, default=300_000_000)
    parser.add_argument("--precision", choices=tuple(ACTIVATION_FOR), default="fp32")
    parser.add_argument("--budgets", type=int, default=10)
    given = parser.parse_args()
    torch.set_num_threads(1)
    space = space_for(
        [Budget(cost="flops", limit=given.flops)],
        image_size=given.side,
        classes=10,
        activation=ACTIVATION_FOR[given.precision],
    )
    with tempfile.TemporaryDirectory() as folder:
        profile, seconds = make({given.precision: space}, Path(folder))
        peak_mib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        _, again_seconds = make({given.precision: space}, Path(folder))
    latency = Latency(profile, given.precision)
    calibration = asdict(latency.calibration)
    rows = hits(latency, space, given.budgets)
    share = lookup_share(latency, space, given.side, given.flops)
    print(
        f"{len(profile.blocks[given.precision])} units and {NETWORKS} networks in {seconds:.0f} s"
    )
    print(f"peak memory of the measuring process {peak_mib:.0f} MiB")
    print(f"again, from the cache: {again_seconds:.1f} s")
    for name, value in calibration.items():
        print(f"{name:24} {value:8.3f}")
    for row in rows:
        print("  ".join(f"{name} {value:.3f}" for name, value in row.items()))
    on_time = sum(row["ratio"] <= ON_TIME for row in rows)
    used = sum(row["ratio"] >= USED for row in rows)
    print(f"at most {ON_TIME} of the budget: {on_time}; at least {USED}: {used}; of {len(rows)}")
    print(f"lookup and gradient / search step (under 0.01): {share:.4f}")
    record = {"options": vars(given), "seconds": seconds, "seconds_from_cache": again_seconds}
    record |= {"peak_mib": peak_mib, "calibration": calibration, "budgets": rows}
    record |= {"lookup_share": share, "device": profile.device}
    write_json(HERE / f"latency-{given.side}-{given.precision}.json", record)


if __name__ == "__main__":
    main()
