"""Records that reports read from run.json, profile.json and result.json; files of an ablation."""

from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta

from mobilenas.baselines.records import Difference, MeanStd
from mobilenas.core.records import (
    Amount,
    BudgetRow,
    Correlation,
    Cost,
    Count,
    DataRecord,
    Few,
    Json,
    Machine,
    Number,
    Part,
    Percent,
    Points,
    Record,
    Some,
)
from mobilenas.search.records import check_costs


class BudgetCheck(BudgetRow, frozen=True, kw_only=True):
    """A budget in result.json; unknown values are null."""

    recounted: Count | None
    holds: bool | None


class DataPart(Part, frozen=True, kw_only=True):
    """The part of the images that reports show."""

    source: str
    classes: Sequence[str]
    counts: dict[str, Count]
    image_size: Count
    fingerprint: str
    split_rule: str


class SearchPart(Part, frozen=True, kw_only=True):
    """The part of the search's settings that reports show."""

    warmup: Few = 0
    constraint: str = "lagrangian"
    strength: Number = 0.0


class SettingsPart(Part, frozen=True, kw_only=True):
    """The part of a run's settings that reports show."""

    space: str = "mobile"
    seeds: Annotated[int, Meta(ge=1, le=1000)] = 1
    precision: str = "fp32"
    method: str = ""
    rank: Few = 0
    scratch_recipe: dict[str, object] | None = None
    search: SearchPart = SearchPart()


class RunPart(Part, frozen=True, kw_only=True):
    """The part of run.json that reports show."""

    command: str
    settings: SettingsPart
    seed: Count
    budgets: Sequence[BudgetRow]
    data: DataPart
    versions: dict[str, str]
    machine: Machine


class CalibrationPart(Part, frozen=True, kw_only=True):
    """The part of a calibration that reports show."""

    mape_percent: Amount
    flops_mape_percent: Amount
    max_error_percent: Amount
    kendall_tau: Correlation
    networks: Count
    held_out: Count


class ProfilePart(Part, frozen=True, kw_only=True):
    """The part of profile.json that reports show."""

    name: str
    threads: Few
    calibration: dict[str, CalibrationPart]


class ParetoNetwork(Record, frozen=True, kw_only=True):
    """A network of pareto.json."""

    run: str
    name: str
    kind: str
    method: str | None = None
    seed: Count | None
    flops: Count | None
    params: Count | None
    top1: Percent
    onnx: str


class ParetoRecord(Record, frozen=True, kw_only=True):
    """pareto.json of a sweep: networks that none of their list beats with at most their FLOPs."""

    front: Sequence[ParetoNetwork]
    searched: Sequence[ParetoNetwork]
    mobilenets: Sequence[ParetoNetwork]


class DifferenceTo(Difference, frozen=True, kw_only=True):
    """A difference in result.json."""

    against: str


class ResultPart(Part, frozen=True, kw_only=True):
    """The part of result.json that reports show."""

    budgets: Sequence[BudgetCheck]
    alarms: Sequence[str] = ()


class EntryGap(Record, frozen=True, kw_only=True):
    """The discretization gap of a variant's network."""

    points: Points
    points_before: Points


class EntrySeconds(Record, frozen=True, kw_only=True):
    """Seconds of a variant's search and training: processor time, on cuda wall time."""

    search: Amount
    train: Amount


class EntryRecord(Record, frozen=True, kw_only=True):
    """entry.json of an ablation: the result of one seed of a variant."""

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
        """Check that the costs that every network has are present."""
        check_costs(self.costs)


class VariantRecord(Record, frozen=True, kw_only=True):
    """A variant of ablation.json, with means over seeds."""

    name: str
    method: str
    parts: Json
    top1: MeanStd
    gap: dict[str, MeanStd] | None
    skips: dict[str, MeanStd]
    seconds: dict[str, MeanStd]
    agreement: Number | None
    difference: Difference | None
    entries: Sequence[EntryRecord]


class AblationRecord(Record, frozen=True, kw_only=True):
    """ablation.json."""

    command: str
    space: str
    budgets: Sequence[BudgetRow]
    seeds: Sequence[int]
    seeds_requested: Sequence[int]
    control: str
    variants: Sequence[VariantRecord]
    request: Json
    counting_rule: str
    data: DataRecord
    versions: dict[str, str]
    machine: Machine
