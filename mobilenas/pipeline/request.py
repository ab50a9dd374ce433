"""A job in the words of the command line, and the full settings that follow from it."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mobilenas.channels.settings import ChannelSettings
from mobilenas.channels.start import check_start
from mobilenas.core.errors import BudgetError, MobileNASError
from mobilenas.core.progress import Reporter
from mobilenas.core.settings import ADDED, check_between, check_choice, to_plain
from mobilenas.cost.budget import COSTS, LATENCY, NO_BUDGET, NO_PROFILE, PENALTY, Budget
from mobilenas.data import DataSettings, ImageData, ImageKind, load_data
from mobilenas.latency.cost_model import Latency
from mobilenas.latency.graphs import PRECISIONS
from mobilenas.latency.profile import Profile, find_profile
from mobilenas.onnx.targets import GATE, TARGETS, refused_operators
from mobilenas.pipeline.run_folder import (
    CellSettings,
    Run,
    RunSettings,
    check_device,
    check_run,
    create_run,
    latency_model,
    open_run,
    usable_space,
)
from mobilenas.search import FinalistSettings
from mobilenas.search.methods import DEFAULT_METHOD, METHODS, PARTS, settings_for, usual_epochs
from mobilenas.spaces.base import searched
from mobilenas.spaces.cell.space import EdgeTarget
from mobilenas.spaces.mobile.mobilenets import MOBILENETS
from mobilenas.train import Recipe

ACTIVATION_FOR = {"fp32": "hard_swish", "int8": "relu"}
"""By precision: hard-swish breaks the quantized chain, and is slower there than what it wins."""
_RANGES = "; `mobilenas search --data DATA --dry-run` prints what can be asked for"
_SMALL_SET = 5000
# batch size and peak learning rate, each measured (docs/search.md)
_USUAL, _SMALL = (128, 0.5), (32, 0.05)
ANY_COUNT = _SMALL_SET
"""Images to make settings for where only their legality matters."""
_RUNG_SHARE = 0.2
# after one epoch networks on hard images still stand at the loss of guessing
_FEWEST_EPOCHS = 2


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How much is trained; small sets get more epochs, so that there are `least_steps`.

    They get `MOST_REPEATS` times as many at most: more passes over so few images cost time alone.
    """

    epochs: int
    """Final training."""
    least_steps: int
    """Fewest steps of the final training."""
    finalists: int
    """Archs that enter the finalists."""


MOST_REPEATS = 10
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
    space: str = "mobile"
    """mobile or cell."""
    method: str | None = None
    """A name from `mobilenas.search.methods.METHODS`; its parts can be changed one by one."""
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
    attention: str | None = None
    """How a sampler scores channels: se, eca or cbam."""
    keep: str | None = None
    """Share of the channels that enter, such as 1/4."""
    temperature: str | None = None
    """tau over time, START:END or one number."""
    entropy: float | None = None
    """Weight of the entropy loss."""
    entropy_schedule: str | None = None
    """const, linear, log or step."""
    entropy_terms: str | None = None
    """operations, edges, or both with a comma between."""
    warmup: int | None = None
    """First epochs of the search, which train weights only."""
    order: int | None = None
    """1 or 2: order of the alphas' step."""
    on_collapse: str | None = None
    """warn, stop or rollback."""
    prior: bool | None = field(default=None, metadata=ADDED)
    """Whether earlier trained networks have a say in which are finalists."""
    none: bool | None = None
    """Cells: whether an edge may do nothing while searching."""
    edges: str | None = None
    """Cells: edges that are kept, such as 2/node or 3/14."""
    edge_weights: str | None = None
    """Cells: none, softmax or clipped."""
    layers: int | None = None
    """Cells: how many the networks that are found have."""
    channels: int | None = None
    """Cells: their first channels."""
    search_layers: int | None = None
    """Cells: how many the supernet has."""
    search_channels: int | None = None
    """Cells: its first channels."""
    auxiliary: bool | None = None
    """Cells: whether final training has a second classifier."""
    drop_path: float | None = None
    """Cells: most probability of dropping an edge in final training."""
    constraint: str | None = None
    """lagrangian, hinge or penalty."""
    strength: float | None = None
    """lambda of hinge and penalty."""
    finalists: int | None = None
    """Archs that enter the finalists; 0 turns them off."""
    activation: str | None = None
    """Activation of the space's blocks; what suits the precision unless said."""
    squeeze: str | None = None
    """searched, on or off; unless said on, under a latency or params budget searched."""
    extra_depthwise: str | None = field(default=None, metadata=ADDED)
    """A depthwise convolution that blocks start with: searched, on or off; searched unless said,
    with a profile off.
    """
    inherit: bool | None = field(default=None, metadata=ADDED)
    """Whether what is found starts from the supernet's weights; unless said from scratch."""
    targets: tuple[str, ...] = ()
    """Execution providers that must run what is found whole."""
    baselines: tuple[str, ...] = tuple(MOBILENETS)
    """MobileNets to compare with."""
    random: int | None = None
    """Random networks to compare with [default: 3]."""
    rival: bool = False
    """Whether random networks get the search's time, too."""
    equal_time: bool = field(default=False, metadata=ADDED)
    """Whether the best MobileNet gets the time of search and final training, too."""
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
        check_choice("space", self.space, self._spaces)
        if self.method is not None:
            check_choice("method", self.method, tuple(METHODS))
        self._refuse_other_spaces()
        if not self.budgets and self._needs_budget:
            raise BudgetError(NO_BUDGET + _RANGES * (self.space == "mobile"))
        check_choice("precision", self.precision, PRECISIONS)
        self._refuse_split_graphs()
        if self.latency is not None and self.profile is None:
            raise BudgetError(NO_PROFILE)
        if self.prior and (self.flops is None or self.constraint == PENALTY):
            raise MobileNASError(
                f"--prior is for --flops, and not for --constraint {PENALTY}: "
                "it tells networks of equal FLOPs apart"
            )
        if self.extra_depthwise not in (None, "off") and self.profile is not None:
            raise MobileNASError(
                f"--extra-depthwise {self.extra_depthwise} is not for --profile: "
                "none has such blocks; say off"
            )
        for name in ("epochs", "search_epochs"):
            if getattr(self, name) is not None:
                check_between(self, name, 1, 100_000)
        if self.warmup is not None and self.search_epochs is not None:
            check_between(self, "warmup", 0, self.search_epochs)

    @property
    def _needs_budget(self) -> bool:
        """Whether networks have no size without one."""
        return self.space != "cell"

    @property
    def _default_random(self) -> int:
        """Random networks where no number was given."""
        return RunSettings.random

    @property
    def _rung_share(self) -> float:
        """Epochs of a rung of finalists, of those of the final training."""
        return _RUNG_SHARE

    @property
    def _spaces(self) -> tuple[str, ...]:
        return searched()

    def _refuse_other_spaces(self) -> None:
        """Refuse by name the parts that the space does not have."""
        others = _CELLS_ONLY if self.space == "mobile" else _MOBILE_ONLY
        for name in others:
            if getattr(self, name) is not None:
                option = f"--{name.replace('_', '-')}"
                raise MobileNASError(f"{option} is not for --space {self.space}: {others[name]}")
        if self.space == "mobile" and "edges" in (self.entropy_terms or ""):
            raise MobileNASError(
                f"--entropy-terms {self.entropy_terms} is not for --space mobile: {_CHAIN}"
            )
        if self.space == "cell" and self.paths == "single":
            raise MobileNASError("--paths single is not for --space cell: say mixture or gumbel")

    def _refuse_split_graphs(self) -> None:
        """Refuse by name the options whose operators a target does not run."""
        for target in self.targets:
            check_choice("target", target, TARGETS)
        for name, legal in (("activation", ("relu", "relu6")), ("squeeze", ("off",))):
            said = getattr(self, name)
            if self.gateless and said not in (None, *legal):
                raise MobileNASError(
                    f"--{name} {said} is not for --targets {self.gateless}, which has no {GATE}: "
                    f"it would split the graph; say {' or '.join(legal)}"
                )

    @property
    def gateless(self) -> str:
        """The first target that runs neither hard-swish nor squeeze-excite; empty if all do."""
        return next((name for name in self.targets if GATE in refused_operators(name)), "")

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
        self.data_settings.check_source()
        check_device(self.device)
        effort = EFFORTS[self.effort]
        batch, rate = _USUAL if train_images >= _SMALL_SET else _SMALL
        steps = max(1, train_images // batch)
        repeats = min(math.ceil(effort.least_steps / steps), MOST_REPEATS * effort.epochs)
        epochs = self.epochs or max(effort.epochs, repeats)
        usually = usual_epochs(epochs, alphas_decide=self._alphas_decide)
        searching = self.search_epochs or usually
        # the published methods on cells have no finalists
        usual = effort.finalists if self.space != "cell" else 0
        count = usual if self.finalists is None else self.finalists
        return RunSettings(
            data=self.data_settings,
            budgets=self.budgets,
            search=settings_for(
                self.method or DEFAULT_METHOD,
                {part: getattr(self, part) for part in PARTS},
                cells=self.space == "cell",
                epochs=searching,
                batch_size=batch // 2,
                learning_rate=rate / 2,
                alpha_steps=train_images // 2 // (batch // 2),
            ),
            finalists=FinalistSettings(
                count=count, epochs=max(_FEWEST_EPOCHS, round(epochs * self._rung_share))
            ),
            recipe=Recipe(epochs=epochs, batch_size=batch, learning_rate=rate),
            cell=self._cell_settings(),
            widths=self._channel_settings(epochs),
            method=self.method or DEFAULT_METHOD,
            squeeze=self.squeeze or self._usual_squeeze,
            extra_depthwise=self.extra_depthwise or self._usual_extra_depthwise,
            inherit=bool(self.inherit),
            **{name: getattr(self, name) for name in _PASSED_ON},
            activation=self.activation
            or ("relu" if self.gateless else ACTIVATION_FOR[self.precision]),
            baselines=tuple(self.baselines),
            random=self._default_random if self.random is None else self.random,
        )

    @property
    def _alphas_decide(self) -> bool:
        """Whether a part or method of the search was said, or there are no finalists to decide."""
        parts = any(getattr(self, part) is not None for part in PARTS if part != "prior")
        published = self.method not in (None, DEFAULT_METHOD)
        alone = self.space == "cell" or self.finalists in (0, 1)
        return alone or parts or published or self.rank > 0

    @property
    def _usual_squeeze(self) -> str:
        """Squeeze-excite pays for its FLOPs everywhere; for time and params, a search decides."""
        if self.gateless:
            return "off"
        return "on" if self.latency is None and self.params is None else "searched"

    @property
    def _usual_extra_depthwise(self) -> str:
        """It helps on some images and harms on others; no profile has such blocks."""
        return "searched" if self.space == "mobile" and self.profile is None else "off"

    def _channel_settings(self, _epochs: int) -> ChannelSettings | None:
        """Return how channel sizes are searched, which this request does not ask for."""
        return None

    def _cell_settings(self) -> CellSettings:
        names = ("layers", "channels", "search_layers", "search_channels", "auxiliary", "drop_path")
        given = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        if self.edges is not None:
            given["edges"] = EdgeTarget.parse(self.edges)
        return CellSettings(**given)


_CHAIN = "it is a chain of blocks, and has no edges to choose between"
_CELLS_ONLY = {
    "edges": _CHAIN,
    "edge_weights": _CHAIN,
    "none": _CHAIN,
    "layers": "the budgets decide on its depth",
    "channels": "the budgets decide on its widths",
    "search_layers": "its supernet is the space's largest network",
    "search_channels": "its supernet is the space's largest network",
    "auxiliary": "its networks have one classifier",
    "drop_path": "its networks have no parallel edges",
}
"""Options that the mobile space refuses, and why."""
_MOBILE_ONLY = {
    "activation": "cells have ReLU everywhere",
    "squeeze": "cells have no squeeze-excite",
    "extra_depthwise": "cells choose their convolutions",
    "inherit": "it takes slices of the mobile space's supernet",
    "prior": "it knows networks of the mobile space",
    "memory": "limit --flops or --params",
    "latency": "no profile has the blocks of cells; limit --flops or --params",
    "profile": "no profile has the blocks of cells",
}
"""Options that the cell space refuses, and why."""
_PASSED_ON = (
    "space",
    "profile",
    "precision",
    "rival",
    "equal_time",
    "rank",
    "seed",
    "seeds",
    "dynamic_batch",
    "threads",
    "device",
)


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
    check_run(folder, resume=resume, overwrite=overwrite)  # before images are decoded
    profile = profile_of(request, reporter)
    tell_targets(request, reporter)
    data = read_images({"": request}, profile, reporter)
    return create_run(
        folder,
        request.settings(len(data.train)),
        data=data,
        request=to_plain(request),
        profile=profile,
        command=command,
        reporter=reporter,
        resume=resume,
        overwrite=overwrite,
    )


def read_images(
    requests: Mapping[str, Request],
    profile: Profile | None,
    reporter: Reporter,
    check: Callable[[RunSettings, ImageKind, Latency | None], object] = usable_space,
) -> ImageData:
    """Read the images that all of `requests` share, after all that can be checked before them.

    Settings, model, profile and device are checked first, then `check` when classes and size are
    known, and only then is any image decoded. Errors begin with the request's name, if it has one.
    """
    few = {name: request.settings(ANY_COUNT) for name, request in requests.items()}
    for settings in few.values():
        if settings.widths is not None:
            check_start(settings.widths)
    latencies = {name: latency_model(settings, profile) for name, settings in few.items()}

    def check_all(kind: ImageKind) -> None:
        for name, settings in few.items():
            try:
                check(settings, kind, latencies[name])
            except BudgetError as error:
                raise BudgetError(f"{name}: {error}" if name else str(error)) from error

    first = next(iter(requests.values()))
    return load_data(first.data_settings, reporter, check_all)


def profile_of(request: Request, reporter: Reporter) -> Profile | None:
    """Find the device profile that was asked for, and tell what is wrong with its predictions."""
    if request.profile is None:
        return None
    profile = find_profile(request.profile)
    known = profile.calibration.get(request.precision)
    if known is not None and known.useless:
        raise MobileNASError(f"profile {profile.name}, {request.precision}: {known.useless}")
    for warning in profile.warnings():
        if warning.startswith(f"{request.precision}:"):
            reporter.say(f"profile {profile.name}, {warning}")
    return profile


def tell_targets(request: Request, reporter: Reporter) -> None:
    """Say what the targets leave out of the space."""
    if request.gateless and request.space == "mobile":
        reporter.say(
            f"{request.gateless} has no {GATE}: networks have no hard-swish and no squeeze-excite"
        )


def go_on(folder: Path, reporter: Reporter) -> Run:
    """Open the run in `folder` with what it was asked for."""
    return open_run(folder, reporter)
