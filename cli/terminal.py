"""Printing to the terminal: every printed line goes through here."""

import re
import sys

import click

from .endings import abandon

_COMMANDS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
"""Control characters of terminals, marks of text direction, and surrogates."""


def clean(text: object) -> str:
    """Escape control characters as JSON does, in ASCII."""
    return _COMMANDS.sub(lambda found: f"\\u{ord(found[0]):04x}", str(text))


def echo(text: object = "", *, err: bool = False, nl: bool = True) -> None:
    """Print a line, in which names of files and classes may have any characters.

    If stderr fails, work continues, because progress is optional.
    """
    try:
        click.echo(clean(text), err=err, nl=nl)
    except OSError as error:
        if not err:
            raise OSError(error.errno, error.strerror, "stdout") from error
        abandon(sys.stderr)
