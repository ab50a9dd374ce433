"""Lazy packages: a module is imported when one of its names is first used.

So settings can be read without torch, which other modules of their package import.
"""

import sys
from collections.abc import Callable
from importlib import import_module


def lazy(package: str, **names: str) -> Callable[[str], object]:
    """Return a `__getattr__` for `package`; `names`: each module's names, separated by spaces."""
    modules = {name: module for module, each in names.items() for name in each.split()}

    def attribute(name: str) -> object:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        found: object = getattr(import_module(f"{package}.{modules[name]}"), name)
        setattr(sys.modules[package], name, found)
        return found

    return attribute
