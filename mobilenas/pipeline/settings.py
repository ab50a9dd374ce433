"""The full settings of a run, which determine all results on the same machine."""

from dataclasses import dataclass, field
from typing import Literal, get_args

from mobilenas.channels.settings import ChannelSettings
from mobilenas.core.errors import BudgetError, MobileNASError
from mobilenas.core.setting import THREADS, check_settings, setting
from mobilenas.core.settings import ADDED, check_between, check_choice
from mobilenas.cost.budget import LATENCY, NO_BUDGET, NO_PROFILE, Budget
from mobilenas.data.settings import DataSettings
from mobilenas.onnx.settings import Precision
from mobilenas.search.methods import DEFAULT_METHOD, METHODS
from mobilenas.search.settings import MIN_RANKED, FinalistSettings, SearchSettings
from mobilenas.spaces.cell.settings import CellSettings
from mobilenas.spaces.mobile.settings import COMPARED, Activation, MobileNet, Policy
from mobilenas.spaces.subnetworks.settings import PretrainedSettings
from mobilenas.train.recipe import Recipe

NO_LATENCY_OF_CELLS = (
    "a latency budget is for the mobile space: no profile has the blocks of cells; "
    "limit --flops or --params"
)
_SPACES = ("mobile", "cell")
_CHANNELS = "channels"
SUBNETWORKS = "subnetworks"
"""Family of the subnetworks of a pretrained network."""


@dataclass(frozen=True, kw_only=True)
class JobSettings:
    """Options that the stages use unchanged."""

    profile: str | None = setting(
        None,
        help="Device profile; `mobilenas profile list` lists them.",
        group="Budgets",
        metavar="NAME",
    )
    """RUN/profile.json is a copy from the run's start."""
    precision: Precision = setting(
        "fp32", help="Precision of the network on the device.", group="Budgets"
    )
    space: str = setting("mobile", help="Family of networks to search.", built_in=_SPACES)
    method: str = setting(
        DEFAULT_METHOD,
        help="Search method; `mobilenas methods` shows its parts.",
        built_in=tuple(METHODS),
    )
    """The preset of the search settings; only its parts matter, not its name."""
    operations: tuple[str, ...] = setting(
        (),
        help="Registered operations that blocks may have in place of depthwise convolutions.",
        metavar="NAMES",
        rare=True,
        added=True,
    )
    """docs/extending.md explains how to register one."""
    seed: int = setting(
        0, help="Random seed of search and training.", group="Training", low=0, high=2**31 - 1
    )
    threads: int = setting(
        THREADS,
        help="Threads of torch; on idle cores more are faster for images of 64 pixels and up.",
        group="Training",
        low=1,
        high=1024,
    )
    device: Literal["cpu", "cuda"] = setting(
        "cpu", help="Where networks are trained.", group="Training"
    )
    baselines: tuple[str, ...] = setting(
        COMPARED,
        help="MobileNets, or EfficientNet-Lite0, to compare with, separated by commas, or none.",
        group="Comparison",
        built_in=get_args(MobileNet),
    )
    """Each at the largest width that meets the budgets."""
    random_search: bool = setting(
        False, help="Compare with a random search of equal time.", group="Comparison"
    )
    """Random networks go through the same finalists stage for as long as the search took."""
    equal_time: bool = setting(
        False,
        help="Also train the best MobileNet for as long as search and final training took.",
        group="Comparison",
        added=True,
    )
    seeds: int = setting(
        1,
        help="Number of seeds in the comparison, counted up from --seed.",
        group="Comparison",
        low=1,
        high=1000,
    )
    rank: int = setting(
        0,
        help=f"Networks to measure the supernet's ranking on: {MIN_RANKED} or more, 0 for none.",
        group="Comparison",
        rare=True,
    )
    dynamic_batch: bool = setting(
        False, help="Let the ONNX file take any batch size.", group="Output"
    )

    def __post_init__(self) -> None:
        """Check the names and the ranges."""
        check_settings(self)
        check_choice("method", self.method, tuple(METHODS))
        if not (self.rank == 0 or MIN_RANKED <= self.rank <= 10_000):
            raise MobileNASError(
                f"--rank is {self.rank}; it must be 0 or between {MIN_RANKED} and 10000 networks"
            )


@dataclass(frozen=True, kw_only=True)
class RunSettings(JobSettings):
    """All settings of a job; on the same machine they determine every result."""

    data: DataSettings
    """The images."""
    budgets: tuple[Budget, ...]
    """Upper limits, at most one per cost."""
    search: SearchSettings
    """The search."""
    finalists: FinalistSettings
    """How the finalists are compared."""
    recipe: Recipe
    """Training of the searched network and all baselines."""
    cell: CellSettings = field(default_factory=CellSettings)
    """Sizes of the cell space."""
    channel_sizes: ChannelSettings | None = None
    """The search for channel sizes; None in other spaces."""
    activation: Activation = "hard_swish"
    """Activation of the space's blocks."""
    squeeze: Policy = "searched"
    """Squeeze-excite in the blocks."""
    extra_depthwise: Policy = field(default="off", metadata=ADDED)
    """A depthwise convolution at the start of blocks."""
    inherit: bool = field(default=False, metadata=ADDED)
    """Whether final training starts from the supernet's weights; not for cells."""
    search_image_size: bool = field(default=False, metadata=ADDED)
    """Whether the image size is searched (`--image-size auto`)."""
    pretrained: PretrainedSettings | None = field(default=None, metadata=ADDED)
    """The pretrained network whose subnetworks are searched; None: from scratch."""
    scratch_recipe: Recipe | None = field(default=None, metadata=ADDED)
    """Recipe of networks without initial weights, if others have some, and of networks of other
    families than the space's, if that has its own recipe; None: `recipe`."""
    random: int = 3
    """Number of random networks to compare with."""

    @property
    def baseline_recipe(self) -> Recipe:
        """Recipe of MobileNets that are trained from scratch."""
        return self.scratch_recipe or self.recipe

    @property
    def scratch_control(self) -> bool:
        """Whether the searched network, which starts from weights, is also trained from scratch."""
        return self.inherit if self.pretrained is None else self.pretrained.from_scratch

    def __post_init__(self) -> None:
        """Check the combination of settings, and names against registries."""
        from mobilenas.spaces.base import families
        from mobilenas.spaces.mobile.mobilenets import MOBILENETS

        super().__post_init__()
        check_choice("space", self.space, families())
        self.recipe.amp_on(self.device)
        for name in self.baselines:
            check_choice("baseline", name, tuple(MOBILENETS))
        if (self.space == _CHANNELS) != (self.channel_sizes is not None):
            raise MobileNASError("channel_sizes goes with the space channels, and with no other")
        if (self.space == SUBNETWORKS) != (self.pretrained is not None):
            raise MobileNASError("pretrained goes with the space subnetworks, and with no other")
        if self.pretrained and self.pretrained.stage_widths and self.profile is not None:
            raise MobileNASError(
                "--stage-widths does not work with --profile: none has blocks of narrower stages"
            )
        if self.inherit and self.space not in ("mobile", SUBNETWORKS):
            raise MobileNASError(f"--inherit does not work with the space {self.space}: use mobile")
        if not self.budgets and self.space != "cell":
            raise BudgetError(NO_BUDGET)
        costs = [budget.cost for budget in self.budgets]
        if len(set(costs)) < len(costs):
            raise BudgetError(f"a cost has two budgets: {', '.join(costs)}")
        if self.space == "cell" and (LATENCY in costs or self.profile is not None):
            raise BudgetError(NO_LATENCY_OF_CELLS)
        if LATENCY in costs and self.profile is None:
            raise BudgetError(NO_PROFILE)
        partial = self.search.sampler.partial
        if self.space == "cell" and self.cell.search_channels < partial:
            raise MobileNASError(
                f"--channel-fraction 1/{partial} of --search-channels "
                f"{self.cell.search_channels} is no channel"
            )
        check_between(self, "random", 0, 10_000)
