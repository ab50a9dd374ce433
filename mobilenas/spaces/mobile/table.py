"""Cost tables of a mobile space: exact for choices, expected for relaxations.

Every slot l has a table T_l over (input width, output width, expansion, kernel, squeeze, start),
filled by a cost model, which counts or measures. Decisions are independent, so the expectation is a
multilinear form of their probabilities: F(p) = F0 + sum_l keep_l <T_l, p_l>. Memory is a maximum,
not a sum: it is the largest of the slots' expectations.
"""

from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from mobilenas.nn.costs import output_side
from mobilenas.spaces.mobile.cost_models import CostModel, CountedCost
from mobilenas.spaces.mobile.space import DECISIONS, Choice, MobileSpace

_UNSUPPORTED = 10.0
"""Expected cost of an option that the device cannot run, over that of the most expensive option."""


@dataclass(frozen=True, kw_only=True)
class Probabilities:
    """A relaxation: one distribution per decision; L slots, S stages."""

    width: Tensor
    """[S, W]: widths of stages."""
    kernel: Tensor
    """[L, K]: kernel sizes, then operations."""
    expansion: Tensor
    """[L, E]: expansions; padded with zeros for slots that have fewer."""
    squeeze: Tensor
    """[L, Q]: squeeze-excite options."""
    start: Tensor
    """[L, D]: start kernels; padded with zeros for slots that have one."""
    keep: Tensor
    """[L, 2]: block omitted, block kept."""

    def __getitem__(self, name: str) -> Tensor:
        """Return the distribution of one kind of decision."""
        value: Tensor = getattr(self, name)
        return value


class CostTable:
    """A cost of a space; counted costs need only their name, latency its model."""

    def __init__(self, space: MobileSpace, cost: str, model: CostModel | None = None) -> None:
        slots, stages = space.slots, space.stages
        model = CountedCost(cost) if model is None else model
        self.cost = cost
        self.is_peak = model.is_peak
        shape = (
            len(slots),
            max(len(stage.widths) for stage in stages),
            max(len(stage.widths) for stage in stages),
            max(len(slot.expansions) for slot in slots),
            len(space.kernels),
            len(space.squeeze),
            max(len(slot.start_kernels) for slot in slots),
        )
        self.slots = torch.full(shape, torch.nan, dtype=torch.float64)
        for number, slot in enumerate(slots):
            for i, o, e, k, q, d in product(*map(range, shape[1:])):
                if i >= len(slot.in_widths) or o >= len(slot.out_widths):
                    continue
                if e >= len(slot.expansions) or d >= len(slot.start_kernels):
                    continue
                if not slot.first and i != o:
                    continue
                block = space.block(
                    slot,
                    slot.in_widths[i],
                    slot.out_widths[o],
                    slot.expansions[e],
                    space.kernels[k],
                    space.squeeze[q],
                    slot.start_kernels[d],
                )
                index = number, i, o, e, k, q, d
                self.slots[index] = model.block(block, slot.in_widths[i], slot.side)
        self._legal = ~self.slots.isnan()
        self.slots = self.slots.where(self._legal, 0.0)
        side = output_side(slots[-1].side, slots[-1].stride)
        self.head = torch.tensor(
            [model.head(space.head, w, side, space.classes) for w in stages[-1].widths],
            dtype=torch.float64,
        )
        self.stem = float(model.stem(space.stem, space.in_channels, space.image_size))
        most_expensive = self.slots[self.slots.isfinite()].max()
        # finite, so that 0 times it is 0, and gradients lead away from what cannot be run
        self.finite = self.slots.clamp(max=float(_UNSUPPORTED * most_expensive))
        self._stage = [slot.stage for slot in slots]
        self._first = torch.tensor([slot.first for slot in slots])
        self._stem_width = torch.zeros(shape[1], dtype=torch.float64)
        self._stem_width[0] = 1.0

    def exact(self, choice: Choice) -> float:
        """Return the cost of one choice."""
        parts = [self.stem, float(self.head[choice.width[-1]])]
        for number, stage in enumerate(self._stage):
            if not choice.keep[number]:
                continue
            out = choice.width[stage]
            first = bool(self._first[number])
            into = out if not first else choice.width[stage - 1] if stage else 0
            operation = choice.expansion, choice.kernel, choice.squeeze, choice.start
            index = (number, into, out, *(picks[number] for picks in operation))
            parts.append(float(self.slots[index]))
        return max(parts) if self.is_peak else sum(parts)

    def minimum(self) -> float:
        """Return the smallest cost of all choices, that of the cheapest first blocks of stages."""
        legal = self.slots.masked_fill(~self._legal, torch.inf).flatten(3).amin(-1)  # [L, W, W]
        join = torch.maximum if self.is_peak else torch.add
        # [W]: minimum so far, by width
        best = torch.where(self._stem_width == 1, self.stem, torch.inf)
        for cheapest in legal[self._first]:
            best = join(best[:, None], cheapest).amin(0)
        return float(join(best[: len(self.head)], self.head).min())

    def expected(self, p: Probabilities) -> Tensor:
        """Return the expected cost, a scalar that carries gradients to the probabilities."""
        p = self._as_table(p)
        slots = p.keep[:, 1] * torch.einsum(
            "lioekqd,lio,le,lk,lq,ld->l",
            self.finite,
            self._width_pairs(p),
            p.expansion,
            p.kernel,
            p.squeeze,
            p.start,
        )  # [L]
        head = self.head @ p.width[-1, : len(self.head)]
        if self.is_peak:
            return torch.cat([slots, head[None], head.new_tensor([self.stem])]).max()
        return slots.sum() + head + self.stem

    def _as_table(self, p: Probabilities) -> Probabilities:
        """Return `p` in the table's precision and on its device."""
        return Probabilities(**{name: p[name].to(self.slots) for name in DECISIONS})

    def _widths(self, p: Probabilities) -> tuple[Tensor, Tensor]:
        """Return [L, W] twice: probabilities of the width before a slot's stage, and of its own."""
        before = torch.cat([self._stem_width[None], p.width[:-1]])
        return before[self._stage], p.width[self._stage]

    def _width_pairs(self, p: Probabilities) -> Tensor:
        """Return the probability of each pair of a slot's input and output width, [L, W, W]."""
        before, out = self._widths(p)
        return torch.where(
            self._first[:, None, None],
            before[:, :, None] * out[:, None, :],
            torch.diag_embed(out),
        )
