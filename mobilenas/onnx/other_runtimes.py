"""Formats of other runtimes: written from the module, and run in their runtime.

Each is an entry of `RUNTIMES`, to which code outside the package can add.
"""

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mobilenas.core.errors import MobileNASError
from mobilenas.core.registry import Registry

Runner = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""float32 [1, C, S, S] -> logits [1, classes]."""


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """A runtime other than onnxruntime, and its file format."""

    suffix: str
    """Suffix of its files, such as .tflite."""
    write: Callable[[nn.Module, Tensor, Path], object]
    """Writes a module in eval mode to a file, given an example input [1, C, S, S]."""
    open: Callable[[Path], Runner]
    """Opens a file in its runtime."""
    packages: tuple[str, ...] = ()
    """Python packages that it needs; the extra that installs them has the format's name."""
    all_cores: bool = False
    """Whether the runtime always uses a thread per core."""


def check_installed(form: str) -> None:
    """Raise MobileNASError, which names the extra, if a format's packages are missing."""
    for module in RUNTIMES[form].packages:
        with _extra(form):
            if find_spec(module) is None:
                raise ModuleNotFoundError(f"No module named {module!r}")


def convert(module: nn.Module, form: str, path: Path, *, channels: int, image_size: int) -> None:
    """Write a module in float32 to `path`; MobileNASError names a missing extra.

    The files have no metadata; labels, mean and std are in export.json and model.onnx.
    """
    with _quiet(), _extra(form):
        RUNTIMES[form].write(module.eval(), torch.zeros(1, channels, image_size, image_size), path)


def runner(form: str, path: Path) -> Runner:
    """Open a file in its own runtime."""
    with _quiet(), _extra(form):
        return RUNTIMES[form].open(path)


def _write_litert(module: nn.Module, example: Tensor, path: Path) -> None:
    import litert_torch

    litert_torch.convert(module, (example,)).export(str(path))


def _write_executorch(module: nn.Module, example: Tensor, path: Path) -> None:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    program = torch.export.export(module, (example,))
    lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
    path.write_bytes(lowered.to_executorch().buffer)


def _open_litert(path: Path) -> Runner:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=1)
    interpreter.allocate_tensors()
    (given,), (made,) = interpreter.get_input_details(), interpreter.get_output_details()

    def run(image: NDArray[np.float32]) -> NDArray[np.float32]:
        interpreter.set_tensor(given["index"], image)
        interpreter.invoke()
        return np.array(interpreter.get_tensor(made["index"]))

    return run


def _open_executorch(path: Path) -> Runner:
    from executorch.runtime import Runtime

    program = Runtime.get().load_program(path)
    method = program.load_method("forward")

    def run(image: NDArray[np.float32]) -> NDArray[np.float32]:
        (logits,) = method.execute([torch.from_numpy(image)])
        copied: NDArray[np.float32] = logits.numpy().copy()
        return copied

    return run


@contextlib.contextmanager
def _extra(name: str) -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        if not RUNTIMES[name].packages:
            raise
        raise MobileNASError(
            f"format {name} needs a package that is not installed ({error}): "
            f"pip install 'mobilenas[{name}]'"
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress output, log messages and warnings of the converters."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logging.disable(disabled)


RUNTIMES = Registry[Runtime](
    "format",
    {
        "litert": Runtime(
            suffix=".tflite",
            write=_write_litert,
            open=_open_litert,
            packages=("litert_torch", "ai_edge_litert"),
        ),
        "executorch": Runtime(
            suffix=".pte",
            write=_write_executorch,
            open=_open_executorch,
            packages=("executorch",),
            all_cores=True,
        ),
    },
)
"""Runtimes by the name of their format."""
