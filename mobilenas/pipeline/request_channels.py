"""A search for channel sizes as the user states it."""

from dataclasses import dataclass

from mobilenas.channels.settings import ChannelOptions, ChannelSettings, weights_of
from mobilenas.core.errors import MobileNASError
from mobilenas.core.setting import setting
from mobilenas.pipeline.request import Request
from mobilenas.pipeline.settings import RunSettings
from mobilenas.train.pretrained import SOURCES, from_pretrained

TRIALS = {"quick": 4, "standard": 8, "full": 20}
"""Number of trials by effort."""
# shares of the final training's epochs: all trials together, and each finalist
_SHARE, _FINALIST_SHARE = 0.5, 1 / 3


@dataclass(frozen=True, kw_only=True)
class ChannelsRequest(Request, ChannelOptions):
    """The user's options; None: the value depends on effort."""

    space: str = "channels"
    """Not an option here."""
    random: int | None = setting(
        None,
        help="Random sizes to compare with.",
        default_text=f"{RunSettings.random} with --controls, else 0",
        group="Comparison",
        low=0,
        high=10_000,
    )

    def __post_init__(self) -> None:
        """Check everything that does not need the images."""
        if not self.model:
            raise MobileNASError("missing option --model")
        super().__post_init__()

    @property
    def _starts_from(self) -> str | None:
        return self.model if self.model in SOURCES or from_pretrained(self.model) else None

    @property
    def _default_random(self) -> int:
        """Default number of random sizes, which are one of the controls."""
        return super()._default_random if self.controls else 0

    @property
    def _rung_share(self) -> float:
        return _FINALIST_SHARE

    def check_pretrained(self) -> None:
        """Check nothing: weights are those of the model."""

    @property
    def _spaces(self) -> tuple[str, ...]:
        return (self.space,)

    def _refuse_other_spaces(self) -> None:
        """Check nothing: options of other spaces do not exist here."""

    def _channel_settings(self, epochs: int) -> ChannelSettings:
        trials = self.trials or TRIALS[self.effort]
        given = {
            "start": self.start,
            "schedule": self.schedule,
            "metric": self.metric,
            "gamma": self.gamma,
            "delta": self.delta,
            "weight_transfer": self.weight_transfer,
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
