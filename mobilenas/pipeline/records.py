"""Records of result.json, and of the baselines of equal time."""

from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta

from mobilenas.baselines.records import NetworkRecord
from mobilenas.core.records import Amount, Count, Json, Percent, Record, Some
from mobilenas.report.records import BudgetCheck, DifferenceTo


class RandomSearchRecord(Record, frozen=True, kw_only=True):
    """compare/random-search-seed-N/random-search.json."""

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
