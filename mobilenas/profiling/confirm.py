"""Whole models timed beside a profile's references, in the profile's milliseconds."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from statistics import median

from mobilenas.errors import MobileNASError
from mobilenas.profiling.cache import device
from mobilenas.profiling.graphs import arch_model
from mobilenas.profiling.meter import Failed, Measured, measure
from mobilenas.profiling.profile import Profile

_ROUNDS = 32


def is_here(profile: Profile) -> bool:
    """Whether the profile was measured on this machine, with the runtime that is installed."""
    return dict(profile.device) == device()


def confirm(
    profile: Profile, precision: str, models: Mapping[str, Callable[[], bytes] | Path]
) -> dict[str, Measured]:
    """Return times by name, as they would have been when the profile was made.

    A machine is not always equally fast: whole networks of the profile, timed in the same rounds,
    say by how much it differs from then. MobileNASError where a model does not run.
    """
    then_ms = {f"reference {n}": r.median_ms for n, r in enumerate(profile.references[precision])}
    references = {
        f"reference {n}": partial(arch_model, r.arch, precision)
        for n, r in enumerate(profile.references[precision])
    }
    results = measure(
        {**models, **references},
        threads=profile.threads,
        provider=profile.provider,
        rounds=_ROUNDS,
    )
    measured = {name: _of(name, result) for name, result in results.items()}
    drift = median(then_ms[name] / measured[name].median_ms for name in references)
    return {name: measured[name].scaled(drift) for name in models}


def _of(name: str, result: Measured | Failed) -> Measured:
    if isinstance(result, Failed):
        raise MobileNASError(f"{name} {result.reason}")
    return result
