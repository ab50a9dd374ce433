"""Files in the ORT format, for builds of onnxruntime that hold only what a model needs."""

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from onnx import TensorProto

from mobilenas.core.errors import FileError
from mobilenas.core.files import write_bytes, write_text
from mobilenas.onnx.checks import read_model
from mobilenas.onnx.ort_table import sorted_table
from mobilenas.onnx.session import session

SUFFIX = ".ort"
"""By which onnxruntime knows the format."""
OPERATORS_SUFFIX = ".required_operators.config"
"""Of the file that a reduced build is made with, beside the model's."""

_TOOL = "onnxruntime.tools.convert_onnx_models_to_ort"
_LEVEL = "ORT_CONVERT_ONNX_MODELS_TO_ORT_OPTIMIZATION_LEVEL"
_NAME = "model"


@dataclass(frozen=True, kw_only=True)
class OrtFiles:
    """What `to_ort` wrote."""

    model: Path
    """The model."""
    operators: Path
    """For `build.sh --include_ops_by_config`: the operators that the model needs."""


def to_ort(source: Path, path: Path) -> OrtFiles:
    """Write an ONNX file in the ORT format to `path`, which ends in `.ort`, and its operators.

    The graph is optimized now and not when it is loaded, for ARM: without the blocked layout of
    x86, so on x86 the file is slower than the ONNX file it comes from. A float16 model keeps its
    weights in float16, but onnxruntime on a machine without float16 kernels, such as x86, writes
    casts around them: the result is small and computes in float32 on any device. A model in 8 bits
    is exact where it is meant to run; on x86 without VNNI its kernels overflow, as `session` says,
    and no option helps. The same source gives the same bytes. FileError names a source that does
    not load.
    """
    if path.suffix != SUFFIX:
        raise FileError(f"{path} must end in {SUFFIX}: onnxruntime knows the format by it")
    session(source)
    # the last level would fold the casts, and with them the weights, into float32
    level = "extended" if _is_half(source) else "all"
    with tempfile.TemporaryDirectory(prefix="mobilenas-ort-") as folder:
        given, made = Path(folder, "given"), Path(folder, "made")
        given.mkdir()
        shutil.copyfile(source, given / f"{_NAME}.onnx")
        _convert(source, given / f"{_NAME}.onnx", made, level)
        (model,) = made.glob(f"*{SUFFIX}")
        (operators,) = made.glob("*.config")
        files = OrtFiles(model=path, operators=path.with_suffix(OPERATORS_SUFFIX))
        lines = operators.read_text(encoding="utf-8").splitlines()
        write_bytes(path, sorted_table(model.read_bytes()))
    # the tool's comment names the temporary folder
    needed = [line for line in lines if not line.startswith("#")]
    write_text(files.operators, "\n".join([f"# Needed by {path.name}", *needed]) + "\n")
    session(path)
    return files


def _convert(source: Path, given: Path, made: Path, level: str) -> None:
    """Run onnxruntime's tool in a process of its own: it prints and sets up logging."""
    done = subprocess.run(
        [
            *(sys.executable, "-P", "-m", _TOOL),
            *("--optimization_style", "Fixed", "--target_platform", "arm"),
            *("--output_dir", str(made), str(given)),
        ],
        capture_output=True,
        text=True,
        env=os.environ | {_LEVEL: level},
        check=False,
    )
    if done.returncode:
        reason = (done.stderr.strip() or done.stdout.strip()).rpartition("\n")[2]
        raise FileError(f"{source} could not be written in the ORT format: {reason}")


def _is_half(source: Path) -> bool:
    graph = read_model(source).graph
    return any(tensor.data_type == TensorProto.FLOAT16 for tensor in graph.initializer)
