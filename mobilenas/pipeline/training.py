"""Training of a run's networks: initial weights, recipe, teacher."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

from msgspec import structs

from mobilenas.baselines.networks import RANDOM, ComparedNetwork
from mobilenas.channels.start import has_sizes, kept_network
from mobilenas.core.files import read_bytes, to_json, write_bytes
from mobilenas.core.folders import holding
from mobilenas.core.records import read_record, write_record
from mobilenas.data import chance_remark
from mobilenas.nn.network import Network
from mobilenas.pipeline.pretrained import FROM_WEIGHTS, start_network, teacher_stage
from mobilenas.pipeline.run_folder import Run, versions
from mobilenas.search import FINALISTS, inherited_network
from mobilenas.spaces.base import Arch, family_of
from mobilenas.train import (
    BEST_WEIGHTS,
    CHECKPOINT,
    LAST_WEIGHTS,
    LOG,
    Recipe,
    TrainResult,
    train,
    training_identity,
)

TRAINED = "train.json"
_SHARED = ("mobilenet", RANDOM)
"""Kinds of baselines that do not depend on the search, so that runs can share them."""


def train_searched(run: Run, arch: Arch, seed: int) -> TrainResult:
    """Train the searched network of a seed, in its folder."""
    folder = run.seed_folder(seed)

    def start() -> Network | None:
        if not run.settings.inherit:
            return _kept(run, arch)
        return inherited_network(
            folder / "search",
            run.budgets.space,
            run.settings.search.sampler,
            arch,
            run.at(arch.image_size).data,
            seed=seed,
            device=run.device,
        )

    return _train(run, arch, folder / "train", seed, "train", start, learns=True)


def train_compared(run: Run, network: ComparedNetwork) -> TrainResult:
    """Train a baseline in its folder; one that runs of a sweep share is trained only once."""
    own, shared = _own_folder(run, network), _shared_folder(run, network)
    if shared is None:
        return _train_compared(run, network, own)
    with holding(shared.parent, wait=True):
        result = _train_compared(run, network, shared)
    for name in (LOG, BEST_WEIGHTS, LAST_WEIGHTS):
        write_bytes(own / name, read_bytes(shared / name))
    if result.trained_in == run.folder.name:
        result = structs.replace(result, trained_in=None)
    else:
        run.reporter.info(f"{network.name} was trained in {result.trained_in}")
    write_record(own / TRAINED, result)
    return result


def train_shared(run: Run, networks: Sequence[ComparedNetwork]) -> None:
    """Train the baselines that runs of a sweep share, except those that another run is training."""
    for network in networks:
        if shared := _shared_folder(run, network):
            with holding(shared.parent, wait=False) as free:
                if free:
                    _train_compared(run, network, shared)


def _own_folder(run: Run, network: ComparedNetwork) -> Path:
    return run.folder / "compare" / network.folder / "train"


def _shared_folder(run: Run, network: ComparedNetwork) -> Path | None:
    """Return the folder of a baseline that runs of a sweep may share; None for others.

    Its name has a hash of everything that determines the weights. None also if the run has already
    begun its own training.
    """
    own = _own_folder(run, network)
    if any((own / name).exists() for name in (TRAINED, CHECKPOINT)):
        return None
    if run.shared is None or run.settings.pretrained or network.kind not in _SHARED:
        return None
    data = run.at(network.arch.image_size).data
    recipe = recipe_of(run, network.arch, learns=False)
    depends = training_identity(network.arch, data, recipe, network.seed) | versions()
    digest = hashlib.sha256(to_json(depends).encode()).hexdigest()[:8]
    return run.shared / f"{network.folder}-{digest}" / "train"


def _train_compared(run: Run, network: ComparedNetwork, folder: Path) -> TrainResult:
    arch, learns = network.arch, network.kind in FROM_WEIGHTS

    def start() -> Network | None:
        if run.settings.pretrained and learns:
            return start_network(run, network)
        return _kept(run, arch)

    return _train(
        run,
        arch,
        folder,
        network.seed,
        network.name,
        start,
        learns=learns,
        epochs=network.epochs,
        begun=network.begun,
        trained_in=run.folder.name if folder.parent.parent == run.shared else None,
    )


def _train(
    run: Run,
    arch: Arch,
    folder: Path,
    seed: int,
    stage: str,
    start: Callable[[], Network | None],
    *,
    learns: bool,
    epochs: int | None = None,
    begun: Path | None = None,
    trained_in: str | None = None,
) -> TrainResult:
    """Train the network from `start`; `learns`: also from the teacher, if there is one."""
    path = folder / TRAINED
    if path.exists():
        return read_record(path, TrainResult)
    recipe = recipe_of(run, arch, learns=learns)
    teacher = teacher_stage(run, seed) if run.settings.pretrained and learns else None
    run = run.at(arch.image_size)
    result = train(
        arch,
        run.data,
        recipe if epochs is None else recipe.lasting(epochs),
        folder=folder,
        seed=seed,
        device=run.device,
        reporter=run.reporter,
        stage=stage,
        network=start(),
        teacher=teacher,
        begun=begun or folder.parent / "search" / FINALISTS,
    )
    result = structs.replace(result, trained_in=trained_in)
    write_record(path, result)
    if remark := chance_remark(result.val_top1, run.data.val.labels, len(run.data.classes)):
        run.reporter.info(f"{stage}: {remark} (validation)")
    return result


def recipe_of(run: Run, arch: Arch, *, learns: bool) -> Recipe:
    """Return the recipe of a network; `learns`: from the teacher, if there is one."""
    settings = run.settings
    own = learns if settings.pretrained else family_of(arch).name == settings.space
    return settings.recipe if own else settings.baseline_recipe


def _kept(run: Run, arch: Arch) -> Network | None:
    """Return the initial network of channel sizes of a model with weights; None: from scratch."""
    if run.settings.channel_sizes is None or not has_sizes(arch):
        return None
    return kept_network(arch, run.settings.channel_sizes)
