"""Records of the files of a search, and of arch.json."""

from collections.abc import Mapping, Sequence
from typing import Annotated

from msgspec import Meta

from mobilenas.core.records import (
    Amount,
    BudgetRow,
    Correlation,
    Cost,
    Count,
    Epoch,
    Few,
    Json,
    Number,
    Percent,
    Points,
    Record,
    Seconds,
)


class Accuracies(Record, frozen=True, kw_only=True):
    """Validation top-1 at one stage of the discretization."""

    before_reestimation: Percent
    after_reestimation: Percent


class GapRecord(Record, frozen=True, kw_only=True):
    """The discretization gap: `points` with re-estimated norms, `points_before` without."""

    supernet: Accuracies
    operations_discrete: Accuracies
    edges_discrete: Accuracies | None = None
    points: Points
    points_before: Points


def check_costs(costs: Mapping[str, Cost]) -> None:
    """Raise ValueError unless FLOPs, params and memory are there, as integers."""
    for name in ("flops", "params", "memory"):
        if name not in costs:
            raise ValueError(f"costs lacks {name!r}")
        if not isinstance(costs[name], int):
            raise ValueError(f"costs.{name} is {costs[name]}; it must be int")


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
        """Check the costs that every network has."""
        check_costs(self.costs)

    @property
    def search_seconds(self) -> float:
        """Total time of the search."""
        return sum(self.seconds.values())


class MeasuredRound(Record, frozen=True, kw_only=True):
    """Predicted and measured latencies of the candidates of one round."""

    predicted_ms: Sequence[Amount]
    measured_ms: Sequence[Amount]


class CandidatesRecord(Record, frozen=True, kw_only=True):
    """search/candidates.json."""

    choices: Annotated[Sequence[Json], Meta(min_length=1, max_length=10_000)]
    gap: GapRecord
    seconds: Amount
    measurements: Sequence[MeasuredRound]


class Score(Record, frozen=True, kw_only=True):
    """What one arch has reached after one rung."""

    arch: Few
    rung: Annotated[int, Meta(ge=0, le=64)]
    epochs: Epoch
    val_top1: Percent
    loss: Number | None = None
    """Training loss, if it is compared."""


class FinalistsRecord(Record, frozen=True, kw_only=True):
    """search/finalists.json."""

    winner: Few
    scores: Sequence[Score]
    archs: Sequence[Json]


class ImageSizeRecord(Record, frozen=True, kw_only=True):
    """search/image-size.json; without `winner` and `scores` while its networks train."""

    archs: Annotated[Sequence[Json], Meta(min_length=1, max_length=1000)]
    names: Sequence[str]
    """Names of the networks: the image size, for a MobileNet with its name."""
    seconds: Amount
    scores: Sequence[Score] = ()
    winner: Few | None = None
    space: Json | None = None
    """The space at the winner's image size, if it is searched next."""

    def __post_init__(self) -> None:
        """Check indices and names against the number of archs."""
        count = len(self.archs)
        if self.winner is not None and self.winner >= count:
            raise ValueError(f"winner is {self.winner}; there are {count} archs")
        for score in self.scores:
            if score.arch >= count:
                raise ValueError(f"scores has arch {score.arch}; there are {count} archs")
        if len(self.names) != count:
            raise ValueError(f"names are {len(self.names)}; there are {count} archs")


class Agreement(Record, frozen=True, kw_only=True):
    """Agreement of a ranking with trained top-1."""

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


class SearchLine(Record, frozen=True, kw_only=True):
    """An epoch of a search, a line of search/log.jsonl."""

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
