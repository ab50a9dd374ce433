"""How a run's INT8 file is made, for every command: calibration and corrections."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from mobilenas.core.errors import MobileNASError
from mobilenas.core.settings import check_between, check_choice
from mobilenas.data import batches, stratified_subset
from mobilenas.onnx.int8 import METHODS, quantize_static_qdq
from mobilenas.pipeline.run_folder import Run

CALIBRATION_IMAGES = 128
"""Training images from which ranges are taken."""
PER_CHANNEL, PER_TENSOR = "per-channel", "per-tensor"
WEIGHTS = (PER_CHANNEL, PER_TENSOR)
"""What shares a scale of the weights."""
EQUALIZE, BIAS = "equalize", "bias"
CORRECTIONS = (EQUALIZE, BIAS)
"""`equalize_ranges` and `correct_biases` of `mobilenas.onnx.int8`."""


@dataclass(frozen=True, kw_only=True)
class Int8Settings:
    """How weights and activations get into 8 bits."""

    weights: str = PER_CHANNEL
    """One of `WEIGHTS`."""
    calibration: str = "minmax"
    """How the range of an activation is taken from its values: minmax, entropy or percentile."""
    calibration_images: int = CALIBRATION_IMAGES
    """Training images that the ranges come from; all there are if that is less."""
    corrections: tuple[str, ...] | None = None
    """Some of `CORRECTIONS`; None: `equalize`, and nothing to weights that were fine-tuned."""
    qat_epochs: int = 0
    """Epochs of fine-tuning with 8 bits simulated."""

    def __post_init__(self) -> None:
        """Check the names and the ranges."""
        check_choice("int8_weights", self.weights, WEIGHTS)
        check_choice("calibration", self.calibration, METHODS)
        for name in self.corrections or ():
            check_choice("correction", name, CORRECTIONS)
        check_between(self, "calibration_images", 1, 1_000_000)
        check_between(self, "qat_epochs", 0, 1000)
        if self.qat_epochs and self.corrections:
            raise MobileNASError(
                f"--corrections {','.join(self.corrections)} would change the weights that "
                "--qat-epochs has fitted to their rounding; say one of the two"
            )

    def describe(self, run: Run) -> dict[str, Any]:
        """What export.json says of the file."""
        chosen = self.corrections
        if chosen is None:
            chosen = () if self.qat_epochs else (EQUALIZE,)
        return {
            "method": "static QDQ",
            "weights": self.weights,
            "calibration": self.calibration,
            "calibration_images": min(self.calibration_images, len(run.data.train)),
            "corrections": sorted(set(chosen)),
            "qat_epochs": self.qat_epochs,
            "seed": run.settings.seed,
        }


def write_int8(run: Run, made: dict[str, Any], source: Path, path: Path) -> None:
    """Write `source`, a float file, in 8 bits to `path`, as `Int8Settings.describe` says."""
    quantize_static_qdq(
        source,
        path,
        calibration(run, made["calibration_images"]),
        per_channel=made["weights"] == PER_CHANNEL,
        method=made["calibration"],
        equalize=EQUALIZE in made["corrections"],
        correct_bias=BIAS in made["corrections"],
    )


def calibration(run: Run, images: int = CALIBRATION_IMAGES) -> Iterator[NDArray[Any]]:
    """Training images float32 [1, C, S, S], drawn by the run's seed; all where there are fewer."""
    drawn = stratified_subset(run.data.train, min(images, len(run.data.train)), run.settings.seed)
    for x, _ in batches(drawn, run.data, batch_size=CALIBRATION_IMAGES, seed=None):
        for image in x:
            yield image[None].numpy()
