"""Alphas of a space with independent decisions: a row of logits for each."""

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn

from mobilenas.spaces.base import AnySupernet

# finite, so that p log p has a gradient at p = 0; exp(_NEVER / tau) is 0 for tau up to 100
_NEVER = -1e5


class Rows(Protocol):
    """A relaxation: probabilities [decisions, options] by the kind of decision."""

    def __getitem__(self, name: str) -> Tensor:
        """Return the probabilities of one kind."""


C = TypeVar("C")
"""A family's choices: a sequence of indices for each kind of decision, as attributes."""
P = TypeVar("P", bound=Rows)
"""A family's relaxations."""


class IndependentAlphas(nn.Module, ABC, Generic[C, P]):
    """A row of logits per decision; options that a decision does not have get probability 0.

    `options`: for each kind, the range of legal indices of each decision.
    """

    decisions: tuple[str, ...]
    """The kinds of decisions."""

    def __init__(self, options: Mapping[str, Sequence[range]]) -> None:
        super().__init__()
        self.logits = nn.ParameterDict()
        for name in self.decisions:
            columns = max(row.stop for row in options[name])
            legal = torch.tensor([[c in row for c in range(columns)] for row in options[name]])
            self.register_buffer(f"legal_{name}", legal, persistent=False)
            self.logits[name] = nn.Parameter(torch.zeros(legal.shape))

    @abstractmethod
    def relaxation(self, rows: Mapping[str, Tensor]) -> P:
        """Return the relaxation with these probabilities."""

    @abstractmethod
    def choice(self, picks: Mapping[str, list[int]]) -> C:
        """Return the choice of these options."""

    def legal(self, name: str) -> Tensor:
        """Return a mask of existing options: [decisions, options]."""
        legal: Tensor = getattr(self, f"legal_{name}")
        return legal

    def masked(self, name: str) -> Tensor:
        """Return logits [decisions, options], in effect minus infinity for missing options."""
        logits: Tensor = self.logits[name]
        return logits.masked_fill(~self.legal(name), _NEVER)

    def soft(self, tau: float) -> P:
        """Return softmax(alpha / tau)."""
        return self.relaxation(
            {name: (self.masked(name) / tau).softmax(-1) for name in self.decisions}
        )

    def scores(self) -> dict[str, Tensor]:
        """Return log softmax(alpha) of every decision, without gradient."""
        return {
            name: self.masked(name).detach().double().log_softmax(-1) for name in self.decisions
        }

    def gumbel(self, tau: float, generator: torch.Generator, *, hard: bool) -> P:
        """Draw rows of the Gumbel softmax (Jang et al. 2017); `hard`: one-hot in value."""
        rows = {}
        for name in self.decisions:
            logits = self.masked(name)
            noise = torch.rand(logits.shape, generator=generator).clamp(1e-9, 1 - 1e-7)
            gumbel = -(-noise.log()).log()
            soft = ((logits + gumbel.to(logits.device)) / tau).softmax(-1)
            if hard:
                one_hot = torch.zeros_like(soft).scatter(-1, soft.argmax(-1, keepdim=True), 1.0)
                soft = one_hot + (soft - soft.detach())  # the difference is 0, exactly
            rows[name] = soft
        return self.relaxation(rows)

    def draws(self, source: random.Random, tau: float) -> Iterator[C]:
        """Yield endless choices drawn from softmax(alpha / tau) of the current alphas."""
        soft = self.soft(tau)
        p = {name: soft[name].tolist() for name in self.decisions}
        while True:
            picks = {
                name: [source.choices(range(len(row)), row)[0] for row in rows]
                for name, rows in p.items()
            }
            yield self.choice(picks)

    def stages(self, choice: C, tau: float) -> dict[str, P]:
        """Return `soft` and `one_hot`; a chain has operations to discretize, but no edges."""
        return {"supernet": self.soft(tau), "operations_discrete": self.one_hot(choice)}

    def alone(self, net: AnySupernet, choice: C) -> Callable[[Tensor], Tensor]:
        """Return a function that runs only the chosen network, with the supernet's weights."""
        return partial(net.run, choice=choice)

    def distributions(self, p: P) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Yield name, probabilities [decisions, options] and the number of options of each."""
        for name in self.decisions:
            yield name, p[name], self.legal(name).sum(-1)

    def likeliest(self) -> C:
        """Return the most probable option of every decision, ignoring budgets."""
        return self.choice({name: self.masked(name).argmax(-1).tolist() for name in self.decisions})

    def entropy(self, tau: float) -> Tensor:
        """Return L_O of DA2S: entropy of the probabilities in nats, summed over decisions."""
        total = torch.zeros(())
        for name in self.decisions:
            log_p = (self.masked(name) / tau).log_softmax(-1)
            total = total - (log_p.exp() * log_p).sum().cpu()
        return total

    def edge_entropy(self) -> Tensor:
        """Return L_E of DA2S, 0 because a chain has no edges to choose."""
        return torch.zeros(())

    def one_hot(self, choice: C) -> P:
        """Return the relaxation with probability 1 for `choice`."""
        rows = {}
        for name in self.decisions:
            row = torch.zeros_like(self.logits[name])
            picks = torch.tensor([int(value) for value in getattr(choice, name)], device=row.device)
            rows[name] = row.scatter(-1, picks[:, None], 1.0)
        return self.relaxation(rows)

    def table(self) -> dict[str, list[list[float]]]:
        """Return the logits for the log."""
        return {
            name: [[round(v, 4) for v in row] for row in self.logits[name].tolist()]
            for name in self.decisions
        }
