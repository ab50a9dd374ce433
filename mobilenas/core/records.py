"""What the files of a run folder hold, field by field, and the one pair of reader and writer.

A `Record` is a whole file or a part of one: it has these fields and no others, each with this type
and in this range. A `Part` is what one reader needs of a file that holds more. A field with a
default is written only where it differs from that. docs/formats.md says what the fields mean.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, TypeVar

from msgspec import Meta, Struct

from mobilenas.core.errors import FileError, MobileNASError
from mobilenas.core.explain import shown
from mobilenas.core.files import (
    append_jsonl,
    read_json,
    read_jsonl,
    read_list,
    write_json,
    write_jsonl,
    write_list,
)
from mobilenas.core.settings import format_cell, from_plain, to_plain

Count = Annotated[int, Meta(ge=0, le=10**15)]
Some = Annotated[int, Meta(ge=1, le=10**15)]
Few = Annotated[int, Meta(ge=0, le=10_000)]
Epoch = Annotated[int, Meta(ge=1, le=1_000_000)]
Amount = Annotated[float, Meta(ge=0, le=1e15)]
Percent = Annotated[float, Meta(ge=0, le=100)]
Points = Annotated[float, Meta(ge=-100, le=100)]
Share = Annotated[float, Meta(ge=0, le=1)]
Correlation = Annotated[float, Meta(ge=-1, le=1)]
Number = Annotated[float, Meta(ge=-1e30, le=1e30)]
Cost = Count | Amount
"""Whole numbers but for latency, in ms."""
Seconds = dict[str, Amount]
Json = dict[str, object]
"""A value whose type its own reader knows, such as an arch."""

_Read = TypeVar("_Read")


class Record(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """A file, or a part of one."""


class Part(Struct, frozen=True, kw_only=True):
    """What a reader needs of a file that holds more."""


class BudgetRow(Record, frozen=True, kw_only=True):
    """A budget, and what is known of the found network's cost."""

    cost: Annotated[str, Meta(pattern="^[a-z0-9_-]{1,100}$")]
    limit: Annotated[int, Meta(ge=1, le=10**15)] | Annotated[float, Meta(ge=1e-12, le=1e15)]
    predicted: Cost | None = None
    recounted: Count | None = None
    measured: Amount | None = None
    measured_interval: Amount | None = None
    holds: bool | None = None

    @property
    def on_file(self) -> Cost | None:
        """What was measured of the exported file, or counted on it."""
        return self.recounted if self.measured is None else self.measured

    def format_on_file(self) -> str:
        """Write that with the interval of the measurement."""
        interval = self.measured_interval
        margin = "" if interval is None else f" ± {interval:.1g}"
        return format_cell(self.on_file) + margin


class BudgetCheck(BudgetRow, frozen=True, kw_only=True):
    """A budget in result.json, where null says what is not known."""

    recounted: Count | None
    holds: bool | None


class DataRecord(Record, frozen=True, kw_only=True):
    """The images in run.json."""

    source: str
    classes: Sequence[str]
    counts: dict[str, Count]
    class_counts: dict[str, dict[str, Count]]
    image_size: Count
    mean: Sequence[Number]
    std: Sequence[Number]
    flip: bool
    fingerprint: str
    split_rule: str
    pixel_range: tuple[Number, Number] | None
    repeated: dict[str, Count]


class DataPart(Part, frozen=True, kw_only=True):
    """What reports say of the images."""

    source: str
    classes: Sequence[str]
    counts: dict[str, Count]
    image_size: Count
    fingerprint: str
    split_rule: str


class SearchPart(Part, frozen=True, kw_only=True):
    """What reports say of the search's settings."""

    warmup: Few = 0
    constraint: str = "lagrangian"
    strength: Number = 0.0


class SettingsPart(Part, frozen=True, kw_only=True):
    """What reports say of a run's settings."""

    space: str = "mobile"
    seeds: Annotated[int, Meta(ge=1, le=1000)] = 1
    precision: str = "fp32"
    rank: Few = 0
    search: SearchPart = SearchPart()


class Machine(Record, frozen=True, kw_only=True):
    """What results were made on."""

    platform: str
    processor: str
    cuda: str | None


class RunPart(Part, frozen=True, kw_only=True):
    """What reports say of run.json."""

    command: str
    settings: SettingsPart
    seed: Count
    budgets: Sequence[BudgetRow]
    data: DataPart
    versions: dict[str, str]
    machine: Machine


class Accuracies(Record, frozen=True, kw_only=True):
    """A stage of the discretization gap."""

    before_reestimation: Percent
    after_reestimation: Percent


class GapRecord(Record, frozen=True, kw_only=True):
    """The discretization gap: `points` with re-estimated norms, `points_before` without."""

    supernet: Accuracies
    operations_discrete: Accuracies
    edges_discrete: Accuracies | None = None
    points: Points
    points_before: Points


def _check_costs(costs: Mapping[str, Cost]) -> None:
    """Refuse the costs of a network that lack one which every network has."""
    for name in ("flops", "params", "memory"):
        if name not in costs:
            raise ValueError(f"costs lacks {name!r}")


class ArchRecord(Record, frozen=True, kw_only=True):
    """arch.json as a search writes it."""

    arch: Json
    genotype: str | None = None
    costs: dict[str, Cost]
    counting_rule: str
    budgets: Sequence[BudgetRow]
    discretization_gap: GapRecord | None = None
    candidates: Few
    alarms: Sequence[str] | None = None
    seconds: Seconds
    seed: Count

    def __post_init__(self) -> None:
        """Check that the costs are there which every network has."""
        _check_costs(self.costs)

    @property
    def search_seconds(self) -> float:
        """What the search took in all."""
        return sum(self.seconds.values())


class Confirmation(Record, frozen=True, kw_only=True):
    """A round of measured candidates."""

    predicted_ms: Sequence[Amount]
    measured_ms: Sequence[Amount]


class CandidatesRecord(Record, frozen=True, kw_only=True):
    """search/candidates.json."""

    choices: Annotated[Sequence[Json], Meta(min_length=1, max_length=10_000)]
    gap: GapRecord
    seconds: Amount
    confirmations: Sequence[Confirmation]


class Score(Record, frozen=True, kw_only=True):
    """One arch after one rung."""

    arch: Few
    rung: Annotated[int, Meta(ge=0, le=64)]
    epochs: Epoch
    val_top1: Percent


class FinalistsRecord(Record, frozen=True, kw_only=True):
    """search/finalists.json."""

    winner: Few
    scores: Sequence[Score]
    archs: Sequence[Json]


class Agreement(Record, frozen=True, kw_only=True):
    """How well networks are ranked."""

    spearman: Correlation
    kendall: Correlation
    regret: Points
    pick_over_mean: Points


class RankRecord(Record, frozen=True, kw_only=True):
    """search/rank.json."""

    networks: Few
    epochs: Few
    supernet: Agreement
    alphas: Agreement
    supernet_top1: Sequence[Percent]
    alpha_score: Sequence[Number]
    trained_top1: Sequence[Percent]


class CalibrationPart(Part, frozen=True, kw_only=True):
    """What reports say of a calibration."""

    mape_percent: Amount
    flops_mape_percent: Amount
    max_error_percent: Amount
    kendall_tau: Correlation
    networks: Count
    held_out: Count


class ProfilePart(Part, frozen=True, kw_only=True):
    """What reports say of profile.json."""

    name: str
    threads: Few
    calibration: dict[str, CalibrationPart]


class SearchLine(Record, frozen=True, kw_only=True):
    """A line of search/log.jsonl: an epoch."""

    epoch: Epoch
    loss: Number
    alpha_loss: Number
    weight_gradient_norm: Number
    alpha_gradient_norm: Number | None
    seconds: Amount
    val_top1: Percent
    tau: Number
    entropy: Number
    edge_entropy: Number
    entropies: dict[str, list[Number]]
    expected: dict[str, Number]
    multipliers: dict[str, Number]
    alphas: dict[str, list[list[Number]]]
    channels: dict[str, list[Number]]
    gap_estimate: Points | None
    skips: dict[str, Few]
    utilization: Amount
    uncertainty: Number
    alarms: Sequence[str]


class TrialLine(Record, frozen=True, kw_only=True):
    """A line of search/log.jsonl of channel sizes: a trial."""

    trial: Few
    sizes: dict[str, Count]
    costs: dict[str, Cost]
    temperature: Number
    changes: dict[str, Number]
    pushed: Sequence[str]
    quality: dict[str, Number]
    loss: Number
    val_top1: Percent
    accepted: bool
    seconds: Amount


class TrainLine(Record, frozen=True, kw_only=True):
    """A line of train/log.jsonl."""

    epoch: Epoch
    loss: Number
    val_top1: Percent
    lr: Amount
    seconds: Amount


class Timing(Record, frozen=True, kw_only=True):
    """How latency was measured."""

    provider: str
    threads: Few
    profile: str | None


class Trained(Record, frozen=True, kw_only=True):
    """A network of a comparison that was trained and has no latency yet."""

    name: str
    kind: str
    seed: Count | None
    flops: Count | None
    params: Count | None
    memory: Count | None
    predicted_ms: Amount | None
    top1: Percent
    top1_fp32: Percent | None = None
    better_than_chance: bool | None = None
    val_top1: Percent | None = None
    train_seconds: Amount | None = None
    network: str | None = None
    epochs: Some | None = None
    recipe_epochs: Some | None = None
    onnx: str
    arch: Json | None = None
    size_bytes: Count


class NetworkRecord(Trained, frozen=True, kw_only=True):
    """A network of compare.json."""

    latency_ms: Amount
    latency_interval_ms: Amount | None = None
    latency_spread_ms: Amount | None = None
    unsteady: bool | None = None
    run: str | None = None
    uncounted: str | None = None
    exported: bool | None = None

    def cost(self, name: str) -> float:
        """Return its FLOPs or its latency in ms, as `flops` or `latency` asks for; 0: unknown."""
        return self.latency_ms if name == "latency" else self.flops or 0


class ExternalRecord(NetworkRecord, frozen=True, kw_only=True):
    """A file of another tool in compare.json, where null says what is not known of it."""

    predicted_ms: None
    top1_fp32: None
    val_top1: None
    train_seconds: None
    arch: None
    run: None
    uncounted: str | None
    exported: bool


class RivalRecord(Record, frozen=True, kw_only=True):
    """compare/rival-seed-N/rival.json."""

    arch: Json
    entered: Count
    seconds: Amount
    seconds_of_search: Amount


class EqualTimeRecord(Record, frozen=True, kw_only=True):
    """compare/equal-time-seed-N/equal-time.json."""

    network: str
    arch: Json
    epochs: Annotated[int, Meta(ge=1, le=100_000)]
    recipe_epochs: Some
    seconds: Amount
    seconds_of_recipe: Amount


class Difference(Record, frozen=True, kw_only=True):
    """The paired difference of two kinds of networks over the same seeds, in points of top-1."""

    mean: Number
    sd: Number | None
    seeds: Some
    p: Share | None
    verdict: str


class Spread(Record, frozen=True, kw_only=True):
    """Mean and sample standard deviation; null for the latter of one value."""

    mean: Number
    sd: Number | None


class DifferenceTo(Difference, frozen=True, kw_only=True):
    """A difference in result.json."""

    against: str


class ResultRecord(Record, frozen=True, kw_only=True):
    """result.json."""

    budgets: Sequence[BudgetCheck]
    flops: Count
    params: Count
    memory: Count
    latency_ms: Amount
    top1: Percent
    verdict: str
    alarms: Sequence[str]
    differences: Sequence[DifferenceTo]
    baselines: Sequence[NetworkRecord]
    files: dict[str, str]
    counting_rule: str


class ResultPart(Part, frozen=True, kw_only=True):
    """What reports say of result.json."""

    budgets: Sequence[BudgetCheck]
    alarms: Sequence[str] = ()


class EntryGap(Record, frozen=True, kw_only=True):
    """The discretization gap of an arm's network."""

    points: Points
    points_before: Points


class EntrySeconds(Record, frozen=True, kw_only=True):
    """Wall time of an arm's network."""

    search: Amount
    train: Amount


class EntryRecord(Record, frozen=True, kw_only=True):
    """entry.json of an ablation: what one seed of an arm came to."""

    seed: Count
    arch: Json
    choice: Json
    costs: dict[str, Cost]
    val_top1: Percent
    top1: Percent
    gap: EntryGap | None
    skips: Annotated[dict[str, Few], Meta(min_length=1, max_length=2)]
    alarms: Sequence[str]
    seconds: EntrySeconds
    genotype: str | None = None
    channels: Some | None = None

    def __post_init__(self) -> None:
        """Check that the costs are there which every network has."""
        _check_costs(self.costs)


class ArmRecord(Record, frozen=True, kw_only=True):
    """An arm of ablation.json, with means over seeds."""

    name: str
    method: str
    parts: Json
    top1: Spread
    gap: dict[str, Spread] | None
    skips: dict[str, Spread]
    seconds: dict[str, Spread]
    agreement: Number | None
    difference: Difference | None
    entries: Sequence[EntryRecord]


class AblationRecord(Record, frozen=True, kw_only=True):
    """ablation.json."""

    command: str
    space: str
    budgets: Sequence[BudgetRow]
    seeds: Sequence[int]
    seeds_asked: Sequence[int]
    control: str
    arms: Sequence[ArmRecord]
    request: Json
    counting_rule: str
    data: DataRecord
    versions: dict[str, str]
    machine: Machine


def read_record(path: Path, kind: type[_Read]) -> _Read:
    """Read a file of one JSON object; FileError names the file, the field and what is legal."""
    return _read(kind, read_json(path), path)


def write_record(path: Path, record: Record) -> None:
    """Write a file of one JSON object."""
    write_json(path, to_plain(record))


def read_records(path: Path, kind: type[_Read]) -> list[_Read]:
    """Read a file that is a list of objects."""
    items = enumerate(read_list(path))
    return [_read(kind, item, path, f"networks[{number}]") for number, item in items]


def write_records(path: Path, records: Sequence[Record]) -> None:
    """Write a file that is a list of objects."""
    write_list(path, to_plain(records))


def read_log(path: Path, kind: type[_Read]) -> list[_Read]:
    """Read a log, an object a line; one that does not exist is empty."""
    lines = enumerate(read_jsonl(path), 1)
    return [_read(kind, line, f"{path}, line {number}") for number, line in lines]


def write_log(path: Path, lines: Iterable[Record]) -> None:
    """Write a whole log."""
    write_jsonl(path, map(to_plain, lines))


def append_log(path: Path, line: Record) -> None:
    """Add a line to a log."""
    append_jsonl(path, to_plain(line))


def read_checkpoint_log(state: Json, kind: type[_Read], path: Path) -> list[_Read]:
    """Return the log in the state of the checkpoint `path`."""
    lines = state.get("log")
    if not isinstance(lines, list):
        raise FileError(f"{path}: log is {shown(lines)}; it must be a list")
    return [_read(kind, line, path, f"log[{number}]") for number, line in enumerate(lines)]


def _read(kind: type[_Read], data: object, source: object, place: str = "") -> _Read:
    try:
        return from_plain(kind, data, place)
    except MobileNASError as error:
        raise FileError(f"{source}: {error}") from error
