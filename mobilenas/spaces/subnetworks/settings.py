"""Settings of runs that start from a pretrained network."""

from dataclasses import dataclass
from pathlib import Path

from mobilenas.core.errors import MobileNASError
from mobilenas.core.setting import setting


@dataclass(frozen=True, kw_only=True)
class PretrainedSettings:
    """The pretrained network of a run."""

    name: str
    """A name of `mobilenas pretrained`, or a run folder."""
    weights: Path | None
    """File of its weights; None: those of the source."""
    teacher_epochs: int
    """Epochs of fine-tuning the whole network before the search."""
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
    from_scratch: bool = setting(
        False,
        help="With --pretrained, also train the searched network from scratch.",
        group="Comparison",
        rare=True,
        added=True,
    )

    def check_pretrained(self) -> None:
        """Raise for options that need a pretrained network if there is none."""
        for name in ("weights", "from_scratch"):
            if self.pretrained is None and getattr(self, name):
                raise MobileNASError(f"--{name.replace('_', '-')} needs --pretrained")
