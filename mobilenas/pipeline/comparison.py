"""Compares the networks of several runs, and files of other tools."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from msgspec import structs

from mobilenas.baselines.external import describe, open_external
from mobilenas.baselines.networks import RANDOM, BaselineSettings
from mobilenas.baselines.paired import format_difference
from mobilenas.baselines.records import NetworkRecord
from mobilenas.core.errors import FileError, MobileNASError
from mobilenas.core.folders import COMPARISON, check_folder, start_folder
from mobilenas.core.records import (
    DataRecord,
    Part,
    Record,
    read_record,
    write_record,
    write_records,
)
from mobilenas.core.settings import COUNTING_RULE, format_count, to_plain
from mobilenas.data.settings import AUTO
from mobilenas.onnx.record import Timing
from mobilenas.pipeline.deployment import conditions, renew_times, time_files
from mobilenas.pipeline.image_size import at_chosen_size
from mobilenas.pipeline.records import ResultRecord
from mobilenas.pipeline.run_folder import COMPARE_FILE, RUN_FILE, Run
from mobilenas.pipeline.settings import RunSettings
from mobilenas.pipeline.stages import RESULT_FILE, compare_stage, write_result
from mobilenas.report.records import BudgetCheck, DifferenceTo
from mobilenas.report.table import paired, read_compared, searched_top1
from mobilenas.train import Recipe


class ComparedRun(Record, frozen=True, kw_only=True):
    """One of the compared runs."""

    run: str
    budgets: Sequence[BudgetCheck]
    space: str
    method: str
    seeds: Sequence[int]


class RunDifference(DifferenceTo, frozen=True, kw_only=True):
    """The difference of a later run's searched networks from those of the first run, `against`."""

    run: str


class ComparisonRecord(Record, frozen=True, kw_only=True):
    """result.json of a comparison of several runs."""

    runs: Sequence[ComparedRun]
    differences: Sequence[RunDifference]
    data: DataRecord
    recipe: Recipe
    precision: str
    timing: Timing
    counting_rule: str


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A comparison of several runs."""

    networks: list[NetworkRecord]
    """The networks as in compare.json, with `run`."""
    result: ComparisonRecord
    """The content of result.json."""

    @property
    def budgets(self) -> list[BudgetCheck]:
        """The budgets of all runs."""
        return [budget for run in self.result.runs for budget in run.budgets]

    def to_dict(self) -> dict[str, object]:
        """Return what `--json` prints."""
        return {"networks": to_plain(self.networks), **to_plain(self.result)}


def compare(
    run: Run, names: Sequence[str] | None = None, random: int | None = None
) -> tuple[list[NetworkRecord], ResultRecord]:
    """Return compare.json and result.json of one run, with the requested baselines.

    `names` are MobileNets and "random", and `random` is the number of random networks; without
    either, the run's settings apply. Networks compared before are kept.
    """
    renew_times(run)
    networks = compare_stage(run, _baselines(run, names, random))
    return networks, write_result(run)


def _baselines(
    run: Run, names: Sequence[str] | None, random: int | None
) -> BaselineSettings | None:
    if names is None and random is None:
        return None
    settings = run.settings
    if names is None:
        names = (*settings.baselines, RANDOM)
    if random is None:
        random = settings.random or RunSettings.random if RANDOM in names else 0
    elif RANDOM not in names:
        raise MobileNASError(f"--random {random} needs `{RANDOM}` in --baselines")
    return BaselineSettings(
        mobilenets=tuple(name for name in names if name != RANDOM),
        random=random,
        random_search=settings.random_search,
        equal_time=settings.equal_time,
    )


def side_by_side(
    runs: Sequence[Run],
    files: Sequence[Path],
    names: Sequence[str] | None = None,
    random: int | None = None,
) -> Comparison:
    """Compare the networks of all runs and ONNX files; all latencies are measured again together.

    Runs must have the same images and training settings; each is first compared as by `compare`.
    MobileNASError says what differs, or which file does not fit.
    """
    check_alike(runs)
    for path in files:
        if not path.is_file():
            raise FileError(f"{path} does not exist")
    data = at_chosen_size(runs[0]).data
    opened = [open_external(path, data) for path in files]
    compared = [(run, *compare(run, names, random)) for run in runs]
    paths = [run.folder / entry.onnx for run, entries, _ in compared for entry in entries]
    timed = time_files(runs[0], [*paths, *(external.path for external in opened)])
    networks = [
        NetworkRecord(
            **structs.asdict(entry)
            | timed[run.folder / entry.onnx].as_latency
            | {"run": str(run.folder)}
        )
        for run, entries, _ in compared
        for entry in entries
    ]
    networks += [describe(external, data, timed[external.path]) for external in opened]
    result = ComparisonRecord(
        runs=[_described(run, result.budgets) for run, _, result in compared],
        differences=_differences(networks),
        data=data.describe(),
        recipe=runs[0].settings.recipe,
        precision=runs[0].settings.precision,
        timing=conditions(runs[0]),
        counting_rule=COUNTING_RULE,
    )
    return Comparison(networks=networks, result=result)


def check_alike(runs: Sequence[Run]) -> None:
    """Raise unless all runs have the images and training settings of the first.

    Runs of different spaces may train their own networks differently, but not the MobileNets.
    """
    first = runs[0]
    for run in runs:
        if run.folder.resolve() in [other.folder.resolve() for other in runs if other is not run]:
            raise MobileNASError(f"{run.folder} is given more than once")
        settings = (first.settings, run.settings)
        differing = _differing(first, run, [each.baseline_recipe for each in settings])
        if first.settings.space == run.settings.space:
            differing = differing or _differing(first, run, [each.recipe for each in settings])
        if differing:
            raise MobileNASError(
                f"{first.folder} and {run.folder} cannot be compared: they differ in "
                f"{', '.join(differing)}"
            )


def _differing(first: Run, second: Run, recipes: Sequence[Recipe]) -> list[str]:
    """Return what affects accuracy and differs between two runs and their recipes."""
    one, other = map(_conditions, (first, second), recipes)
    return [
        name if name in _LONG else f"{name} ({one[name]} and {other[name]})"
        for name in one
        if one[name] != other[name] and AUTO not in (one[name], other[name])
    ]


_LONG = ("images", "classes")


class _ImagesPart(Part, frozen=True, kw_only=True):
    data: DataRecord


def _conditions(run: Run, recipe: Recipe) -> dict[str, object]:
    """Return what affects accuracy other than network and seed, by name."""
    data, settings = read_record(run.folder / RUN_FILE, _ImagesPart).data, run.settings
    return {
        "images": data.fingerprint,
        "classes": data.classes,
        # a searched image size may differ
        "image_size": AUTO if settings.search_image_size else data.image_size,
        "flip": data.flip,
        **to_plain(recipe),
        "precision": settings.precision,
    }


def _described(run: Run, budgets: Sequence[BudgetCheck]) -> ComparedRun:
    settings = run.settings
    return ComparedRun(
        run=str(run.folder),
        budgets=budgets,
        space=settings.space,
        method=settings.method,
        seeds=list(run.seeds),
    )


def _differences(networks: Sequence[NetworkRecord]) -> list[RunDifference]:
    """Return the paired difference of every later run's searched networks from the first's."""
    by_run: dict[str, list[NetworkRecord]] = {}
    for network in networks:
        if network.kind == "searched":
            by_run.setdefault(network.run or "", []).append(network)
    (first, control), *others = by_run.items()
    compared = ((run, paired(searched_top1(own), searched_top1(control))) for run, own in others)
    return [
        RunDifference(**structs.asdict(figures), run=run, against=first)
        for run, figures in compared
        if figures
    ]


def sentences(comparison: Comparison) -> list[str]:
    """Return a sentence for each later run: its searched networks against the first run's."""
    flops: dict[str, int] = {}
    for network in comparison.networks:
        if network.kind == "searched" and network.run and network.flops:
            flops.setdefault(network.run, network.flops)
    return [
        f"{row.run} against {row.against}: {format_difference(row)}: {row.verdict}; "
        f"{format_count(flops[row.run])} against {format_count(flops[row.against])} FLOPs."
        for row in comparison.result.differences
    ]


def check_out(folder: Path, *, overwrite: bool) -> None:
    """Raise unless a comparison may be written to `folder`."""
    check_folder(folder, COMPARISON, read_compared, overwrite=overwrite)


def write_comparison(comparison: Comparison, folder: Path, *, overwrite: bool) -> None:
    """Write the networks to compare.json, as in a run, and the rest to result.json."""
    check_out(folder, overwrite=overwrite)
    start_folder(folder, COMPARISON)
    # the record first, so that the leftovers of a kill can be overwritten
    write_records(folder / COMPARE_FILE, comparison.networks)
    write_record(folder / RESULT_FILE, comparison.result)
