"""Registries of what users choose by name; code outside the package can add entries."""

import re
from collections.abc import Mapping
from typing import TypeVar

from mobilenas.core.errors import MobileNASError

T = TypeVar("T")
_NAME = re.compile(r"[a-z][a-z0-9_-]*")


class Registry(dict[str, T]):
    """The entries of one kind by name: built-in ones and those added by `register`."""

    def __init__(self, kind: str, built_in: Mapping[str, T]) -> None:
        super().__init__(built_in)
        self.kind = kind

    def register(self, name: str, thing: T) -> T:
        """Add an entry under a name that options, files and errors show, and return it.

        MobileNASError if the name is taken, or has characters other than a-z, 0-9, _ and -.
        """
        if name in self:
            raise MobileNASError(f"{self.kind} {name} is registered already; choose another name")
        if not _NAME.fullmatch(name):
            raise MobileNASError(
                f"{self.kind} {name!r} cannot be registered: a name is a letter, then letters, "
                "digits, _ and -, all in lower case"
            )
        self[name] = thing
        return thing
