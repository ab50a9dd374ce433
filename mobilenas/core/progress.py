"""How a stage reports its progress; the library itself never prints."""

import time
from typing import Protocol


def clock(device: str) -> float:
    """Return seconds for timing trainings: wall time on cuda, processor time on cpu.

    Other programs on a busy machine do not inflate processor time.
    """
    return time.process_time() if device == "cpu" else time.perf_counter()


class Reporter(Protocol):
    """Receives the progress of every stage; the command line displays it."""

    def start(self, stage: str, total: int) -> None:
        """A stage of `total` units of work begins (epochs, networks, files)."""

    def step(self, done: int, figures: dict[str, str]) -> None:
        """`done` units are finished; `figures` are formatted, as {"val top-1": "71.3 %"}."""

    def info(self, message: str) -> None:
        """A one-line message."""


class NullReporter:
    """Reports nothing."""

    def start(self, stage: str, total: int) -> None:
        """Ignore it."""

    def step(self, done: int, figures: dict[str, str]) -> None:
        """Ignore it."""

    def info(self, message: str) -> None:
        """Ignore it."""
