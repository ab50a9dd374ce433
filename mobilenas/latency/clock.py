"""Timing on a processor that other programs may use, too."""

import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

if sys.platform != "win32":
    import resource

_TRIES = 3
"""A timing that other programs disturb is made again, up to this often in all."""
_SLICE_NS = 4_000_000
"""A longer one is not: no scheduler would leave it the processor for so long."""
_MOST_OF_IT = 1.05
"""Wall time over processor time up to which a thread had the processor to itself."""


class Timing(NamedTuple):
    """How long one run took."""

    ns: int
    """Nanoseconds."""
    disturbed: bool
    """Whether other programs took the processor away meanwhile."""


def timed(run: Callable[[], Any], repeats: int, threads: int) -> Timing:
    """Time `repeats` runs, one after another, that use `threads` threads.

    One thread is timed by what it used of the processor, so that waiting for it does not count;
    what caches lose meanwhile still does. Several are timed by the wall: one that waits for another
    uses the processor as well. So is one on Windows, whose clock of threads has ticks of 16 ms.
    """
    own_clock = threads == 1 and sys.platform != "win32"
    timing, used_ns = _once(run, repeats, own_clock=own_clock)
    for _ in range(1, _TRIES):
        if not timing.disturbed or used_ns > _SLICE_NS:
            break
        again, used_ns = _once(run, repeats, own_clock=own_clock)
        timing = min(timing, again, key=lambda each: (each.disturbed, each.ns))
    return timing


def _once(run: Callable[[], Any], repeats: int, *, own_clock: bool) -> tuple[Timing, int]:
    """Return one timing, and for how long this thread had the processor in it."""
    switches, wall, used = _switches(), time.perf_counter_ns(), time.thread_time_ns()
    for _ in range(repeats):
        run()
    used, wall = time.thread_time_ns() - used, time.perf_counter_ns() - wall
    alone = wall <= _MOST_OF_IT * used if own_clock else _switches() == switches
    took = used if own_clock else wall
    return Timing(max(1, round(took / repeats)), not alone), used


def _switches() -> int:
    """How often a thread of this process had to give way to another program; 0 on Windows."""
    if sys.platform == "win32":
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
