"""The one test for comparisons over seeds: only what it shows is called better."""

from collections.abc import Sequence
from statistics import fmean, stdev

from mobilenas.baselines.records import Difference, MeanStd

BETTER, WORSE, OPEN = "better", "worse", "no difference shown"
LEVEL = 0.05
"""Significance level of p values, without correction for multiple comparisons."""
MIN_SEEDS = 3
"""With fewer seeds, no difference is claimed."""

# differences of percentages, equal except for rounding
_NO_SPREAD = 1e-9


def mean_std(values: Sequence[float]) -> MeanStd:
    """Return mean and sample standard deviation, the latter None for a single value."""
    return MeanStd(mean=fmean(values), sd=stdev(values) if len(values) > 1 else None)


def difference(own: Sequence[float], control: Sequence[float]) -> Difference:
    """Return the paired difference of two kinds of networks over seeds, in top-1 points.

    `p` is that of a two-sided paired t-test. It is None with fewer than three seeds, or if the
    difference is the same for all. The t-test assumes normal differences. An exact sign-flip test
    does not, but its p is at least 2^(1-n) for n seeds, 0.25 for three, so it would need six.
    """
    points = [a - b for a, b in zip(own, control, strict=True)]
    figures, p = mean_std(points), None
    if len(points) >= MIN_SEEDS and (figures.sd or 0.0) > _NO_SPREAD:
        from scipy.stats import ttest_rel

        p = float(ttest_rel(own, control).pvalue)
    shown = p is not None and p < LEVEL
    verdict = (BETTER if figures.mean > 0 else WORSE) if shown else OPEN
    return Difference(mean=figures.mean, sd=figures.sd, seeds=len(points), p=p, verdict=verdict)


def format_difference(found: Difference) -> str:
    """Format a difference: `+1.05 ± 0.21 points over 4 seeds (p = 0.013)`."""
    points = f"{found.mean:+.2f}"
    if found.sd is None:
        return f"{points} points, one seed"
    tested = "no spread to test" if found.p is None else f"p = {found.p:.2g}"
    if found.seeds < MIN_SEEDS:
        tested = f"a test needs {MIN_SEEDS}"
    return f"{points} ± {found.sd:.2f} points over {found.seeds} seeds ({tested})"
