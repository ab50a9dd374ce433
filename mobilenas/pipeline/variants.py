"""Options of sweeps and ablations: what varies over their runs."""

from dataclasses import dataclass
from typing import Literal

from mobilenas.core.setting import setting
from mobilenas.core.settings import parse_count
from mobilenas.search.methods import METHODS
from mobilenas.search.variants import RANDOM

_MOBILENETS = "MobileNets are what `mobilenas run` compares with"
NOT_ABLATED = {
    "pretrained": "its variants search from scratch",
    "weights": "its variants search from scratch",
    "stage_widths": "its variants search from scratch",
    "from_scratch": "its variants search from scratch",
    "method": "name the methods to compare with --methods",
    "channels": "every network gets as many as keep --flops or --params",
    "random": f"name {RANDOM} as one of --methods",
    "random_search": f"name {RANDOM} as one of --methods",
    "baselines": _MOBILENETS,
    "equal_time": _MOBILENETS,
    "inherit": "every network is trained from scratch",
    "dynamic_batch": "nothing is exported",
}
"""Options of runs that do not work in ablations, and why."""


@dataclass(frozen=True, kw_only=True)
class SweepOptions:
    """Options of a sweep."""

    flops: tuple[int, ...] = setting(
        (),
        help="Budgets, such as 500k,1M,2M; with --strengths one wide budget.",
        group="Budgets",
        metavar="SIZES",
        read=parse_count,
        aliases=("--macs",),
    )
    strengths: tuple[float, ...] = setting(
        (), help="Strengths of the penalty, such as 0.1,0.3,1.", group="Budgets", metavar="XS"
    )
    methods: tuple[str, ...] = setting(
        (), help="Search methods, each under every budget or strength.", built_in=tuple(METHODS)
    )
    on: Literal["local", "ray"] = setting(
        "local", help="Do the runs here one by one, or side by side with Ray.", group="Output"
    )
    address: str | None = setting(
        None,
        help="Running Ray cluster, such as auto; for --on ray.",
        default_text="Ray starts on this machine",
        group="Output",
        metavar="ADDRESS",
    )


@dataclass(frozen=True, kw_only=True)
class AblationOptions:
    """Options of an ablation."""

    methods: str | None = setting(
        None,
        help="Variants, separated by commas: METHOD, METHOD:part=value:..., or random, which "
        "draws its networks and searches nothing.",
        metavar="VARIANTS",
    )
    control: str | None = setting(
        None,
        help="The variant that the others are compared with.",
        default_text="the first",
        metavar="VARIANT",
    )
