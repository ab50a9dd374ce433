"""Settings of runs that start from a pretrained network."""

from dataclasses import dataclass, field
from pathlib import Path

from mobilenas.core.errors import MobileNASError
from mobilenas.core.setting import setting
from mobilenas.core.settings import ADDED, check_number

_MIN_SHARE = 0.1


@dataclass(frozen=True, kw_only=True)
class PretrainedSettings:
    """The pretrained network of a run."""

    name: str
    """A name of `mobilenas pretrained`, or a run folder."""
    weights: Path | None
    """File of its weights; None: those of the source."""
    teacher_epochs: int
    """Epochs of fine-tuning the whole network before the search."""
    stage_widths: tuple[float, ...] | None = field(default=None, metadata=ADDED)
    """Shares of the stages' widths to choose from, increasing to 1; None: they are not searched."""
    from_scratch: bool
    """Whether the searched network is also trained from scratch."""


@dataclass(frozen=True, kw_only=True)
class PretrainedOptions:
    """The user's options for a pretrained network."""

    pretrained: str | None = setting(
        None,
        help="Search the subnetworks of a pretrained network: a name that `mobilenas "
        "pretrained` shows, or a run folder.",
        metavar="NAME",
        added=True,
    )
    weights: Path | None = setting(
        None,
        help="File of the pretrained network's weights.",
        default_text="its own",
        rare=True,
        added=True,
    )
    stage_widths: tuple[float, ...] | None = setting(
        None,
        help="With --pretrained, search the width of every stage among these shares of its own, "
        "such as 1,0.75.",
        default_text="not searched",
        metavar="SHARES",
        rare=True,
        added=True,
    )
    from_scratch: bool = setting(
        False,
        help="With --pretrained, also train the searched network from scratch.",
        group="Comparison",
        rare=True,
        added=True,
    )

    @property
    def stage_shares(self) -> tuple[float, ...] | None:
        """`stage_widths` in increasing order; None if there is nothing to search."""
        shares = tuple(sorted(set(self.stage_widths or (1.0,))))
        return None if shares == (1,) else shares

    def check_pretrained(self) -> None:
        """Raise for options that need a pretrained network if there is none."""
        for name in ("weights", "stage_widths", "from_scratch"):
            if self.pretrained is None and getattr(self, name):
                raise MobileNASError(f"--{name.replace('_', '-')} needs --pretrained")
        for share in self.stage_widths or ():
            check_number("--stage-widths", share, _MIN_SHARE, 1)
        if 1 not in (self.stage_widths or (1,)):
            raise MobileNASError(
                f"--stage-widths is {','.join(map(str, self.stage_widths or ()))}; it must contain "
                "1, the stage's own width"
            )
