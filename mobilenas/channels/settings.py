"""What a search for channel sizes can be told."""

from dataclasses import dataclass
from pathlib import Path

from mobilenas.channels.keeping import METHODS as KEEP_METHODS
from mobilenas.core.settings import check_between, check_choice

STARTS = ("model", "small")
SCHEDULES = ("annealed", "greedy")
METRICS = ("qc", "constant")


@dataclass(frozen=True, kw_only=True)
class ChannelSettings:
    """Everything but model, budgets, data and seed."""

    model: str
    """torchvision:NAME, package.module:factory, a run folder or an arch.json."""
    trials: int = 8
    """Changes of the sizes; the first trial trains the start sizes."""
    epochs: int = 1
    """Epochs of each trial."""
    start: str = "model"
    """Proportions of the start: the model's own sizes, or the smallest of every group."""
    schedule: str = "annealed"
    """`annealed`: pushes by chance and worse trials are accepted while hot; `greedy`: neither."""
    metric: str = "qc"
    """`qc`, or `constant` for every layer: the control."""
    gamma: float = 0.8
    """Momentum of the metric."""
    delta: float = 1.0
    """How far a change of the metric moves a size."""
    keep: str = "svd"
    """How weights are kept while sizes change."""
    distill: float = 1.0
    """Weight of the distillation from the model before the change; 0 turns it off."""
    distill_temperature: float = 2.0
    """Temperature of its logits."""
    weights: Path | None = None
    """Weights that the model comes with, a safetensors file."""
    controls: bool = False
    """Whether uniform and constant-metric sizes are trained beside the result."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_between(self, "trials", 1, 10_000)
        check_between(self, "epochs", 1, 100_000)
        check_choice("start", self.start, STARTS)
        check_choice("schedule", self.schedule, SCHEDULES)
        check_choice("metric", self.metric, METRICS)
        check_between(self, "gamma", 0, 0.999)
        check_between(self, "delta", 0, 100)
        check_choice("keep", self.keep, KEEP_METHODS)
        check_between(self, "distill", 0, 1000)
        check_between(self, "distill_temperature", 0.01, 1000)
