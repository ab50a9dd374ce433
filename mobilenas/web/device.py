"""Interprets what a browser reports about its device."""

from mobilenas.core.settings import readable
from mobilenas.web.records import Opening


def threads_of(opening: Opening, requested: int) -> int:
    """Return the number of threads for the page: up to its cores, 1 without isolation."""
    return min(requested, opening.cores) if opening.isolated else 1


def device_of(opening: Opening, name: str = "") -> dict[str, str | int]:
    """Describe the device as in profiles; `name` replaces the browser's name of it."""
    model, system = readable(opening.model), readable(opening.system)
    device: dict[str, str | int] = {
        "cpu": name or model or system or "unknown",
        "cores": opening.cores,
        "os": system or "unknown",
        "browser": readable(opening.browser),
    }
    return device | ({"gpu": readable(opening.gpu)} if opening.gpu else {})
