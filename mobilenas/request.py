"""A job in the words of the command line, and the full settings that follow from it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mobilenas.config import check_between, check_choice
from mobilenas.cost import COSTS
from mobilenas.cost.budget import LATENCY, NO_BUDGET, NO_PROFILE, Budget, Budgets
from mobilenas.data import DataSettings, load_data
from mobilenas.errors import BudgetError, MobileNASError
from mobilenas.profiling.graphs import PRECISIONS
from mobilenas.profiling.profile import Profile, find_profile
from mobilenas.progress import Reporter
from mobilenas.runs import (
    Run,
    RunSettings,
    check_folder,
    create_run,
    latency_model,
    make_space,
    open_run,
)
from mobilenas.search import FinalistSettings, SearchSettings
from mobilenas.spaces import MOBILENETS
from mobilenas.supernet import EntropySchedule, SamplerSettings, Temperature
from mobilenas.train import Recipe

ACTIVATION_FOR = {"fp32": "hard_swish", "int8": "relu"}
"""By precision: hard-swish breaks the quantized chain, and is slower there than what it wins."""
_SMALL_SET = 5000
# so that supernet and finalists together take no longer than about twice the final training
_SEARCH_SHARE, _RUNG_SHARE, _WARMUP_SHARE = 0.4, 0.13, 0.5


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How much is trained; small sets get more epochs, so that there are `least_steps`."""

    epochs: int
    """Final training."""
    least_steps: int
    """Fewest steps of the final training."""
    finalists: int
    """Archs that enter the finalists."""


EFFORTS = {
    "quick": Effort(epochs=6, least_steps=300, finalists=3),
    "standard": Effort(epochs=15, least_steps=1200, finalists=3),
    "full": Effort(epochs=60, least_steps=6000, finalists=6),
}
"""By name."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a user says; None leaves it to the effort or to the data."""

    data: str = "digits"
    """digits, cifar10, cifar100 or a folder of images."""
    flops: int | None = None
    """Budget of multiply-adds."""
    params: int | None = None
    """Budget of parameters."""
    memory: int | None = None
    """Budget of peak activation memory in bytes."""
    latency: float | None = None
    """Budget of latency in milliseconds, on the device of `profile`."""
    profile: str | None = None
    """Name or file of a device profile."""
    precision: str = "fp32"
    """What the device runs: fp32 or int8."""
    effort: str = "standard"
    """quick, standard or full."""
    epochs: int | None = None
    """Epochs of the final training."""
    image_size: int | None = None
    """Side in pixels."""
    flip: bool | None = None
    """Whether training mirrors images."""
    skip_bad_images: bool = False
    """Leave out images that cannot be decoded."""
    download: bool = False
    """Fetch CIFAR where it is missing."""
    search_epochs: int | None = None
    """Epochs of the supernet."""
    paths: str | None = None
    """gumbel, mixture or single."""
    sampler: str | None = None
    """full, random, attention or ranked."""
    keep: str | None = None
    """Share of the channels that enter, such as 1/4."""
    temperature: str | None = None
    """tau over time, START:END or one number."""
    entropy: float | None = None
    """Weight of the entropy loss."""
    entropy_schedule: str | None = None
    """const, linear, log or step."""
    constraint: str | None = None
    """lagrangian, hinge or penalty."""
    strength: float | None = None
    """lambda of hinge and penalty."""
    finalists: int | None = None
    """Archs that enter the finalists; 0 turns them off."""
    activation: str | None = None
    """Activation of the space's blocks; what suits the precision unless said."""
    squeeze: str = "searched"
    """searched, on or off."""
    baselines: Sequence[str] = tuple(MOBILENETS)
    """MobileNets to compare with."""
    random: int = 3
    """Random networks to compare with."""
    rival: bool = False
    """Whether random networks get the search's time, too."""
    rank: int = 0
    """Networks to measure the supernet's ranking on."""
    seed: int = 0
    """Seed of search and training."""
    seeds: int = 1
    """Seeds of the comparison."""
    dynamic_batch: bool = False
    """Whether the ONNX file takes any number of images."""
    threads: int = 1
    """Threads of torch."""
    device: str = "cpu"
    """cpu or cuda."""

    def __post_init__(self) -> None:
        """Check what can be checked before the images are read."""
        check_choice("effort", self.effort, tuple(EFFORTS))
        if not self.budgets:
            raise BudgetError(NO_BUDGET)
        check_choice("precision", self.precision, PRECISIONS)
        if self.latency is not None and self.profile is None:
            raise BudgetError(NO_PROFILE)
        for name in ("epochs", "search_epochs"):
            if getattr(self, name) is not None:
                check_between(self, name, 1, 100_000)

    @property
    def budgets(self) -> tuple[Budget, ...]:
        """The limits that were given."""
        given = ((cost, getattr(self, cost)) for cost in (*COSTS, LATENCY))
        return tuple(Budget(cost=cost, limit=limit) for cost, limit in given if limit is not None)

    @property
    def data_settings(self) -> DataSettings:
        """Which images."""
        return DataSettings(
            source=self.data,
            image_size=self.image_size,
            flip=self.flip,
            skip_bad_images=self.skip_bad_images,
            download=self.download,
        )

    def settings(self, train_images: int) -> RunSettings:
        """Return the full settings for so many training images."""
        effort = EFFORTS[self.effort]
        batch = 128 if train_images >= _SMALL_SET else 32
        steps = max(1, train_images // batch)
        epochs = self.epochs or max(effort.epochs, math.ceil(effort.least_steps / steps))
        searching = self.search_epochs or max(2, round(epochs * _SEARCH_SHARE))
        rate = Recipe(epochs=epochs).learning_rate * batch / 128
        count = effort.finalists if self.finalists is None else self.finalists
        return RunSettings(
            data=self.data_settings,
            budgets=self.budgets,
            search=self._search(searching, batch // 2, rate / 2),
            finalists=FinalistSettings(count=count, epochs=max(1, round(epochs * _RUNG_SHARE))),
            recipe=Recipe(epochs=epochs, batch_size=batch, learning_rate=rate),
            **{name: getattr(self, name) for name in _PASSED_ON},
            activation=self.activation or ACTIVATION_FOR[self.precision],
            baselines=tuple(self.baselines),
        )

    def _search(self, epochs: int, batch: int, rate: float) -> SearchSettings:
        plain = SearchSettings(epochs=epochs, warmup=round(epochs * _WARMUP_SHARE))
        given: dict[str, Any] = {
            name: getattr(self, name)
            for name in ("paths", "constraint", "strength")
            if getattr(self, name) is not None
        }
        if self.sampler == "full" and self.keep not in (None, "1", "1/1"):
            raise MobileNASError(f"--sampler full keeps every channel; --keep {self.keep} does not")
        if self.sampler is not None or self.keep is not None:
            name = self.sampler or plain.sampler.name
            partial = 1 if name == "full" else parse_keep(self.keep or "1/4")
            given["sampler"] = SamplerSettings(name=name, partial=partial)
        if self.temperature is not None:
            given["temperature"] = Temperature.parse(self.temperature)
        entropy = plain.entropy
        given["entropy"] = EntropySchedule(
            weight=entropy.weight if self.entropy is None else self.entropy,
            shape=self.entropy_schedule or entropy.shape,
            start=entropy.start,
        )
        return replace(plain, batch_size=batch, learning_rate=rate, **given)


_PASSED_ON = (
    "profile",
    "precision",
    "squeeze",
    "random",
    "rival",
    "rank",
    "seed",
    "seeds",
    "dynamic_batch",
    "threads",
    "device",
)


def parse_keep(text: str) -> int:
    """Read `1/4` as K = 4."""
    top, slash, bottom = text.partition("/")
    if text == "1" or (top == "1" and slash and bottom in ("1", "2", "4", "8")):
        return int(bottom or 1)
    raise MobileNASError(f"keep {text!r} cannot be read: write 1, 1/2, 1/4 or 1/8")


def start(
    folder: Path,
    request: Request,
    *,
    command: str,
    reporter: Reporter,
    resume: bool = False,
    overwrite: bool = False,
) -> Run:
    """Start the run that was asked for in `folder`, or with `resume` go on with it."""
    check_folder(folder, resume=resume, overwrite=overwrite)  # before images are decoded
    profile = _profile(request, reporter)
    data = load_data(request.data_settings, reporter)
    return create_run(
        folder,
        request.settings(len(data.train)),
        data=data,
        profile=profile,
        command=command,
        reporter=reporter,
        resume=resume,
        overwrite=overwrite,
    )


def _profile(request: Request, reporter: Reporter) -> Profile | None:
    """Find the device profile that was asked for, and tell what is wrong with its predictions."""
    if request.profile is None:
        return None
    profile = find_profile(request.profile)
    for warning in profile.warnings():
        if warning.startswith(f"{request.precision}:"):
            reporter.say(f"profile {profile.name}, {warning}")
    return profile


def go_on(folder: Path, reporter: Reporter) -> Run:
    """Open the run in `folder` with what it was asked for."""
    return open_run(folder, reporter)


def reachable(request: Request, reporter: Reporter) -> dict[str, dict[str, float]]:
    """Return smallest, largest and budget for every cost of the space; trains nothing."""
    profile = _profile(request, reporter)
    data = load_data(request.data_settings, reporter)
    settings = request.settings(len(data.train))
    latency = latency_model(settings, profile)
    budgets = Budgets(make_space(settings, data, latency), request.budgets, latency)
    space = budgets.space
    limits = {budget.cost: budget.limit for budget in request.budgets}
    rows: dict[str, dict[str, float]] = {}
    for cost, table in budgets.tables.items():
        rows[cost] = {
            "smallest": table.exact(space.smallest()),
            "largest": table.exact(space.largest()),
        }
        if cost in limits:
            rows[cost]["budget"] = limits[cost]
    return rows
