"""Runs that start from a pretrained network: teacher, inherited weights, baselines.

The whole network is fine-tuned first and becomes the teacher. The search starts from its weights,
and networks trained from weights are distilled from it.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from torch import Tensor

from mobilenas.baselines.networks import ComparedNetwork, fast_enough, meets
from mobilenas.core.errors import InternalError
from mobilenas.core.records import write_record
from mobilenas.cost.budget import LATENCY
from mobilenas.cost.budgets import Budgets
from mobilenas.nn.network import Network
from mobilenas.pipeline.deployment import arch_meter, predicted_ms
from mobilenas.pipeline.run_folder import Run
from mobilenas.pipeline.settings import RunSettings
from mobilenas.report.table import PRETRAINED
from mobilenas.search import SuccessiveHalving
from mobilenas.search.norm_statistics import estimate_statistics
from mobilenas.spaces.base import Arch
from mobilenas.spaces.mobile.arch import MobileArch
from mobilenas.spaces.networks import build
from mobilenas.spaces.subnetworks.narrow import narrowed, narrowed_state, same_layers
from mobilenas.spaces.subnetworks.settings import PretrainedSettings
from mobilenas.spaces.subnetworks.space import SubnetworkSpace
from mobilenas.spaces.subnetworks.weights import part, reordered
from mobilenas.train import BEST_WEIGHTS, load_weights, train
from mobilenas.train.distillation import Teacher
from mobilenas.train.pretrained import SOURCES, load, source_of

TEACHER = "teacher"
"""Name of the stage, and of its folder in the run folder."""
FROM_WEIGHTS = ("searched", "random", "random-search", PRETRAINED)
"""Kinds that start from weights in such a run, and are distilled from the teacher."""
_SIDE_STEP = 8
_MIN_SIDE = 32


def teacher_stage(run: Run, seed: int) -> Teacher:
    """Fine-tune the whole network at the largest searched image size, in the seed's folder."""
    settings, arch = _of(run.settings), _space(run).whole
    folder = run.seed_folder(seed) / TEACHER
    record = folder / "train.json"
    if not record.exists():
        result = train(
            arch,
            run.at(arch.image_size).data,
            run.settings.recipe.lasting(settings.teacher_epochs),
            folder=folder,
            seed=seed,
            device=run.device,
            reporter=run.reporter,
            stage=TEACHER,
            network=_built(arch, _loaded(settings.name, settings.weights, arch, seed)),
        )
        write_record(record, result)
    network = load_weights(arch, folder / BEST_WEIGHTS).to(run.device)
    return Teacher(network=network, image_size=arch.image_size)


def halving_of_random(run: Run, folder: Path, seed: int) -> SuccessiveHalving:
    """Return successive halving for random networks, which trains them like the run's others.

    If there is a teacher, they start from their part of its weights and are distilled from it.
    """
    from_weights = run.settings.pretrained is not None
    return SuccessiveHalving(
        run.data,
        run.settings.finalists,
        run.settings.recipe,
        folder=folder,
        seed=seed,
        device=run.device,
        reporter=run.reporter,
        start=partial(_part, run, seed) if from_weights else None,
        teacher=teacher_stage(run, seed) if from_weights else None,
        images=lambda side: run.at(side).data,
    )


def _part(run: Run, seed: int, arch: Arch) -> Network:
    """Return a subnetwork with its part of the teacher's weights."""
    assert isinstance(arch, MobileArch)
    space, state = _space(run), dict(teacher_stage(run, seed).network.state_dict())
    network = _built(arch, part(space, space.choice(arch), reordered(space, state)))
    return _adapted(run, seed, arch, network)


def start_network(run: Run, compared: ComparedNetwork) -> Network:
    """Return a baseline's initial network, with weights of the teacher or of its source."""
    arch, seed, space = compared.arch, compared.seed, _space(run)
    if compared.kind != PRETRAINED:
        return _part(run, seed, arch)
    assert isinstance(arch, MobileArch)
    if compared.source in (None, _of(run.settings).name):
        whole = replace(space.whole, image_size=arch.image_size)
        state = dict(teacher_stage(run, seed).network.state_dict())
    else:
        whole = source_of(compared.source).arch(arch.image_size, arch.classes)
        state = _loaded(compared.source, None, whole, seed)
    network = _built(arch, state if arch == whole else narrowed_state(whole, arch, state))
    return _adapted(run, seed, arch, network)


def _adapted(run: Run, seed: int, arch: MobileArch, network: Network) -> Network:
    """Estimate the norms' statistics, which differ for subnetworks and other image sizes."""
    estimate_statistics(network, run.at(arch.image_size).data, seed, run.device)
    return network


def pretrained_baselines(run: Run, limits: Budgets) -> Iterator[ComparedNetwork]:
    """Yield the pretrained networks with local weights, whole and narrowed, for every seed.

    Whole: at the largest image size, a multiple of 8, at which it meets the budgets. Narrowed: at
    the largest searched image size, with the largest uniform width that does.
    """
    settings, largest = _of(run.settings), _space(run).image_size
    classes = len(run.data.classes)
    for name in ready_made(settings):
        source = source_of(name)
        title = name if name in SOURCES else f"run-{Path(name).resolve().name}"
        sides = range(_MIN_SIDE, run.image_size + 1, _SIDE_STEP)
        wholes = [(f"{title} @{side}", source.arch(side, classes)) for side in sides]
        narrow = [
            (f"{title} x{share:g} @{largest}", arch)
            for share, arch in _narrowed(source.arch(largest, classes))
        ]
        found = [*_largest(run, wholes, limits), *_largest(run, narrow, limits)]
        if not found:
            run.reporter.info(f"{title} meets the budgets at no side and no width: it is skipped")
        for seed in run.seeds:
            for label, arch in found:
                yield ComparedNetwork(
                    name=label, kind=PRETRAINED, arch=arch, seed=seed, source=name
                )


def ready_made(settings: PretrainedSettings) -> list[str]:
    """Return the run's own source, and all others whose weights are on this machine."""
    names = [name for name, source in SOURCES.items() if source.find() is not None]
    return list(dict.fromkeys((settings.name, *names)))


def _narrowed(whole: MobileArch) -> Iterator[tuple[float, MobileArch]]:
    """Yield widths in hundredths that keep the layers, with the narrowed network."""
    for hundredths in range(1, 100):
        arch = narrowed(whole, hundredths / 100)
        if same_layers(whole, arch):
            yield hundredths / 100, arch


def _largest(
    run: Run, growing: Iterable[tuple[str, MobileArch]], limits: Budgets
) -> list[tuple[str, MobileArch]]:
    """Return the largest of growing networks that meets the budgets, if one does.

    Latency is measured on the profile's machine, and predicted elsewhere.
    """
    kept = [(label, arch) for label, arch in growing if meets(arch, limits.budgets)]
    limit_ms = next((b.limit for b in limits.budgets if b.cost == LATENCY), None)
    if limit_ms is not None:
        kept = fast_enough(kept, limit_ms, arch_meter(run) or partial(_predicted, run))
    return kept[-1:]


def _predicted(run: Run, archs: Sequence[Arch]) -> list[float]:
    times = [predicted_ms(run, arch) for arch in archs]
    return [math.inf if ms is None else ms for ms in times]


def _of(settings: RunSettings) -> PretrainedSettings:
    if settings.pretrained is None:
        raise InternalError("the run starts from no pretrained network")
    return settings.pretrained


def _space(run: Run) -> SubnetworkSpace:
    assert isinstance(run.space, SubnetworkSpace)
    return run.space


def _loaded(name: str, weights: Path | None, arch: MobileArch, seed: int) -> dict[str, Tensor]:
    _, state = load(
        name, weights=weights, classes=arch.classes, image_size=arch.image_size, seed=seed
    )
    return state


def _built(arch: MobileArch, state: dict[str, Tensor]) -> Network:
    network = build(arch)
    network.load_state_dict(state)
    return network
