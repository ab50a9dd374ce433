"""How a run's file in 8 bits is made: calibration, corrections, fine-tuning."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mobilenas.config import check_between, check_choice
from mobilenas.contenders import ARCH_FILE
from mobilenas.data import batches, stratified_subset
from mobilenas.deployment import CALIBRATION_IMAGES, write_onnx
from mobilenas.errors import MobileNASError
from mobilenas.export.int8 import METHODS, quantize_static_qdq
from mobilenas.pipeline import WEIGHTS_FILE
from mobilenas.runs import Run
from mobilenas.spaces import read_arch
from mobilenas.train import load_weights

PER_CHANNEL, PER_TENSOR = "per-channel", "per-tensor"
WEIGHTS = (PER_CHANNEL, PER_TENSOR)
"""What shares a scale of the weights."""
EQUALIZE, BIAS = "equalize", "bias"
CORRECTIONS = (EQUALIZE, BIAS)
"""`equalize_ranges` and `correct_biases` of `mobilenas.export.int8`."""


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
    """Write `source`, the run's float file, in 8 bits to `path`, as `Int8Settings.describe` says.

    With fine-tuning the weights are those that it leaves, and of `source` nothing is read.
    """
    data, seed = run.data, made["seed"]
    images = stratified_subset(data.train, made["calibration_images"], seed)
    given = batches(images, data, batch_size=CALIBRATION_IMAGES, seed=None)
    per_channel = made["weights"] == PER_CHANNEL
    with tempfile.TemporaryDirectory(prefix="mobilenas-int8-") as folder:
        if made["qat_epochs"]:
            source = Path(folder, "tuned.onnx")
            _write_tuned(run, source, made["qat_epochs"], per_channel=per_channel)
        quantize_static_qdq(
            source,
            path,
            (image[None].numpy() for x, _ in given for image in x),
            per_channel=per_channel,
            method=made["calibration"],
            equalize=EQUALIZE in made["corrections"],
            correct_bias=BIAS in made["corrections"],
        )


def _write_tuned(run: Run, path: Path, epochs: int, *, per_channel: bool) -> None:
    from mobilenas.export.qat import fine_tune

    def heard(epoch: int, loss: float) -> None:
        run.reporter.say(f"8-bit epoch {epoch}/{epochs}, loss {loss:.3f}")

    arch = read_arch(run.folder / ARCH_FILE)
    tuned = fine_tune(
        load_weights(arch, run.folder / WEIGHTS_FILE),
        run.data,
        run.settings.recipe,
        epochs=epochs,
        per_channel=per_channel,
        seed=run.settings.seed,
        heard=heard,
    )
    write_onnx(run, arch, tuned, path)
