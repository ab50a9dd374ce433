"""Scales channel sizes to the budgets in every trial of a search."""

import math
from collections.abc import Callable, Mapping, Sequence

from mobilenas.core.errors import BudgetError
from mobilenas.core.files import State
from mobilenas.cost.budget import LATENCY, Budget
from mobilenas.cost.budgets import Budgets
from mobilenas.cost.projection import Sizes
from mobilenas.spaces.channels.space import ChannelsArch

MeasureArchs = Callable[[Sequence[ChannelsArch]], list[float]]
"""Measures networks; returns the latency of each in ms."""

_ROUNDS = 8
_USED = 0.95


class Limits:
    """Scales sizes to the budgets: FLOPs and params by counting, latency by measuring.

    Between measurements, latency is interpolated linearly over FLOPs.
    """

    def __init__(self, budgets: Budgets, measure: MeasureArchs | None) -> None:
        self.budgets, self.measure = budgets, measure
        self.limit_ms = next((b.limit for b in budgets.budgets if b.cost == LATENCY), None)
        self.measured: list[tuple[int, float]] = []  # the last two: FLOPs and ms
        if self.limit_ms is not None and measure is None:
            raise BudgetError(
                "a latency budget on channel sizes needs measurements on the machine of the "
                "profile, and this is another one; limit --flops or --params"
            )

    def keep(
        self, proportions: Mapping[str, float], priority: Mapping[str, float] | None = None
    ) -> tuple[dict[str, int], dict[str, float]]:
        """Return legal sizes in these proportions that use the budgets, and their costs."""
        if self.limit_ms is None:
            found = self.budgets.scale(proportions, priority)
            return found, self._counted(found)
        if not self.measured:
            self._measure(self.budgets.space.start())
        fits, over = 0.0, math.inf  # FLOPs
        kept: tuple[dict[str, int], dict[str, float]] | None = None
        for _ in range(_ROUNDS):
            found = self._under(self._guess(fits, over)).scale(proportions, priority)
            flops, ms = self._measure(found)
            if ms <= self.limit_ms:
                kept, fits = (found, self._counted(found) | {LATENCY: ms}), float(flops)
                if ms >= _USED * self.limit_ms:
                    break
            else:
                over = float(flops)
        if kept is None:
            raise BudgetError(f"no channel sizes were measured to meet {self.limit_ms:.3g} ms")
        return kept

    def _guess(self, fits: float, over: float) -> float:
        """Return the FLOPs at which the line through the last two measurements meets the limit."""
        assert self.limit_ms is not None
        (flops, ms), *earlier = reversed(self.measured)
        slope = ms / flops
        if earlier and earlier[0][0] != flops:
            slope = (ms - earlier[0][1]) / (flops - earlier[0][0])
        guess = flops + (self.limit_ms - ms) / slope if slope > 0 else -1.0
        if fits < guess < over:
            return guess
        return (fits + over) / 2 if over < math.inf else 2 * max(fits, flops)

    def _measure(self, sizes: Mapping[str, int]) -> tuple[int, float]:
        assert self.measure is not None
        (ms,) = self.measure([self.budgets.space.arch(sizes)])
        point = int(self.budgets.tables["flops"].exact(sizes)), ms
        self.measured = [*self.measured, point][-2:]
        return point

    def _under(self, flops: float) -> Budgets:
        """Return the counted budgets, with at most these FLOPs."""
        counted = [b for b in self.budgets.budgets if b.cost != LATENCY]
        limit = min([flops, *(b.limit for b in counted if b.cost == "flops")])
        others = [b for b in counted if b.cost != "flops"]
        return Budgets(self.budgets.space, [Budget(cost="flops", limit=limit), *others])

    def _counted(self, sizes: Sizes) -> dict[str, float]:
        return {cost: table.exact(sizes) for cost, table in self.budgets.tables.items()}

    def state_dict(self) -> State:
        """Return the state for resuming."""
        return {"measured": self.measured}

    def load_state_dict(self, state: State) -> None:
        """Restore what `state_dict` returned."""
        self.measured = [(flops, ms) for flops, ms in state["measured"]]
