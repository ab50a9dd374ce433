"""What a search can be told."""

from dataclasses import dataclass, field

from mobilenas.core.errors import MobileNASError
from mobilenas.core.settings import ADDED, check_between, check_choice
from mobilenas.cost.budget import CONSTRAINTS
from mobilenas.search.collapse import ON_COLLAPSE
from mobilenas.spaces.cell.relaxation import EDGE_WEIGHTS
from mobilenas.supernet.samplers import SamplerSettings
from mobilenas.supernet.schedules import EntropySchedule, Temperature

PATHS = ("gumbel", "mixture", "single")
ORDERS = (1, 2)
"""Of the alphas' step: 2 looks one step of the weights ahead."""


@dataclass(frozen=True, kw_only=True)
class SearchSettings:
    """Everything but space, budgets, data and seed."""

    epochs: int = 6
    """Passes over the images, half of them for weights and half for alphas."""
    warmup: int = 3
    """First epochs, which train weights only, on uniformly drawn networks."""
    batch_size: int = 64
    """Images a step."""
    paths: str = "gumbel"
    """What a step runs: `mixture` all at once, `gumbel` a soft draw, `single` one network."""
    learning_rate: float = 0.1
    """Peak rate of the weights: SGD with Nesterov momentum, cosine."""
    momentum: float = 0.9
    """Momentum of the weights."""
    weight_decay: float = 4e-5
    """Decay of the weights as in final training: not of norms, biases and depthwise kernels."""
    alpha_learning_rate: float = 0.03
    """Rate of the alphas: Adam, constant."""
    alpha_weight_decay: float = 0.0
    """Decay of the alphas."""
    order: int = 1
    """Order of the alphas' step: 2 differentiates through one step of the weights."""
    none: bool = False
    """Cells: whether an edge's operations include `none`."""
    edge_weights: str = "none"
    """Cells: how a node weighs its edges: none, softmax (PC-DARTS) or clipped (DA2S)."""
    sampler: SamplerSettings = field(default_factory=SamplerSettings)
    """Which channels enter the mixed operation."""
    temperature: Temperature = field(default_factory=Temperature)
    """tau over time."""
    entropy: EntropySchedule = field(default_factory=EntropySchedule)
    """Entropy losses over time."""
    constraint: str = "lagrangian"
    """How budgets enter the loss: lagrangian, hinge or penalty."""
    strength: float = 1.0
    """lambda of `hinge` and `penalty`."""
    rho: float = 0.1
    """Step of the multipliers of `lagrangian`."""
    prior: bool = field(default=False, metadata=ADDED)
    """Mobile: whether earlier trained networks have a say in which are finalists."""
    on_collapse: str = "warn"
    """What an alarm does (`search.collapse`): warn, stop, or rollback to the last good epoch."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_between(self, "epochs", 1, 10_000)
        check_between(self, "warmup", 0, self.epochs)
        check_between(self, "batch_size", 2, 65536)
        check_choice("paths", self.paths, PATHS)
        check_between(self, "learning_rate", 1e-6, 100)
        check_between(self, "momentum", 0, 0.9999)
        check_between(self, "weight_decay", 0, 1)
        check_between(self, "alpha_learning_rate", 1e-6, 100)
        check_between(self, "alpha_weight_decay", 0, 1)
        check_choice("order", self.order, ORDERS)
        if self.order == 2 and self.paths != "mixture":
            # each of its four passes would draw another relaxation
            raise MobileNASError(f"--order 2 needs --paths mixture, not {self.paths}")
        check_choice("edge_weights", self.edge_weights, EDGE_WEIGHTS)
        check_choice("on_collapse", self.on_collapse, ON_COLLAPSE)
        check_choice("constraint", self.constraint, CONSTRAINTS)
        check_between(self, "strength", 0, 1e6)
        check_between(self, "rho", 1e-6, 1e6)
