"""Files for LiteRT and ExecuTorch, written from the module and run in their own runtimes."""

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from mobilenas.core.errors import MobileNASError

SUFFIXES = {"litert": ".tflite", "executorch": ".pte"}
"""Of the files, by format; each format is also the name of the extra that it needs."""

_MODULES = {"litert": ("litert_torch", "ai_edge_litert"), "executorch": ("executorch",)}
Runner = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""float32 [1, C, S, S] -> logits [1, classes]."""


def check_installed(form: str) -> None:
    """Raise MobileNASError that names the extra, if a format's packages are not here."""
    for module in _MODULES[form]:
        with _extra(form):
            if find_spec(module) is None:
                raise ModuleNotFoundError(f"No module named {module!r}")


def convert(module: nn.Module, form: str, path: Path, *, channels: int, image_size: int) -> None:
    """Write a module in float32 to `path`; MobileNASError names the extra that is missing.

    The files hold no metadata: labels, mean and std stand in export.json and in model.onnx.
    """
    example = (torch.zeros(1, channels, image_size, image_size),)
    with _quiet():
        if form == "litert":
            with _extra(form):
                import litert_torch
            litert_torch.convert(module.eval(), example).export(str(path))
            return
        with _extra(form):
            from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
            from executorch.exir import to_edge_transform_and_lower
        program = torch.export.export(module.eval(), example)
        lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
        path.write_bytes(lowered.to_executorch().buffer)


def runner(form: str, path: Path) -> Runner:
    """Open a file in its own runtime, with XNNPACK's kernels."""
    with _quiet():
        return _litert(path) if form == "litert" else _executorch(path)


def _litert(path: Path) -> Runner:
    with _extra("litert"):
        from ai_edge_litert.interpreter import Interpreter
    interpreter = Interpreter(str(path), num_threads=1)
    interpreter.allocate_tensors()
    (given,), (made,) = interpreter.get_input_details(), interpreter.get_output_details()

    def run(image: NDArray[np.float32]) -> NDArray[np.float32]:
        interpreter.set_tensor(given["index"], image)
        interpreter.invoke()
        return np.array(interpreter.get_tensor(made["index"]))

    return run


def _executorch(path: Path) -> Runner:
    with _extra("executorch"):
        from executorch.runtime import Runtime
    program: Any = Runtime.get().load_program(path)
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
        raise MobileNASError(
            f"format {name} needs a package that is not here ({error}): "
            f"pip install 'mobilenas[{name}]'"
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hold back what the converters print, log and warn of their own deprecated names."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logging.disable(disabled)
