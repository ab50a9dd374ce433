"""Starting from a pretrained network, as the user states it."""

from dataclasses import dataclass
from pathlib import Path

from mobilenas.core.errors import MobileNASError
from mobilenas.core.setting import setting


@dataclass(frozen=True, kw_only=True)
class PretrainedSettings:
    """The network that a run starts from."""

    name: str
    """A name of `mobilenas pretrained`, or a run folder."""
    weights: Path | None
    """File of its weights; None: the network's own."""
    teacher_epochs: int
    """Epochs of the whole network on the images, before its parts are searched."""
    from_scratch: bool
    """Whether the searched network is also trained from scratch."""


@dataclass(frozen=True, kw_only=True)
class PretrainedOptions:
    """A user's options on it."""

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
        """Raise where something is said that needs such a network, and none is."""
        for name in ("weights", "from_scratch"):
            if self.pretrained is None and getattr(self, name):
                raise MobileNASError(f"--{name.replace('_', '-')} needs --pretrained")
