"""Times models beside a profile's references, and corrects for the machine's current speed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np

from mobilenas.core.errors import MobileNASError
from mobilenas.core.progress import Reporter
from mobilenas.latency.cache import device
from mobilenas.latency.graphs import arch_model
from mobilenas.latency.measured import WIDEST, Failed, Measured
from mobilenas.latency.meter import measure
from mobilenas.latency.profile import Profile

_ROUNDS, _TRIES = 32, 2


def is_current_device(profile: Profile) -> bool:
    """Whether the profile was measured on this machine with the installed runtime."""
    return dict(profile.device) == device()


def measure_with_references(
    profile: Profile,
    precision: str,
    models: Mapping[str, Callable[[], bytes] | Path],
    reporter: Reporter | None = None,
) -> dict[str, Measured]:
    """Return the times by name, converted to the machine's speed when the profile was made.

    The speed of a machine varies. Whole networks of the profile, timed in the same rounds, tell by
    how much it has changed. If their ratios disagree, all is measured once more, and if they still
    do, times are marked unsteady. MobileNASError if a model does not run.
    """
    group = profile.references[precision]
    references = {
        f"reference {n}": partial(arch_model, r.arch, precision) for n, r in enumerate(group)
    }
    for _ in range(_TRIES):
        results = measure(
            {**models, **references},
            threads=profile.threads,
            provider=profile.provider,
            rounds=_ROUNDS,
            reporter=reporter,
        )
        measured = {name: _of(name, result) for name, result in results.items()}
        now = [measured[name] for name in references]
        ratios = [then.median_ms / ms.median_ms for then, ms in zip(group, now, strict=True)]
        drift = median(ratios)
        busy = any(ms.unsteady for ms in now)
        scattered = busy or _scatter(ratios) > WIDEST * drift
        if busy or not scattered:  # unsteady models were already measured for longer
            break
    found = {name: measured[name].scaled(drift) for name in models}
    return {
        name: replace(time, unsteady=time.unsteady or scattered) for name, time in found.items()
    }


def _scatter(ratios: Sequence[float]) -> float:
    """Return half the interquartile range."""
    first, third = np.percentile(ratios, (25, 75))
    return float(third - first) / 2


def _of(name: str, result: Measured | Failed) -> Measured:
    if isinstance(result, Failed):
        raise MobileNASError(f"{name} {result.reason}")
    return result
