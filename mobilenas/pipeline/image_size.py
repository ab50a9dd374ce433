"""`--image-size auto`: which image sizes (sides) are options, and which one is searched.

For every image size, a network begins its final training on images of that size, and successive
halving decides among them, as among finalists.
"""

import random
from collections.abc import Sequence
from pathlib import Path

from msgspec import structs

from mobilenas.core.errors import BudgetError
from mobilenas.core.progress import clock
from mobilenas.core.records import read_log, read_record, write_record
from mobilenas.core.settings import to_plain
from mobilenas.cost.budget import PENALTY
from mobilenas.cost.budgets import Budgets
from mobilenas.data import ImageKind, chance_remark
from mobilenas.latency.cost_model import Latency
from mobilenas.latency.profile import ProfileError
from mobilenas.pipeline.run_folder import IMAGE_SIZE_FILE, Run
from mobilenas.pipeline.settings import RunSettings
from mobilenas.pipeline.space import usable_space
from mobilenas.search import SuccessiveHalving
from mobilenas.search.candidates import before_search
from mobilenas.search.records import FinalistsRecord, ImageSizeRecord, Score
from mobilenas.search.space import is_reachable
from mobilenas.spaces.base import Arch, Space
from mobilenas.spaces.networks import arch_from_dict
from mobilenas.train import LOG
from mobilenas.train.records import TrainLine

IMAGE_SIZES = IMAGE_SIZE_FILE.removesuffix(".json")
"""Folder of the networks' trainings, one subfolder each."""
_SMALLEST, _STEP, _MOST = 32, 16, 6
_DRAWS = 1000
_GUESSES = (
    "the networks of all image sizes are {}; so the choice among them is random; try more "
    "--epochs, of which they get a share, or give --image-size a number"
)


def image_sizes(
    settings: RunSettings, kind: ImageKind, latency: Latency | None = None
) -> tuple[int, ...]:
    """Return the image sizes to choose from; none if the size is not searched.

    They are multiples of 16 from 32 up, and the images' own size; at most six of those that can
    meet the budgets, evenly spaced. BudgetError if there is none.
    """
    if not settings.search_image_size:
        return ()
    own = kind.image_size
    sides = [*range(_SMALLEST, own, _STEP), own]
    if latency is None:
        kept = [side for side in sides if _is_reachable(settings, kind.at(side))]
    else:
        measured = {space.image_size for space in latency.profile.spaces}
        kept = [side for side in sides if side in measured]
    parts = max(1, min(_MOST, len(kept)) - 1)
    spread = {kept[round(n * (len(kept) - 1) / parts)] for n in range(parts + 1)} if kept else set()
    usable = [side for side in sorted(spread) if _is_usable(settings, kind.at(side), latency)]
    if not usable:
        usable = [max(spread, default=sides[0])]
        space = usable_space(settings, kind.at(*usable), latency)  # mostly raises the right error
        _budgets(settings, space, latency).random(random.Random(0))
    return tuple(usable)


def _is_reachable(settings: RunSettings, kind: ImageKind) -> bool:
    return is_reachable(
        settings.budgets,
        image_size=kind.image_size,
        classes=len(kind.classes),
        in_channels=kind.channels,
        activation=settings.activation,
        squeeze=settings.squeeze,
        extra_depthwise=settings.extra_depthwise,
        operations=settings.operations,
    )


def _is_usable(settings: RunSettings, kind: ImageKind, latency: Latency | None) -> bool:
    """Whether there is a space at this image size, with feasible networks among random ones.

    Close to the smallest possible cost, hardly any network is feasible.
    """
    try:
        limits = _budgets(settings, usable_space(settings, kind, latency), latency)
    except (BudgetError, ProfileError):
        return False
    source = random.Random(0)
    return any(limits.is_feasible(limits.space.random(source)) for _ in range(_DRAWS))


def _budgets(settings: RunSettings, space: Space, latency: Latency | None) -> Budgets:
    filled = settings.search.constraint != PENALTY
    return Budgets(space, settings.budgets, latency, filled=filled)


def at_chosen_size(run: Run) -> Run:
    """Return `run` at the image size that is searched; choose it first, if necessary."""
    if not run.settings.search_image_size:
        return run
    path = run.folder / IMAGE_SIZE_FILE
    if not path.exists() or read_record(path, ImageSizeRecord).space is None:
        _choose(run, path)
    return run.at(run.budgets.space.image_size)


def _choose(run: Run, path: Path) -> None:
    kinds = [run.data.at(side) for side in run.image_sizes]
    spaces = {kind.image_size: usable_space(run.settings, kind, run.latency) for kind in kinds}
    if not path.exists():
        write_record(path, _proposed(run, list(spaces.values())))
    record, winner = compare_sides(run, path, "image size")
    best = max((score.val_top1 for score in record.scores), default=100.0)
    if remark := chance_remark(best, run.data.val.labels, len(run.data.classes)):
        run.reporter.info(_GUESSES.format(remark))
    space = spaces[winner.image_size]
    write_record(path, structs.replace(record, space=to_plain(space)))
    run.forget_space()
    listed = ", ".join(map(str, spaces))
    run.reporter.info(f"image size {winner.image_size} is searched, chosen from {listed}")


def _proposed(run: Run, spaces: Sequence[Space]) -> ImageSizeRecord:
    """Return each space's most promising network before any training."""
    settings, began = run.settings, clock(run.device)
    run.reporter.start("networks for image sizes", len(spaces))
    archs = list[Arch]()
    for space in spaces:
        limits = _budgets(settings, space, run.latency)
        choice = before_search(limits, settings.search, len(run.data.train), settings.seed)
        archs.append(space.arch(choice))
        run.reporter.step(len(archs), {"image size": str(archs[-1].image_size)})
    return ImageSizeRecord(
        archs=[arch.to_dict() for arch in archs],
        names=[f"{arch.image_size}x{arch.image_size}" for arch in archs],
        seconds=clock(run.device) - began,
    )


def compare_sides(run: Run, path: Path, stage: str) -> tuple[ImageSizeRecord, Arch]:
    """Compare the networks of the record at `path`; return the record and the winner.

    Each begins its final training on images of its own size, in a folder beside the record.
    """
    record = read_record(path, ImageSizeRecord)
    archs = [arch_from_dict(plain, str(path)) for plain in record.archs]
    if record.winner is None:
        winner, scores, seconds = 0, list[Score](), record.seconds
        if len(archs) > 1:
            halving = SuccessiveHalving(
                run.data,
                run.settings.finalists,
                run.settings.baseline_recipe,
                folder=path.with_suffix(""),
                seed=run.settings.seed,
                device=run.device,
                reporter=run.reporter,
                images=lambda side: run.at(side).data,
                stage=stage,
            )
            winner = halving.best(archs)
            scores, seconds = halving.scores, record.seconds + halving.seconds
        record = structs.replace(record, winner=winner, scores=scores, seconds=seconds)
        write_record(path, record)
    return record, archs[record.winner or 0]


def choosing_seconds(run: Run, seed: int) -> dict[str, float]:
    """Return the seconds of choosing the image size, which are part of every seed's search.

    Without epochs that the finalists continued from, which count there.
    """
    if not run.settings.search_image_size:
        return {}
    record = read_record(run.folder / IMAGE_SIZE_FILE, ImageSizeRecord)
    winner, path = record.winner or 0, run.seed_folder(seed) / "search/finalists.json"
    seconds = record.seconds
    if seed == run.settings.seed and not run.settings.inherit and path.exists():
        finalists = read_record(path, FinalistsRecord)
        continued = [
            score.epochs
            for score in finalists.scores
            if finalists.archs[score.arch] == record.archs[winner]
        ]
        log = read_log(run.folder / IMAGE_SIZES / str(winner) / LOG, TrainLine)
        seconds -= sum(line.seconds for line in log[: max(continued, default=0)])
    return {"image size": seconds}
