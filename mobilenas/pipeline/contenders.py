"""What the result of a run is held against: which networks, under which budgets."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mobilenas.baselines import equal_time
from mobilenas.baselines.networks import Contender, Opponents, mobilenets, random_networks
from mobilenas.baselines.records import Trained
from mobilenas.baselines.rival import rival
from mobilenas.channels.search import ChannelResult, search_channels
from mobilenas.channels.settings import ChannelSettings
from mobilenas.core.errors import BudgetError, FileError
from mobilenas.core.records import read_record, write_record
from mobilenas.cost.budget import LATENCY, PENALTY, Budget
from mobilenas.cost.budgets import Budgets
from mobilenas.cost.networks import costs
from mobilenas.pipeline.deployment import confirmation
from mobilenas.pipeline.records import EqualTimeRecord, RivalRecord
from mobilenas.pipeline.run_folder import COMPARE_FILE, Run
from mobilenas.pipeline.settings import RunSettings
from mobilenas.report.table import SCRATCH, check_given
from mobilenas.search import FINALISTS
from mobilenas.search.records import ArchRecord
from mobilenas.spaces.base import Arch
from mobilenas.spaces.networks import arch_from_dict, read_arch

ARCH_FILE = "arch.json"


def contenders(run: Run, asked: Opponents | None, there: Sequence[Trained]) -> list[Contender]:
    """Return what is asked for, and not there; `longer_mobilenets` come when these are trained."""
    settings = run.settings
    asked = asked or _asked(settings)
    # a MobileNet by its name alone: another width of it would be a second choice
    known = {(entry.name.split()[0], entry.seed) for entry in there}
    found = [
        Contender(name="found", kind="found", arch=found_arch(run.seed_folder(seed)), seed=seed)
        for seed in run.seeds
    ]
    scratch = [replace(one, name=SCRATCH, kind=SCRATCH) for one in found if settings.inherit]
    limits = _limits(run)
    controls = _controls(run, limits) if settings.widths is not None else []
    try:
        randoms = random_networks(limits, asked.random, list(run.seeds))
        rivals = [_rival(run, limits, seed) for seed in run.seeds] if asked.rival else []
    except BudgetError as error:
        # such as the FLOPs of a cell that is all skips: a rare find is no reason to lose the rest
        run.reporter.say(f"{error}: random networks are left out")
        randoms, rivals = [], []
    names = [n for n in asked.mobilenets if any((n, seed) not in known for seed in run.seeds)]
    wanted = found + scratch + controls + rivals + randoms + _mobilenets(run, names, limits)
    return [one for one in wanted if (one.name.split()[0], one.seed) not in known]


def longer_mobilenets(
    run: Run, asked: Opponents | None, trained: Sequence[Trained]
) -> list[Contender]:
    """Return each seed's best MobileNet for equal time, where asked for and not among `trained`.

    Those are the networks of compare.json. What was decided is kept: seconds are measured, and
    MobileNets can be added later.
    """
    if not (asked or _asked(run.settings)).equal_time:
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
        run.reporter.say(
            f"no MobileNet is compared (seed {', '.join(lacking)}): equal-time is skipped"
        )
    return [read_longer(path, seed) for seed, path in paths.items() if path.exists()]


def read_longer(path: Path, seed: int) -> Contender:
    """Read what equal-time.json says of a MobileNet that is trained for longer."""
    record = read_record(path, EqualTimeRecord)
    return Contender(
        name=equal_time.KIND,
        kind=equal_time.KIND,
        arch=arch_from_dict(record.arch, str(path)),
        seed=seed,
        epochs=record.epochs,
        network=record.network,
    )


def _decide(run: Run, trained: Sequence[Trained], seed: int, path: Path) -> None:
    """Write which MobileNet a seed has for equal time, and its epochs; nothing without any."""
    own = [e for e in trained if e.seed == seed and e.kind in ("found", "mobilenet")]
    check_given(own, ("val_top1", "train_seconds", "arch"), run.folder / COMPARE_FILE)
    best = equal_time.best_mobilenet(own, seed)
    if best is None:
        return
    assert best.arch is not None and best.train_seconds is not None  # as was checked
    searching = found_record(run.seed_folder(seed)).search_seconds
    seconds = searching + next(e.train_seconds or 0.0 for e in own if e.kind == "found")
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


def _asked(settings: RunSettings) -> Opponents:
    """Return what the run was asked to be held against."""
    return Opponents(
        mobilenets=settings.baselines,
        random=settings.random,
        rival=settings.random_search,
        equal_time=settings.equal_time,
    )


def _controls(run: Run, limits: Budgets) -> list[Contender]:
    """Return what channel sizes are held against: uniform ones, and a metric that says nothing."""
    how = run.settings.widths
    if how is None or not how.controls:
        return []
    uniform = limits.space.arch(limits.spread(limits.space.start()))
    contenders = []
    for seed in run.seeds:
        constant = replace(how, metric="constant", controls=False)
        folder = run.folder / f"compare/constant-seed-{seed}"
        sizes = searched_channels(run, constant, folder / "search", seed).sizes
        for kind, arch in (("uniform", uniform), ("constant", limits.space.arch(sizes))):
            contenders.append(Contender(name=kind, kind=kind, arch=arch, seed=seed))
    return contenders


def _limits(run: Run) -> Budgets:
    """Return the budgets of all that is compared: without any, the FLOPs of what was found.

    So it is under a penalty, which leaves it to the search how much of a budget is used, and where
    only measuring could tell whether a budget is kept.
    """
    settings = run.settings
    measured = settings.widths is not None and any(b.cost == LATENCY for b in settings.budgets)
    if settings.budgets and settings.search.constraint != PENALTY and not measured:
        return run.budgets
    flops = costs(found_arch(run.folder)).flops
    return Budgets(run.space, [Budget(cost="flops", limit=flops)])


def _mobilenets(run: Run, names: Sequence[str], limits: Budgets) -> list[Contender]:
    """Return the MobileNets for every seed; their widths are chosen once, also where measured."""
    fit, too_large = mobilenets(
        names,
        limits.budgets,
        run.data.image_size,
        len(run.data.classes),
        run.settings.seed,
        confirmation(run),
    )
    for name in too_large:
        run.reporter.say(f"no width of {name} keeps the budgets: it is skipped")
    return [replace(network, seed=seed) for seed in run.seeds for network in fit]


def _rival(run: Run, limits: Budgets, seed: int) -> Contender:
    folder = run.folder / f"compare/rival-seed-{seed}"
    path = folder / "rival.json"
    if not path.exists():
        spent = found_record(run.seed_folder(seed)).search_seconds
        arch, entered, seconds = rival(
            limits,
            run.data,
            run.settings.finalists,
            run.settings.recipe,
            seconds=spent,
            folder=folder / "search" / FINALISTS,
            seed=seed,
            device=run.device,
            reporter=run.reporter,
        )
        record = RivalRecord(
            arch=arch.to_dict(), entered=entered, seconds=seconds, seconds_of_search=spent
        )
        write_record(path, record)
    return Contender(name="rival", kind="rival", arch=read_arch(path), seed=seed)


def searched_channels(run: Run, how: ChannelSettings, folder: Path, seed: int) -> ChannelResult:
    """Search channel sizes as the run says."""
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
        confirm=confirmation(run),
    )


def found_record(folder: Path) -> ArchRecord:
    """Return the arch.json that a search wrote."""
    return read_record(_arch_path(folder), ArchRecord)


def found_arch(folder: Path) -> Arch:
    """Return the arch that a search wrote."""
    return read_arch(_arch_path(folder))


def _arch_path(folder: Path) -> Path:
    if not (folder / ARCH_FILE).exists():
        raise FileError(f"{folder} has no {ARCH_FILE}; run `mobilenas search` first")
    return folder / ARCH_FILE
