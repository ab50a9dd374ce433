"""The words of `mobilenas channels`: a job like any other, and the model whose sizes change."""

from dataclasses import dataclass
from pathlib import Path

from mobilenas.channels.settings import ChannelSettings
from mobilenas.channels.start import weights_of
from mobilenas.core.errors import MobileNASError
from mobilenas.pipeline.request import Request
from mobilenas.spaces.channels.space import WidthsSpace

TRIALS = {"quick": 4, "standard": 8, "full": 20}
"""By effort."""
# of the final training's epochs: over all trials, and for each finalist
_SHARE, _FINALIST_SHARE = 0.5, 1 / 3


@dataclass(frozen=True, kw_only=True)
class ChannelsRequest(Request):
    """What a user says; None leaves it to the effort."""

    space: str = WidthsSpace.family
    """widths."""
    model: str = ""
    """torchvision:NAME, package.module:factory, a run folder or an arch.json."""
    weights: Path | None = None
    """Weights that the model comes with; a run folder brings its own."""
    trials: int | None = None
    """Changes of the sizes."""
    trial_epochs: int | None = None
    """Epochs of each."""
    start: str | None = None
    """model or small."""
    schedule: str | None = None
    """annealed or greedy."""
    metric: str | None = None
    """qc or constant."""
    gamma: float | None = None
    """Momentum of the metric."""
    delta: float | None = None
    """How far a change of the metric moves a size."""
    keep_weights: str | None = None
    """svd, magnitude or fresh."""
    distill: float | None = None
    """Weight of the distillation from the model before a change."""
    distill_temperature: float | None = None
    """Temperature of its logits."""
    controls: bool = False
    """Whether uniform, random and constant-metric sizes are trained beside the result."""

    def __post_init__(self) -> None:
        """Check what can be checked before the images are read."""
        if not self.model:
            raise MobileNASError("no model was given: say --model")
        super().__post_init__()

    @property
    def _default_random(self) -> int:
        """Random sizes are one of the controls."""
        return super()._default_random if self.controls else 0

    @property
    def _rung_share(self) -> float:
        return _FINALIST_SHARE

    @property
    def _spaces(self) -> tuple[str, ...]:
        return (WidthsSpace.family,)

    def _refuse_other_spaces(self) -> None:
        """There are no options of other spaces here."""

    def _channel_settings(self, epochs: int) -> ChannelSettings:
        trials = self.trials or TRIALS[self.effort]
        given = {
            "start": self.start,
            "schedule": self.schedule,
            "metric": self.metric,
            "gamma": self.gamma,
            "delta": self.delta,
            "keep": self.keep_weights,
            "distill": self.distill,
            "distill_temperature": self.distill_temperature,
        }
        return ChannelSettings(
            model=self.model,
            trials=trials,
            epochs=self.trial_epochs or max(1, round(epochs * _SHARE / trials)),
            weights=weights_of(self.model, self.weights),
            controls=self.controls,
            **{name: value for name, value in given.items() if value is not None},  # type: ignore[arg-type]
        )
