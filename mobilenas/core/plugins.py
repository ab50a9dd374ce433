"""Plugins: installed packages that register things of their own for the command line."""

from importlib.metadata import entry_points

from mobilenas.core.errors import MobileNASError

GROUP = "mobilenas.plugins"
"""Group of the entry points that name a module to import (docs/extending.md)."""


def load_plugins() -> None:
    """Import the modules that installed packages name; MobileNASError for one that is not there."""
    for entry in entry_points(group=GROUP):
        try:
            entry.load()
        except (ImportError, AttributeError) as error:
            raise MobileNASError(
                f"plugin {entry.name} ({entry.value}) cannot be imported: {error}; "
                "repair or uninstall its package"
            ) from error
