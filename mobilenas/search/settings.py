"""Settings of the search, and of the comparison of finalists."""

import math
from dataclasses import dataclass, field
from itertools import pairwise

from mobilenas.core.errors import MobileNASError
from mobilenas.core.setting import check_settings
from mobilenas.core.settings import ADDED, check_between
from mobilenas.cost.budget import Constraint
from mobilenas.search.parts import OnCollapse, Order, Sampling
from mobilenas.spaces.cell.settings import EdgeWeights
from mobilenas.supernet.schedules import EntropySchedule, Temperature
from mobilenas.supernet.settings import SamplerSettings

MIN_RANKED = 3
"""Minimum number of networks for a ranking."""

_RUNGS = 3
_FEW = 6


@dataclass(frozen=True, kw_only=True)
class SearchSettings:
    """All settings of a search except space, budgets, data and seed."""

    epochs: int = 6
    """Epochs over the training images, half of which are for weights, half for alphas."""
    warmup: int = 3
    """Number of epochs at the start that train weights only; the alphas are uniform until then."""
    batch_size: int = 64
    """Images per step."""
    sampling: Sampling = "gumbel"
    """How a step samples the candidates."""
    learning_rate: float = 0.1
    """Peak learning rate of the weights (SGD with Nesterov momentum, cosine schedule)."""
    momentum: float = 0.9
    """Momentum of the weights' optimizer."""
    weight_decay: float = 4e-5
    """Weight decay, as in final training not of norms, biases and depthwise kernels."""
    alpha_learning_rate: float = 0.03
    """Learning rate of the alphas (Adam, constant)."""
    alpha_weight_decay: float = 0.0
    """Weight decay of the alphas."""
    order: Order = 1
    """Order of the alphas' step: 2 differentiates through one step of the weights."""
    zero_op: bool = False
    """Cells: whether an edge's operations include the zero operation."""
    edge_weights: EdgeWeights = "none"
    """Cells: how a node weights its edges."""
    sampler: SamplerSettings = field(default_factory=SamplerSettings)
    """Which channels enter a mixed operation."""
    temperature: Temperature = field(default_factory=Temperature)
    """Temperature tau over time."""
    entropy: EntropySchedule = field(default_factory=EntropySchedule)
    """Entropy losses over time."""
    constraint: Constraint = "lagrangian"
    """How budgets enter the loss."""
    strength: float = 1.0
    """Factor s of the constraints `hinge` and `penalty` (`ConstraintLoss`)."""
    rho: float = 0.1
    """Factor rho of the constraint `lagrangian`, also the step of its multipliers."""
    prior: bool = field(default=False, metadata=ADDED)
    """Mobile: whether the prior proposes the finalists (`search/prior.py`)."""
    evaluated: int = field(default=0, metadata=ADDED)
    """Number of networks whose loss with the supernet's weights determines finalists; 0: none."""
    on_collapse: OnCollapse = "warn"
    """What to do on an alarm (`search/collapse.py`); `rollback`: to the last epoch without one."""

    def __post_init__(self) -> None:
        """Check the names and the ranges."""
        check_settings(self)
        check_between(self, "epochs", 1, 10_000)
        check_between(self, "warmup", 0, self.epochs)
        check_between(self, "batch_size", 2, 65536)
        check_between(self, "learning_rate", 1e-6, 100)
        check_between(self, "momentum", 0, 0.9999)
        check_between(self, "weight_decay", 0, 1)
        check_between(self, "alpha_learning_rate", 1e-6, 100)
        check_between(self, "alpha_weight_decay", 0, 1)
        if self.order == 2 and self.sampling != "softmax":
            # each of the four passes of a step would draw another relaxation
            raise MobileNASError(f"--order 2 needs --sampling softmax, not {self.sampling}")
        check_between(self, "strength", 0, 1e6)
        check_between(self, "rho", 1e-6, 1e6)


@dataclass(frozen=True, kw_only=True)
class FinalistSettings:
    """The number of finalists, and how long they train."""

    count: int = 4
    """Number of finalists; 0 and 1 turn their comparison off."""
    epochs: int = 1
    """Epochs of the first of three rungs (two rungs for up to six archs)."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_between(self, "count", 0, 1000)
        check_between(self, "epochs", 1, 100_000)

    def rungs(self, count: int) -> list[int]:
        """Return how many of `count` archs train in each rung: a geometric sequence down to two."""
        last = (_RUNGS if count > _FEW else _RUNGS - 1) - 1
        return [round(count * (2 / count) ** (rung / last)) for rung in range(last + 1)]

    def compared_at(self, count: int, final: int) -> list[int]:
        """Return the epoch at which each rung ends, of the `final` epochs of the final training.

        The last one ends after a third: more finalists are worth more than a later comparison.
        """
        first, steps = min(self.epochs, final), len(self.rungs(count)) - 1
        # before the last epoch, so that a final training remains
        last = max(first, min(final - 1, max(first + 1, math.ceil(final / 3))))
        return [round(first * (last / first) ** (rung / steps)) for rung in range(steps + 1)]

    def discarded_epochs(self, count: int, final: int) -> int:
        """Return the number of epochs spent on archs that do not win."""
        ends = self.compared_at(count, final)
        parts = [end - start for start, end in pairwise([0, *ends])]
        return (
            sum(size * part for size, part in zip(self.rungs(count), parts, strict=True)) - ends[-1]
        )
