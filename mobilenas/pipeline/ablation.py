"""Ablations: compares search methods over seeds; all networks are trained by one recipe.

OUT/runs/VARIANT-seed-N is the run folder of one network, which has entry.json when it is done.
"""

import random
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from mobilenas.baselines.paired import difference, mean_std
from mobilenas.core.errors import BudgetError, FileError, MobileNASError
from mobilenas.core.files import inside, write_text
from mobilenas.core.folders import ABLATION, check_folder, check_record, start_folder
from mobilenas.core.progress import Reporter
from mobilenas.core.records import BudgetRow, Record, read_record, write_record
from mobilenas.core.settings import COUNTING_RULE, from_plain, to_plain
from mobilenas.cost.budget import Budget, format_cost
from mobilenas.cost.budgets import Budgets
from mobilenas.cost.networks import costs_by_name
from mobilenas.data import ImageData, ImageKind, load_data
from mobilenas.data.settings import AUTO
from mobilenas.latency.cost_model import Latency
from mobilenas.latency.named_profiles import find_profile
from mobilenas.latency.profile import Profile
from mobilenas.pipeline.baselines import searched_arch
from mobilenas.pipeline.deployment import predicted
from mobilenas.pipeline.request import ANY_COUNT, Request
from mobilenas.pipeline.run_folder import Run, create_run, machine, versions
from mobilenas.pipeline.settings import RunSettings
from mobilenas.pipeline.space import latency_model, usable_space
from mobilenas.pipeline.stages import search_stage
from mobilenas.pipeline.variants import NOT_ABLATED
from mobilenas.report.ablation_page import ablation_page
from mobilenas.report.ablation_table import over_seeds
from mobilenas.report.records import (
    AblationRecord,
    EntryGap,
    EntryRecord,
    EntrySeconds,
    VariantRecord,
)
from mobilenas.search import searched_choice
from mobilenas.search.diagnostics import agreement
from mobilenas.search.methods import DEFAULT_METHOD, default_search_epochs
from mobilenas.search.parts import PARTS
from mobilenas.search.variants import RANDOM, Variant, parse_variant, parse_variants
from mobilenas.spaces.base import AnyChoice, Arch, family, family_of
from mobilenas.train import BEST_WEIGHTS, evaluate, load_weights, train

REQUEST_FILE = ABLATION.record
ENTRY_FILE = "entry.json"
ABLATION_FILE = "ablation.json"
PAGE_FILE = "ablation.html"

_MAX_CHANNELS = 4096


class RequestRecord(Record, frozen=True, kw_only=True):
    """ablation-request.json."""

    command: str
    request: Request
    variants: tuple[str, ...]
    control: str


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """An open ablation."""

    folder: Path
    """The folder of the ablation, OUT."""
    request: Request
    """The options that all variants share."""
    variants: tuple[Variant, ...]
    """The compared variants."""
    control: Variant
    """The variant that the others are compared with."""
    command: str
    """The command that started it."""
    data: ImageData
    """The images."""
    profile: Profile | None
    """Device profile, if one was requested."""
    reporter: Reporter
    """Receives progress."""

    @property
    def seeds(self) -> range:
        """All requested seeds."""
        return range(self.request.seed, self.request.seed + self.request.seeds)

    def settings(self, variant: Variant, seed: int) -> RunSettings:
        """Return the settings of one network's run; the error names the variant."""
        return _settings(self.request, variant, seed, len(self.data.train))

    def run_folder(self, variant: Variant, seed: int) -> Path:
        """Return the run folder of one network."""
        return self.folder / "runs" / f"{variant.file_name}-seed-{seed}"

    def run(self, variant: Variant, seed: int) -> Run:
        """Open one network's run, or create it."""
        return create_run(
            self.run_folder(variant, seed),
            self.settings(variant, seed),
            data=self.data,
            command=self.command,
            reporter=self.reporter,
            profile=self.profile,
            resume=True,
        )


def start_ablation(
    folder: Path,
    request: Request,
    methods: str,
    *,
    control: str | None = None,
    command: str,
    reporter: Reporter,
    resume: bool = False,
    overwrite: bool = False,
) -> Ablation:
    """Start an ablation in `folder`, or resume the one there; all variants are checked first.

    The control is the first of `methods` by default.
    """
    variants = parse_variants(methods)
    wanted = variants[0] if control is None else parse_variant(control)
    _check_request(request)
    resumes = check_folder(folder, ABLATION, read_request, resume=resume, overwrite=overwrite)
    own_control = next((variant for variant in variants if variant.is_like(wanted)), None)
    if own_control is None:
        names = ", ".join(variant.name for variant in variants)
        raise MobileNASError(f"--control is {control}; it must be one of --methods: {names}")
    path = folder / REQUEST_FILE
    record = RequestRecord(
        command=command,
        request=request,
        variants=tuple(variant.name for variant in variants),
        control=own_control.name,
    )
    if resumes:
        existing = read_record(path, RequestRecord)
        _check_same(folder, existing, record)
        record = existing
    ablation = _open(folder, record, reporter)
    _check(ablation)
    if not resumes:
        start_folder(folder, ABLATION)
        write_record(path, record)
    check_record(folder, ABLATION)
    return ablation


def open_ablation(folder: Path, reporter: Reporter) -> Ablation:
    """Open an ablation that exists."""
    check_record(folder, ABLATION)
    return _open(folder, read_record(folder / REQUEST_FILE, RequestRecord), reporter)


def _settings(request: Request, variant: Variant, seed: int, images: int) -> RunSettings:
    """Return `Ablation.settings` for a number of training images."""
    own = dict(variant.parts)
    if variant.method is None:
        own = dict.fromkeys(PARTS)
    if request.space == "cell":
        # a budget would change which edges are kept; it sets the final channels instead
        own |= {"flops": None, "params": None}
    elif own.get("prior") is None:
        own["prior"] = False  # it would influence every variant
    try:
        requested = replace(
            request, method=variant.method or DEFAULT_METHOD, seed=seed, seeds=1, **own
        )
        if requested.search_epochs is None:  # all variants search for equally long
            final = requested.settings(images).recipe.epochs
            requested = replace(
                requested, search_epochs=default_search_epochs(final, alphas_decide=True)
            )
        return requested.settings(images)
    except MobileNASError as error:
        raise MobileNASError(f"variant {variant.name}: {error}") from error


def _open(folder: Path, record: RequestRecord, reporter: Reporter) -> Ablation:
    request, variants, control, command = _parsed(folder / REQUEST_FILE, record)
    profile = find_profile(request.profile) if request.profile else None
    settings = [_settings(request, variant, request.seed, ANY_COUNT) for variant in variants]
    check = partial(_check_space, request, settings[0], latency_model(settings[0], profile))
    return Ablation(
        folder=folder,
        request=request,
        variants=variants,
        control=control,
        command=command,
        data=load_data(request.data_settings, reporter, check),
        profile=profile,
        reporter=reporter,
    )


def read_request(path: Path) -> tuple[Request, tuple[Variant, ...], Variant, str]:
    """Return request, variants, control and command of an ablation-request.json."""
    return _parsed(path, read_record(path, RequestRecord))


def _parsed(path: Path, record: RequestRecord) -> tuple[Request, tuple[Variant, ...], Variant, str]:
    try:
        variants = tuple(map(parse_variant, record.variants))
        for variant in variants:
            inside(path.parent, variant.file_name, "variants")
        (control,) = (variant for variant in variants if variant.name == record.control)
    except (ValueError, MobileNASError) as error:  # no or several variants are the control
        raise FileError(f"{path} is not what a start writes: {error}") from error
    return record.request, variants, control, record.command


def _check_request(request: Request) -> None:
    plain = type(request).__dataclass_fields__
    for name, instead in NOT_ABLATED.items():
        if getattr(request, name) != plain[name].default:
            raise MobileNASError(
                f"--{name.replace('_', '-')} does not work in an ablation: {instead}"
            )
    if request.image_size == AUTO:
        raise MobileNASError(f"--image-size {AUTO} does not work in an ablation: give a number")
    if not request.budgets:
        raise BudgetError(
            "networks are compared at equal cost: use --flops or --params, which set the channels "
            "of cells"
        )


def _check_same(folder: Path, existing: RequestRecord, requested: RequestRecord) -> None:
    before, after = (
        {**to_plain(each.request), "variants": each.variants, "control": each.control}
        for each in (existing, requested)
    )
    if other := [name for name in after if before[name] != after[name]]:
        raise FileError(
            f"{folder} holds another ablation: {', '.join(other)} differ from those that "
            "--resume has"
        )


def _check(ablation: Ablation) -> None:
    """Check the settings of all variants, and that they differ."""
    settings = [ablation.settings(variant, ablation.request.seed) for variant in ablation.variants]
    searched = [(a, s) for a, s in zip(ablation.variants, settings, strict=True) if a.method]
    for number, (variant, own) in enumerate(searched):
        for other, theirs in searched[:number]:
            if own.search == theirs.search:
                raise MobileNASError(
                    f"variants {other.name} and {variant.name} are the same search"
                )


def _check_space(
    request: Request, settings: RunSettings, latency: Latency | None, kind: ImageKind
) -> None:
    """Check that the budgets can be met; for cells, by the number of final channels."""
    space = usable_space(settings, kind, latency)
    if with_channels := family_of(space).with_channels:
        Budgets(with_channels(space, 2), request.budgets).check_reachable()


def run_ablation(ablation: Ablation) -> AblationRecord:
    """Make all missing networks; return ablation.json, which is written after every seed."""
    for seed in ablation.seeds:
        for variant in ablation.variants:
            _run_variant(ablation, variant, seed)
        record = _result(ablation)
        write_record(ablation.folder / ABLATION_FILE, record)
        write_text(ablation.folder / PAGE_FILE, ablation_page(record))
    return record


def _run_variant(ablation: Ablation, variant: Variant, seed: int) -> None:
    """Search and train one network, evaluate it once on test images, and write entry.json."""
    run = ablation.run(variant, seed)
    if (run.folder / ENTRY_FILE).exists():
        return
    ablation.reporter.info(f"seed {seed}: {variant.name}")
    found = search_stage(run) if variant.method else None
    choice: AnyChoice = _searched_choice(run) if variant.method else _drawn(run)
    arch = run.space.arch(choice)
    if family_of(arch).with_channels is not None:
        arch = widest(arch, ablation.request.budgets, f"{variant.name}, seed {seed}")
    folder, device, data = run.folder / "train", run.device, run.at(arch.image_size).data
    trained = train(
        arch,
        data,
        run.settings.recipe,
        folder=folder,
        seed=seed,
        device=device,
        reporter=run.reporter,
    )
    model = load_weights(arch, folder / BEST_WEIGHTS).to(device)
    gap = found.discretization_gap if found else None
    entry = EntryRecord(
        seed=seed,
        arch=arch.to_dict(),
        choice=to_plain(choice),
        costs=predicted(run, arch),
        val_top1=trained.val_top1,
        top1=evaluate(model, data.test, data, device).top1,
        gap=EntryGap(points=gap.points, points_before=gap.points_before) if gap else None,
        skips=run.budgets.space.skips(choice),
        alarms=(found.alarms or ()) if found else (),
        seconds=EntrySeconds(search=found.search_seconds if found else 0.0, train=trained.seconds),
        genotype=family_of(arch).genotype(arch),
        channels=vars(arch).get("channels"),
    )
    write_record(run.folder / ENTRY_FILE, entry)


def _drawn(run: Run) -> AnyChoice:
    """Draw a network uniformly: among all cells, or among feasible ones of the mobile space."""
    source = random.Random(f"random arm/{run.settings.seed}")
    return (run.space if family_of(run.space).with_channels else run.budgets).random(source)


def _searched_choice(run: Run) -> AnyChoice:
    """Return the choice that the search found; arch.json has only its arch."""
    return searched_choice(run.folder / "search", run.budgets.space, searched_arch(run.folder))


def widest(arch: Arch, budgets: Sequence[Budget], whose: str) -> Arch:
    """Return the network with the most initial channels (even) that meets the budgets.

    BudgetError if none does: it names the network by `whose` and gives the smallest cost.
    """
    with_channels = family_of(arch).with_channels
    assert with_channels is not None

    def over(half: int) -> list[Budget]:
        exact = costs_by_name(with_channels(arch, 2 * half))
        return [budget for budget in budgets if exact[budget.cost] > budget.limit]

    halves = range(1, _MAX_CHANNELS // 2 + 1)
    kept = bisect_left(halves, True, key=lambda half: bool(over(half)))
    if not kept:
        budget, minimum = over(1)[0], costs_by_name(with_channels(arch, 2))
        raise BudgetError(
            f"{whose}: {budget} cannot be met: with 2 initial channels the network has "
            f"{format_cost(budget.cost, minimum[budget.cost])} {budget.cost}"
        )
    found: Arch = with_channels(arch, 2 * kept)
    return found


def _result(ablation: Ablation) -> AblationRecord:
    """Return ablation.json from the seeds that are done for all variants."""
    paths = {
        seed: [ablation.run_folder(variant, seed) / ENTRY_FILE for variant in ablation.variants]
        for seed in ablation.seeds
    }
    done = [seed for seed, own in paths.items() if all(path.exists() for path in own)]
    read = ([read_record(path, EntryRecord) for path in paths[seed]] for seed in done)
    rounds = zip(*read, strict=True)
    entries = {variant.name: own for variant, own in zip(ablation.variants, rounds, strict=True)}
    if len({tuple(entry.skips) for own in entries.values() for entry in own}) > 1:
        raise FileError(f"{ablation.folder}/runs: the {ENTRY_FILE} files are not of one space")
    request, control = ablation.request, ablation.control.name
    return AblationRecord(
        command=ablation.command,
        space=request.space,
        budgets=[BudgetRow(**vars(budget)) for budget in request.budgets],
        seeds=done,
        seeds_requested=list(ablation.seeds),
        control=control,
        variants=[
            _figures(request.space, variant, entries[variant.name], entries[control])
            for variant in ablation.variants
        ],
        request=to_plain(request),
        counting_rule=COUNTING_RULE,
        data=ablation.data.describe(),
        versions=versions(),
        machine=machine(),
    )


def _figures(
    space: str, variant: Variant, entries: Sequence[EntryRecord], control: Sequence[EntryRecord]
) -> VariantRecord:
    """Return the record of one variant in ablation.json."""
    choices = [from_plain(family(space).choice, entry.choice, "choice") for entry in entries]
    top1 = [[entry.top1 for entry in both] for both in (entries, control)]
    try:
        agreed = agreement(choices) if len(choices) > 1 else None
        gaps = [to_plain(entry.gap) for entry in entries if entry.gap]
        return VariantRecord(
            name=variant.name,
            method=variant.method or RANDOM,
            parts=dict(variant.parts),
            top1=mean_std(top1[0]),
            gap=over_seeds(gaps) if gaps else None,
            skips=over_seeds([entry.skips for entry in entries]),
            seconds=over_seeds([to_plain(entry.seconds) for entry in entries]),
            agreement=agreed,
            difference=None if entries is control else difference(*top1),
            entries=entries,
        )
    except (LookupError, TypeError, ValueError) as error:
        raise FileError(
            f"the {ENTRY_FILE} files of variant {variant.name} are not of one space: {error}"
        ) from error
