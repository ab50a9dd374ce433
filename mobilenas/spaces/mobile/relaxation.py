"""Alphas, the probabilities made from them, and the schedules of temperature and entropy."""

import random
from collections.abc import Callable, Iterator, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from mobilenas.spaces.mobile.space import DECISIONS, Choice, MobileSpace
from mobilenas.spaces.mobile.supernet import SuperNetwork
from mobilenas.spaces.mobile.table import Probabilities

# finite, for the gradient of p log p at p = 0; exp(_NEVER / tau) is 0 in float32 up to tau = 100
_NEVER = -1e5


class Alphas(nn.Module):
    """One row of logits per decision; options that a decision does not have get probability 0."""

    def __init__(self, space: MobileSpace) -> None:
        super().__init__()
        self.space = space
        slots = space.slots
        sizes = {
            "width": [range(len(stage.widths)) for stage in space.stages],
            "kernel": [range(len(space.kernels)) for _ in slots],
            "expansion": [range(len(slot.expansions)) for slot in slots],
            "squeeze": [range(len(space.squeeze)) for _ in slots],
            "start": [range(len(slot.start_kernels)) for slot in slots],
            "keep": [range(1, 2) if slot.first else range(2) for slot in slots],
        }
        self.logits = nn.ParameterDict()
        for name in DECISIONS:
            columns = max(options.stop for options in sizes[name])
            legal = torch.tensor([[c in row for c in range(columns)] for row in sizes[name]])
            self.register_buffer(f"legal_{name}", legal, persistent=False)
            self.logits[name] = nn.Parameter(torch.zeros(legal.shape))

    def legal(self, name: str) -> Tensor:
        """[decisions, options]: where there is an option."""
        legal: Tensor = getattr(self, f"legal_{name}")
        return legal

    def masked(self, name: str) -> Tensor:
        """[decisions, options]: logits, so low where there is no option that it gets 0."""
        logits: Tensor = self.logits[name]
        return logits.masked_fill(~self.legal(name), _NEVER)

    def soft(self, tau: float) -> Probabilities:
        """Return softmax(alpha / tau)."""
        return Probabilities(**{name: (self.masked(name) / tau).softmax(-1) for name in DECISIONS})

    def scores(self) -> dict[str, Tensor]:
        """Return log softmax(alpha) of every decision, without gradient."""
        return {name: self.masked(name).detach().double().log_softmax(-1) for name in DECISIONS}

    def gumbel(self, tau: float, generator: torch.Generator, *, hard: bool) -> Probabilities:
        """Draw rows of the Gumbel softmax (Jang et al. 2017); `hard`: one-hot in value."""
        rows = {}
        for name in DECISIONS:
            logits = self.masked(name)
            noise = torch.rand(logits.shape, generator=generator).clamp(1e-9, 1 - 1e-7)
            gumbel = -(-noise.log()).log()
            soft = ((logits + gumbel.to(logits.device)) / tau).softmax(-1)
            if hard:
                one_hot = torch.zeros_like(soft).scatter(-1, soft.argmax(-1, keepdim=True), 1.0)
                soft = one_hot + (soft - soft.detach())  # the difference is 0, exactly
            rows[name] = soft
        return Probabilities(**rows)

    def draws(self, source: random.Random, tau: float) -> Iterator[Choice]:
        """Draw choices from softmax(alpha / tau) without end, from the alphas as they are now."""
        soft = self.soft(tau)
        p = {name: soft[name].tolist() for name in DECISIONS}
        while True:
            picks = {
                name: [source.choices(range(len(row)), row)[0] for row in rows]
                for name, rows in p.items()
            }
            yield choice_of(picks)

    def stages(self, choice: Choice, tau: float) -> dict[str, Probabilities]:
        """Return `soft` and `one_hot`: a chain has operations to make discrete, and no edges."""
        return {"supernet": self.soft(tau), "operations_discrete": self.one_hot(choice)}

    def alone(self, net: SuperNetwork, choice: Choice) -> Callable[[Tensor], Tensor]:
        """Return what runs one network with the supernet's weights, at its own cost."""
        return partial(net.run, choice=choice)

    def distributions(self, p: Probabilities) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Yield name, probabilities [decisions, options] and the number of options of each."""
        for name in DECISIONS:
            yield name, p[name], self.legal(name).sum(-1)

    def likeliest(self) -> Choice:
        """Return the most probable option of every decision, whatever it costs."""
        return choice_of({name: self.masked(name).argmax(-1).tolist() for name in DECISIONS})

    def entropy(self, tau: float) -> Tensor:
        """L_O of DA2S: entropy of the operations' probabilities in nats, summed over decisions."""
        total = torch.zeros(())
        for name in DECISIONS:
            log_p = (self.masked(name) / tau).log_softmax(-1)
            total = total - (log_p.exp() * log_p).sum().cpu()
        return total

    def edge_entropy(self) -> Tensor:
        """L_E of DA2S: a chain has no edges to choose between."""
        return torch.zeros(())

    def one_hot(self, choice: Choice) -> Probabilities:
        """Return the relaxation that is certain of `choice`."""
        rows = {}
        for name in DECISIONS:
            row = torch.zeros_like(self.logits[name])
            picks = torch.tensor([int(value) for value in getattr(choice, name)], device=row.device)
            rows[name] = row.scatter(-1, picks[:, None], 1.0)
        return Probabilities(**rows)

    def table(self) -> dict[str, list[list[float]]]:
        """Return the logits for the log."""
        return {
            name: [[round(v, 4) for v in row] for row in self.logits[name].tolist()]
            for name in DECISIONS
        }


def choice_of(picks: Mapping[str, list[int]]) -> Choice:
    """Make a choice of one index per decision."""
    return Choice(
        width=tuple(picks["width"]),
        kernel=tuple(picks["kernel"]),
        expansion=tuple(picks["expansion"]),
        squeeze=tuple(picks["squeeze"]),
        start=tuple(picks["start"]),
        keep=tuple(bool(value) for value in picks["keep"]),
    )
