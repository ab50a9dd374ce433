"""The protocols of a family of networks, and the registry of families.

A family is a space, its networks, and everything that depends on their structure: building and
counting, and for a search supernet, alphas and discretization. Code that needs one of these asks
`family_of`, and does not check which family it is.
"""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from mobilenas.core.files import State
from mobilenas.nn.costs import LayerCost
from mobilenas.nn.network import Network
from mobilenas.supernet.base import Supernet
from mobilenas.supernet.settings import SamplerSettings

AnyChoice = Any
"""One option for every decision of a space; each family has its own type."""
Relaxation = Any
"""Probabilities of all options, for supernets and expected costs; each family has its own type."""
AnyArch = Any
"""An arch, in functions that accept only archs of their family."""
AnySpace = Any
"""A space, in functions that accept only spaces of their family."""
AnySupernet = Any
"""A supernet, in functions that accept only supernets of their family."""
CostTable = Any
"""Exact and expected costs of a family's choices and relaxations."""


class Arch(Protocol):
    """A complete description of a network: a hashable value with a JSON form."""

    family: ClassVar[str]
    """Name of its family; `space` in the JSON form."""

    @property
    def image_size(self) -> int:
        """Side of the square input in pixels."""

    @property
    def in_channels(self) -> int:
        """Channels of the input."""

    @property
    def classes(self) -> int:
        """Number of classes."""

    def to_dict(self) -> dict[str, object]:
        """Return the JSON form."""


class Space(Protocol):
    """A set of networks."""

    family: ClassVar[str]
    """Name of its family."""

    def arch(self, choice: AnyChoice) -> Arch:
        """Return the network of a choice."""

    def random(self, source: random.Random) -> AnyChoice:
        """Draw a choice at random; families whose draws are not uniform say so."""

    def smallest(self) -> AnyChoice:
        """Return the choice with the cheapest option of every decision."""

    def largest(self) -> AnyChoice:
        """Return the choice with the most expensive option of every decision."""


class SearchedSpace(Space, Protocol):
    """A space whose networks are all in a supernet."""

    @property
    def kept_edges(self) -> int:
        """Number of edges in a network's normal cell; 0 for a chain."""

    def skips(self, choice: AnyChoice) -> dict[str, int]:
        """Return the number of skip connections or omitted blocks, by part."""

    def is_legal(self, choice: AnyChoice) -> bool:
        """Whether a choice belongs to this space."""


class ArchParameters(Protocol):
    """Alphas of a space."""

    def soft(self, tau: float) -> Relaxation:
        """Return the relaxation softmax(alpha / tau)."""

    def gumbel(self, tau: float, generator: torch.Generator, *, hard: bool) -> Relaxation:
        """Draw a relaxation by the Gumbel softmax; `hard`: one-hot in value."""

    def one_hot(self, choice: AnyChoice) -> Relaxation:
        """Return the relaxation with probability 1 for `choice`."""

    def stages(self, choice: AnyChoice, tau: float) -> dict[str, Relaxation]:
        """Return relaxations from `soft` to `one_hot`, by what has been discretized."""

    def alone(self, net: AnySupernet, choice: AnyChoice) -> Callable[[Tensor], Tensor]:
        """Return a function that runs only the chosen network, with the supernet's weights."""

    def likeliest(self) -> AnyChoice:
        """Return the most probable network, ignoring budgets."""

    def distributions(self, p: Relaxation) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Yield a name, probabilities [decisions, options] and the number of options of each."""

    def scores(self) -> dict[str, Tensor]:
        """Return the scores that discretization maximizes, without gradient."""

    def entropy(self, tau: float) -> Tensor:
        """Return L_O of DA2S in nats, summed over decisions."""

    def edge_entropy(self) -> Tensor:
        """Return L_E of DA2S; 0 without edge weights."""

    def table(self) -> dict[str, list[list[float]]]:
        """Return the alphas for the log."""

    def to(self, device: str) -> "ArchParameters":
        """As in nn.Module."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """As in nn.Module."""

    def state_dict(self) -> State:
        """As in nn.Module."""

    def load_state_dict(self, state_dict: State) -> object:
        """As in nn.Module."""


class Program(Protocol):
    """Discretization: finds the most probable networks that meet the budgets."""

    def best(self) -> AnyChoice:
        """Return the most probable choice; BudgetError if no network meets the budgets."""

    def solve(self, *, exclude: Sequence[AnyChoice] = ()) -> AnyChoice | None:
        """Return the most probable choice that differs enough from `exclude`, or None."""


@dataclass(frozen=True, kw_only=True)
class Searchable:
    """The parts of a family that a gradient search needs."""

    supernet: Callable[[AnySpace, SamplerSettings], Supernet]
    """Makes the supernet of a space; weights are drawn from torch's global generator."""
    alphas: Callable[..., ArchParameters]
    """Makes the alphas of a space; keywords `none` and `edge_weights` are for cells only."""
    program: Callable[[AnySpace, Mapping[str, Tensor]], Program]
    """Makes the program from budgets and the alphas' scores."""
    draws: Callable[[AnySpace, random.Random], Iterator[AnyChoice]] | None = None
    """Yields endless choices drawn from the alphas. None: the supernet cannot run a single network
    at that network's cost, and candidates are the most probable networks.
    """
    first: Callable[..., Sequence[AnyChoice]] | None = None
    """Returns networks within the budgets that start an evolution, besides random ones."""
    inherited: Callable[[AnySupernet, AnyChoice, int], Network] | None = None
    """Given supernet, choice and seed, returns the network with inherited weights."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """Everything that code outside of a family needs from it."""

    name: str
    """Name in `--space` and in files."""
    arch: type[AnyArch]
    """Type of its networks, an `Arch` with a classmethod `from_dict`."""
    space: type[AnySpace]
    """Type of its spaces, a `Space`."""
    choice: type[AnyChoice]
    """Type of its choices."""
    build: Callable[[AnyArch], Network]
    """Builds the module of an arch; weights are drawn from torch's global generator."""
    layer_costs: Callable[[AnyArch], list[LayerCost]]
    """Returns the costs of all layers of an arch, in the order they run."""
    rough_size: Callable[[AnyArch], tuple[int, int]]
    """Estimates the number of weights of an arch, and of values in its largest feature map."""
    costs: tuple[str, ...]
    """Names of the costs that need no device."""
    table: Callable[..., CostTable]
    """Makes the `CostTable` of a space, a cost and, for latency, its model."""
    search: Searchable | None = None
    """The parts for a gradient search; None if there is no supernet."""
    genotype: Callable[[AnyArch], str | None] = lambda arch: None
    """Returns the genotype that arch.json has beside the JSON form."""
    needs_budget: bool = True
    """Whether a job must have a budget."""
    sized: bool = False
    """Whether the space is sized by the budgets, so that its largest network uses them."""
    has_units: Callable[[AnyArch], bool] = lambda arch: False
    """Whether all parts of an arch can be units of a profile."""
    with_channels: Callable[[AnyArch, int], AnyArch] | None = None
    """Returns an arch or space with other initial channels; None if these are decisions."""
    recipe: str | None = None
    """Name of the recipe that trains its networks from scratch; None: the default."""
    scaled: bool = False
    """Whether choices are scaled to the budgets instead of drawn until they meet them; then latency
    is measured, not predicted.
    """


_MODULES = {
    "mobile": "mobilenas.spaces.mobile.family",
    "cell": "mobilenas.spaces.cell.family",
    "channels": "mobilenas.spaces.channels.family",
    "subnetworks": "mobilenas.spaces.subnetworks.family",
}
_FAMILIES: dict[str, Family] = {}


def register(family: Family) -> None:
    """Add a family, replacing one of the same name.

    Modules that are not in `_MODULES` register their family on import.
    """
    _FAMILIES[family.name] = family


def families() -> tuple[str, ...]:
    """Return the names of all families."""
    return tuple(dict.fromkeys((*_MODULES, *_FAMILIES)))


def searched() -> tuple[str, ...]:
    """Return the names of families with a gradient search, the values of `--space`."""
    return tuple(name for name in families() if family(name).search)


def family(name: str) -> Family:
    """Return a family by its name."""
    if name not in _FAMILIES:
        import_module(_MODULES[name])
    return _FAMILIES[name]


def family_of(thing: Arch | Space) -> Family:
    """Return the family of an arch or a space."""
    return family(type(thing).family)


def searchable(space: Space) -> Searchable:
    """Return the parts of a space's family that a gradient search needs."""
    search = family_of(space).search
    if search is None:
        raise TypeError(f"a {space.family} space has no supernet")
    return search
