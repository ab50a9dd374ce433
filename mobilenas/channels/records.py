"""The log of a search for channel sizes."""

from collections.abc import Sequence

from mobilenas.core.records import Amount, Cost, Count, Few, Number, Percent, Record


class TrialLine(Record, frozen=True, kw_only=True):
    """A line of search/log.jsonl for channel sizes: a trial."""

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
