"""Exits with outside causes: signals, broken streams, lack of memory or disk space."""

import contextlib
import errno
import os
import signal
import sys
from types import FrameType
from typing import TextIO

import click

from mobilenas.core.processes import LostProcessError

FAILED, WRONG_INPUT = 1, 2
_SIGNALS = ("SIGTERM", "SIGHUP")
_WRONG_NAMES = (
    *(errno.ENAMETOOLONG, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP),
    *(errno.EACCES, errno.EPERM, errno.EROFS),
)
_NO_MEMORY = (
    *("can't allocate memory", "out of memory", "bad_alloc", "bad allocation"),
    "failed to map segment from shared object",
)
"""Messages of torch and its libraries about lack of memory, in RuntimeErrors or on import."""


class StoppedError(KeyboardInterrupt):
    """SIGTERM or SIGHUP: ends a command as Ctrl-C does."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


class Interrupted(click.ClickException):
    """Ctrl-C or a signal, with the command that resumes."""

    def __init__(self, message: str, ending: BaseException | None = None) -> None:
        super().__init__(message)
        self.__dict__["exit_code"] = status_of_signal(ending)


class Lacking(click.ClickException):
    """Lack of memory or disk space, or an unusable name, with the command that resumes."""

    def __init__(self, message: str, lack: BaseException) -> None:
        super().__init__(message)
        self.__dict__["exit_code"] = status_of_lack(lack)


def status_of_signal(ending: BaseException | None) -> int:
    """Return 128 plus the number of the signal, as in shells; 130 is Ctrl-C."""
    return 128 + (ending.number if isinstance(ending, StoppedError) else signal.SIGINT)


def catch_signals() -> None:
    """Let SIGTERM and SIGHUP end a command like Ctrl-C, unless ignored (nohup)."""
    for name in _SIGNALS:
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _stop)


def _stop(number: int, _: FrameType | None) -> None:
    raise StoppedError(number)


def open_streams() -> None:
    """Open closed standard streams as the null device, so that no file gets their numbers."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8"))


def abandon(stream: TextIO) -> None:
    """Discard further output to a stream, including Python's flush at exit."""
    with contextlib.suppress(OSError):  # a stream without a file descriptor
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


def lack_of(error: ImportError | MemoryError | OSError | RuntimeError) -> str:
    """Return in one line what the machine lacks; empty for other errors."""
    if isinstance(error, BrokenPipeError):
        return ""
    if isinstance(error, LostProcessError):
        return str(error)
    if isinstance(error, OSError):
        said = error.strerror or str(error)
        return f"{error.filename}: {said}" if error.filename is not None else said
    if isinstance(error, MemoryError) or any(words in str(error) for words in _NO_MEMORY):
        return "out of memory: close other programs, or make --image-size or the budget smaller"
    return ""


def status_of_lack(error: BaseException) -> int:
    """Return the exit status; an unusable file name is wrong input."""
    wrong = isinstance(error, OSError) and error.filename and error.errno in _WRONG_NAMES
    return WRONG_INPUT if wrong else FAILED
