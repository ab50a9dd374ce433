"""A job as the user states it, from which its full settings are made."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import partial

from mobilenas.channels.settings import ChannelSettings
from mobilenas.core.errors import BudgetError, MobileNASError
from mobilenas.core.setting import setting
from mobilenas.core.settings import Fields, check_choice, check_number
from mobilenas.cost.budget import NO_BUDGET, NO_PROFILE, PENALTY, BudgetOptions
from mobilenas.data.settings import AUTO, DataOptions, DataSettings
from mobilenas.onnx.settings import TARGETS, Precision, Target
from mobilenas.pipeline.effort import EFFORTS, EffortName, recipe_for
from mobilenas.pipeline.inapplicable import CELLS_ONLY, CHAIN, MOBILE_ONLY, NOT_PRETRAINED, WHOLE
from mobilenas.pipeline.settings import SUBNETWORKS, JobSettings, RunSettings
from mobilenas.search.methods import DEFAULT_METHOD, METHODS, default_search_epochs, settings_for
from mobilenas.search.parts import PARTS, SearchParts
from mobilenas.search.settings import FinalistSettings, SearchSettings
from mobilenas.spaces.cell.settings import CellOptions
from mobilenas.spaces.mobile.settings import Activation, Policy
from mobilenas.spaces.subnetworks.settings import PretrainedOptions, PretrainedSettings
from mobilenas.train.pretrained import source_of
from mobilenas.train.recipe import MAX_EPOCHS, Recipe
from mobilenas.train.recipes import (
    DEFAULT_RECIPE,
    FINETUNE,
    RECIPES,
    SMALL_SET,
    usual_rate,
)

ACTIVATION_FOR: dict[Precision, Activation] = {"fp32": "hard_swish", "int8": "relu"}
"""Activation by precision: in INT8, hard-swish interrupts the quantized chain and is too slow."""
_RANGES = "; `mobilenas search --data DATA --dry-run` prints the possible ranges"
ANY_COUNT = SMALL_SET
"""A number of images for making settings of which only the legality matters."""
_RUNG_SHARE = 0.2
# shares of the final training's epochs, for supernet and teacher with a pretrained network
_SANDWICH_SHARE, _TEACHER_SHARE, _MIN_TEACHER_EPOCHS = 0.15, 0.25, 3
# evaluated subnetworks of a pretrained network per finalist
_EVALUATED = 5
# momentum of norms in trainings from scratch; that of pretrained networks is slow
_MOMENTUM = 0.1
# on hard images, networks are still at chance level after one epoch
_MIN_EPOCHS = 2


@dataclass(frozen=True, kw_only=True)
class Request(JobSettings, PretrainedOptions, CellOptions, SearchParts, DataOptions, BudgetOptions):
    """The user's options; None: the value depends on effort or data."""

    effort: EffortName = setting(
        "standard", help="How long networks are trained.", group="Training"
    )
    epochs: int | None = setting(
        None,
        help="Epochs of the final training.",
        default_text="by --effort",
        group="Training",
        low=1,
        high=MAX_EPOCHS,
    )
    recipe: str | None = setting(
        None,
        help="Training recipe of all networks; `mobilenas recipes` lists them.",
        default_text=f"{DEFAULT_RECIPE}; with --pretrained: {FINETUNE}; with --space cell: cells",
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
    compile: bool = setting(
        False,
        help="Compile networks with torch.compile before training; without it where that fails.",
        group="Training",
        rare=True,
        added=True,
    )
    search_epochs: int | None = setting(
        None, help="Epochs of the supernet.", default_text="by --effort", low=1, high=10_000
    )
    finalists: int | None = setting(
        None,
        help="Candidates compared by a short training; 0 for none.",
        default_text="by --effort; 0 for cells",
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
        help="Start final training from the supernet's weights, with one from scratch as control.",
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
        """Check everything that does not need the images."""
        super().__post_init__()
        check_choice("space", self.space, self._spaces)
        self._refuse_other_spaces()
        if self.image_size == AUTO and self.space != "mobile":
            raise MobileNASError(
                f"--image-size {AUTO} is for the mobile space, which the budgets size at every "
                "side; give a number of pixels"
            )
        self.check_pretrained()
        if self.pretrained is not None:
            source_of(self.pretrained)  # raises if it does not exist
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
                f"--extra-depthwise {self.extra_depthwise} does not work with --profile: "
                "none has such blocks; use off"
            )
        if self.warmup is not None and self.search_epochs is not None:
            check_number("--warmup", self.warmup, 0, self.search_epochs)

    @property
    def _needs_budget(self) -> bool:
        """Whether the networks need a budget to have a size."""
        return self.space != "cell"

    @property
    def _default_random(self) -> int:
        """Default number of random networks."""
        return RunSettings.random

    @property
    def _rung_share(self) -> float:
        """Epochs of a rung of finalists, as a share of the final training's."""
        return _RUNG_SHARE

    @property
    def _spaces(self) -> tuple[str, ...]:
        from mobilenas.spaces.base import searched

        return tuple(name for name in searched() if name != SUBNETWORKS)

    def _refuse_other_spaces(self) -> None:
        """Raise for options that do not apply to the space."""
        others = CELLS_ONLY if self.space == "mobile" else MOBILE_ONLY
        self._refuse(others, f"--space {self.space}")
        if self.pretrained is not None:
            self._refuse(NOT_PRETRAINED, "--pretrained")
            if self.method != DEFAULT_METHOD and METHODS[self.method].sampler.partial > 1:
                raise MobileNASError(
                    f"--method {self.method} does not work with --pretrained: {WHOLE}"
                )
        if self.space == "mobile" and "edges" in (self.entropy_terms or ""):
            raise MobileNASError(
                f"--entropy-terms {self.entropy_terms} does not work with --space mobile: {CHAIN}"
            )
        if self.space == "cell" and self.sampling in ("single-path", "sandwich"):
            raise MobileNASError(
                f"--sampling {self.sampling} does not work with --space cell: use softmax or gumbel"
            )

    def _refuse(self, others: Mapping[str, str], where: str) -> None:
        """Raise for given options among `others`, with the reason."""
        for name, why in others.items():
            if getattr(self, name) != self.__dataclass_fields__[name].default:
                raise MobileNASError(
                    f"--{name.replace('_', '-')} does not work with {where}: {why}"
                )

    def _refuse_split_graphs(self) -> None:
        """Raise for options whose operators a target does not support."""
        for name, legal in (("activation", ("relu", "relu6")), ("squeeze", ("off",))):
            given, target = getattr(self, name), self.target_without_gate
            if target and given not in (None, *legal):
                raise MobileNASError(
                    f"--{name} {given} does not work with --targets {target}, which has no "
                    f"HardSigmoid: it would split the graph; use {' or '.join(legal)}"
                )

    @property
    def target_without_gate(self) -> str:
        """The first target without hard-swish and squeeze-excite; empty if all support them."""
        if not self.targets:
            return ""
        from mobilenas.onnx.targets import GATE, refused_operators

        return next((name for name in self.targets if GATE in refused_operators(name)), "")

    def settings(self, train_images: int) -> RunSettings:
        """Return the full settings for a number of training images."""
        from mobilenas.pipeline.run_folder import check_device

        self.data_settings.check_source()
        check_device(self.device)
        passed_on = {one.name: getattr(self, one.name) for one in fields(JobSettings)}
        name = self.recipe or self._usual_recipe
        recipe_of = partial(recipe_for, self.effort, train_images, compile=self.compile)
        recipe = recipe_of(self.epochs, name, self.set)
        scratch_recipe = None
        if self.pretrained is not None:
            passed_on["space"] = SUBNETWORKS
            scratch_recipe = replace(recipe_of(recipe.epochs), norm_momentum=_MOMENTUM)
        elif self.recipe is None:
            usual_recipe = recipe_of(recipe.epochs, DEFAULT_RECIPE, self.set)
            scratch_recipe = usual_recipe if usual_recipe != recipe else None
        # the published methods for cells have no finalists
        usual = EFFORTS[self.effort].finalists if self.space != "cell" else 0
        count = usual if self.finalists is None else self.finalists
        return RunSettings(
            data=self.data_settings,
            budgets=self.budgets,
            search=self._search_settings(recipe, train_images),
            finalists=FinalistSettings(
                count=count, epochs=max(_MIN_EPOCHS, round(recipe.epochs * self._rung_share))
            ),
            recipe=recipe,
            cell=self.cell_settings,
            channel_sizes=self._channel_settings(recipe.epochs),
            squeeze=self.squeeze or self._usual_squeeze,
            extra_depthwise=self.extra_depthwise or self._usual_extra_depthwise,
            inherit=self.inherit or self.pretrained is not None,
            search_image_size=self.image_size == AUTO and self.pretrained is None,
            pretrained=self._pretrained_settings(recipe),
            scratch_recipe=scratch_recipe,
            **passed_on | {"baselines": tuple(self.baselines)},
            activation=self.activation
            or ("relu" if self.target_without_gate else ACTIVATION_FOR[self.precision]),
            random=self._default_random if self.random is None else self.random,
        )

    @property
    def _usual_recipe(self) -> str:
        from mobilenas.spaces.base import family

        if self._starts_from is not None:
            return FINETUNE
        return family(self.space).recipe or DEFAULT_RECIPE

    @property
    def _starts_from(self) -> str | None:
        """The pretrained network to start from; None: from scratch."""
        return self.pretrained

    @property
    def data_settings(self) -> DataSettings:
        """The images, normalized as for the pretrained network's weights if there is one."""
        settings = super().data_settings
        if self._starts_from is None:
            return settings
        source = source_of(self._starts_from)
        return replace(settings, mean=source.mean, std=source.std)

    @property
    def _alphas_decide(self) -> bool:
        """Whether a method or part was given, or there are no finalists to decide."""
        parts = any(getattr(self, part) is not None for part in PARTS if part != "prior")
        published = self.method != DEFAULT_METHOD
        # losses of subnetworks of a pretrained network decide even without finalists
        alone = self.finalists in (0, 1) and self.pretrained is None
        return self.space == "cell" or alone or parts or published or self.rank > 0

    def _search_settings(self, recipe: Recipe, train_images: int) -> SearchSettings:
        parts = {part: getattr(self, part) for part in PARTS}
        if self.pretrained is not None:
            return self._search_of_parts(recipe, parts)
        usually = default_search_epochs(recipe.epochs, alphas_decide=self._alphas_decide)
        # the supernet is trained from scratch, with the settings of our measurements
        rate = usual_rate(train_images)
        return settings_for(
            self.method,
            parts,
            cells=self.space == "cell",
            epochs=self.search_epochs or usually,
            batch_size=rate["batch_size"] // 2,
            learning_rate=rate["learning_rate"] / 2,
            alpha_steps=train_images // 2 // (rate["batch_size"] // 2),
        )

    def _search_of_parts(self, recipe: Recipe, parts: Fields) -> SearchSettings:
        """Return the search settings for subnetworks of a pretrained network."""
        epochs = self.search_epochs or max(1, round(recipe.epochs * _SANDWICH_SHARE))
        if recipe.optimizer != "sgd":  # the supernet's is SGD, which needs its own learning rate
            recipe = recipe_for(self.effort, ANY_COUNT, recipe.epochs, FINETUNE)
        given = parts | {"sampler": "full", "prior": False}
        if not self._alphas_decide:
            given["warmup"] = epochs
        if self.method == DEFAULT_METHOD and self.sampling is None:
            given["sampling"] = "sandwich"
        settings = settings_for(
            self.method,
            given,
            cells=False,
            epochs=epochs,
            batch_size=recipe.batch_size,
            learning_rate=recipe.learning_rate,
            alpha_steps=1,
        )
        evaluated = 0 if self._alphas_decide else _EVALUATED * EFFORTS[self.effort].finalists
        return replace(settings, evaluated=evaluated)

    def _pretrained_settings(self, recipe: Recipe) -> PretrainedSettings | None:
        if self.pretrained is None:
            return None
        return PretrainedSettings(
            name=self.pretrained,
            weights=self.weights,
            teacher_epochs=max(_MIN_TEACHER_EPOCHS, math.ceil(recipe.epochs * _TEACHER_SHARE)),
            stage_widths=self.stage_shares,
            from_scratch=self.from_scratch,
        )

    @property
    def _usual_squeeze(self) -> Policy:
        """Squeeze-excite is always worth its FLOPs; under latency or params it is searched."""
        if self.target_without_gate:
            return "off"
        return "on" if self.latency is None and self.params is None else "searched"

    @property
    def _usual_extra_depthwise(self) -> Policy:
        """It helps on some images and hurts on others; no profile has such blocks."""
        return "searched" if self.space == "mobile" and self.profile is None else "off"

    def _channel_settings(self, _epochs: int) -> ChannelSettings | None:
        """Return the settings of a search for channel sizes; None here."""
        return None
