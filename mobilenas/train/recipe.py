"""The training recipe, the same for the searched network and all baselines."""

import math
from dataclasses import dataclass, field, replace
from typing import Literal

from mobilenas.core.errors import MobileNASError
from mobilenas.core.setting import check_settings, field_setting
from mobilenas.core.settings import ADDED, check_between
from mobilenas.data.settings import Augmentation

Optimizer = Literal["sgd", "adamw"]
Amp = Literal["off", "bfloat16", "float16"]
MAX_EPOCHS = 100_000
"""Maximum number of epochs of a training."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Optimizer, augmentation, linear warm-up, cosine decay, averaged weights."""

    epochs: int
    """Passes over the training images."""
    batch_size: int = field_setting(
        128,
        help="Images per step; the last, smaller batch of an epoch is dropped.",
        low=2,  # batch norm needs two
        high=1_000_000,
    )
    learning_rate: float = field_setting(0.5, help="Peak learning rate.", low=1e-9, high=1000)
    momentum: float = field_setting(
        0.9, help="Nesterov's with sgd, beta1 with adamw.", low=0, high=0.9999
    )
    weight_decay: float = field_setting(
        4e-5,
        help="Of dense convolutions and linear layers only; decoupled with adamw.",
        low=0,
        high=1,
    )
    label_smoothing: float = field_setting(
        0.1, help="Share of the target spread over all classes.", low=0, high=0.99
    )
    warmup_epochs: float = field_setting(
        1.0,
        help="Epochs, or a fraction of one, in which the rate rises from 0.",
        low=0,
        high=MAX_EPOCHS,
    )
    ema_decay: float = field_setting(
        0.98, help="Decay of the averaged weights; the first steps use less.", low=0, high=0.999999
    )
    crop_padding: int | None = field_setting(
        None,
        help="Pixels a training image may be shifted by.",
        default_text="an eighth of the side",
        low=0,
        high=1024,
    )
    randaugment: int = field_setting(
        0, help="RandAugment operations on each training image.", low=0, high=10
    )
    gradient_clip: float = field_setting(
        5.0, help="Largest L2 norm of the gradient.", low=1e-6, high=10**9
    )
    optimizer: Optimizer = field_setting(
        "sgd", added=True, help="SGD with Nesterov momentum, or AdamW."
    )
    backbone_rate: float = field_setting(
        1.0,
        added=True,
        help="Factor on the learning rate of all but the last linear layer, where training "
        "starts from given weights.",
        low=0,
        high=1,
    )
    norm_momentum: float | None = field_setting(
        None,
        added=True,
        help="Share of a batch in the norms' running statistics.",
        default_text="the network's own",
        low=1e-6,
        high=1,
    )
    freeze_norms: bool = field_setting(
        False,
        added=True,
        help="Keep the batch norms' statistics where training starts from given weights.",
    )
    crop_scale: float | None = field_setting(
        None,
        added=True,
        help="RandomResizedCrop instead of shifts: the smallest share of the image's area.",
        default_text="none",
        low=0.01,
        high=1,
    )
    trivialaugment: bool = field_setting(
        False, added=True, help="TrivialAugment: one random operation per image."
    )
    random_erasing: float = field_setting(
        0.0, added=True, help="Probability that a rectangle of an image is erased.", low=0, high=1
    )
    mixup: float = field_setting(
        0.0, added=True, help="Mixup: alpha of its beta distribution.", low=0, high=100
    )
    cutmix: float = field_setting(
        0.0,
        added=True,
        help="CutMix: alpha of its beta distribution; with mixup, each batch draws one of them.",
        low=0,
        high=100,
    )
    amp: Amp | None = field_setting(
        None,
        added=True,
        help="Mixed precision on a GPU.",
        default_text="bfloat16 with --device cuda, else off",
    )
    compile: bool = field(default=False, metadata=ADDED)
    """Whether networks are trained through torch.compile."""

    def __post_init__(self) -> None:
        """Check ranges and combinations."""
        check_settings(self)
        check_between(self, "epochs", 1, MAX_EPOCHS)
        if isinstance(self.epochs, float):
            raise MobileNASError(f"epochs is {self.epochs!r}; it must be a whole number")
        check_between(self, "warmup_epochs", 0, self.epochs)
        self.augmentation()

    def learning_rate_at(self, epoch: float) -> float:
        """Return the rate after `epoch` epochs (float): linear rise to the peak, cosine to 0."""
        if epoch < self.warmup_epochs:
            return self.learning_rate * epoch / self.warmup_epochs
        falling = self.epochs - self.warmup_epochs
        share = min(1.0, (epoch - self.warmup_epochs) / falling) if falling else 1.0
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * share))

    def lasting(self, epochs: int) -> "Recipe":
        """Return the recipe with other epochs, of which warm-up is at most a quarter."""
        return replace(self, epochs=epochs, warmup_epochs=min(self.warmup_epochs, epochs / 4))

    def ema_decay_at(self, step: int) -> float:
        """Return the decay at step t: min(decay, (1+t)/(10+t)), to forget the start sooner."""
        return min(self.ema_decay, (1 + step) / (10 + step))

    def augmentation(self) -> Augmentation:
        """Return the augmentation of training images; flips depend on the data."""
        return Augmentation(
            crop_padding=self.crop_padding,
            randaugment=self.randaugment,
            crop_scale=self.crop_scale,
            trivialaugment=self.trivialaugment,
            random_erasing=self.random_erasing,
            mixup=self.mixup,
            cutmix=self.cutmix,
        )

    def amp_on(self, device: str) -> Amp:
        """Return the forward pass's precision; MobileNASError if the device has none such."""
        if not device.startswith("cuda"):
            if self.amp not in (None, "off"):
                raise MobileNASError(
                    f"amp is {self.amp!r}; that is for --device cuda, not {device}"
                )
            return "off"
        return self.amp or "bfloat16"
