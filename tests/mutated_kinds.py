"""Kinds of files to damage, and ways to read them (mutations.py)."""

import io
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random

from mutators import Mutation, damage_either, damage_json

from mobilenas.cli.main import cli
from mobilenas.core.errors import MobileNASError
from mobilenas.core.progress import NullReporter
from mobilenas.latency.profile import read_profile
from mobilenas.report.files import RunFiles
from mobilenas.report.run_page import SECTIONS, section

LONGEST = 3000
"""No error has more characters."""

SILENT = NullReporter()

DAMAGE_JSON = damage_either(damage_json)

Read = Callable[[Path], object]


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A kind of file, what damages one, and what reads it."""

    file: str
    """Below the folder."""
    read: Read
    """Reads it, given the folder."""
    damage: Callable[[bytes, Random, list[bytes]], Mutation] = DAMAGE_JSON
    """Returns other content."""


def command(*words: str) -> Read:
    """Return what calls a command on the folder; its output must command no terminal."""

    def call(folder: Path) -> None:
        shown, errors = io.StringIO(), io.StringIO()
        with redirected(shown, errors):
            try:
                cli([word.format(folder) for word in words])
            except SystemExit as ending:
                if ending.code not in (0, 2, 3):
                    raise AssertionError(f"exit status {ending.code}") from ending
        text = shown.getvalue() + errors.getvalue()
        if any((char < " " and char not in "\n\t") or "\x7f" <= char < "\xa0" for char in text):
            raise AssertionError(f"control characters are printed: {text!r:.200}")
        text.encode()
        if len(errors.getvalue()) > LONGEST:
            raise AssertionError(f"an error has {len(errors.getvalue())} characters")

    return call


@contextmanager
def redirected(out: io.StringIO, err: io.StringIO) -> Iterator[None]:
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = out, err
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def sections(*titles: str) -> Read:
    """Return what shows these sections of the report."""

    def show(folder: Path) -> None:
        files = RunFiles(folder=folder)
        for title, shown in SECTIONS:
            if title in titles:
                section(files, title, shown).encode(errors="backslashreplace")

    return show


def in_turn(*reads: Read) -> Read:
    """Return what reads in several ways; the first that refuses the file ends it."""

    def read(folder: Path) -> None:
        for one in reads:
            one(folder)

    return read


def each(*reads: Read) -> Read:
    """Return what reads in all ways, also where some refuse the file."""

    def read(folder: Path) -> None:
        refused: list[MobileNASError] = []
        for one in reads:
            try:
                one(folder)
            except MobileNASError as error:
                refused.append(error)
        if refused:
            raise refused[0]

    return read


def profile_reads(file: str) -> Read:
    return each(
        lambda place: read_profile(place / file).warnings(),
        command("profile", "show", f"{{}}/{file}"),
        command("profile", "show", f"{{}}/{file}", "--json"),
        sections("Latency, predicted and measured"),
    )
