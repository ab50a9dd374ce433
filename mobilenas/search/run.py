"""The search stage: from space and budgets to an arch, with its files in RUN/search."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from msgspec import structs

from mobilenas.core import processes
from mobilenas.core.errors import FileError, MobileNASError
from mobilenas.core.files import (
    State,
    load_checkpoint,
    restoring,
    save_checkpoint,
)
from mobilenas.core.progress import Reporter, clock
from mobilenas.core.records import read_checkpoint_log, read_record, write_log, write_record
from mobilenas.core.settings import from_plain, to_plain, to_plain_without_added
from mobilenas.cost.budget import LATENCY
from mobilenas.cost.budgets import Budgets
from mobilenas.cost.networks import costs_by_name
from mobilenas.data import ImageData, Split, chance_remark
from mobilenas.nn.network import Network
from mobilenas.search.candidates import candidates, uses_prior
from mobilenas.search.collapse_monitor import CollapseMonitor
from mobilenas.search.epoch_metrics import epoch_metrics
from mobilenas.search.finalists import FINALISTS, SuccessiveHalving
from mobilenas.search.gap import discretization_gap
from mobilenas.search.loop import Searcher
from mobilenas.search.norm_statistics import estimate_statistics
from mobilenas.search.rank import ranking_quality
from mobilenas.search.records import (
    CandidatesRecord,
    FinalistsRecord,
    GapRecord,
    MeasuredRound,
    SearchLine,
)
from mobilenas.search.settings import FinalistSettings, SearchSettings
from mobilenas.spaces.base import (
    AnyChoice,
    AnySupernet,
    Arch,
    SearchedSpace,
    family_of,
    searchable,
)
from mobilenas.supernet.settings import SamplerSettings
from mobilenas.train import Recipe
from mobilenas.train.distillation import Teacher

MeasureArchs = Callable[[Sequence[Arch]], list[float]]
"""Measures archs; returns the latency of each in ms."""

_CHECKPOINT = "checkpoint.pt"
_CANDIDATES = "candidates.json"
_TIGHTENINGS = 3
_SUPERNET_GUESSES = (
    "the supernet is {}; so the alphas say little, and the finalists decide; try more "
    "--search-epochs, a larger --image-size or more images, and look at the labels"
)
_ALL_WARMUP = "the search is warm-up only: it trains weights{} (see --search-epochs)"
_PRIOR_DECIDES = ", and the prior proposes the finalists"
_RANDOM_ONES = ", and the finalists are random networks of the budgets"
_FINALISTS_GUESS = (
    "the finalists are {}; so the choice among them is random; try more --epochs, of which "
    "they get a share, a larger --image-size or more images, and look at the labels"
)


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """The result of a search."""

    choice: AnyChoice
    """The network, as options of the space."""
    arch: Arch
    """The network as an arch, which `mobilenas.train` trains."""
    costs: dict[str, float]
    """By the cost model: FLOPs, params, memory in bytes, and with a budget for it latency in ms."""
    log: list[SearchLine]
    """One record per epoch of the supernet, as in search/log.jsonl."""
    gap: GapRecord
    """Discretization gap: see `discretization_gap`."""
    candidates: int
    """Number of candidates, all of which become finalists if there are several."""
    seconds: dict[str, float]
    """CPU time (on CUDA, wall time) of supernet, candidates and finalists, over all resumes."""
    alarms: list[str]
    """Signs of a collapse at the last epoch of the supernet, and of results at chance level."""


def search(
    budgets: Budgets,
    data: ImageData,
    settings: SearchSettings,
    finalists: FinalistSettings,
    recipe: Recipe,
    *,
    folder: Path,
    seed: int,
    device: str,
    reporter: Reporter,
    rank: int = 0,
    measure: MeasureArchs | None = None,
    inherit: bool = False,
    weights: State | None = None,
    teacher: Teacher | None = None,
    images: Callable[[int], ImageData] | None = None,
    begun: Path | None = None,
) -> SearchResult:
    """Train a supernet, discretize, and compare finalists; resumes from the last checkpoint.

    - `recipe`: that of the final training, which finalists begin.
    - `rank`: number of random networks, trained for as long as finalists, to write the supernet's
      ranking quality to rank.json.
    - `measure`: measures latencies of archs, if this machine can.
    - `inherit`: finalists start from the supernet's weights; MobileNASError if the space's family
      does not support it.
    - `weights`: those of the space's largest network, from which the supernet starts.
    - `teacher`: finalists also learn from it.
    - `images`: returns the images at another size than the data's.
    - `begun`: folder of trainings that finalists continue.
    """
    searcher = Searcher(
        budgets,
        data,
        settings,
        seed=seed,
        device=device,
        amp=recipe.amp_on(device),
        weights=weights,
    )
    if settings.warmup >= settings.epochs:
        drawn = searcher.searchable.draws is not None and finalists.count > 1
        decides = _PRIOR_DECIDES if uses_prior(settings, budgets) else _RANDOM_ONES
        if not settings.evaluated:  # otherwise it needs only warm-up
            reporter.info(_ALL_WARMUP.format(decides * drawn))
    identity = _identity(searcher, finalists, recipe)
    log = _train_supernet(searcher, folder, identity, reporter)
    seconds = {"supernet": float(sum(line.seconds for line in log))}
    choices, gap, seconds["candidates"] = _discretized(searcher, finalists.count, folder, measure)
    winner, alarms = 0, list(log[-1].alarms)
    if len(choices) > 1:
        halving = SuccessiveHalving(
            data,
            finalists,
            recipe,
            folder=folder / FINALISTS,
            seed=seed,
            device=device,
            reporter=reporter,
            start=_start(searcher, choices, images or (lambda _: data)) if inherit else None,
            teacher=teacher,
            images=images,
            begun=begun,
        )
        winner = halving.best([budgets.space.arch(choice) for choice in choices])
        seconds["finalists"] = halving.spent_for(winner)
        _write_finalists(folder, budgets, choices, halving, winner)
        best = max(score.val_top1 for score in halving.scores)
        guesses = _chance_alarms(best, data.val, data, _FINALISTS_GUESS)
        alarms += guesses
        for alarm in guesses:
            reporter.info(alarm)
    if rank:
        epochs = finalists.compared_at(2, recipe.epochs)[-1]
        quality = ranking_quality(searcher, rank, recipe, epochs, reporter)
        write_record(folder / "rank.json", quality)
    arch = budgets.space.arch(choices[winner])
    timed = {c: t.exact(choices[winner]) for c, t in budgets.tables.items() if c == LATENCY}
    return SearchResult(
        choice=choices[winner],
        arch=arch,
        costs=costs_by_name(arch) | timed,
        log=log,
        gap=gap,
        candidates=len(choices),
        seconds=seconds,
        alarms=alarms,
    )


def _discretized(
    searcher: Searcher, count: int, folder: Path, measure: MeasureArchs | None
) -> tuple[list[AnyChoice], GapRecord, float]:
    """Return candidates, gap and seconds, from their file if it exists.

    They are kept in a file because a solver with a time limit may not return the same again.
    """
    path = folder / _CANDIDATES
    if not path.exists():
        write_record(path, processes.on_first(partial(_solved, searcher, max(1, count), measure)))
    kept = read_record(path, CandidatesRecord)
    return read_choices(path, searcher.space), kept.gap, kept.seconds


def _solved(searcher: Searcher, count: int, measure: MeasureArchs | None) -> CandidatesRecord:
    began = clock(searcher.device)
    choices, rounds = measured_candidates(searcher, count, measure)
    gap = discretization_gap(searcher, choices[0])
    seconds = clock(searcher.device) - began
    return CandidatesRecord(
        choices=to_plain(choices), gap=gap, seconds=seconds, measurements=rounds
    )


def read_choices(path: Path, space: SearchedSpace) -> list[AnyChoice]:
    """Return the choices of candidates.json; FileError if one is not of the space."""
    found: list[AnyChoice] = []
    for number, item in enumerate(read_record(path, CandidatesRecord).choices):
        place = f"{path}: choices[{number}]"
        try:
            choice = from_plain(family_of(space).choice, item, place)
        except MobileNASError as error:
            raise FileError(str(error)) from error
        if not space.is_legal(choice):
            raise FileError(
                f"{place} is not a network of the space; delete the file to solve again"
            )
        found.append(choice)
    return found


def _start(
    searcher: Searcher, choices: list[AnyChoice], images: Callable[[int], ImageData]
) -> Callable[[Arch], Network]:
    """Return a function from a candidate's arch to the network that it starts from.

    Candidates of equal archs start from the weights of the first, as `searched_choice` finds them.
    """
    archs = [searcher.space.arch(choice) for choice in choices]
    inherited = _inheriting(searcher.space)

    def start(arch: Arch) -> Network:
        network = inherited(searcher.net, choices[archs.index(arch)], searcher.seed)
        estimate_statistics(network, images(arch.image_size), searcher.seed, searcher.device)
        return network

    return start


def _inheriting(space: SearchedSpace) -> Callable[[AnySupernet, AnyChoice, int], Network]:
    inherited = searchable(space).inherited
    if inherited is None:
        raise MobileNASError(f"networks of a {space.family} space cannot inherit weights")
    return inherited


def searched_choice(folder: Path, space: SearchedSpace, arch: Arch) -> AnyChoice:
    """Return the first candidate with this arch in a search's folder; FileError if none has it."""
    path = folder / _CANDIDATES
    kept = read_choices(path, space)
    choice: AnyChoice | None = next((c for c in kept if space.arch(c) == arch), None)
    if choice is None:
        raise FileError(f"{path} has no candidate that is the arch of arch.json")
    return choice


def inherited_network(
    folder: Path,
    space: SearchedSpace,
    sampler: SamplerSettings,
    arch: Arch,
    data: ImageData,
    *,
    seed: int,
    device: str,
) -> Network:
    """Return the network of `arch`, searched in `folder`, with weights from the supernet.

    `data` are images of its size, from which the statistics of its batch norms are estimated.
    """
    path, inherited = folder / _CHECKPOINT, _inheriting(space)
    choice, state = searched_choice(folder, space, arch), load_checkpoint(path)
    if state is None:
        raise FileError(f"{path} does not exist; the network should start from its weights")
    with torch.random.fork_rng(devices=[]):  # the drawn weights are not used
        net = searchable(space).supernet(space, sampler)
    with restoring(path):
        net.load_state_dict(state["searcher"]["net"])
    network = inherited(net, choice, seed)
    estimate_statistics(network, data, seed, device)
    return network


def _write_finalists(
    folder: Path,
    budgets: Budgets,
    choices: list[AnyChoice],
    halving: SuccessiveHalving,
    winner: int,
) -> None:
    archs = [budgets.space.arch(choice).to_dict() for choice in choices]
    record = FinalistsRecord(winner=winner, scores=halving.scores, archs=archs)
    write_record(folder / "finalists.json", record)


def _identity(searcher: Searcher, finalists: FinalistSettings, recipe: Recipe) -> str:
    parts = {
        "space": to_plain(searcher.budgets.space),
        "budgets": to_plain(searcher.budgets.budgets),
        "settings": to_plain(searcher.settings),
        "finalists": to_plain(finalists),
        "recipe": to_plain_without_added(recipe),
        "seed": searcher.seed,
        "data": searcher.data.fingerprint,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _chance_alarms(top1: float, split: Split, data: ImageData, remark: str) -> list[str]:
    """Return `remark` with the finding filled in, if `top1` (percent) is no better than chance."""
    finding = chance_remark(top1, split.labels, len(data.classes))
    return [remark.format(finding)] if finding else []


def _train_supernet(
    searcher: Searcher, folder: Path, identity: str, reporter: Reporter
) -> list[SearchLine]:
    """Train the epochs that the folder's checkpoint lacks; return the log of all epochs."""
    path = folder / _CHECKPOINT
    state = load_checkpoint(path) or {"identity": identity, "log": []}
    if state.get("identity") != identity:
        raise FileError(f"{path} belongs to another search; choose another folder")
    log = read_checkpoint_log(state, SearchLine, path)
    # the checkpoint has the log, too, so a kill between writing the two files loses no line
    write_log(folder / "log.jsonl", log)
    monitor = CollapseMonitor(searcher)
    if log:
        with restoring(path):
            searcher.load_state_dict(state["searcher"])
            monitor.load_state_dict(state["monitor"])
            if searcher.epochs_done != len(log):
                raise ValueError(f"epochs_done is not {len(log)}, the lines of its log")
    reporter.start("search", searcher.settings.epochs)
    while searcher.epochs_done < searcher.settings.epochs and not monitor.stopped:
        figures = searcher.run_epoch()
        line = processes.on_first(partial(epoch_metrics, searcher, figures))
        alarms = monitor.update(line)
        last = monitor.stopped or searcher.epochs_done == searcher.settings.epochs
        if last and searcher.epochs_done > searcher.settings.warmup:  # else it has no effect
            alarms += _chance_alarms(
                line.val_top1, searcher.monitor_split, searcher.data, _SUPERNET_GUESSES
            )
        reported = {_name_of(alarm) for before in log for alarm in before.alarms}
        log.append(structs.replace(line, alarms=alarms))
        state = {"identity": identity, "log": to_plain(log), "searcher": searcher.state_dict()}
        save_checkpoint(path, state | {"monitor": monitor.state_dict()})
        write_log(folder / "log.jsonl", log)
        for alarm in alarms:
            if _name_of(alarm) not in reported:
                reporter.info(f"epoch {searcher.epochs_done}: {alarm}")
        reporter.step(searcher.epochs_done, _figures(line, searcher.budgets))
    return log


def _name_of(alarm: str) -> str:
    return alarm.partition(":")[0]


def _figures(line: SearchLine, budgets: Budgets) -> dict[str, str]:
    ratios = {b.cost: line.expected[b.cost] / b.limit for b in budgets.budgets}
    figures = {"loss": f"{line.loss:.3f}", "val top-1": f"{line.val_top1:.1f} %"}
    return figures | {f"expected {cost}": f"{100 * ratio:.0f} %" for cost, ratio in ratios.items()}


def measured_candidates(
    searcher: Searcher, count: int, measure: MeasureArchs | None
) -> tuple[list[AnyChoice], list[MeasuredRound]]:
    """Return candidates that meet a latency budget as measured, and all rounds of measurements.

    If one exceeds it, the budget is divided by the largest ratio of measured to predicted latency,
    and the program solved again, at most three times. After that, those that meet it are returned,
    or all if none does, which the budget check will report.
    """
    budgets, rounds = searcher.budgets, list[MeasuredRound]()
    limit = next((b.limit for b in budgets.budgets if b.cost == LATENCY), None)
    if measure is None or limit is None:
        return candidates(searcher, budgets, count), rounds
    while True:
        choices = candidates(searcher, budgets, count)
        predicted = [budgets.tables[LATENCY].exact(choice) for choice in choices]
        measured = measure([budgets.space.arch(choice) for choice in choices])
        rounds.append(MeasuredRound(predicted_ms=predicted, measured_ms=measured))
        within = [c for c, ms in zip(choices, measured, strict=True) if ms <= limit]
        if len(within) == len(choices) or len(rounds) > _TIGHTENINGS:
            return within or choices, rounds
        excess = max(actual / guess for actual, guess in zip(measured, predicted, strict=True))
        budgets = searcher.budgets.tightened(LATENCY, 1 / excess)
        if budgets.tables[LATENCY].minimum() > limit / excess:
            return within or choices, rounds
