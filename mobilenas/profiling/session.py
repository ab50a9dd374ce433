"""An onnxruntime session with nothing left to chance: provider, threads, no log lines."""

from pathlib import Path
from typing import Any

import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as _state

from mobilenas.errors import FileError

PROVIDER = "CPUExecutionProvider"
"""The execution provider of every session."""

_FATAL = 4  # onnxruntime's log level; its errors come as exceptions anyway
_LOAD_ERRORS = (
    _state.EPFail,
    _state.Fail,
    _state.InvalidArgument,
    _state.InvalidGraph,
    _state.InvalidProtobuf,
    _state.NoModel,
    _state.NoSuchFile,
    _state.NotImplemented,
    _state.RuntimeException,
)


def session(path: Path, threads: int = 1) -> Any:
    """Open a model on the CPU with `threads` threads; FileError names a file that does not load."""
    if not path.is_file():
        raise FileError(f"{path} does not exist")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = _FATAL
    # Threads that go on spinning after a run would slow down the next session's run.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=[PROVIDER])
    except _LOAD_ERRORS as error:
        reason = str(error).partition("\n")[0]
        raise FileError(f"{path} is not an ONNX file that onnxruntime loads: {reason}") from error
