"""How a stage reports its progress; the library itself never prints."""

import time
from typing import Protocol


def clock(device: str) -> float:
    """Seconds that trainings are charged: wall time on cuda, processor time on cpu.

    Neighbours on a busy machine do not inflate the latter.
    """
    return time.process_time() if device == "cpu" else time.perf_counter()


class Reporter(Protocol):
    """What every stage calls; the command line draws it, tests ignore it."""

    def start(self, stage: str, total: int) -> None:
        """A stage of `total` units of work begins (epochs, networks, files)."""

    def step(self, done: int, figures: dict[str, str]) -> None:
        """So many units are finished; `figures` are ready to read: {"val top-1": "71.3 %"}."""

    def info(self, message: str) -> None:
        """One line worth reading once."""


class NullReporter:
    """Reports nothing."""

    def start(self, stage: str, total: int) -> None:
        """Nothing."""

    def step(self, done: int, figures: dict[str, str]) -> None:
        """Nothing."""

    def info(self, message: str) -> None:
        """Nothing."""
