"""A job as the user states it, and the full settings that follow from it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal

from mobilenas.channels.settings import ChannelSettings
from mobilenas.core.errors import BudgetError, MobileNASError
from mobilenas.core.setting import setting
from mobilenas.core.settings import check_choice, check_number
from mobilenas.cost.budget import NO_BUDGET, NO_PROFILE, PENALTY, BudgetOptions
from mobilenas.data.settings import AUTO, DataOptions
from mobilenas.onnx.settings import TARGETS, Precision, Target
from mobilenas.pipeline.settings import JobSettings, RunSettings
from mobilenas.search.methods import DEFAULT_METHOD, settings_for, usual_epochs
from mobilenas.search.parts import PARTS, SearchParts
from mobilenas.search.settings import FinalistSettings
from mobilenas.spaces.cell.settings import CellOptions
from mobilenas.spaces.mobile.settings import Activation, Policy
from mobilenas.train.recipe import MAX_EPOCHS, Recipe
from mobilenas.train.recipes import DEFAULT_RECIPE, RECIPES, SMALL_SET, fields_of, usual_rate

ACTIVATION_FOR: dict[Precision, Activation] = {"fp32": "hard_swish", "int8": "relu"}
"""By precision: hard-swish breaks the quantized chain, and is slower there than what it wins."""
_RANGES = "; `mobilenas search --data DATA --dry-run` prints what can be asked for"
ANY_COUNT = SMALL_SET
"""Images to make settings for where only their legality matters."""
_RUNG_SHARE = 0.2
# after one epoch networks on hard images still stand at the loss of guessing
_MIN_EPOCHS = 2


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How much is trained; small sets get more epochs, so that there are `min_steps`.

    They get `MAX_REPEATS` times as many at most: more passes over so few images cost time alone.
    """

    epochs: int
    """Final training."""
    min_steps: int
    """Fewest steps of the final training."""
    finalists: int
    """Archs that enter the finalists."""


MAX_REPEATS = 10
EffortName = Literal["quick", "standard", "full"]
EFFORTS: dict[EffortName, Effort] = {
    "quick": Effort(epochs=6, min_steps=300, finalists=3),
    "standard": Effort(epochs=15, min_steps=1200, finalists=4),
    "full": Effort(epochs=60, min_steps=6000, finalists=6),
}
"""By name."""


def recipe_for(
    effort: EffortName,
    images: int,
    epochs: int | None = None,
    name: str = DEFAULT_RECIPE,
    changes: Sequence[str] = (),
) -> Recipe:
    """Return how networks are trained on so many images; `epochs`: instead of the effort's.

    `name` is that of the recipe, and `changes` are fields of it as `fields_of` reads them.
    """
    check_choice("effort", effort, tuple(EFFORTS))
    fields = fields_of(name, images, changes)
    steps = max(1, images // fields["batch_size"])
    usual = EFFORTS[effort]
    repeats = min(math.ceil(usual.min_steps / steps), MAX_REPEATS * usual.epochs)
    if epochs is None:
        epochs = max(usual.epochs, repeats)
    return Recipe(epochs=epochs, **fields)


@dataclass(frozen=True, kw_only=True)
class Request(JobSettings, CellOptions, SearchParts, DataOptions, BudgetOptions):
    """What a user says; None leaves it to the effort or to the data."""

    effort: EffortName = setting("standard", help="How much is trained.", group="Training")
    epochs: int | None = setting(
        None,
        help="Epochs of the final training.",
        default_text="by --effort",
        group="Training",
        low=1,
        high=MAX_EPOCHS,
    )
    recipe: str = setting(
        DEFAULT_RECIPE,
        help="How networks are trained; `mobilenas recipes` shows what there is.",
        group="Training",
        built_in=tuple(RECIPES),
        added=True,
    )
    set: tuple[str, ...] = setting(
        (),
        help="Fields of the recipe to change, such as mixup=0.2; may be repeated.",
        group="Training",
        metavar="FIELD=VALUE",
        repeated=True,
        rare=True,
        added=True,
    )
    search_epochs: int | None = setting(
        None, help="Epochs of the supernet.", default_text="by --effort", low=1, high=10_000
    )
    finalists: int | None = setting(
        None,
        help="Candidates compared by a short training; 0 for none.",
        default_text="by --effort; for cells 0",
        low=0,
        high=1000,
    )
    targets: tuple[Target, ...] = setting(
        (),
        help=(
            "Search only networks that run unpartitioned on these targets: "
            f"{', '.join(TARGETS)} (qnn: Qualcomm; nnapi is deprecated by Android)."
        ),
        metavar="NAMES",
    )
    activation: Activation | None = setting(
        None, help="Activation of the blocks.", default_text="hard_swish, for int8 relu", rare=True
    )
    squeeze: Policy | None = setting(
        None,
        help="Squeeze-excite in the blocks.",
        default_text="on; under --latency and --params searched",
        rare=True,
    )
    extra_depthwise: Policy | None = setting(
        None,
        help="A 3x3 depthwise convolution at the start of blocks.",
        default_text="searched; with --profile off",
        rare=True,
        added=True,
    )
    inherit: bool = setting(
        False,
        help="Start final training from the supernet's weights, and train from scratch, too.",
        group="Training",
        rare=True,
        added=True,
    )
    random: int | None = setting(
        None,
        help="Random networks to compare with.",
        default_text=f"{RunSettings.random}",
        group="Comparison",
        low=0,
        high=10_000,
    )

    def __post_init__(self) -> None:
        """Check what can be checked before the images are read."""
        super().__post_init__()
        check_choice("space", self.space, self._spaces)
        self._refuse_other_spaces()
        if self.image_size == AUTO and self.space != "mobile":
            raise MobileNASError(
                f"--image-size {AUTO} is for --space mobile, whose budgets size it at every side; "
                "give a number"
            )
        if not self.budgets and self._needs_budget:
            raise BudgetError(NO_BUDGET + _RANGES * (self.space == "mobile"))
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
                "none has such blocks; use off"
            )
        if self.warmup is not None and self.search_epochs is not None:
            check_number("--warmup", self.warmup, 0, self.search_epochs)

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
        from mobilenas.spaces.base import searched

        return searched()

    def _refuse_other_spaces(self) -> None:
        """Refuse by name the parts that the space does not have."""
        others = _CELLS_ONLY if self.space == "mobile" else _MOBILE_ONLY
        for name in others:
            if getattr(self, name) != self.__dataclass_fields__[name].default:
                option = f"--{name.replace('_', '-')}"
                raise MobileNASError(f"{option} is not for --space {self.space}: {others[name]}")
        if self.space == "mobile" and "edges" in (self.entropy_terms or ""):
            raise MobileNASError(
                f"--entropy-terms {self.entropy_terms} is not for --space mobile: {_CHAIN}"
            )
        if self.space == "cell" and self.sampling == "single-path":
            raise MobileNASError(
                "--sampling single-path is not for --space cell: choose softmax or gumbel"
            )

    def _refuse_split_graphs(self) -> None:
        """Refuse by name the options whose operators a target does not run."""
        for name, legal in (("activation", ("relu", "relu6")), ("squeeze", ("off",))):
            said = getattr(self, name)
            if self.gateless and said not in (None, *legal):
                raise MobileNASError(
                    f"--{name} {said} is not for --targets {self.gateless}, which has no "
                    f"HardSigmoid: it would split the graph; use {' or '.join(legal)}"
                )

    @property
    def gateless(self) -> str:
        """The first target that runs neither hard-swish nor squeeze-excite; empty if all do."""
        if not self.targets:
            return ""
        from mobilenas.onnx.targets import GATE, refused_operators

        return next((name for name in self.targets if GATE in refused_operators(name)), "")

    def settings(self, train_images: int) -> RunSettings:
        """Return the full settings for so many training images."""
        from mobilenas.pipeline.run_folder import check_device

        self.data_settings.check_source()
        check_device(self.device)
        passed_on = {one.name: getattr(self, one.name) for one in fields(JobSettings)}
        recipe = recipe_for(self.effort, train_images, self.epochs, self.recipe, self.set)
        # the supernet learns from scratch, by no other recipe than it was measured with
        rate = usual_rate(train_images)
        usually = usual_epochs(recipe.epochs, alphas_decide=self._alphas_decide)
        searching = self.search_epochs or usually
        # the published methods on cells have no finalists
        usual = EFFORTS[self.effort].finalists if self.space != "cell" else 0
        count = usual if self.finalists is None else self.finalists
        return RunSettings(
            data=self.data_settings,
            budgets=self.budgets,
            search=settings_for(
                self.method,
                {part: getattr(self, part) for part in PARTS},
                cells=self.space == "cell",
                epochs=searching,
                batch_size=rate["batch_size"] // 2,
                learning_rate=rate["learning_rate"] / 2,
                alpha_steps=train_images // 2 // (rate["batch_size"] // 2),
            ),
            finalists=FinalistSettings(
                count=count, epochs=max(_MIN_EPOCHS, round(recipe.epochs * self._rung_share))
            ),
            recipe=recipe,
            cell=self.cell_settings,
            channel_sizes=self._channel_settings(recipe.epochs),
            squeeze=self.squeeze or self._usual_squeeze,
            extra_depthwise=self.extra_depthwise or self._usual_extra_depthwise,
            inherit=self.inherit,
            search_image_size=self.image_size == AUTO,
            **passed_on | {"baselines": tuple(self.baselines)},
            activation=self.activation
            or ("relu" if self.gateless else ACTIVATION_FOR[self.precision]),
            random=self._default_random if self.random is None else self.random,
        )

    @property
    def _alphas_decide(self) -> bool:
        """Whether a part or method of the search was said, or there are no finalists to decide."""
        parts = any(getattr(self, part) is not None for part in PARTS if part != "prior")
        published = self.method != DEFAULT_METHOD
        alone = self.space == "cell" or self.finalists in (0, 1)
        return alone or parts or published or self.rank > 0

    @property
    def _usual_squeeze(self) -> Policy:
        """Squeeze-excite pays for its FLOPs everywhere; for time and params, a search decides."""
        if self.gateless:
            return "off"
        return "on" if self.latency is None and self.params is None else "searched"

    @property
    def _usual_extra_depthwise(self) -> Policy:
        """It helps on some images and harms on others; no profile has such blocks."""
        return "searched" if self.space == "mobile" and self.profile is None else "off"

    def _channel_settings(self, _epochs: int) -> ChannelSettings | None:
        """Return how channel sizes are searched, which this request does not ask for."""
        return None


_CHAIN = "it is a chain of blocks, and has no edges to choose between"
_CELLS_ONLY = {
    "edges": _CHAIN,
    "edge_weights": _CHAIN,
    "zero_op": _CHAIN,
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
    "operations": "cells choose from operations of their own",
    "inherit": "it takes slices of the mobile space's supernet",
    "prior": "it knows networks of the mobile space",
    "memory": "limit --flops or --params",
    "latency": "no profile has the blocks of cells; limit --flops or --params",
    "profile": "no profile has the blocks of cells",
}
"""Options that the cell space refuses, and why."""
