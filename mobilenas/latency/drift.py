"""Removes the effect of a machine's changes of speed from a measurement."""

from collections.abc import Collection, Mapping, Sequence

import numpy as np

MIN_MODELS = 5
"""With fewer models in a round, the median would be mostly noise."""


def remove_drift(
    rounds: Sequence[Mapping[str, float]], references: Collection[str] = ()
) -> dict[str, list[float]]:
    """Return the times of each model, divided by the slowdown of their round."""
    corrected: dict[str, list[float]] = {}
    for measured, factor in zip(rounds, slowdowns(rounds, references), strict=True):
        for name, ns in measured.items():
            corrected.setdefault(name, []).append(ns / factor)
    return corrected


def slowdowns(
    rounds: Sequence[Mapping[str, float]], references: Collection[str] = ()
) -> list[float]:
    """Return how much slower than usual the machine was in each round.

    The speed of a machine varies between rounds by up to a half. The slowdown is the median of time
    / (the model's median time) over the models of a round. If rounds have different models, it is
    computed from `references`, which must be in every round.
    """
    times: dict[str, list[float]] = {}
    for measured in rounds:
        for name, ns in measured.items():
            if not references or name in references:
                times.setdefault(name, []).append(ns)
    usual = {name: float(np.median(values)) for name, values in times.items()}
    ratios = ([ns / usual[name] for name, ns in m.items() if name in usual] for m in rounds)
    return [float(np.median(slow)) if len(slow) >= MIN_MODELS else 1.0 for slow in ratios]
