"""Costs of subnetworks: exact for a choice, expected for a relaxation.

Decisions are independent, so for each image size the expectation is a multilinear form of their
probabilities. Memory is a maximum, not a sum: it is the largest of the blocks' expectations, as in
the mobile space.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mobilenas.spaces.mobile.cost_models import CostModel, CountedCost
from mobilenas.spaces.subnetworks.space import Choice, SubnetworkSpace


@dataclass(frozen=True, kw_only=True)
class Probabilities:
    """A relaxation: one distribution per decision; R image sizes, L blocks, S stages.

    A decision with fewer options than others of its kind is padded with zeros.
    """

    side: Tensor
    """[1, R]: image sizes."""
    hidden: Tensor
    """[L, H]: hidden channels of blocks."""
    kernel: Tensor
    """[L, K]: kernel sizes."""
    squeeze: Tensor
    """[L, Q]: squeeze-excite options."""
    depth: Tensor
    """[S, D]: depths of stages, from 1."""
    width: Tensor | None = None
    """[S, W]: widths of stages; None if they are not searched."""

    def __getitem__(self, name: str) -> Tensor:
        """Return the distribution of one kind of decision."""
        value: Tensor = getattr(self, name)
        return value

    def keep(self, stage: int, position: int) -> Tensor:
        """Return the probability that a stage has its block at `position`, a scalar."""
        return self.depth[stage, position:].sum()


class CostTable:
    """A cost of a space; counted costs need only their name, latency its model."""

    def __init__(self, space: SubnetworkSpace, cost: str, model: CostModel | None = None) -> None:
        model = CountedCost(cost) if model is None else model
        whole, slots = space.whole, space.slots
        self.space, self.cost, self.is_peak = space, cost, model.is_peak
        widths = max(map(len, space.widths))
        counts = [widths, widths] + [
            max(space.options(name)) for name in ("hidden", "kernel", "squeeze")
        ]
        self.blocks = torch.zeros(len(space.sides), len(slots), *counts, dtype=torch.float64)
        """[R, L, W, W, H, K, Q]: costs of blocks, by width of input and output; zero for missing
        options."""
        self.fixed = torch.zeros(len(space.sides), 2, widths, dtype=torch.float64)
        """[R, 2, W]: costs of stem and head, by width of the stem's and the last stage."""
        for r, side in enumerate(space.sides):
            sides = space.input_sides(side)
            for number, slot in enumerate(slots):
                for picks in slot.picks():
                    self.blocks[(r, number, *picks)] = model.block(
                        slot.part(picks), slot.inputs[picks[0]], sides[number]
                    )
            for n, channels in enumerate(space.stem_widths):
                stem = replace(whole.stem, channels=channels)
                self.fixed[r, 0, n] = model.stem(stem, whole.in_channels, side)
            for n, last in enumerate(space.widths[-1]):
                self.fixed[r, 1, n] = model.head(whole.head, last, sides[-1], whole.classes)

    def exact(self, choice: Choice) -> float:
        """Return the cost of one choice."""
        (side,), space = choice.side, self.space
        ends = space.width(choice, space.stem_stage), space.width(choice, len(space.widths) - 1)
        parts = [float(self.fixed[side, n, pick]) for n, pick in enumerate(ends)]
        parts += [
            float(self.blocks[(side, number, *space.picks(choice, number))])
            for number in range(len(space.slots))
            if space.has_block(choice, number)
        ]
        return max(parts) if self.is_peak else sum(parts)

    def minimum(self) -> float:
        """Return the smallest cost of all choices."""
        return self.exact(self.space.smallest())

    def expected(self, p: Probabilities) -> Tensor:
        """Return the expected cost, a scalar that carries gradients to the probabilities."""
        rows = {name: p[name].to(self.blocks) for name in self.space.decisions}
        p = Probabilities(**rows)
        keep = torch.stack([p.keep(slot.stage, slot.position) for slot in self.space.slots])
        blocks, fixed = self._over_widths(p)
        blocks = torch.einsum("rlhkq,lh,lk,lq->rl", blocks, p.hidden, p.kernel, p.squeeze)
        parts = torch.cat([fixed, keep * blocks], 1)  # [R, 2 + L]
        return p.side[0] @ (parts.amax(1) if self.is_peak else parts.sum(1))

    def _over_widths(self, p: Probabilities) -> tuple[Tensor, Tensor]:
        """Return `blocks` [R, L, H, K, Q] and `fixed` [R, 2], expected over the widths."""
        if p.width is None:
            return self.blocks[:, :, 0, 0], self.fixed[..., 0]
        none = torch.zeros_like(p.width[0])
        none[0] = 1.0  # the only option of what has no stage
        rows: dict[int | None, Tensor] = {None: none, **dict(enumerate(p.width))}
        pairs = [
            rows[slot.stage].diag()
            if slot.before == slot.stage
            else rows[slot.before].outer(rows[slot.stage])
            for slot in self.space.slots
        ]
        ends = torch.stack([rows[self.space.stem_stage], p.width[-1]])
        blocks = torch.einsum("rlxyhkq,lxy->rlhkq", self.blocks, torch.stack(pairs))
        return blocks, torch.einsum("rnw,nw->rn", self.fixed, ends)
