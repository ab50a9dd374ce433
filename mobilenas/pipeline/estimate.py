"""Estimates how long a job will take from a few timed steps, and times its stages."""

import os
import random
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from mobilenas.baselines.networks import mobilenets
from mobilenas.core.errors import MobileNASError
from mobilenas.core.settings import format_count
from mobilenas.cost.budget import LATENCY
from mobilenas.cost.networks import costs
from mobilenas.data import ImageData, Split, stratified_subset
from mobilenas.pipeline.deployment import write_onnx
from mobilenas.pipeline.pretrained import pretrained_baselines, ready_made
from mobilenas.pipeline.run_folder import Run
from mobilenas.pipeline.settings import RunSettings
from mobilenas.search.epoch_metrics import images_evaluated
from mobilenas.search.loop import Searcher
from mobilenas.spaces.base import Arch, family_of
from mobilenas.spaces.mobile.mobilenets import PLACEMENTS
from mobilenas.spaces.networks import build
from mobilenas.spaces.subnetworks.space import SubnetworkSpace
from mobilenas.train import Recipe, Trainer
from mobilenas.train.distillation import Teacher

_TRAINED_BYTES = 4 * 4
"""Bytes per parameter: weight, gradient, momentum and average, in float32."""
_SHOWN = 256
"""Images used to time classification: a whole batch, as in evaluation."""
Clock = Callable[[], float]
"""Returns seconds since an arbitrary start."""


@dataclass(frozen=True, kw_only=True)
class Speeds:
    """Seconds of the repeated operations of a job."""

    weight_step: float
    """A step of the supernet's weights; 0 without a supernet."""
    alpha_step: float
    """A step of the alphas."""
    supernet_image: float
    """Classifying one image with the supernet."""
    step: float
    """A training step of a network within the budgets."""
    image: float
    """Classifying one image with such a network."""
    export: float
    """Writing its ONNX file."""
    teacher_step: float = 0.0
    """A training step of the whole pretrained network; 0 without one."""


def estimate(run: Run, clock: Clock = time.perf_counter) -> dict[str, float]:
    """Return the expected seconds of each part of `run` on this machine."""
    speeds, sides = measure_speeds(run, clock), len(run.image_sizes)
    return parts(run.settings, run.data, speeds, _mobilenets(run), sides=sides)


def measure_speeds(run: Run, clock: Clock) -> Speeds:
    """Time a few steps of the supernet and of a random network within the budgets.

    If the image size is searched, the largest is timed, which takes the longest.
    """
    if run.image_sizes:
        run = run.at(run.image_sizes[-1])
    # only the generators of the job's device, as a machine may have several GPUs
    devices = [] if run.device == "cpu" else [torch.device(run.device)]
    with torch.random.fork_rng(devices=devices):
        return _measure_speeds(run, clock)


def _measure_speeds(run: Run, clock: Clock) -> Speeds:
    settings = run.settings
    arch = run.budgets.space.arch(run.budgets.random(random.Random(settings.seed)))
    if settings.device == "cpu":
        _check_memory(costs(arch).params)
    teacher = teacher_step = None
    if settings.pretrained is not None:
        assert isinstance(run.space, SubnetworkSpace)
        whole = run.space.whole
        teacher_step, _ = _network_speeds(run, whole, settings.recipe, clock)
        teacher = Teacher(network=build(whole).eval(), image_size=whole.image_size)
    step, image = _network_speeds(run, arch, settings.recipe, clock, teacher)
    weight_step = alpha_step = supernet_image = 0.0
    if family_of(arch).search:
        data = run.at(run.budgets.space.image_size).data
        few = replace(data, train=_few(data, 2 * settings.search.batch_size))
        search = replace(settings.search, epochs=3, warmup=2)
        amp = settings.recipe.amp_on(run.device)
        searcher = Searcher(
            run.budgets, few, search, seed=settings.seed, device=run.device, amp=amp
        )
        searcher.run_epoch()  # the first epoch is slow
        weight_step = _seconds(searcher.run_epoch, clock)
        alpha_step = max(0.0, _seconds(searcher.run_epoch, clock) - weight_step)
        relaxed = searcher.alphas.soft(1.0)
        searcher.net.eval()
        shown = _few(data, _SHOWN)
        looking = _seconds(lambda: searcher.top1(lambda x: searcher.net(x, relaxed), shown), clock)
        supernet_image = looking / len(shown)
    with tempfile.TemporaryDirectory(prefix="mobilenas-estimate-") as folder:
        model = build(arch).eval()
        path = Path(folder) / "model.onnx"
        export = _seconds(lambda: write_onnx(run, arch, model, path), clock)
    return Speeds(
        weight_step=weight_step,
        alpha_step=alpha_step,
        supernet_image=supernet_image,
        step=step,
        image=image,
        export=export,
        teacher_step=teacher_step or 0.0,
    )


def _check_memory(params: int) -> None:
    """Raise if the machine has too little memory for the training state of all parameters."""
    needed = params * _TRAINED_BYTES
    available = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > available:
        raise MobileNASError(
            f"a network of these budgets has {format_count(params)} params, so training it "
            f"takes {needed / 2**30:.0f} GB or more, and this machine has "
            f"{available / 2**30:.0f} GB; lower a budget"
        )


def _network_speeds(
    run: Run, arch: Arch, recipe: Recipe, clock: Clock, teacher: Teacher | None = None
) -> tuple[float, float]:
    """Return the seconds of a training step, and of classifying an image."""
    run = run.at(arch.image_size)
    settings, few = run.settings, _few(run.data, 2 * recipe.batch_size)
    short = replace(recipe.lasting(2), compile=False)  # compiling takes longer than the steps
    trainer = Trainer(
        arch,
        run.data,
        short,
        seed=settings.seed,
        device=run.device,
        split=few,
        teacher=teacher,
    )
    trainer.run_epoch()
    step = _seconds(trainer.run_epoch, clock) / trainer.steps_per_epoch
    shown = _few(run.data, _SHOWN)
    return step, _seconds(lambda: trainer.evaluate(shown), clock) / len(shown)


def _few(data: ImageData, count: int) -> Split:
    return stratified_subset(data.train, min(count, len(data.train)), 0)


def _seconds(work: Callable[[], object], clock: Clock) -> float:
    began = clock()
    work()
    return clock() - began


def _mobilenets(run: Run) -> int:
    """Return the maximum number of MobileNets and pretrained networks trained per seed."""
    settings = run.settings
    scratch = _scratch_mobilenets(run)
    if settings.pretrained is None or not settings.baselines:
        return scratch
    if _is_measured(settings):
        return scratch + 2 * len(ready_made(settings.pretrained))
    found = {network.name for network in pretrained_baselines(run, run.budgets)}
    return scratch + len(found)


def _is_measured(settings: RunSettings) -> bool:
    """Whether only measuring shows which networks meet the budgets."""
    return any(budget.cost == LATENCY for budget in settings.budgets)


def _scratch_mobilenets(run: Run) -> int:
    settings = run.settings
    if not settings.budgets or _is_measured(settings):
        return len(settings.baselines) * (1 if run.image_sizes else len(PLACEMENTS))
    classes, seed = len(run.data.classes), settings.seed
    fit = [
        network.name
        for side in run.image_sizes or (run.image_size,)
        for network in mobilenets(settings.baselines, settings.budgets, side, classes, seed)[0]
    ]
    return len({name.split()[0] for name in fit} if run.image_sizes else fit)


def parts(
    settings: RunSettings, data: ImageData, speeds: Speeds, mobilenets: int, *, sides: int = 0
) -> dict[str, float]:
    """Return seconds by part, with `mobilenets` MobileNets per seed.

    With several image sizes (`sides`) to choose from, networks at all of them are compared first,
    also for each MobileNet.
    """
    training = _training(settings.recipe, data, speeds.step, speeds.image)
    search = _search(settings, data, speeds)
    finalists = _finalists(settings, data, speeds)
    choosing = _choosing(settings, data, speeds, sides)
    baselines = (mobilenets + settings.scratch_control) * settings.seeds + settings.random
    if settings.channel_sizes is not None and settings.channel_sizes.controls:
        baselines += 2 * settings.seeds
    # random search and the best MobileNet for equal time each take as long as search and training
    as_long = settings.seeds * (settings.random_search + (settings.equal_time and mobilenets > 0))
    networks = settings.seeds + baselines + as_long
    ranked = settings.finalists.compared_at(2, settings.recipe.epochs)[-1]
    rank = settings.rank * ranked * _epoch(settings, data, speeds)
    chosen = choosing if settings.search_image_size else 0.0
    as_long_seconds = as_long * (chosen + search + finalists + training)
    return {
        **({"image size": chosen} if chosen else {}),
        **_teaching(settings, data, speeds),
        "search": settings.seeds * search + rank,
        "finalists": settings.seeds * finalists,
        "final training": settings.seeds * training,
        "baselines": baselines * training + mobilenets * choosing + as_long_seconds,
        "export": networks * (speeds.export + len(data.test) * speeds.image),
    }


def _teaching(settings: RunSettings, data: ImageData, speeds: Speeds) -> dict[str, float]:
    if settings.pretrained is None:
        return {}
    recipe = settings.recipe.lasting(settings.pretrained.teacher_epochs)
    one = _training(recipe, data, speeds.teacher_step, speeds.image)
    return {"teacher": settings.seeds * one}


def _search(settings: RunSettings, data: ImageData, speeds: Speeds) -> float:
    how = settings.search
    if settings.channel_sizes is not None:
        trial = replace(settings.recipe, epochs=settings.channel_sizes.epochs, warmup_epochs=0.0)
        epochs = _training(trial, data, speeds.step, speeds.image)
        return settings.channel_sizes.trials * epochs
    # without steps of the alphas, weights are trained on all images
    alone = how.sampling == "sandwich" and how.warmup >= how.epochs
    steps = max(1, len(data.train) // (1 if alone else 2) // how.batch_size)
    images = images_evaluated(how, len(data.val)) + how.evaluated * len(data.val)
    seconds = how.epochs * steps * speeds.weight_step
    seconds += (how.epochs - how.warmup) * steps * speeds.alpha_step
    return seconds + images * speeds.supernet_image


def _finalists(settings: RunSettings, data: ImageData, speeds: Speeds) -> float:
    how = settings.finalists
    if how.count < 2:
        return 0.0
    # the winner's epochs are part of its final training, except for channel sizes
    discarded = (
        how.discarded_epochs(how.count, settings.recipe.epochs)
        if settings.channel_sizes is None
        else how.count * how.epochs
    )
    return discarded * _epoch(settings, data, speeds)


def _choosing(settings: RunSettings, data: ImageData, speeds: Speeds, sides: int) -> float:
    if sides < 2:
        return 0.0
    how, final = settings.finalists, settings.recipe.epochs
    epochs = how.discarded_epochs(sides, final) + how.compared_at(sides, final)[-1]
    return epochs * _epoch(settings, data, speeds)


def _epoch(settings: RunSettings, data: ImageData, speeds: Speeds) -> float:
    """Return the seconds of one epoch of final training."""
    one = replace(settings.recipe, epochs=1, warmup_epochs=0.0)
    return _training(one, data, speeds.step, speeds.image)


def _training(recipe: Recipe, data: ImageData, step: float, image: float) -> float:
    steps = max(1, len(data.train) // recipe.batch_size)
    return recipe.epochs * (steps * step + len(data.val) * image)


def format_durations(seconds: Mapping[str, float]) -> str:
    """Format total and parts, such as `14 min: search 3 min, export 20 s`."""
    named = ", ".join(f"{name} {format_duration(s)}" for name, s in seconds.items() if s)
    return f"{format_duration(sum(seconds.values()))}: {named}"


def format_duration(seconds: float) -> str:
    """Format 45 as `45 s`, 840 as `14 min`, 9000 as `2.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class Stopwatch:
    """Wall time by stage."""

    def __init__(self, clock: Clock = time.perf_counter) -> None:
        self._clock, self._last = clock, clock()
        self.seconds: dict[str, float] = {}

    def lap(self, stage: str) -> None:
        """Add the time since the last lap to a stage."""
        now = self._clock()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self._last
        self._last = now
