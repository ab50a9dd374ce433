"""Device profiles by name: the user's own, and those shipped with mobilenas."""

import difflib
import importlib.resources
import os
from pathlib import Path

from mobilenas.latency.profile import Profile, ProfileError, check_name, read_profile

_SHIPPED = "mobilenas.profiles"


def profile_path(name: str) -> Path:
    """Return the path of the user's profile of this name, whether it exists or not."""
    check_name(name)
    return _user_folder() / f"{name}.json"


def remove_profile(name: str) -> Path:
    """Delete the user's profile of this name; return its path."""
    path = profile_path(name)
    if not path.is_file():
        shipped = name in list_profiles()
        reason = "comes with mobilenas and stays" if shipped else "there is none of this name"
        raise ProfileError(f"cannot remove profile {name!r}: {reason}")
    path.unlink()
    return path


def list_profiles() -> dict[str, Path]:
    """Return all named profiles; the user's own take precedence over shipped ones."""
    shipped = Path(str(importlib.resources.files(_SHIPPED)))
    paths = [path for folder in (shipped, _user_folder()) for path in sorted(folder.glob("*.json"))]
    return dict(sorted({path.stem: path for path in paths}.items()))


def find_profile(name_or_path: str | Path) -> Profile:
    """Read the profile of this name, or at this path."""
    text = str(name_or_path)
    if isinstance(name_or_path, Path) or text.endswith(".json") or Path(text).name != text:
        return read_profile(Path(text))
    known = list_profiles()
    if text not in known:
        near = difflib.get_close_matches(text, known, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise ProfileError(f"no profile {text!r}; {hint}`mobilenas profile list` names all")
    return read_profile(known[text])


def _user_folder() -> Path:
    if own := os.environ.get("MOBILENAS_PROFILES"):
        return Path(own)
    data = os.environ.get("XDG_DATA_HOME")
    return (Path(data) if data else Path.home() / ".local/share") / "mobilenas/profiles"
