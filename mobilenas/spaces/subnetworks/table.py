"""Costs of subnetworks: exact for a choice, expected for a relaxation.

Decisions are independent, so for each image size the expectation is a multilinear form of their
probabilities. Memory is a maximum, not a sum: it is the largest of the blocks' expectations, as in
the mobile space.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from mobilenas.spaces.mobile.cost_models import CostModel, Counted
from mobilenas.spaces.subnetworks.space import DECISIONS, Choice, SubnetworkSpace


@dataclass(frozen=True, kw_only=True)
class Probabilities:
    """A relaxation: one distribution per decision; R image sizes, L blocks, S stages.

    A decision with fewer options than others of its kind is padded with zeros.
    """

    side: Tensor
    """[1, R]."""
    hidden: Tensor
    """[L, H]."""
    kernel: Tensor
    """[L, K]."""
    squeeze: Tensor
    """[L, Q]."""
    depth: Tensor
    """[S, D]."""

    def __getitem__(self, name: str) -> Tensor:
        """Return the distribution of one kind of decision."""
        value: Tensor = getattr(self, name)
        return value

    def keep(self, stage: int, place: int) -> Tensor:
        """Return the probability that a stage has its block at `place`, a scalar."""
        return self.depth[stage, place:].sum()


class CostTable:
    """A cost of a space; counted costs need only their name, latency its model."""

    def __init__(self, space: SubnetworkSpace, cost: str, model: CostModel | None = None) -> None:
        model = Counted(cost) if model is None else model
        whole, slots = space.whole, space.slots
        self.space, self.cost, self.is_peak = space, cost, model.is_peak
        counts = [max(space.options(name)) for name in ("hidden", "kernel", "squeeze")]
        self.blocks = torch.zeros(len(space.sides), len(slots), *counts, dtype=torch.float64)
        """[R, L, H, K, Q]: costs of blocks; zero for missing options."""
        self.fixed = torch.zeros(len(space.sides), 2, dtype=torch.float64)
        """[R, 2]: costs of stem and head."""
        for r, side in enumerate(space.sides):
            sides = space.input_sides(side)
            for number, slot in enumerate(slots):
                for picks, part in slot.parts():
                    self.blocks[(r, number, *picks)] = model.block(
                        part, slot.in_channels, sides[number]
                    )
            self.fixed[r, 0] = model.stem(whole.stem, whole.in_channels, side)
            last = slots[-1].block.out
            self.fixed[r, 1] = model.head(whole.head, last, sides[-1], whole.classes)

    def exact(self, choice: Choice) -> float:
        """Return the cost of one choice."""
        (side,) = choice.side
        parts: list[float] = self.fixed[side].tolist()
        for number in range(len(self.space.slots)):
            if self.space.keeps(choice, number):
                picks = choice.hidden[number], choice.kernel[number], choice.squeeze[number]
                parts.append(float(self.blocks[(side, number, *picks)]))
        return max(parts) if self.is_peak else sum(parts)

    def minimum(self) -> float:
        """Return the smallest cost of all choices."""
        return self.exact(self.space.smallest())

    def expected(self, p: Probabilities) -> Tensor:
        """Return the expected cost, a scalar that carries gradients to the probabilities."""
        rows = {name: p[name].to(self.blocks) for name in DECISIONS}
        p = Probabilities(**rows)
        keep = torch.stack([p.keep(slot.stage, slot.place) for slot in self.space.slots])
        blocks = torch.einsum("rlhkq,lh,lk,lq->rl", self.blocks, p.hidden, p.kernel, p.squeeze)
        parts = torch.cat([self.fixed, keep * blocks], 1)  # [R, 2 + L]
        return p.side[0] @ (parts.amax(1) if self.is_peak else parts.sum(1))
