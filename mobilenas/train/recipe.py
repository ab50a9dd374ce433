"""How a network is trained: one recipe serves the searched network and every baseline."""

import math
from dataclasses import dataclass, replace

from mobilenas.core.errors import MobileNASError
from mobilenas.core.settings import check_between
from mobilenas.data.settings import Augmentation

_WHOLE_NUMBERS = ("epochs", "batch_size", "crop_padding", "randaugment")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """SGD with Nesterov momentum, linear warm-up, cosine decay, averaged weights."""

    epochs: int
    """Passes over the training images."""
    batch_size: int = 128
    """Images in a step; the last, smaller batch of an epoch is left out."""
    learning_rate: float = 0.5
    """Peak, measured for batches of 128 (docs/results/search.md)."""
    momentum: float = 0.9
    """Nesterov's; 0 for none."""
    weight_decay: float = 4e-5
    """L2; dense convolutions and linear layers only (see `parameter_groups`)."""
    label_smoothing: float = 0.1
    """Share of the target spread over all classes."""
    warmup_epochs: float = 1.0
    """Epochs, or a fraction of one, in which the rate rises from 0."""
    ema_decay: float = 0.98
    """Decay of the averaged weights; the first steps use less, see `ema_decay_at`."""
    crop_padding: int | None = None
    """Pixels a training image may be shifted by; None is an eighth of its side."""
    randaugment: int = 0
    """Random operations on each training image, 0 for none."""
    gradient_clip: float = 5.0
    """Largest L2 norm of the gradient."""

    def __post_init__(self) -> None:
        for name in _WHOLE_NUMBERS:
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
                raise MobileNASError(f"{name} is {value!r}; it must be a whole number")
        check_between(self, "epochs", 1, 100_000)
        check_between(self, "batch_size", 2, 1_000_000)  # batch norm needs two
        check_between(self, "learning_rate", 1e-9, 1e3)
        check_between(self, "momentum", 0, 0.9999)
        check_between(self, "weight_decay", 0, 1)
        check_between(self, "label_smoothing", 0, 0.99)
        check_between(self, "warmup_epochs", 0, self.epochs)
        check_between(self, "ema_decay", 0, 0.999999)
        if self.crop_padding is not None:
            check_between(self, "crop_padding", 0, 1024)
        check_between(self, "randaugment", 0, 10)
        check_between(self, "gradient_clip", 1e-6, 1e9)

    def learning_rate_at(self, epoch: float) -> float:
        """Rate after `epoch` epochs, a fraction included: linear rise to the peak, cosine to 0."""
        if epoch < self.warmup_epochs:
            return self.learning_rate * epoch / self.warmup_epochs
        falling = self.epochs - self.warmup_epochs
        share = min(1.0, (epoch - self.warmup_epochs) / falling) if falling else 1.0
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * share))

    def lasting(self, epochs: int) -> "Recipe":
        """Return the same over so many epochs; the warm-up shrinks with them."""
        return replace(self, epochs=epochs, warmup_epochs=min(self.warmup_epochs, epochs / 4))

    def ema_decay_at(self, step: int) -> float:
        """Decay at a step: min(decay, (1+t)/(10+t)), so that short trainings forget the start."""
        return min(self.ema_decay, (1 + step) / (10 + step))

    def augmentation(self) -> Augmentation:
        """Return what is done to training images; the data decide on flips."""
        return Augmentation(crop_padding=self.crop_padding, randaugment=self.randaugment)
