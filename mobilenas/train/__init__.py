"""Training: recipes, trainer, resumable training in a folder, pretrained weights, distillation."""

from typing import TYPE_CHECKING

from mobilenas.core.lazy import lazy

if TYPE_CHECKING:
    from mobilenas.train.recipe import Recipe
    from mobilenas.train.run import (
        BEST_WEIGHTS,
        CHECKPOINT,
        LAST_WEIGHTS,
        LOG,
        TrainResult,
        load_weights,
        train,
        train_part,
        training_identity,
    )
    from mobilenas.train.trainer import (
        READ_EVERY,
        Evaluation,
        Trainer,
        autocast,
        evaluate,
        parameter_groups,
    )

__all__ = [
    "BEST_WEIGHTS",
    "CHECKPOINT",
    "LAST_WEIGHTS",
    "LOG",
    "READ_EVERY",
    "Evaluation",
    "Recipe",
    "TrainResult",
    "Trainer",
    "autocast",
    "evaluate",
    "load_weights",
    "parameter_groups",
    "train",
    "train_part",
    "training_identity",
]

__getattr__ = lazy(
    __name__,
    recipe="Recipe",
    run="BEST_WEIGHTS CHECKPOINT LAST_WEIGHTS LOG TrainResult load_weights train train_part "
    "training_identity",
    trainer="READ_EVERY Evaluation Trainer autocast evaluate parameter_groups",
)
