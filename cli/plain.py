"""Progress where stderr is no terminal: lines."""

import time
from types import TracebackType

from .terminal import echo


class PlainReporter:
    """One line a step, no control characters; of mere counting, ten lines.

    Remarks wait for the first step: where work never begins, the error is all there is to read.
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
        """Write the line of a step."""
        tenth = 10 * done // max(1, self._total)
        if figures or tenth > self._tenth:
            self._flush()
            seconds = time.monotonic() - self._began
            echo(stage_line(self._stage, done, self._total, figures, seconds), err=True)
        self._tenth = tenth

    def info(self, message: str) -> None:
        """Write the line, once a step has been made."""
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
    """Say in one line how far a stage is."""
    words = [f"{name} {value}" for name, value in figures.items()]
    return ", ".join([f"{stage} {done:.0f}/{total:.0f}", *words, f"{seconds:.0f} s"])
