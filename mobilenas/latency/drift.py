"""What a machine's changes of speed did to a measurement, taken out of it."""

from collections.abc import Mapping, Sequence

import numpy as np

_MIN_MODELS = 5


def remove_drift(rounds: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    """Return the times of each model without what slowed all models of a round.

    A machine changes its speed between rounds, by up to half. The median over a round's models of
    time / median time of the model says by how much; of fewer than five it would be their noise.
    """
    times: dict[str, list[float]] = {}
    for measured in rounds:
        for name, ns in measured.items():
            times.setdefault(name, []).append(ns)
    usual = {name: float(np.median(values)) for name, values in times.items()}
    corrected: dict[str, list[float]] = {name: [] for name in times}
    for measured in rounds:
        slow = [ns / usual[name] for name, ns in measured.items()]
        factor = float(np.median(slow)) if len(slow) >= _MIN_MODELS else 1.0
        for name, ns in measured.items():
            corrected[name].append(ns / factor)
    return corrected
