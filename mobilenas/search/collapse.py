"""The collapse alarm: detects known failures of differentiable searches."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

SKIPS = "skip connections dominate"
UTILIZATION = "the budget is left unused"
ENTROPY = "the entropy stalls"
GAP = "the gap estimate grows"

MAX_SKIPS = 0.5
"""Maximum share of skip connections. DARTS+ (Liang et al. 2019) stops at 2 in a normal cell of 8
edges, before a collapse; more than half is the collapse itself, at any size of cell."""
MIN_UTILIZATION = 0.5
"""Minimum utilization of the most probable network, in a chain. Omitted blocks are no sign of a
collapse as long as wider or larger blocks use the budget, which limits depth. The budget does not
explain a network that uses less than half of it."""
STALL_EPOCHS = 5
"""Epochs over which the entropy may stall: the window of Robust DARTS (Zela et al. 2020, section
4.3), long enough to average out the noise of single epochs."""
MIN_FALL = 0.01
"""Minimum relative decrease of the entropy over these epochs, while something lowers it."""
DECIDED = 0.5
"""Share of its maximum below which the entropy may stall, because the alphas have decided."""
GAP_RISES = 3
"""Consecutive rises of the gap that are not noise. Robust DARTS monitors a curvature that
correlates with the accuracy lost by discretization; here, that loss itself is monitored."""
GAP_POINTS = 10.0
"""Minimum sum of these rises, in points of top-1, because the estimate is from few images."""


@dataclass(frozen=True, kw_only=True)
class Signals:
    """The alarm's inputs from one epoch in which the alphas were trained."""

    epoch: int
    """Number of the epoch in the log."""
    skips: int
    """Skip connections in the normal cell of the most probable network; 0 in a chain."""
    kept: int
    """Edges of that cell; 0 in a chain."""
    utilization: float | None
    """Utilization of the most probable network of a chain; None if no budget requires it: in cells,
    and with a penalty, whose strength determines the size."""
    entropy: float
    """Mean over decisions of entropy / maximum, 0 to 1."""
    entropy_wanted: bool
    """Whether an entropy loss or a falling temperature lowers it."""
    gap_points: float | None
    """Estimate of the discretization gap in points of top-1; None without one."""


def alarms(history: Sequence[Signals]) -> list[str]:
    """Return a sentence for each alarm at the last epoch of `history`, which is in order.

    It begins with the alarm's name and a colon; then follow figures, meaning and remedy.
    """
    found = (check(history) for check in (_skips, _utilization, _entropy, _gap))
    return [sentence for sentence in found if sentence]


def last_good(history: Sequence[Signals]) -> int:
    """Return the number of the last epoch without an alarm; 0 if every epoch has one."""
    for count in range(len(history), 0, -1):
        if not alarms(history[:count]):
            return history[count - 1].epoch
    return 0


def _skips(history: Sequence[Signals]) -> str | None:
    if not history or history[-1].skips <= MAX_SKIPS * history[-1].kept:
        return None
    now = history[-1]
    return (
        f"{SKIPS}: {now.skips} of the {now.kept} edges of the normal cell; they have no weights to "
        "train, so they lead early, and such cells end up worse; try --on-collapse rollback, fewer "
        "--search-epochs, or --method adarts or da2s"
    )


def _utilization(history: Sequence[Signals]) -> str | None:
    if not history or (used := history[-1].utilization) is None or used >= MIN_UTILIZATION:
        return None
    return (
        f"{UTILIZATION}: the most probable network uses {100 * used:.0f} % of it, so the solver "
        "fills the budget and not the alphas, which mostly leave blocks out: they have "
        "learned little about what depth is worth; the deeper finalists correct for it; try more "
        "--search-epochs, or --sampler full, which gives every block all channels"
    )


def _entropy(history: Sequence[Signals]) -> str | None:
    window = history[-STALL_EPOCHS - 1 :]
    if len(window) <= STALL_EPOCHS or not all(signals.entropy_wanted for signals in window[1:]):
        return None
    before, now = window[0].entropy, window[-1].entropy
    if now <= DECIDED or now <= (1 - MIN_FALL) * before:
        return None
    return (
        f"{ENTROPY}: it went from {100 * before:.1f} to {100 * now:.1f} % of its maximum in "
        f"{STALL_EPOCHS} epochs of entropy loss, so the alphas do not decide, and the solver "
        "picks among near ties; try more --search-epochs, a larger --entropy or a lower end of "
        "--temperature"
    )


def _gap(history: Sequence[Signals]) -> str | None:
    estimates = [signals.gap_points for signals in history if signals.gap_points is not None]
    last = estimates[-GAP_RISES - 1 :]
    rises = all(after > before for before, after in pairwise(last))
    if len(last) <= GAP_RISES or not rises or last[-1] - last[0] < GAP_POINTS:
        return None
    return (
        f"{GAP}: from {last[0]:.1f} to {last[-1]:.1f} points in {GAP_RISES} rises in a row, so the "
        "supernet settles on mixtures that no single network has; try --on-collapse "
        "rollback, --entropy, or a lower end of --temperature"
    )
