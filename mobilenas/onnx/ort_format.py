"""Files in the ORT format, for reduced builds of onnxruntime."""

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
"""Suffix by which onnxruntime recognizes the format."""
OPERATORS_SUFFIX = ".required_operators.config"
"""Suffix of the file that configures a reduced build, beside the model."""

_TOOL = "onnxruntime.tools.convert_onnx_models_to_ort"
_LEVEL = "ORT_CONVERT_ONNX_MODELS_TO_ORT_OPTIMIZATION_LEVEL"
_NAME = "model"


@dataclass(frozen=True, kw_only=True)
class OrtFiles:
    """Files written by `to_ort`."""

    model: Path
    """The model."""
    operators: Path
    """The operators that the model needs, for `build.sh --include_ops_by_config`."""


def to_ort(source: Path, path: Path) -> OrtFiles:
    """Write an ONNX file in the ORT format to `path` (.ort), and its operators beside it.

    The graph is optimized now instead of at loading, for ARM: without the blocked layout of x86,
    where the file is slower than its ONNX source. A float16 model keeps float16 weights, but if
    this machine has no float16 kernels, such as x86, onnxruntime adds casts: the file is small and
    computes in float32 on any device. An INT8 model is exact on ARM; on x86 without VNNI its
    kernels overflow (see `session`), which no option prevents. The same source gives the same
    bytes. FileError names a source that does not load.
    """
    if path.suffix != SUFFIX:
        raise FileError(f"{path} must end in {SUFFIX}: onnxruntime knows the format by it")
    session(source)
    # the highest level would fold casts, and turn the weights into float32
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
    # comments of the tool name the temporary folder
    needed = [line for line in lines if not line.startswith("#")]
    write_text(files.operators, "\n".join([f"# Needed by {path.name}", *needed]) + "\n")
    session(path)
    return files


def _convert(source: Path, given: Path, made: Path, level: str) -> None:
    """Run onnxruntime's tool in a separate process, because it prints and configures logging."""
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
