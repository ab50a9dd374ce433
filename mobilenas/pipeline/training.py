"""Training the networks of a run: where each starts, by which recipe, who it learns from."""

from collections.abc import Callable
from pathlib import Path

from mobilenas.baselines.networks import ComparedNetwork
from mobilenas.channels.start import has_sizes, kept_network
from mobilenas.core.records import read_record, write_record
from mobilenas.data import guessing
from mobilenas.nn.network import Network
from mobilenas.pipeline.pretrained import FROM_WEIGHTS, start_network, teacher_stage
from mobilenas.pipeline.run_folder import Run
from mobilenas.search import FINALISTS, inherited_network
from mobilenas.spaces.base import Arch
from mobilenas.train import TrainResult, train


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
    """Train a baseline, in its folder."""
    arch, learns = network.arch, network.kind in FROM_WEIGHTS

    def start() -> Network | None:
        if run.settings.pretrained and learns:
            return start_network(run, network)
        return _kept(run, arch)

    folder = run.folder / "compare" / network.folder / "train"
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
) -> TrainResult:
    """Train a network that `start` gives; `learns`: from the teacher, too, where there is one."""
    path = folder / "train.json"
    if path.exists():
        return read_record(path, TrainResult)
    recipe, teacher = run.settings.recipe, None
    if run.settings.pretrained:
        teacher = teacher_stage(run, seed) if learns else None
        recipe = recipe if learns else run.settings.scratch_recipe or recipe
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
    write_record(path, result)
    if remark := guessing(result.val_top1, run.data.val.labels, len(run.data.classes)):
        run.reporter.info(f"{stage}: {remark} (validation)")
    return result


def _kept(run: Run, arch: Arch) -> Network | None:
    """Return what sizes of a model that came with weights start from; None: from scratch."""
    if run.settings.channel_sizes is None or not has_sizes(arch):
        return None
    return kept_network(arch, run.settings.channel_sizes)
