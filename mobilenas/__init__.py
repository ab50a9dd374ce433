"""Neural architecture search for phones: a network that meets a budget, from images to ONNX.

The functions of `mobilenas.api` are imported on first use. Importing this package imports no torch,
so that `mobilenas --help` answers at once.
"""

import os
import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

__version__ = "0.1.0"

# onnxruntime reads this when it is imported: without it, it writes a device id and events to the
# user's cache and sends them. Processes that are started here inherit it.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

if TYPE_CHECKING:
    from mobilenas.api import (
        TrainedNetwork,
        count,
        evaluate,
        export,
        load_data,
        measure,
        mobile_space,
        random_networks,
        run,
        search,
        train,
    )
    from mobilenas.core.errors import MobileNASError
    from mobilenas.spaces.base import Arch

__all__ = [
    "Arch",
    "MobileNASError",
    "TrainedNetwork",
    "count",
    "evaluate",
    "export",
    "load_data",
    "measure",
    "mobile_space",
    "random_networks",
    "run",
    "search",
    "train",
]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("mobilenas.api"), name)


class _CallablePackage(ModuleType):
    """A package that shares its name with a function of the API; calling it calls the function."""

    def __call__(self, *args: object, **options: object) -> object:
        function = getattr(import_module("mobilenas.api"), self.__name__.rpartition(".")[2])
        return function(*args, **options)


for _name in ("search", "train"):
    import_module(f"{__name__}.{_name}")
    sys.modules[f"{__name__}.{_name}"].__class__ = _CallablePackage
