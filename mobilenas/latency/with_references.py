"""Whole models timed beside a profile's references, in the profile's milliseconds."""

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
    """Whether the profile was measured on this machine, with the runtime that is installed."""
    return dict(profile.device) == device()


def measure_with_references(
    profile: Profile,
    precision: str,
    models: Mapping[str, Callable[[], bytes] | Path],
    reporter: Reporter | None = None,
) -> dict[str, Measured]:
    """Return times by name, as they would have been when the profile was made.

    A machine is not always equally fast: whole networks of the profile, timed in the same rounds,
    say by how much it differs from then. Where they do not agree, all is measured once more, and
    then called unsteady. MobileNASError where a model does not run.
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
        if busy or not scattered:  # what is unsteady was repeated for long already
            break
    found = {name: measured[name].scaled(drift) for name in models}
    return {
        name: replace(time, unsteady=time.unsteady or scattered) for name, time in found.items()
    }


def _scatter(ratios: Sequence[float]) -> float:
    """Half the range between the quartiles."""
    first, third = np.percentile(ratios, (25, 75))
    return float(third - first) / 2


def _of(name: str, result: Measured | Failed) -> Measured:
    if isinstance(result, Failed):
        raise MobileNASError(f"{name} {result.reason}")
    return result
