"""What reaches the terminal: every line that is printed goes through here."""

import re
import sys

import click

from .endings import abandon

_COMMANDS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
"""Characters that a terminal obeys, those that turn the direction of text, and half surrogates."""


def clean(text: object) -> str:
    """Return text with each character that a terminal obeys written as JSON would, in ASCII."""
    return _COMMANDS.sub(lambda found: f"\\u{ord(found[0]):04x}", str(text))


def echo(text: object = "", *, err: bool = False, nl: bool = True) -> None:
    """Print a line; names of files and classes in it can hold anything.

    Progress is optional: where stderr fails, work continues.
    """
    try:
        click.echo(clean(text), err=err, nl=nl)
    except OSError as error:
        if not err:
            raise OSError(error.errno, error.strerror, "stdout") from error
        abandon(sys.stderr)
