"""The baselines of a run, and their budgets."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mobilenas.baselines import equal_time
from mobilenas.baselines.networks import (
    BaselineSettings,
    ComparedNetwork,
    mobilenets,
    random_networks,
)
from mobilenas.baselines.random_search import random_search
from mobilenas.baselines.records import Trained
from mobilenas.channels.search import ChannelResult, search_channels
from mobilenas.channels.settings import ChannelSettings
from mobilenas.core.errors import BudgetError, FileError
from mobilenas.core.records import read_record, write_record
from mobilenas.cost.budget import LATENCY, PENALTY, Budget
from mobilenas.cost.budgets import Budgets
from mobilenas.cost.networks import costs
from mobilenas.pipeline.deployment import arch_meter
from mobilenas.pipeline.image_size import at_chosen_size, compare_sides
from mobilenas.pipeline.pretrained import halving_of_random, pretrained_baselines
from mobilenas.pipeline.records import EqualTimeRecord, RandomSearchRecord
from mobilenas.pipeline.run_folder import COMPARE_FILE, IMAGE_SIZE_FILE, Run
from mobilenas.pipeline.settings import RunSettings
from mobilenas.report.table import SCRATCH, UNCHANGED, check_given
from mobilenas.search import FINALISTS
from mobilenas.search.records import ArchRecord, ImageSizeRecord
from mobilenas.spaces.base import Arch
from mobilenas.spaces.networks import arch_from_dict, read_arch

ARCH_FILE = "arch.json"


def compared_networks(
    run: Run, requested: BaselineSettings | None, existing: Sequence[Trained]
) -> list[ComparedNetwork]:
    """Return requested networks that do not exist, except `longer_mobilenets`, which need these."""
    settings = run.settings
    requested = requested or _baseline_settings(settings)
    # MobileNets by name only, without width: each gets one width
    known = {(entry.kind, entry.name.split()[0], entry.seed) for entry in existing}
    found = [
        ComparedNetwork(
            name="searched", kind="searched", arch=searched_arch(run.seed_folder(seed)), seed=seed
        )
        for seed in run.seeds
    ]
    scratch = [
        replace(one, name=SCRATCH, kind=SCRATCH) for one in found if settings.scratch_control
    ]
    limits = _limits(run)
    controls = _controls(run, limits) if settings.channel_sizes is not None else []
    try:
        randoms = random_networks(limits, requested.random, list(run.seeds))
        random_searches = (
            [_random_search(run, limits, seed) for seed in run.seeds]
            if requested.random_search
            else []
        )
    except BudgetError as error:
        # such as the FLOPs of a cell with only skips; the other baselines are still possible
        run.reporter.info(f"{error}: random networks are skipped")
        randoms, random_searches = [], []
    names = [
        name
        for name in requested.mobilenets
        if any(("mobilenet", name, seed) not in known for seed in run.seeds)
    ]
    ready_made = (
        list(pretrained_baselines(run, limits))
        if settings.pretrained and requested.mobilenets
        else []
    )
    own = found + scratch + controls + random_searches + randoms
    networks = own + ready_made + _mobilenets(run, names, limits)
    return [one for one in networks if (one.kind, one.name.split()[0], one.seed) not in known]


def longer_mobilenets(
    run: Run, requested: BaselineSettings | None, trained: Sequence[Trained]
) -> list[ComparedNetwork]:
    """Return each seed's best MobileNet for equal time, if requested and not in `trained`.

    `trained` are the networks of compare.json. A decision is saved and kept, because it depends on
    measured seconds, and MobileNets may be added later.
    """
    if not (requested or _baseline_settings(run.settings)).equal_time:
        return []
    known = {entry.seed for entry in trained if entry.kind == equal_time.KIND}
    paths = {
        seed: run.folder / f"compare/{equal_time.KIND}-seed-{seed}/equal-time.json"
        for seed in run.seeds
        if seed not in known
    }
    for seed, path in paths.items():
        if not path.exists():
            _decide(run, trained, seed, path)
    if lacking := [str(seed) for seed, path in paths.items() if not path.exists()]:
        run.reporter.info(
            f"no MobileNet is compared (seed {', '.join(lacking)}): equal-time is skipped"
        )
    return [read_longer(path, seed) for seed, path in paths.items() if path.exists()]


def read_longer(path: Path, seed: int) -> ComparedNetwork:
    """Return the MobileNet of equal-time.json, to be trained for longer."""
    record = read_record(path, EqualTimeRecord)
    return ComparedNetwork(
        name=equal_time.KIND,
        kind=equal_time.KIND,
        arch=arch_from_dict(record.arch, str(path)),
        seed=seed,
        epochs=record.epochs,
        network=record.network,
    )


def _decide(run: Run, trained: Sequence[Trained], seed: int, path: Path) -> None:
    """Choose a seed's MobileNet for equal time and its epochs, and write them, if there is one."""
    own = [e for e in trained if e.seed == seed and e.kind in ("searched", "mobilenet")]
    check_given(own, ("val_top1", "train_seconds", "arch"), run.folder / COMPARE_FILE)
    best = equal_time.best_mobilenet(own, seed)
    if best is None:
        return
    assert best.arch is not None and best.train_seconds is not None  # checked above
    searching = searched_record(run.seed_folder(seed)).search_seconds
    seconds = searching + next(e.train_seconds or 0.0 for e in own if e.kind == "searched")
    epochs = run.settings.recipe.epochs
    record = EqualTimeRecord(
        network=best.name,
        arch=best.arch,
        epochs=equal_time.epochs_for(seconds, epochs, best.train_seconds),
        recipe_epochs=epochs,
        seconds=seconds,
        seconds_of_recipe=best.train_seconds,
    )
    write_record(path, record)


def _baseline_settings(settings: RunSettings) -> BaselineSettings:
    """Return the baselines of the run's settings."""
    return BaselineSettings(
        mobilenets=settings.baselines,
        random=settings.random,
        random_search=settings.random_search,
        equal_time=settings.equal_time,
    )


def _controls(run: Run, limits: Budgets) -> list[ComparedNetwork]:
    """Return the controls of channel sizes: uniform, with a constant metric, and unchanged ones.

    The unchanged sizes show the loss by the budgets, which they need not meet.
    """
    how = run.settings.channel_sizes
    if how is None or not how.controls:
        return []
    unchanged = limits.space.start()
    uniform = limits.scale(unchanged)
    controls = []
    for seed in run.seeds:
        constant = replace(how, metric="constant", controls=False)
        folder = run.folder / f"compare/constant-seed-{seed}"
        sizes = searched_channels(run, constant, folder / "search", seed).sizes
        for kind, own in ((UNCHANGED, unchanged), ("uniform", uniform), ("constant", sizes)):
            arch = limits.space.arch(own)
            controls.append(ComparedNetwork(name=kind, kind=kind, arch=arch, seed=seed))
    return controls


def _limits(run: Run) -> Budgets:
    """Return the budgets of the comparison; without any, the searched network's FLOPs.

    The same holds under a penalty, with which the search decides how much of a budget it uses, and
    if only measuring shows whether a budget is met.
    """
    settings = run.settings
    measured = settings.channel_sizes is not None and any(
        b.cost == LATENCY for b in settings.budgets
    )
    if settings.budgets and settings.search.constraint != PENALTY and not measured:
        return run.budgets
    flops = costs(searched_arch(run.folder)).flops
    return Budgets(run.space, [Budget(cost="flops", limit=flops)])


def _mobilenets(run: Run, names: Sequence[str], limits: Budgets) -> list[ComparedNetwork]:
    """Return the MobileNets for every seed; widths are chosen once for all seeds."""
    if run.image_sizes:
        fit, too_large = _mobilenets_at_best_side(run, names, limits.budgets)
    else:
        fit, too_large = _mobilenets_at(run, run.image_size, names, limits.budgets)
    for name in too_large:
        run.reporter.info(f"no width of {name} meets the budgets: it is skipped")
    return [replace(network, seed=seed) for seed in run.seeds for network in fit]


def _mobilenets_at(
    run: Run, side: int, names: Sequence[str], budgets: Sequence[Budget]
) -> tuple[list[ComparedNetwork], list[str]]:
    classes = len(run.data.classes)
    return mobilenets(names, budgets, side, classes, run.settings.seed, arch_meter(run))


def _mobilenets_at_best_side(
    run: Run, names: Sequence[str], budgets: Sequence[Budget]
) -> tuple[list[ComparedNetwork], list[str]]:
    """Return each at its best image size, which is chosen as for the search."""
    fit, too_large, seed = list[ComparedNetwork](), list[str](), run.settings.seed
    for name in names:
        path = run.folder / f"compare/{name}-image-size-seed-{seed}" / IMAGE_SIZE_FILE
        if not path.exists():
            tried = [
                (f"{network.name} @{side}", network.arch.to_dict())
                for side in run.image_sizes
                for network in _mobilenets_at(run, side, [name], budgets)[0]
            ]
            if not tried:
                too_large.append(name)
                continue
            labels, archs = zip(*tried, strict=True)
            write_record(path, ImageSizeRecord(archs=archs, names=labels, seconds=0.0))
        record, winner = compare_sides(run, path, f"image size of {name}")
        label = record.names[record.winner or 0]
        begun = path.with_suffix("")
        found = ComparedNetwork(name=label, kind="mobilenet", arch=winner, seed=seed, begun=begun)
        fit.append(found)
    return fit, too_large


def _random_search(run: Run, limits: Budgets, seed: int) -> ComparedNetwork:
    folder = run.folder / f"compare/random-search-seed-{seed}"
    path = folder / "random-search.json"
    if not path.exists():
        spent = searched_record(run.seed_folder(seed)).search_seconds
        halving = halving_of_random(at_chosen_size(run), folder / "search" / FINALISTS, seed)
        arch, entered, seconds = random_search(limits, halving, seconds=spent)
        record = RandomSearchRecord(
            arch=arch.to_dict(), entered=entered, seconds=seconds, seconds_of_search=spent
        )
        write_record(path, record)
    return ComparedNetwork(
        name="random-search", kind="random-search", arch=read_arch(path), seed=seed
    )


def searched_channels(run: Run, how: ChannelSettings, folder: Path, seed: int) -> ChannelResult:
    """Search channel sizes with the run's settings."""
    return search_channels(
        run.budgets,
        run.data,
        how,
        run.settings.finalists,
        run.settings.recipe,
        folder=folder,
        seed=seed,
        device=run.device,
        reporter=run.reporter,
        measure=arch_meter(run),
    )


def searched_record(folder: Path) -> ArchRecord:
    """Return the arch.json of a search."""
    return read_record(_arch_path(folder), ArchRecord)


def searched_arch(folder: Path) -> Arch:
    """Return the searched arch."""
    return read_arch(_arch_path(folder))


def _arch_path(folder: Path) -> Path:
    if not (folder / ARCH_FILE).exists():
        raise FileError(f"{folder} has no {ARCH_FILE}; run `mobilenas search` first")
    return folder / ARCH_FILE
