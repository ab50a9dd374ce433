"""Training in a folder: a checkpoint after every epoch, a log, and the weights at the end."""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from mobilenas.core import processes
from mobilenas.core.errors import FileError
from mobilenas.core.files import State, load_checkpoint, restoring, save_checkpoint, write_bytes
from mobilenas.core.progress import NullReporter, Reporter, clock
from mobilenas.core.records import (
    Amount,
    Count,
    Epoch,
    Json,
    Percent,
    Record,
    read_checkpoint_log,
    write_log,
)
from mobilenas.core.settings import to_plain, to_plain_without_added
from mobilenas.cost.networks import costs
from mobilenas.data import ImageData
from mobilenas.nn.network import Network
from mobilenas.nn.weights import load_into
from mobilenas.spaces.base import Arch, family_of
from mobilenas.spaces.networks import build
from mobilenas.train.distillation import Teacher
from mobilenas.train.recipe import Recipe
from mobilenas.train.records import TrainLine
from mobilenas.train.trainer import Trainer

CHECKPOINT = "checkpoint.pt"
"""State from which a killed training resumes."""
LOG = "log.jsonl"
"""One line per epoch: epoch, loss, val_top1, lr, seconds."""
BEST_WEIGHTS = "best.safetensors"
"""Averaged weights of the epoch with the highest validation top-1."""
LAST_WEIGHTS = "last.safetensors"
"""Averaged weights of the last epoch."""


class TrainResult(Record, frozen=True, kw_only=True):
    """Result of a training; accuracies are of averaged weights on validation images."""

    epochs: Epoch
    """Epochs trained."""
    best_epoch: Epoch
    """The epoch with the highest top-1, counted from 1; of equal ones the last."""
    val_top1: Percent
    """Percent, at the best epoch."""
    last_val_top1: Percent
    """Percent, at the last epoch."""
    seconds: Amount
    """Processor time of all epochs with validation (on cuda wall time), summed over processes."""
    params: Count
    """Trainable parameters of the network, without auxiliary classifiers."""
    trained_in: str | None = None
    """The run of a sweep that trained it, if several share it."""


def train(
    arch: Arch,
    data: ImageData,
    recipe: Recipe,
    *,
    folder: Path,
    seed: int,
    device: str = "cpu",
    reporter: Reporter | None = None,
    stage: str = "train",
    network: Network | None = None,
    teacher: Teacher | None = None,
    begun: Path | None = None,
) -> TrainResult:
    """Train `arch` and write its weights; the result of a finished training is read.

    Starts from `network`, which must be of `arch`, or from weights drawn by the seed. With
    `teacher`, its outputs are learned from, too. If a folder in `begun` holds the first epochs of
    the same training (`train_part`), continues from them.

    Raises FileError if `folder` holds another training, DivergedError if the loss becomes infinite
    or NaN.
    """
    reporter = NullReporter() if reporter is None else reporter
    identity = training_identity(arch, data, recipe, seed, network, teacher)
    state = _read_checkpoint(folder / CHECKPOINT, identity)
    if state is None:
        _discard(folder)
        state = _read_begun(begun, identity) or _State(identity=identity)
    log = state.log
    # from the checkpoint, since a kill between writing the two files may have lost a line
    write_log(folder / LOG, log)
    reporter.start(stage, recipe.epochs)
    if log:
        reporter.step(len(log), _figures(log[-1]))
    if len(log) < recipe.epochs:
        trainer = Trainer(
            arch,
            data,
            recipe,
            seed=seed,
            device=device,
            network=network,
            teacher=teacher,
            reporter=reporter,
        )
        _train_to(recipe.epochs, trainer, state, folder, reporter)
    with restoring(folder / CHECKPOINT):
        _write_missing(folder, state)
    return TrainResult(
        epochs=len(log),
        best_epoch=_best(log).epoch,
        val_top1=_best(log).val_top1,
        last_val_top1=log[-1].val_top1,
        seconds=sum(line.seconds for line in log),
        params=costs(arch).params,
    )


def train_part(
    epochs: int,
    arch: Arch,
    data: ImageData,
    recipe: Recipe,
    *,
    folder: Path,
    seed: int,
    device: str = "cpu",
    network: Network | None = None,
    teacher: Teacher | None = None,
    begun: Path | None = None,
    reporter: Reporter | None = None,
) -> list[TrainLine]:
    """Train the first `epochs` of a recipe as `train` does, and return their log.

    `reporter` gets messages only, no progress.
    A later call with more epochs, or with `begun=folder.parent`, continues from the checkpoint,
    with the result of an uninterrupted training.
    """
    identity = training_identity(arch, data, recipe, seed, network, teacher)
    state = _read_checkpoint(folder / CHECKPOINT, identity)
    if state is None:
        state = _read_begun(begun, identity) or _State(identity=identity)
        if state.log:
            _save(state, folder)
    log = state.log
    if log:  # a kill between writing the two files may have lost a line
        write_log(folder / LOG, log)
    if len(log) < epochs:
        trainer = Trainer(
            arch,
            data,
            recipe,
            seed=seed,
            device=device,
            network=network,
            teacher=teacher,
            reporter=reporter,
        )
        _train_to(epochs, trainer, state, folder, NullReporter())
    return log[:epochs]


def load_weights(arch: Arch, path: Path) -> nn.Module:
    """Build `arch` with the weights of a safetensors file, in eval mode.

    Raises FileError, which names the file and the first weight that does not fit.
    """
    # drawing the initial weights must not advance the global generator
    with torch.random.fork_rng(devices=[]):
        network = build(arch)
    load_into(network, path, "this network")
    return network.eval()


def training_identity(
    arch: Arch,
    data: ImageData,
    recipe: Recipe,
    seed: int,
    network: Network | None = None,
    teacher: Teacher | None = None,
) -> Json:
    """Return what must not change when a training is resumed, as JSON types."""
    identity: Json = {
        "arch": arch.to_dict(),
        "recipe": to_plain_without_added(recipe),
        "seed": seed,
        "data": data.fingerprint,
    }
    # not for channel sizes: their run determines the start, and their files never had this field
    if network is not None and family_of(arch).search:
        identity["start"] = "given"
    if teacher is not None:
        identity["teacher"] = teacher.fingerprint
    plain: Json = to_plain(identity)
    return plain


@dataclass(kw_only=True)
class _State:
    """The content of a checkpoint."""

    identity: Json
    trainer: State = field(default_factory=dict)
    log: list[TrainLine] = field(default_factory=list)
    best: dict[str, Tensor] = field(default_factory=dict)
    last: dict[str, Tensor] = field(default_factory=dict)


def _read_begun(folder: Path | None, identity: Json) -> _State | None:
    """Return this training's checkpoint from a subfolder of `folder`; None if it has none."""
    for path in sorted(folder.glob(f"*/{CHECKPOINT}")) if folder else ():
        state = load_checkpoint(path)
        if state is not None and state.get("identity") == identity:
            return _read_checkpoint(path, identity)
    return None


def _read_checkpoint(path: Path, identity: Json) -> _State | None:
    state = load_checkpoint(path)
    if state is None:
        return None
    if {"identity", "trainer", "log", "best", "last"} - set(state):
        raise FileError(
            f"{path} is not a checkpoint of a training; delete it or choose another folder"
        )
    log = read_checkpoint_log(state, TrainLine, path)
    with restoring(path):
        both = identity | state["identity"]
        other = [p for p in both if state["identity"].get(p) != identity.get(p)]
    if other:
        raise FileError(
            f"{path} belongs to another training: its {' and '.join(other)} differ; "
            "choose another folder, or start this one again without resuming"
        )
    return _State(**state | {"log": log})


def _restore(trainer: Trainer, state: _State, path: Path) -> None:
    with restoring(path):
        trainer.load_state_dict(state.trainer)
        if trainer.epochs_done != len(state.log):
            raise ValueError(
                f"it has {len(state.log)} lines of log after epoch {trainer.epochs_done}"
            )


def _train_to(
    epochs: int, trainer: Trainer, state: _State, folder: Path, reporter: Reporter
) -> None:
    """Train up to `epochs`, updating `state` and the folder after each epoch."""
    log = state.log
    if log:
        _restore(trainer, state, folder / CHECKPOINT)
    while trainer.epochs_done < epochs:
        log.append(_run_epoch(trainer))
        state.trainer, state.last = trainer.state_dict(), trainer.weights()
        if _best(log) is log[-1]:
            state.best = state.last
        _save(state, folder)
        write_log(folder / LOG, log)
        reporter.step(len(log), _figures(log[-1]))


def _save(state: _State, folder: Path) -> None:
    save_checkpoint(folder / CHECKPOINT, vars(state) | {"log": to_plain(state.log)})


def _run_epoch(trainer: Trainer) -> TrainLine:
    start = clock(trainer.device)
    figures = trainer.run_epoch()
    val_top1 = trainer.evaluate(trainer.data.val).top1
    return TrainLine(
        epoch=trainer.epochs_done,
        loss=figures["loss"],
        val_top1=val_top1,
        lr=figures["lr"],
        seconds=sum(processes.gather(clock(trainer.device) - start)),
    )


def _best(log: list[TrainLine]) -> TrainLine:
    # of equal epochs the later one, which has seen more images at a lower rate
    return max(log, key=lambda line: (line.val_top1, line.epoch))


def _figures(line: TrainLine) -> dict[str, str]:
    return {"loss": f"{line.loss:.3f}", "val top-1": f"{line.val_top1:.1f} %"}


def _write_missing(folder: Path, state: _State) -> None:
    for name, tensors in ((BEST_WEIGHTS, state.best), (LAST_WEIGHTS, state.last)):
        if not (folder / name).exists():
            write_bytes(folder / name, save_tensors(tensors))


def _discard(folder: Path) -> None:
    # the checkpoint first, so that a kill on the way leaves nothing that looks finished
    for name in (CHECKPOINT, LOG, BEST_WEIGHTS, LAST_WEIGHTS):
        (folder / name).unlink(missing_ok=True)
