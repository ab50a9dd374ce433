"""Settings of the search for channel sizes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from mobilenas.core.setting import check_settings, setting
from mobilenas.core.settings import check_between

Start = Literal["model", "small"]
"""Initial proportions: the model's own sizes, or the smallest of every group."""
Schedule = Literal["annealed", "greedy"]
"""`annealed`: with random increases and, at high temperature, worse trials; `greedy`: without."""
Metric = Literal["qc", "constant"]
"""Layer metric; `constant`, the same for all layers, is the control."""
WeightTransfer = Literal["svd", "magnitude", "fresh"]
"""How weights are transferred when sizes change."""
WEIGHT_TRANSFERS: tuple[WeightTransfer, ...] = get_args(WeightTransfer)


@dataclass(frozen=True, kw_only=True)
class ChannelSettings:
    """Settings of a search for channel sizes."""

    model: str
    """torchvision:NAME, package.module:factory, a run folder or an arch.json."""
    trials: int = 8
    """Number of trials; the first one trains the start sizes."""
    epochs: int = 1
    """Epochs of each trial."""
    start: Start = "model"
    """Initial proportions."""
    schedule: Schedule = "annealed"
    """How sizes are proposed and accepted."""
    metric: Metric = "qc"
    """Layer metric that drives the sizes."""
    gamma: float = 0.8
    """Momentum of the metric."""
    delta: float = 1.0
    """How far a change of the metric moves a size."""
    weight_transfer: WeightTransfer = "svd"
    """How weights are transferred when sizes change."""
    distill: float = 1.0
    """Weight of the distillation from the model before the change; 0 turns it off."""
    distill_temperature: float = 2.0
    """Temperature of the distillation."""
    weights: Path | None = None
    """Weights of the model, a safetensors file."""
    controls: bool = False
    """Whether to train controls: uniform, random, constant-metric and unchanged sizes."""

    def __post_init__(self) -> None:
        """Check the names and the ranges."""
        check_settings(self)
        check_between(self, "trials", 1, 10_000)
        check_between(self, "epochs", 1, 100_000)
        check_between(self, "gamma", 0, 0.999)
        check_between(self, "delta", 0, 100)
        check_between(self, "distill", 0, 1000)
        check_between(self, "distill_temperature", 0.01, 1000)


@dataclass(frozen=True, kw_only=True)
class ChannelOptions:
    """The user's options for a search for channel sizes; None: the default of `ChannelSettings`."""

    model: str = setting(
        "",
        help="A name that `mobilenas pretrained` lists, torchvision:NAME, package.module:factory, "
        "a run folder or an arch.json.",
        metavar="MODEL",
    )
    weights: Path | None = setting(
        None,
        help="Weights of the model, a safetensors file; a run folder and a pretrained network "
        "bring their own.",
        metavar="FILE",
    )
    trials: int | None = setting(
        None,
        help="Number of trials, each of which changes the sizes.",
        default_text="by --effort",
        low=1,
        high=10_000,
    )
    trial_epochs: int | None = setting(
        None,
        help="Epochs of each trial.",
        default_text="by --effort",
        rare=True,
        low=1,
        high=100_000,
    )
    start: Start | None = setting(
        None,
        help="Initial proportions: the model's own, or all small.",
        default_text=ChannelSettings.start,
        rare=True,
    )
    schedule: Schedule | None = setting(
        None,
        help="Acceptance of trials; greedy never accepts a worse one.",
        default_text=ChannelSettings.schedule,
        rare=True,
    )
    metric: Metric | None = setting(
        None,
        help="Layer metric that drives the sizes; constant is the control.",
        default_text=ChannelSettings.metric,
        rare=True,
    )
    gamma: float | None = setting(
        None,
        help="Momentum of the metric.",
        default_text=f"{ChannelSettings.gamma:g}",
        rare=True,
        low=0,
        high=0.999,
    )
    delta: float | None = setting(
        None,
        help="How far the metric moves a size.",
        default_text=f"{ChannelSettings.delta:g}",
        rare=True,
        low=0,
        high=100,
    )
    weight_transfer: WeightTransfer | None = setting(
        None,
        help="How weights are kept while sizes change.",
        default_text=ChannelSettings.weight_transfer,
        rare=True,
    )
    distill: float | None = setting(
        None,
        help="Weight of distillation from the model before a change; 0 turns it off.",
        default_text=f"{ChannelSettings.distill:g}",
        rare=True,
        low=0,
        high=1000,
    )
    distill_temperature: float | None = setting(
        None,
        help="Temperature of the distilled logits.",
        default_text=f"{ChannelSettings.distill_temperature:g}",
        rare=True,
        low=0.01,
        high=1000,
    )
    controls: bool = setting(
        False,
        help="Also train uniform, random, constant-metric and unchanged sizes.",
        group="Comparison",
    )


def weights_of(model: str, weights: Path | None) -> Path | None:
    """Return the given weights, or those of the model if it is a run folder."""
    own = Path(model) / "model.safetensors"
    return own if weights is None and own.exists() else weights
