"""Make glibc's malloc reuse freed memory."""

import ctypes
import os
import sys

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
"""Constants of glibc's malloc.h."""
_LARGEST = 2**31 - 1


def keep_freed_memory() -> None:
    """Let glibc keep freed memory for the next tensor instead of returning it to the system.

    By default every tensor above 32 MB gets fresh memory, which the system clears page by page: 30
    to 40 % of the processor time of a training (docs/results/recipes.md). malloc settings in the
    environment take precedence. Does nothing on systems without glibc.
    """
    given = any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ)
    if given or sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, _LARGEST)
