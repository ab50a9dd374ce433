"""Packages that import a name's module when the name is first used.

So settings are read without the torch that other modules of their package import.
"""

import sys
from collections.abc import Callable
from importlib import import_module


def lazy(package: str, **names: str) -> Callable[[str], object]:
    """Return the `__getattr__` of a package; `names` are the names of each module, with spaces."""
    modules = {name: module for module, each in names.items() for name in each.split()}

    def attribute(name: str) -> object:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        found: object = getattr(import_module(f"{package}.{modules[name]}"), name)
        setattr(sys.modules[package], name, found)
        return found

    return attribute
