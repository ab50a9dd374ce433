"""What a family of networks is, and the one place where families are registered.

A family is a space, its networks, and all that depends on what they are made of: how one is built
and counted, and for a search its supernet, alphas and discretization. Whoever needs one of these
asks `family_of` and not which family it is.
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
from mobilenas.supernet.settings import SamplerSettings
from mobilenas.supernet.shared import Supernet

AnyChoice = Any
"""One option for every decision of a space; each family has a type of its own."""
Relaxation = Any
"""Probabilities of all options, which a supernet and expected costs take; likewise."""
AnyArch = Any
"""An arch, for a function that takes the archs of its own family alone."""
AnySpace = Any
"""A space, likewise."""
AnySupernet = Any
"""A supernet, likewise."""
CostTable = Any
"""Exact and expected costs of a family's choices and relaxations."""


class Arch(Protocol):
    """One network, stated in full: a plain value that can be hashed, with a JSON form."""

    family: ClassVar[str]
    """Name of its family, `space` in the JSON form."""

    @property
    def image_size(self) -> int:
        """Side of the square input in pixels."""

    @property
    def in_channels(self) -> int:
        """Channels of the input."""

    @property
    def classes(self) -> int:
        """Width of the output."""

    def to_dict(self) -> dict[str, object]:
        """Return the JSON form."""


class Space(Protocol):
    """A set of networks."""

    family: ClassVar[str]
    """Name of its family."""

    def arch(self, choice: AnyChoice) -> Arch:
        """Return the network of a choice."""

    def random(self, source: random.Random) -> AnyChoice:
        """Draw every decision uniformly."""

    def smallest(self) -> AnyChoice:
        """Return the choice whose every decision is the cheapest."""

    def largest(self) -> AnyChoice:
        """Return the choice whose every decision is the most expensive."""


class SearchedSpace(Space, Protocol):
    """A space that a supernet has the networks of."""

    @property
    def kept_edges(self) -> int:
        """Edges that a network keeps in its normal cell; 0 in a chain."""

    def skips(self, choice: AnyChoice) -> dict[str, int]:
        """Return how many skip connections or missing blocks a network has, by part."""

    def is_legal(self, choice: AnyChoice) -> bool:
        """Whether a choice is one of this space."""


class ArchParameters(Protocol):
    """Alphas of a space."""

    def soft(self, tau: float) -> Relaxation:
        """Return the relaxation softmax(alpha / tau)."""

    def gumbel(self, tau: float, generator: torch.Generator, *, hard: bool) -> Relaxation:
        """Draw a relaxation."""

    def one_hot(self, choice: AnyChoice) -> Relaxation:
        """Return the relaxation that is certain of `choice`."""

    def stages(self, choice: AnyChoice, tau: float) -> dict[str, Relaxation]:
        """Return relaxations on the way from `soft` to `one_hot`, by what has become discrete."""

    def alone(self, net: AnySupernet, choice: AnyChoice) -> Callable[[Tensor], Tensor]:
        """Return what runs one network with the weights of its supernet."""

    def likeliest(self) -> AnyChoice:
        """Return the most probable network, whatever it costs."""

    def distributions(self, p: Relaxation) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Yield a name, probabilities [decisions, options] and the number of options of each."""

    def scores(self) -> dict[str, Tensor]:
        """Return what discretization sums, without gradient."""

    def entropy(self, tau: float) -> Tensor:
        """L_O of DA2S in nats, summed over decisions."""

    def edge_entropy(self) -> Tensor:
        """L_E of DA2S; 0 where there are no edge weights."""

    def table(self) -> dict[str, list[list[float]]]:
        """Return the numbers for the log."""

    def to(self, device: str) -> "ArchParameters":
        """As of nn.Module."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """As of nn.Module."""

    def state_dict(self) -> State:
        """As of nn.Module."""

    def load_state_dict(self, state_dict: State) -> object:
        """As of nn.Module."""


class Program(Protocol):
    """Discretization: the most probable networks by the alphas that meet the budgets."""

    def best(self) -> AnyChoice:
        """Return the most probable one; BudgetError if no network meets the budgets."""

    def solve(self, *, exclude: Sequence[AnyChoice] = ()) -> AnyChoice | None:
        """Return the most probable one that differs enough from the others, or None."""


@dataclass(frozen=True, kw_only=True)
class Searchable:
    """What a gradient search needs of a family."""

    supernet: Callable[[AnySpace, SamplerSettings], Supernet]
    """Of a space; its start weights come from torch's global generator."""
    alphas: Callable[..., ArchParameters]
    """Of a space, with `none` and `edge_weights` (cells only)."""
    program: Callable[[AnySpace, Mapping[str, Tensor]], Program]
    """Of the budgets and the alphas' scores."""
    draws: Callable[[AnySpace, random.Random], Iterator[AnyChoice]] | None = None
    """Of the alphas: choices by their probabilities, without end. None: the supernet cannot run one
    network at that network's own cost, and candidates are the most probable networks.
    """
    first: Callable[..., Sequence[AnyChoice]] | None = None
    """Of the budgets: networks that an evolution by accuracy begins with, beside random ones."""
    inherited: Callable[[AnySupernet, AnyChoice, int], Network] | None = None
    """Of a supernet, a choice and a seed: the network with its weights from the supernet."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """Everything about a family that somebody outside it needs."""

    name: str
    """As in `--space` and in files."""
    arch: type[AnyArch]
    """Type of its networks, an `Arch` with a classmethod `from_dict`."""
    space: type[AnySpace]
    """Type of its spaces, a `Space`."""
    choice: type[AnyChoice]
    """Type of its choices."""
    build: Callable[[AnyArch], Network]
    """From an arch to a module; its start weights come from torch's global generator."""
    layer_costs: Callable[[AnyArch], list[LayerCost]]
    """Every layer of an arch in the order it runs."""
    rough_size: Callable[[AnyArch], tuple[int, int]]
    """About how many weights an arch has, and values in its largest feature map."""
    costs: tuple[str, ...]
    """Names of the costs that are counted without a device."""
    table: Callable[..., CostTable]
    """Of a space, the name of a cost and, for latency, a model of it: exact and expected costs."""
    search: Searchable | None = None
    """None where no supernet has all networks of a space."""
    genotype: Callable[[AnyArch], str | None] = lambda arch: None
    """What arch.json says of an arch beside its JSON form."""
    needs_budget: bool = True
    """Whether a job must have one."""
    sized: bool = False
    """Whether the budgets size the space, so that its largest network uses them."""
    has_units: Callable[[AnyArch], bool] = lambda arch: False
    """Whether a profile can have the times of all parts of an arch."""
    with_channels: Callable[[AnyArch, int], AnyArch] | None = None
    """An arch or a space with other initial channels; None where these are decisions."""
    scaled: bool = False
    """Whether a choice is scaled to the budgets, not drawn until it keeps them; then latency is
    measured, not predicted.
    """


_MODULES = {
    "mobile": "mobilenas.spaces.mobile.family",
    "cell": "mobilenas.spaces.cell.family",
    "channels": "mobilenas.spaces.channels.family",
    "subnetworks": "mobilenas.spaces.subnetworks.family",
}
_FAMILIES: dict[str, Family] = {}


def register(family: Family) -> None:
    """Add a family, in place of another of its name.

    A module that is not in `_MODULES` registers its family when it is imported.
    """
    _FAMILIES[family.name] = family


def families() -> tuple[str, ...]:
    """Return the names of all families."""
    return tuple(dict.fromkeys((*_MODULES, *_FAMILIES)))


def searched() -> tuple[str, ...]:
    """Return the names of the families that a gradient search knows: those of `--space`."""
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
    """Return what a gradient search needs of a space's family."""
    search = family_of(space).search
    if search is None:
        raise TypeError(f"a {space.family} space has no supernet")
    return search
