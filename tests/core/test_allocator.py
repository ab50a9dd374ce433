"""What glibc does with freed memory."""

import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="other allocators are left as they are"
)

_SCRIPT = """
import ctypes, resource
from mobilenas.core.allocator import keep_freed_memory
keep_freed_memory()
libc, size = ctypes.CDLL(None), 64 << 20
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
faults = []
for _ in range(2):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = libc.malloc(size)
    ctypes.memset(block, 1, size)
    libc.free(block)
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(*faults)
"""


def faults(environment: dict[str, str]) -> tuple[int, int]:
    """Return the page faults of the first and of the second block of 64 MB."""
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT], capture_output=True, text=True, check=True, env=environment
    )
    first, second = map(int, done.stdout.split())
    return first, second


def test_freed_memory_is_used_again_without_a_page_fault() -> None:
    first, second = faults({})
    assert second < 10 < first


def test_settings_of_malloc_in_the_environment_take_precedence() -> None:
    first, second = faults({"MALLOC_TOP_PAD_": "131072"})
    assert min(first, second) > 10
