"""onnxruntime sessions with explicit provider and threads, and without log messages."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as _state

from mobilenas.core.errors import FileError, MobileNASError, first_line
from mobilenas.onnx.settings import PROVIDER

XNNPACK = "XnnpackExecutionProvider"
"""The other provider that can be measured, in builds of onnxruntime that have it."""

_FATAL = 4  # onnxruntime's log level; errors are raised anyway
LOAD_ERRORS = (
    _state.EPFail,
    _state.Fail,
    _state.InvalidArgument,
    _state.InvalidGraph,
    _state.InvalidProtobuf,
    _state.ModelLoadCanceled,
    _state.NoModel,
    _state.NoSuchFile,
    _state.NotImplemented,
    _state.RuntimeException,
    MemoryError,
    RuntimeError,  # pybind's form of any other C++ exception
    UnicodeDecodeError,  # a name in the file, or in a message about it, that is not UTF-8
)
"""Exceptions of onnxruntime for a model that it cannot load or run."""


def session(
    path: Path, threads: int = 1, *, limit_s: float | None = None
) -> onnxruntime.InferenceSession:
    """Open a model on the CPU with `threads` threads; FileError names a file that does not load.

    INT8 results are exact, as on phones. On x86 without VNNI, the fast kernels can overflow their
    16-bit sums; only timing uses those. `limit_s`: time limit for loading in seconds, for a file
    from outside.
    """
    if not path.is_file():
        raise FileError(f"{path} does not exist")
    options = onnxruntime.SessionOptions()
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = _FATAL
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.add_session_config_entry("session.x64quantprecision", "1")
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    with time_limit(limit_s, lambda: options.set_load_cancellation_flag(True)) as expired:
        try:
            # With fallback, it would print to stdout and then run another provider.
            return onnxruntime.InferenceSession(
                source_of(path), options, providers=[PROVIDER], enable_fallback=0
            )
        except LOAD_ERRORS as error:
            if expired.is_set():
                raise FileError(f"{path} did not load in {limit_s:g} s") from error
            raise FileError(
                f"{path} is not an ONNX file that onnxruntime loads: {first_line(error)}"
            ) from error


@contextmanager
def time_limit(seconds: float | None, stop: Callable[[], None]) -> Iterator[threading.Event]:
    """Call `stop` from another thread after `seconds`; the event is set if it was called."""
    expired = threading.Event()

    def expire() -> None:
        expired.set()
        stop()

    if seconds is None:
        yield expired
        return
    timer = threading.Timer(seconds, expire)
    timer.daemon = True
    timer.start()
    try:
        yield expired
    finally:
        timer.cancel()


def check_machine(threads: int, provider: str) -> None:
    """Raise unless this machine has enough cores, and this onnxruntime the provider."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if not 1 <= threads <= (cores or 1):
        raise MobileNASError(
            f"threads is {threads}; it must be at least 1 and at most {cores}, the cores there are"
        )
    available = [
        name for name in onnxruntime.get_available_providers() if name in (PROVIDER, XNNPACK)
    ]
    if provider not in available:
        raise MobileNASError(
            f"provider is {provider!r}; this onnxruntime has {', '.join(available)}"
        )


def source_of(path: Path) -> str | bytes:
    """Return the path, or the file's bytes if its name is not UTF-8, as onnxruntime needs."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return path.read_bytes()
    return str(path)
