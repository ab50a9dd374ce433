"""Options of a search: each replaces a part of the method."""

from dataclasses import dataclass, fields
from typing import Literal

from mobilenas.core.setting import setting
from mobilenas.cost.budget import Constraint
from mobilenas.spaces.cell.settings import EdgeWeights
from mobilenas.supernet.schedules import EntropyShape
from mobilenas.supernet.settings import Attention, Sampler

Sampling = Literal["gumbel", "softmax", "single-path", "sandwich"]
"""What a step trains: a soft draw (Gumbel softmax), the softmax of the alphas, or one network; with
the sandwich rule the largest network on the labels, the smallest and two feasible ones on its
outputs.
"""
Order = Literal[1, 2]
"""Order of the alphas' step: 2 differentiates through a step of the weights."""
OnCollapse = Literal["warn", "stop", "rollback"]
_OWN = "by --method"


@dataclass(frozen=True, kw_only=True)
class SearchParts:
    """The user's options for parts of the method; None: the method's own."""

    sampling: Sampling | None = setting(
        None,
        help="How a search step samples the candidates.",
        default_text=_OWN,
        rare=True,
    )
    sampler: Sampler | None = setting(
        None, help="Which channels enter a mixed operation.", default_text=_OWN, rare=True
    )
    attention: Attention | None = setting(
        None, help="How the sampler scores channels.", default_text=_OWN, rare=True
    )
    channel_fraction: str | None = setting(
        None,
        help="Fraction of the channels that enter, such as 1/4.",
        default_text=_OWN,
        metavar="1/K",
        rare=True,
    )
    temperature: str | None = setting(
        None,
        help="Temperature of the relaxation, START:END such as 1:0.1, or one number.",
        default_text=_OWN,
        metavar="A:B",
        rare=True,
    )
    order: Order | None = setting(
        None,
        help="Order of the architecture step; 2 differentiates through a weight step.",
        default_text="1",
        rare=True,
    )
    zero_op: bool | None = setting(
        None, help="Cells: include the zero operation in the search.", default_text=_OWN, rare=True
    )
    edge_weights: EdgeWeights | None = setting(
        None, help="Cells: how a node weights its edges.", default_text=_OWN, rare=True
    )
    entropy: float | None = setting(
        None, help="Weight of the entropy loss.", default_text=_OWN, rare=True, low=0, high=100
    )
    entropy_schedule: EntropyShape | None = setting(
        None, help="How that weight rises.", default_text=_OWN, rare=True
    )
    entropy_terms: str | None = setting(
        None,
        help="Terms of the entropy loss: operations, edges, or operations,edges.",
        default_text=_OWN,
        metavar="TERMS",
        rare=True,
    )
    constraint: Constraint | None = setting(
        None, help="How budgets enter the loss.", default_text="lagrangian", rare=True
    )
    strength: float | None = setting(
        None,
        help="Weight of --constraint hinge and penalty.",
        default_text="1",
        rare=True,
        low=0,
        high=1_000_000,
    )
    warmup: int | None = setting(
        None,
        help="Epochs at the start of the supernet that train weights only.",
        default_text=_OWN,
        rare=True,
        low=0,
        high=10_000,
    )
    on_collapse: OnCollapse | None = setting(
        None, help="What to do on a collapse alarm.", default_text="warn", rare=True
    )
    prior: bool | None = setting(
        None,
        help="Let a prior, fitted to networks trained earlier, propose the finalists.",
        default_text=_OWN,
        rare=True,
        added=True,
    )


PARTS = tuple(part.name for part in fields(SearchParts))
"""Names of the parts."""
