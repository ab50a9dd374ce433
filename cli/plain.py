"""Progress as plain lines, if stderr is not a terminal."""

import time
from types import TracebackType

from .terminal import echo


class PlainReporter:
    """Prints a line per step, without control characters; at most ten for steps without figures.

    Messages are held back until the first step, so that if work fails before it, only the error is
    printed.
    """

    def __init__(self) -> None:
        self._stage, self._total, self._tenth = "", 0, 0
        self._began = time.monotonic()
        self._waiting: list[str] | None = []

    def __enter__(self) -> "PlainReporter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self._flush()

    def start(self, stage: str, total: int) -> None:
        """Begin a stage; its first line comes with its first step."""
        self._stage, self._total, self._tenth = stage, total, 0
        self._began = time.monotonic()

    def step(self, done: int, figures: dict[str, str]) -> None:
        """Print the line of a step."""
        tenth = 10 * done // max(1, self._total)
        if figures or tenth > self._tenth:
            self._flush()
            seconds = time.monotonic() - self._began
            echo(stage_line(self._stage, done, self._total, figures, seconds), err=True)
        self._tenth = tenth

    def info(self, message: str) -> None:
        """Print the message, after the first step."""
        if self._waiting is None:
            echo(message, err=True)
        else:
            self._waiting.append(message)

    def _flush(self) -> None:
        for message in self._waiting or ():
            echo(message, err=True)
        self._waiting = None


def stage_line(
    stage: str, done: float, total: float, figures: dict[str, str], seconds: float
) -> str:
    """Return a line with the progress of a stage."""
    words = [f"{name} {value}" for name, value in figures.items()]
    return ", ".join([f"{stage} {done:.0f}/{total:.0f}", *words, f"{seconds:.0f} s"])
