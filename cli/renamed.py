"""Deprecated names, accepted with a warning in this release and removed in the next."""

import re
from collections.abc import Iterable

from .terminal import echo

_OPTIONS = {
    "--rival": "--random-search",
    "--paths": "--sampling",
    "--keep": "--channel-fraction",
    "--none": "--zero-op",
    "--no-none": "--no-zero-op",
    "--keep-weights": "--weight-transfer",
}
_COMMANDS = {"networks": "suggest"}
_SAMPLING = {"mixture": "softmax", "single": "single-path"}
_PARTS = {"keep": "channel_fraction", "none": "zero_op", "paths": "sampling"}
_PART = re.compile(rf":({'|'.join(_PARTS)})=(mixture|single)?")


def renamed(words: Iterable[str]) -> list[str]:
    """Replace deprecated names among the words of a command, with a warning for each.

    All words after `--` are arguments.
    """
    found: list[str] = []
    for word in words:
        if "--" in found:
            found.append(word)
            continue
        flag, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
        flag = _OPTIONS.get(flag, flag)
        option = flag or "".join(found[-1:])
        now = flag + equals + _value(option, value)
        if now != word:
            echo(f"mobilenas: warning: {word} is deprecated; use {now}", err=True)
        found.append(now)
    return found


def renamed_command(name: str) -> str:
    """Return the current name of a command of `mobilenas profile`; warn about a deprecated one."""
    now = _COMMANDS.get(name, name)
    if now != name:
        echo(f"mobilenas: warning: profile {name} is deprecated; use profile {now}", err=True)
    return now


def _value(option: str, text: str) -> str:
    if option == "--sampling":
        return _SAMPLING.get(text, text)
    if option in ("--methods", "--control"):
        return _PART.sub(lambda m: f":{_PARTS[m[1]]}={_SAMPLING.get(m[2], m[2] or '')}", text)
    return text
