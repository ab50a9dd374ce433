"""The collapse alarm: signs that a search goes where differentiable searches are known to fail."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

ON_COLLAPSE = ("warn", "stop", "rollback")
"""What an alarm does."""

MOST_SKIPS = 0.5
"""Share of skip connections that is still fine. DARTS+ (Liang et al. 2019) stops at 2 in a normal
cell of 8 edges, before a collapse; more than half is the collapse itself, whatever the size."""
STALL_EPOCHS = 5
"""Epochs over which a stall is judged: the window of Robust DARTS (Zela et al. 2020, section 4.3),
long enough for the noise of single epochs."""
LEAST_FALL = 0.01
"""Share of its value that the entropy falls over them at least, if it is pressed."""
CERTAIN = 0.5
"""Share of its maximum under which an entropy may stand still: its decisions are taken."""
GAP_RISES = 3
"""Rises in a row that are not noise. Robust DARTS watches a curvature that goes with the loss of
accuracy at discretization; here the loss itself is watched."""
GAP_POINTS = 10.0
"""Points of top-1 that these rises add up to at least; the estimate is of few images."""


@dataclass(frozen=True, kw_only=True)
class Signals:
    """What the alarm looks at, of one epoch in which the alphas were trained."""

    epoch: int
    """Number of the epoch in the log."""
    skips: int
    """Skip connections of the normal cell that the alphas say; mobile: blocks left out."""
    kept: int
    """Edges of that cell; mobile: blocks that may be left out."""
    entropy: float
    """Mean over decisions, each divided by its maximum: 0 to 1."""
    entropy_wanted: bool
    """Whether an entropy loss or a falling temperature presses it down."""
    gap_points: float | None
    """Estimate of the discretization gap; None where none was made."""


def alarms(history: Sequence[Signals]) -> list[str]:
    """Return one sentence for each alarm at the last epoch of `history`, which is in order."""
    found = (check(history) for check in (_skips, _entropy, _gap))
    return [sentence for sentence in found if sentence]


def last_good(history: Sequence[Signals]) -> int:
    """Return the number of the last epoch without an alarm, 0 where every epoch has one."""
    for count in range(len(history), 0, -1):
        if not alarms(history[:count]):
            return history[count - 1].epoch
    return 0


def _skips(history: Sequence[Signals]) -> str | None:
    if not history or history[-1].skips <= MOST_SKIPS * history[-1].kept:
        return None
    now = history[-1]
    return f"skip connections dominate: {now.skips} of {now.kept} places are nothing else"


def _entropy(history: Sequence[Signals]) -> str | None:
    window = history[-STALL_EPOCHS - 1 :]
    if len(window) <= STALL_EPOCHS or not all(signals.entropy_wanted for signals in window[1:]):
        return None
    before, now = window[0].entropy, window[-1].entropy
    if now <= CERTAIN or now <= (1 - LEAST_FALL) * before:
        return None
    return (
        f"the entropy stalls: it went from {100 * before:.1f} to {100 * now:.1f} % of its maximum "
        f"in {STALL_EPOCHS} epochs that press it down"
    )


def _gap(history: Sequence[Signals]) -> str | None:
    estimates = [signals.gap_points for signals in history if signals.gap_points is not None]
    last = estimates[-GAP_RISES - 1 :]
    rises = all(after > before for before, after in pairwise(last))
    if len(last) <= GAP_RISES or not rises or last[-1] - last[0] < GAP_POINTS:
        return None
    return (
        f"the gap estimate grows: from {last[0]:.1f} to {last[-1]:.1f} points in "
        f"{GAP_RISES} rises in a row"
    )
