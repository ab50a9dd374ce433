"""Sweeps: a run for each budget or strength of the penalty, and each method.

Song and Li 2020 vary the strength of the FLOPs penalty to obtain networks of several sizes.
SWEEP/flops-500k, SWEEP/strength-0.3 or SWEEP/flops-500k-adarts is the run folder of one network.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from mobilenas.core.errors import BudgetError, FileError, MobileNASError
from mobilenas.core.files import inside
from mobilenas.core.folders import SWEEP, check_folder, check_record, start_folder
from mobilenas.core.progress import Reporter
from mobilenas.core.records import Record, read_record, write_record
from mobilenas.core.settings import Fields, format_count, parse_count
from mobilenas.cost.budget import PENALTY
from mobilenas.data import ImageData
from mobilenas.latency.named_profiles import find_profile
from mobilenas.latency.profile import Profile
from mobilenas.pipeline.image_size import image_sizes
from mobilenas.pipeline.records import ResultRecord
from mobilenas.pipeline.request import ANY_COUNT, Request
from mobilenas.pipeline.run_folder import create_run, refuse_own_weights
from mobilenas.pipeline.space import latency_model
from mobilenas.pipeline.stages import run_all
from mobilenas.pipeline.starting import read_images
from mobilenas.report.of_folder import report_of, write_pareto
from mobilenas.search.methods import DEFAULT_METHOD

SWEEP_FILE = SWEEP.record


class SweepRecord(Record, frozen=True, kw_only=True):
    """sweep.json."""

    command: str
    requests: Annotated[dict[str, Request], Meta(min_length=1, max_length=10_000)]


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """An open sweep."""

    folder: Path
    """The folder of the sweep, SWEEP."""
    requests: Mapping[str, Request]
    """The requests of all runs, by the name of their folder."""
    command: str
    """The command that started it."""
    data: ImageData
    """The images."""
    profile: Profile | None
    """Device profile, if one was requested."""
    reporter: Reporter
    """Receives progress."""

    @property
    def shared(self) -> Path | None:
        """Folder of the baselines that runs of several methods share; None with one method."""
        methods = {request.method for request in self.requests.values()}
        return self.folder / "baselines" if len(methods) > 1 else None


def requests_for(
    requested: Fields,
    flops: Sequence[int],
    strengths: Sequence[float],
    methods: Sequence[str] = (),
) -> dict[str, Request]:
    """Return requests for all of `flops`, or all strengths, with each of `methods`.

    `requested` are fields of Request that all share. Without `flops` and `strengths`, they include
    the budgets, and only methods vary.
    """
    if not methods:
        return _sizes(requested, flops, strengths)
    if requested.get("method", DEFAULT_METHOD) != DEFAULT_METHOD:
        raise MobileNASError("--method and --methods exclude each other")
    if flops or strengths:
        sizes = _sizes(requested, flops, strengths)
    else:
        sizes = {"method": Request(**requested)}
    return {
        f"{size}-{method}": replace(request, method=method)
        for size, request in sizes.items()
        for method in methods
    }


def _sizes(
    requested: Fields, flops: Sequence[int], strengths: Sequence[float]
) -> dict[str, Request]:
    """Return requests for all of `flops`, or all strengths under one wide budget.

    Finalists are compared by accuracy alone. Under a penalty their costs differ, so by default
    there are none.
    """
    if not strengths:
        if not flops:
            raise BudgetError(
                "nothing varies: use --flops 500k,1M,2M, --strengths 0.1,0.3,1 or --methods"
            )
        _check_distinct("--flops", flops)
        return {f"flops-{_exact(limit)}": Request(**requested, flops=limit) for limit in flops}
    _check_distinct("--strengths", strengths)
    if len(flops) > 1:
        raise BudgetError(f"--strengths vary under one wide budget; --flops says {len(flops)}")
    if requested.get("constraint", PENALTY) != PENALTY:
        raise MobileNASError(
            f"--strengths are of the penalty; --constraint says {requested['constraint']}"
        )
    wide = Request(**({"finalists": 0} | dict(requested)), flops=next(iter(flops), None))
    if not wide.budgets:
        raise BudgetError("--strengths weigh the use of a wide budget, such as --flops 4M")
    return {
        f"strength-{strength:g}": replace(wide, constraint=PENALTY, strength=strength)
        for strength in strengths
    }


def _check_distinct(option: str, values: Sequence[float]) -> None:
    if len(set(values)) < len(values):
        raise MobileNASError(f"{option} has a value more than once")


def _exact(limit: int) -> str:
    """Format 500000 as 500k, 500001 in full."""
    short = format_count(limit)
    return short if parse_count(short) == limit else str(limit)


def start_sweep(
    folder: Path,
    requested: Fields,
    *,
    flops: Sequence[int] = (),
    strengths: Sequence[float] = (),
    methods: Sequence[str] = (),
    command: str,
    reporter: Reporter,
    resume: bool = False,
    overwrite: bool = False,
) -> Sweep:
    """Start a sweep in `folder`, or resume it; all budgets are checked first."""
    requests = requests_for(requested, flops, strengths, methods)
    resumes = check_folder(folder, SWEEP, read_sweep, resume=resume, overwrite=overwrite)
    path = folder / SWEEP_FILE
    record = SweepRecord(command=command, requests=requests)
    if resumes:
        existing = read_sweep(path)
        if existing.requests != requests:
            raise FileError(f"{folder} holds another sweep than --resume was asked for")
        record = existing
    sweep = _open(folder, record, reporter)
    if not resumes:
        for request in requests.values():
            refuse_own_weights(folder, request.settings(ANY_COUNT))
        start_folder(folder, SWEEP)
        write_record(path, record)
    check_record(folder, SWEEP)
    return sweep


def open_sweep(folder: Path, reporter: Reporter) -> Sweep:
    """Open a sweep that exists."""
    check_record(folder, SWEEP)
    return _open(folder, read_sweep(folder / SWEEP_FILE), reporter)


def _open(folder: Path, record: SweepRecord, reporter: Reporter) -> Sweep:
    requests = record.requests
    first = next(iter(requests.values()))
    profile = find_profile(first.profile) if first.profile else None
    return Sweep(
        folder=folder,
        requests=requests,
        command=record.command,
        data=read_images(requests, profile, reporter),
        profile=profile,
        reporter=reporter,
    )


def read_sweep(path: Path) -> SweepRecord:
    """Read a sweep.json; its runs must be in the same folder."""
    record = read_record(path, SweepRecord)
    for name in record.requests:
        inside(path.parent, name, "requests")
    return record


def run_sweep(sweep: Sweep) -> dict[str, ResultRecord]:
    """Make all unfinished runs; return result.json of each run by name.

    SWEEP/report.html and SWEEP/pareto.json are written after each run.
    """
    results = {}
    for name in sweep.requests:
        sweep.reporter.info(name)
        results[name] = run_one(sweep, name)
        write_reports(sweep.folder)
    return results


def run_one(sweep: Sweep, name: str) -> ResultRecord:
    """Start or resume one run, and return its result.json."""
    settings = sweep.requests[name].settings(len(sweep.data.train))
    latency = latency_model(settings, sweep.profile)
    run = create_run(
        sweep.folder / name,
        settings,
        data=sweep.data,
        image_sizes=image_sizes(settings, sweep.data, latency),
        command=sweep.command,
        reporter=sweep.reporter,
        profile=sweep.profile,
        resume=True,
    )
    run.shared = sweep.shared
    return run_all(run)


def write_reports(folder: Path) -> None:
    """Write SWEEP/report.html and SWEEP/pareto.json for the existing runs."""
    report_of(folder)
    write_pareto(folder)
