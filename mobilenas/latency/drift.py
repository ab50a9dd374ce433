"""What a machine's changes of speed did to a measurement, taken out of it."""

from collections.abc import Collection, Mapping, Sequence

import numpy as np

MIN_MODELS = 5
"""Of fewer models the median would be their noise."""


def remove_drift(
    rounds: Sequence[Mapping[str, float]], references: Collection[str] = ()
) -> dict[str, list[float]]:
    """Return the times of each model without what slowed all models of a round."""
    corrected: dict[str, list[float]] = {}
    for measured, factor in zip(rounds, slowdowns(rounds, references), strict=True):
        for name, ns in measured.items():
            corrected.setdefault(name, []).append(ns / factor)
    return corrected


def slowdowns(
    rounds: Sequence[Mapping[str, float]], references: Collection[str] = ()
) -> list[float]:
    """Return how much slower than usual the machine was in each round.

    A machine changes its speed between rounds, by up to half. The median over a round's models of
    time / median time of the model says by how much. Where rounds have different models, only
    those that are in every round can say it: the `references`.
    """
    times: dict[str, list[float]] = {}
    for measured in rounds:
        for name, ns in measured.items():
            if not references or name in references:
                times.setdefault(name, []).append(ns)
    usual = {name: float(np.median(values)) for name, values in times.items()}
    ratios = ([ns / usual[name] for name, ns in m.items() if name in usual] for m in rounds)
    return [float(np.median(slow)) if len(slow) >= MIN_MODELS else 1.0 for slow in ratios]
