"""What the files of a run folder hold, field by field, and the one reader of them.

A record may hold more than is named here; what is named has this type and lies in this range.
Fields that are not required are those of some runs only. docs/formats.md says what they mean.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, TypedDict, TypeVar

import msgspec
from msgspec import Meta

from mobilenas.core.errors import FileError, MobileNASError
from mobilenas.core.files import read_json, read_jsonl, read_list, write_json
from mobilenas.core.settings import from_plain, to_plain

Count = Annotated[int, Meta(ge=0, le=10**15)]
Some = Annotated[int, Meta(ge=1, le=10**15)]
Few = Annotated[int, Meta(ge=0, le=10_000)]
Amount = Annotated[float, Meta(ge=0, le=1e15)]
Percent = Annotated[float, Meta(ge=0, le=100)]
Points = Annotated[float, Meta(ge=-100, le=100)]
Share = Annotated[float, Meta(ge=0, le=1)]
Correlation = Annotated[float, Meta(ge=-1, le=1)]
Number = Annotated[float, Meta(ge=-1e30, le=1e30)]
Seconds = dict[str, Amount]
Object = dict[str, Any]

_Record = TypeVar("_Record")


class Record(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True
):
    """What a file holds. A field that has a default is written only where it differs from that."""


class CostsRecord(TypedDict):
    """What a network costs."""

    flops: Count
    params: Count
    memory: Count
    latency: NotRequired[Amount]


class BudgetRow(TypedDict):
    """A budget as run.json, arch.json and result.json have it."""

    cost: Literal["flops", "params", "memory", "latency"]
    limit: Annotated[float, Meta(ge=1e-12, le=1e15)]
    predicted: NotRequired[Amount | None]
    recounted: NotRequired[Amount | None]
    measured: NotRequired[Amount | None]
    measured_interval: NotRequired[Amount | None]
    unsteady: NotRequired[bool]
    holds: NotRequired[bool | None]


class DataRecord(TypedDict):
    """The images in run.json."""

    source: str
    classes: list[str]
    counts: dict[str, Count]
    image_size: Count
    fingerprint: str
    split_rule: str


class SearchPart(TypedDict, total=False):
    """What reports say of the search's settings."""

    warmup: Few
    constraint: str
    strength: Number


class FinalistPart(TypedDict, total=False):
    """What reports say of the finalists' settings."""

    epochs: Few


class SettingsPart(TypedDict, total=False):
    """What reports say of a run's settings; `runs.open_run` reads all of them."""

    seeds: Annotated[int, Meta(ge=1, le=1000)]
    precision: str
    search: SearchPart
    finalists: FinalistPart


class RunRecord(TypedDict, total=False):
    """run.json."""

    command: str
    settings: SettingsPart
    seed: Count
    budgets: list[BudgetRow]
    data: DataRecord
    versions: dict[str, str]
    machine: Object


class Accuracies(TypedDict):
    """A stage of the discretization gap."""

    before_reestimation: Percent
    after_reestimation: Percent


class GapRecord(TypedDict):
    """The discretization gap."""

    supernet: NotRequired[Accuracies]
    operations_discrete: NotRequired[Accuracies]
    edges_discrete: NotRequired[Accuracies]
    points: Points
    points_before: NotRequired[Points]


class ArchRecord(TypedDict):
    """arch.json as a search writes it."""

    arch: Object
    costs: CostsRecord
    budgets: list[BudgetRow]
    seconds: Seconds
    discretization_gap: NotRequired[GapRecord]
    candidates: NotRequired[Few]
    alarms: NotRequired[list[str]]
    genotype: NotRequired[str]
    seed: NotRequired[Count]


class Confirmation(TypedDict):
    """A round of measured candidates."""

    predicted_ms: list[Amount]
    measured_ms: list[Amount]


class CandidatesRecord(TypedDict):
    """search/candidates.json."""

    choices: Annotated[list[Object], Meta(min_length=1, max_length=10_000)]
    gap: GapRecord
    seconds: Amount
    confirmations: NotRequired[list[Confirmation]]


class Score(TypedDict):
    """One arch after one rung."""

    arch: Few
    rung: Annotated[int, Meta(ge=0, le=64)]
    epochs: NotRequired[Annotated[int, Meta(ge=1, le=100_000)]]
    val_top1: Percent


class FinalistsRecord(TypedDict):
    """search/finalists.json."""

    winner: Few
    scores: list[Score]
    archs: list[Object]


class Agreement(TypedDict):
    """How well networks are ranked."""

    spearman: Correlation
    kendall: Correlation
    regret: Points
    pick_over_mean: Points


class RankRecord(TypedDict):
    """search/rank.json."""

    networks: Few
    epochs: Few
    supernet: Agreement
    alphas: Agreement
    supernet_top1: list[Percent]
    trained_top1: list[Percent]


class LogLine(TypedDict, total=False):
    """A line of search/log.jsonl: an epoch, or a trial of channel sizes."""

    epoch: Annotated[int, Meta(ge=1, le=1_000_000)]
    loss: Number
    alpha_loss: Number
    val_top1: Percent
    tau: Number
    entropy: Number
    entropies: dict[str, list[Number]]
    skips: dict[str, Few]
    utilization: Amount
    gap_estimate: Points | None
    weight_gradient_norm: Number
    alpha_gradient_norm: Number | None
    channels: dict[str, list[Number]]
    alarms: list[str]
    expected: dict[str, Number]
    multipliers: dict[str, Number]
    seconds: Amount
    trial: Few
    sizes: dict[str, Count]
    costs: dict[str, Amount]
    temperature: Number
    changes: dict[str, Number]
    pushed: list[str]
    quality: dict[str, Number]
    accepted: bool


class SearchLine(TypedDict):
    """What a search needs of its own log."""

    loss: Number
    val_top1: Percent
    alarms: list[str]
    expected: dict[str, Number]
    seconds: Amount


class TrialLine(TypedDict):
    """What a search for channel sizes needs of its own log."""

    trial: Few
    sizes: dict[str, Count]
    costs: dict[str, Amount]
    val_top1: Percent
    accepted: bool
    seconds: Amount


class TrainRecord(TypedDict):
    """train/train.json."""

    val_top1: Percent
    seconds: Amount
    epochs: NotRequired[Count]
    best_epoch: NotRequired[Count]
    last_val_top1: NotRequired[Percent]
    params: NotRequired[Count]


class TrainLine(TypedDict):
    """A line of train/log.jsonl."""

    epoch: Annotated[int, Meta(ge=1, le=1_000_000)]
    loss: Number
    val_top1: Percent
    lr: Amount
    seconds: Amount


class Quantization(TypedDict, total=False):
    """How a file in 8 bits was made."""

    method: str
    weights: str
    calibration: str
    calibration_images: Count
    corrections: list[str]
    qat_epochs: Few
    seed: Count


class ParityRecord(TypedDict):
    """How two files, or a file and its model, agree."""

    max_abs_difference: Amount
    top1_agreement: Percent
    images: NotRequired[Count]


class Checks(TypedDict, total=False):
    """What was found of a file."""

    operators: dict[str, Count]
    unaligned: list[Any]
    reorders: dict[str, Count]
    peak_memory_bytes: Count | None
    max_abs_difference: Amount
    top1_agreement: Percent


class TargetReport(TypedDict, total=False):
    """What a target makes of a file."""

    verdict: str
    caveat: str
    nodes: Count | None
    supported: Count | None
    partitions: Count | None
    unsupported: dict[str, Count]
    split_by: list[str]
    note: str


class FileRecord(TypedDict):
    """An exported file."""

    path: str
    top1: Percent
    size_bytes: Count
    latency_ms: Amount
    latency_interval_ms: NotRequired[Amount]
    latency_spread_ms: NotRequired[Amount]
    unsteady: NotRequired[bool]
    required_operators: NotRequired[str]
    quantization: NotRequired[Quantization]
    checks: NotRequired[Checks]
    parity: NotRequired[ParityRecord]
    targets: NotRequired[dict[str, TargetReport]]


class Timing(TypedDict):
    """How latency was measured."""

    provider: str
    threads: Few
    profile: str | None


class ExportRecord(TypedDict):
    """export/export.json."""

    files: dict[str, FileRecord]
    parity: ParityRecord
    timing: Timing
    deployed: NotRequired[str]
    quantization: NotRequired[Quantization]
    labels: NotRequired[list[str]]


class Mistake(TypedDict):
    """An image that got a wrong class."""

    image: str
    label: str
    predicted: str
    probability: Share
    png: str


class MistakesRecord(TypedDict):
    """export/mistakes.json."""

    file: str
    images: Some
    top1: Percent
    confusion: dict[str, dict[str, Count]]
    worst: list[Mistake]


class NetworkPart(TypedDict, total=False):
    """A network of compare.json as reports show it; `compare.table` says what all have."""

    name: str
    kind: str
    seed: Count | None
    top1: Percent
    top1_fp32: Percent | None
    better_than_chance: bool
    val_top1: Percent | None
    flops: Count | None
    params: Count | None
    memory: Count | None
    size_bytes: Count
    latency_ms: Amount
    latency_interval_ms: Amount
    latency_spread_ms: Amount
    unsteady: bool
    uncounted: str | None
    predicted_ms: Amount | None
    train_seconds: Amount | None
    network: str
    epochs: Some
    recipe_epochs: Some
    onnx: str
    arch: Object | None
    run: str | None


class EqualTimeRecord(TypedDict):
    """compare/equal-time-seed-N/equal-time.json."""

    network: str
    arch: Object
    epochs: Annotated[int, Meta(ge=1, le=100_000)]
    recipe_epochs: Some
    seconds: Amount
    seconds_of_recipe: Amount


class CalibrationPart(TypedDict, total=False):
    """What reports say of a calibration; `profiling.profile` reads all of it."""

    mape_percent: Amount
    flops_mape_percent: Amount
    max_error_percent: Amount
    kendall_tau: Correlation
    networks: Count
    held_out: Count


class ProfilePart(TypedDict):
    """What reports say of profile.json."""

    name: str
    threads: Few
    calibration: dict[str, CalibrationPart]


class ResultRecord(TypedDict):
    """result.json."""

    budgets: list[BudgetRow]
    alarms: NotRequired[list[str]]


class EntryGap(TypedDict):
    """The discretization gap of an arm's network."""

    points: Points
    points_before: Points


class EntrySeconds(TypedDict):
    """Wall time of an arm's network."""

    search: Amount
    train: Amount


class EntryRecord(TypedDict):
    """entry.json of an ablation."""

    seed: Count
    arch: Object
    choice: Object
    costs: CostsRecord
    val_top1: Percent
    top1: Percent
    gap: EntryGap | None
    skips: Annotated[dict[str, Few], Meta(min_length=1, max_length=2)]
    alarms: list[str]
    seconds: EntrySeconds
    genotype: NotRequired[str]
    channels: NotRequired[Some]


def read_record(path: Path, kind: type[_Record]) -> _Record:
    """Read a file of one JSON object; FileError names the file, the field and what is legal."""
    data = read_json(path)
    try:
        return from_plain(kind, data, "")
    except MobileNASError as error:
        raise FileError(f"{path}: {error}") from error


def read_object(path: Path, kind: type[_Record]) -> Object:
    """Read a file of one JSON object; FileError names the file, the field and what is legal."""
    found: Object = _checked(kind, read_json(path), str(path))
    return found


def write_record(path: Path, record: Record) -> None:
    """Write a file of one JSON object."""
    write_json(path, to_plain(record))


def read_log(path: Path) -> list[Object]:
    """Read a search's log; none is empty."""
    lines = enumerate(read_jsonl(path), 1)
    return [_checked(LogLine, line, f"{path}, line {number}") for number, line in lines]


def read_entries(path: Path) -> list[Object]:
    """Read the networks of compare.json."""
    entries = enumerate(read_list(path))
    return [_checked(NetworkPart, entry, str(path), f"networks[{n}]") for n, entry in entries]


def check_record(kind: Any, state: Any, path: Path) -> None:
    """Raise unless a checkpoint holds this."""
    _checked(kind, state, str(path))


def check_lines(kind: Any, lines: Any, path: Path) -> None:
    """Raise unless the log that a checkpoint holds is one."""
    _checked(list[kind], lines, str(path), "log")


def _checked(kind: Any, data: Any, source: str, place: str = "") -> Any:
    try:
        from_plain(kind, data, place)
    except MobileNASError as error:
        raise FileError(f"{source}: {error}") from error
    return data
