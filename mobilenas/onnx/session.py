"""An onnxruntime session with nothing left to chance: provider, threads, no log lines."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as _state

from mobilenas.core.errors import FileError, MobileNASError, first_line

PROVIDER = "CPUExecutionProvider"
"""The execution provider of every session, unless one is asked for."""
XNNPACK = "XnnpackExecutionProvider"
"""The other provider that can be measured, in builds of onnxruntime that have it."""

_FATAL = 4  # onnxruntime's log level; its errors come as exceptions anyway
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
    RuntimeError,  # what pybind makes of any other C++ exception
    UnicodeDecodeError,  # a name in the file, or in a message about it, that is not UTF-8
)
"""What onnxruntime raises for a model that it does not load or run."""


class RefusedError(MobileNASError):
    """A model that onnxruntime does not load or run; the message goes on after the model's name."""


def session(path: Path, threads: int = 1, *, limit_s: float | None = None) -> Any:
    """Open a model on the CPU with `threads` threads; FileError names a file that does not load.

    Its answers are those of exact 8-bit arithmetic, as phones have it. On x86 without VNNI the
    fast kernels overflow 16 bits where many large products meet; what is timed runs those.
    `limit_s`: seconds after which loading stops, for a file from outside.
    """
    options = _options()
    options.add_session_config_entry("session.x64quantprecision", "1")
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    with time_limit(limit_s, lambda: options.set_load_cancellation_flag(True)) as expired:
        try:
            return _open(path, options, [PROVIDER])
        except RefusedError as error:
            if expired.is_set():
                raise FileError(f"{path} did not load in {limit_s:g} s") from error
            raise FileError(f"{path} {error}") from error


@contextmanager
def time_limit(seconds: float | None, stop: Callable[[], None]) -> Iterator[threading.Event]:
    """Call `stop` from another thread after so many seconds; the event tells that it was called."""
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


def share(threads: int, provider: str) -> None:
    """Make this process's threads and memory arena, once, for all its `shared_session`s.

    Of its own, each of 1300 sessions would keep the memory of its largest tensors and, with more
    than one thread, threads.
    """
    onnxruntime.set_global_thread_pool_sizes(1 if provider == XNNPACK else threads, 1)
    onnxruntime.create_and_register_allocator(
        onnxruntime.OrtMemoryInfo(
            "Cpu",
            onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR,
            0,
            onnxruntime.OrtMemType.DEFAULT,
        ),
        onnxruntime.OrtArenaCfg({}),
    )


def shared_session(path: Path, threads: int, provider: str) -> Any:
    """Open a model with what `share` made; RefusedError says why one does not load."""
    options = _options()
    options.use_per_session_threads = False
    options.add_session_config_entry("session.use_env_allocators", "1")
    # Weights stay as long as the session: in the arena they would split its memory.
    options.add_session_config_entry("session.use_device_allocator_for_initializers", "1")
    # XNNPACK brings threads of its own; onnxruntime's would only be in their way.
    own = {"intra_op_num_threads": str(threads)} if provider == XNNPACK else {}
    return _open(path, options, [(provider, own)])


def check_machine(threads: int, provider: str) -> None:
    """Raise unless this machine has so many cores and this onnxruntime the provider."""
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


def _options() -> Any:
    options = onnxruntime.SessionOptions()
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = _FATAL
    # Threads that go on spinning after a run would slow down the next session's run.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return options


def source_of(path: Path) -> str | bytes:
    """Return what onnxruntime takes: a name that is not UTF-8 it does not, but the file's bytes."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return path.read_bytes()
    return str(path)


def _open(path: Path, options: Any, providers: list[Any]) -> Any:
    if not path.is_file():
        raise RefusedError("does not exist")
    try:
        # Its fallback would print to stdout and then measure another provider.
        return onnxruntime.InferenceSession(
            source_of(path), options, providers=providers, enable_fallback=0
        )
    except LOAD_ERRORS as error:
        raise RefusedError(
            f"is not an ONNX file that onnxruntime loads: {first_line(error)}"
        ) from error
