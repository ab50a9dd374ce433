"""Plugins: installed packages that add entries to the registries."""

from importlib.metadata import entry_points

from mobilenas.core.errors import MobileNASError

GROUP = "mobilenas.plugins"
"""Entry point group; an entry names a module to import (docs/extending.md)."""


def load_plugins() -> None:
    """Import the modules that installed packages name; MobileNASError if one fails."""
    for entry in entry_points(group=GROUP):
        try:
            entry.load()
        except (ImportError, AttributeError) as error:
            raise MobileNASError(
                f"plugin {entry.name} ({entry.value}) cannot be imported: {error}; "
                "repair or uninstall its package"
            ) from error
