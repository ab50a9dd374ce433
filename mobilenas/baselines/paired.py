"""One test for every comparison over seeds: "better" is what it shows, and nothing else."""

from collections.abc import Sequence
from statistics import fmean, stdev

from mobilenas.baselines.records import Difference, MeanStd

BETTER, WORSE, OPEN = "better", "worse", "no difference shown"
LEVEL = 0.05
"""A smaller p value is a difference; nothing is corrected for the number of comparisons."""
MIN_SEEDS = 3
"""From fewer seeds no difference is claimed."""

# differences of percentages that are equal but for rounding
_NO_SPREAD = 1e-9


def mean_std(values: Sequence[float]) -> MeanStd:
    """Return mean and sample standard deviation; None for the latter of one value."""
    return MeanStd(mean=fmean(values), sd=stdev(values) if len(values) > 1 else None)


def difference(own: Sequence[float], control: Sequence[float]) -> Difference:
    """Return how two kinds of networks differ over the same seeds, in points of top-1.

    `mean` and `sd` of the paired differences, `seeds`, the two-sided `p` of a paired t-test, and
    the `verdict`. From fewer than three seeds, or where every seed differs by the same, there is
    no p value. The t-test supposes normal differences; an exact test by flipped signs does not, but
    its p cannot fall under 2^(1-n) for n seeds, 0.25 for three, so that it would need six.
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
    """Write a difference and what it rests on: `+1.05 ± 0.21 points over 4 seeds (p = 0.013)`."""
    points = f"{found.mean:+.2f}"
    if found.sd is None:
        return f"{points} points, one seed"
    tested = "no spread to test" if found.p is None else f"p = {found.p:.2g}"
    if found.seeds < MIN_SEEDS:
        tested = f"a test needs {MIN_SEEDS}"
    return f"{points} ± {found.sd:.2f} points over {found.seeds} seeds ({tested})"
