"""What keeps channel sizes within their budgets at every step of a search."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mobilenas.cost.budget import LATENCY, Budget, Budgets
from mobilenas.errors import BudgetError
from mobilenas.spaces.widths import Sizes, WidthsArch

Confirm = Callable[[Sequence[WidthsArch]], list[float]]
"""Measures networks: milliseconds of each."""

_ROUNDS = 8
_USED = 0.95


class Limits:
    """Scales sizes to the budgets: FLOPs and params by counting, latency by measuring.

    Between two measurements latency is taken to be proportional to FLOPs.
    """

    def __init__(self, budgets: Budgets, confirm: Confirm | None) -> None:
        self.budgets, self.confirm = budgets, confirm
        self.limit_ms = next((b.limit for b in budgets.budgets if b.cost == LATENCY), None)
        self.ms_per_flop: float | None = None
        if self.limit_ms is not None and confirm is None:
            raise BudgetError(
                "a latency budget on channel sizes is kept by measuring, and this is not the "
                "machine of the profile; limit --flops or --params"
            )

    def keep(self, sizes: Sizes, priority: Mapping[str, float] | None = None) -> dict[str, int]:
        """Return legal sizes in these proportions that keep every budget and use one of them."""
        if self.limit_ms is None:
            return self.budgets.spread(sizes, priority)
        if self.ms_per_flop is None:
            self._measure(sizes)
        kept: dict[str, int] | None = None
        for _ in range(_ROUNDS):
            assert self.ms_per_flop is not None
            found = self._under(self.limit_ms / self.ms_per_flop).spread(sizes, priority)
            ms = self._measure(found)
            if ms <= self.limit_ms:
                kept = found
                if ms >= _USED * self.limit_ms:
                    break
            elif kept is not None:
                break
        if kept is None:
            raise BudgetError(f"no channel sizes were measured to keep {self.limit_ms:.3g} ms")
        return kept

    def _measure(self, sizes: Sizes) -> float:
        assert self.confirm is not None
        (ms,) = self.confirm([self.budgets.space.arch(sizes)])
        self.ms_per_flop = ms / self._flops(sizes)
        return ms

    def _flops(self, sizes: Sizes) -> int:
        return int(self.budgets.tables["flops"].exact(sizes))

    def _under(self, flops: float) -> Budgets:
        """Return the budgets that are counted, with the FLOPs that the latency allows."""
        counted = [b for b in self.budgets.budgets if b.cost != LATENCY]
        limit = min([flops, *(b.limit for b in counted if b.cost == "flops")])
        others = [b for b in counted if b.cost != "flops"]
        return Budgets(self.budgets.space, [Budget(cost="flops", limit=limit), *others])

    def costs(self, sizes: Sizes) -> dict[str, float]:
        """Return the costs that can be limited; latency by its last measurement."""
        found = {cost: float(table.exact(sizes)) for cost, table in self.budgets.tables.items()}
        if self.ms_per_flop is not None:
            found[LATENCY] = self.ms_per_flop * self._flops(sizes)
        return found

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed search needs."""
        return {"ms_per_flop": self.ms_per_flop}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        self.ms_per_flop = state["ms_per_flop"]
