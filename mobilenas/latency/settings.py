"""Settings of latency measurements and profiles."""

from dataclasses import dataclass
from typing import Literal

from mobilenas.core.errors import MobileNASError
from mobilenas.core.setting import THREADS, check_settings, setting
from mobilenas.core.settings import parse_count
from mobilenas.onnx.settings import PROVIDER, Precision
from mobilenas.spaces.mobile.settings import Activation

NETWORKS = 45
"""Default number of networks that calibrate and test a profile."""
_FLOPS_AT_224 = 300_000_000


@dataclass(frozen=True, kw_only=True)
class MeasureSettings:
    """How models are timed."""

    threads: int = setting(
        THREADS, help="Threads of onnxruntime.", group="Measurement", low=1, high=1024
    )
    provider: str = setting(
        PROVIDER, help="Execution provider of onnxruntime.", group="Measurement", metavar="NAME"
    )
    rounds: int = setting(
        16, help="Minimum number of rounds.", group="Measurement", low=1, high=10_000
    )

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_settings(self)


@dataclass(frozen=True, kw_only=True)
class ProfileSettings:
    """The space that is measured, and the number of networks."""

    space: Literal["mobile"] | None = setting(
        None, help="Family of networks to measure.", group="Measurement"
    )
    pretrained: str | None = setting(
        None,
        help="Measure the parts of this pretrained network instead, a name of `mobilenas "
        "pretrained` or a run folder, at 32 pixels, multiples of 16, and --image-size.",
        group="Measurement",
        metavar="NAME",
    )
    image_size: int | None = setting(
        None, help="Side of the images in pixels.", group="Measurement", low=4, high=4096
    )
    flops: int | None = setting(
        None,
        help="FLOPs around which the space lies.",
        default_text="300M at 224 pixels, in proportion to the image's area",
        group="Measurement",
        metavar="SIZE",
        read=parse_count,
    )
    channels: int = setting(
        3, help="Channels of the images.", group="Measurement", rare=True, low=1, high=64
    )
    classes: int = setting(
        10,
        help="Classes of the networks that calibrate; a profile serves any number.",
        group="Measurement",
        rare=True,
        low=2,
        high=65536,
    )
    precision: tuple[Precision, ...] = setting(
        ("fp32",),
        help="fp32, int8, or both separated by a comma.",
        group="Measurement",
        fewest=1,
    )
    activation: Activation | None = setting(
        None,
        help="Activation of the blocks.",
        default_text="hard_swish for fp32, relu for int8",
        group="Measurement",
    )
    networks: int = setting(
        NETWORKS,
        help="Whole networks to calibrate and test with.",
        group="Measurement",
        low=4,
        high=1000,
    )
    seed: int = setting(
        0,
        help="Random seed of these networks.",
        group="Measurement",
        rare=True,
        low=0,
        high=2**31 - 1,
    )

    def __post_init__(self) -> None:
        """Check the names and the ranges."""
        check_settings(self)
        for name in ("space", "flops", "activation"):
            if self.pretrained is not None and getattr(self, name) is not None:
                raise MobileNASError(f"--{name} does not go with --pretrained")

    def flops_at(self, image_size: int) -> int:
        """Return the FLOPs around which the space lies."""
        return self.flops or round(_FLOPS_AT_224 * (image_size / 224) ** 2)
