"""Settings of exports and of their INT8 files."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, get_args

from mobilenas.core.errors import MobileNASError
from mobilenas.core.setting import check_settings, setting
from mobilenas.core.settings import check_choice
from mobilenas.onnx.settings import (
    EQUALIZE,
    FLOAT_NCHW,
    PER_CHANNEL,
    UINT8_NHWC,
    Calibration,
    Correction,
    Int8Weights,
    Layout,
    Target,
)

if TYPE_CHECKING:
    from mobilenas.data import ImageData
    from mobilenas.onnx.record import Quantization

FORMATS = ("onnx", "fp16", "int8", "ort")
"""Built-in formats for onnxruntime."""
OTHER_FORMATS = ("litert", "executorch")
"""Built-in formats for other runtimes, which need extra packages; files are beside model.onnx."""
CALIBRATION_IMAGES = 128
"""Default number of training images for calibration."""
PIXELS = "-uint8"
"""Suffix of the names of files with pixel input."""


@dataclass(frozen=True, kw_only=True)
class Int8Settings:
    """How weights and activations are quantized."""

    weights: Int8Weights = setting(
        PER_CHANNEL,
        help="INT8: one scale per channel or per layer.",
        group="Output",
        flag="--int8-weights",
    )
    calibration: Calibration = setting(
        "minmax", help="INT8: how activation ranges are computed.", group="Output"
    )
    calibration_images: int = setting(
        CALIBRATION_IMAGES,
        help="INT8: number of training images to compute ranges on.",
        group="Output",
        low=1,
        high=1_000_000,
    )
    corrections: tuple[Correction, ...] | None = setting(
        None,
        help=f"INT8: {', '.join(get_args(Correction))}, both separated by a comma, or none.",
        default_text="equalize; none with --qat-epochs",
        group="Output",
    )
    qat_epochs: int = setting(
        0, help="INT8: epochs of quantization-aware training.", group="Output", low=0, high=1000
    )

    def __post_init__(self) -> None:
        """Check the names and the ranges."""
        check_settings(self)
        if self.qat_epochs and self.corrections:
            raise MobileNASError(
                f"--corrections {','.join(self.corrections)} would change the weights that "
                "--qat-epochs has fitted to their rounding; use one of the two"
            )

    def describe(self, data: "ImageData", seed: int) -> "Quantization":
        """Return the record in export.json; `seed` draws the calibration images."""
        from mobilenas.onnx.record import Quantization

        chosen = self.corrections
        if chosen is None:
            chosen = () if self.qat_epochs else (EQUALIZE,)
        return Quantization(
            method="static QDQ",
            weights=self.weights,
            calibration=self.calibration,
            calibration_images=min(self.calibration_images, len(data.train)),
            corrections=tuple(sorted(set(chosen))),
            qat_epochs=self.qat_epochs,
            seed=seed,
        )


@dataclass(frozen=True, kw_only=True)
class FormatSettings:
    """Which files are written, and how much accuracy they may lose."""

    formats: tuple[str, ...] = setting(
        ("onnx",),
        help=f"Files to write: {', '.join(FORMATS + OTHER_FORMATS)}, separated by commas.",
        group="Output",
        built_in=FORMATS + OTHER_FORMATS,
        fewest=1,
    )
    targets: tuple[Target, ...] = setting(
        (),
        help=(
            f"Targets to check the files for: {', '.join(get_args(Target))}, separated by commas "
            "(qnn: Qualcomm; nnapi is deprecated by Android)."
        ),
        group="Output",
    )
    input: Layout = setting(
        FLOAT_NCHW, help="Input of the files; uint8-nhwc is raw pixels.", group="Output"
    )
    max_drop: float = setting(
        1.0,
        help="Largest loss of test top-1 against model.onnx, in points.",
        group="Output",
        metavar="POINTS",
        low=0,
        high=100,
    )
    max_parts: int | None = setting(
        None,
        help="Maximum partitions in which a target may run a file; more is an error.",
        default_text="any number, with a warning",
        group="Output",
        low=1,
        high=10_000,
    )
    int8: Int8Settings | None = None
    """How the INT8 file is made; None: an existing one, or the defaults."""

    def __post_init__(self) -> None:
        """Check the names and the range."""
        from mobilenas.onnx.other_runtimes import RUNTIMES

        check_settings(self)
        for name in self.formats:
            check_choice("format", name, (*FORMATS, *RUNTIMES))
            if name in RUNTIMES and self.input == UINT8_NHWC:
                raise MobileNASError(f"format {name} takes {FLOAT_NCHW} only, not {UINT8_NHWC}")
        if self.int8 is not None and "int8" not in self.formats:
            raise MobileNASError("options of int8 are given, but int8 is not in --formats")

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the files in export.json, such as `int8` or, with pixel input, `int8-uint8`."""
        ending = PIXELS if self.input == UINT8_NHWC else ""
        return tuple(dict.fromkeys(name + ending for name in self.formats))
