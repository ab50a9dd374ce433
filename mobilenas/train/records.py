"""The log of a training."""

from mobilenas.core.records import Amount, Epoch, Number, Percent, Record


class TrainLine(Record, frozen=True, kw_only=True):
    """A line of train/log.jsonl."""

    epoch: Epoch
    loss: Number
    val_top1: Percent
    lr: Amount
    seconds: Amount
