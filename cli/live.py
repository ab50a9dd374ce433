"""Progress on a terminal: a bar with elapsed and remaining time, and the latest figures."""

import contextlib
import time
from collections.abc import Iterable
from types import TracebackType

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from .plain import stage_line
from .terminal import clean


class _Bar(Progress):
    """A progress bar with a line of text below it."""

    below = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        """Yield bar and text."""
        yield self.make_tasks_table(self.tasks)
        if self.below:
            yield Text(f"  {self.below}", style="dim")


class LiveReporter:
    """Shows the current stage; a finished stage leaves one line."""

    def __init__(self) -> None:
        self._bar = _Bar(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=Console(stderr=True, highlight=False),
            refresh_per_second=2,
            speed_estimate_period=3600,
            redirect_stdout=False,
        )
        self._task: TaskID | None = None
        self._stage, self._figures = "", dict[str, str]()
        self._began = time.monotonic()

    def __enter__(self) -> "LiveReporter":
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with contextlib.suppress(OSError):  # the terminal hung up
            self._end_stage()
            self._bar.stop()

    def start(self, stage: str, total: int) -> None:
        """Show a new bar."""
        self._end_stage()
        self._stage, self._began = stage, time.monotonic()
        self._task = self._bar.add_task(stage, total=total)

    def step(self, done: int, figures: dict[str, str]) -> None:
        """Move the bar."""
        if self._task is None:
            return
        self._figures = figures
        self._bar.below = clean(", ".join(f"{name} {value}" for name, value in figures.items()))
        self._bar.update(self._task, completed=done)

    def info(self, message: str) -> None:
        """Write a line above the bar."""
        self._bar.console.print(clean(message), markup=False)

    def _end_stage(self) -> None:
        if self._task is None:
            return
        task, seconds = self._bar.tasks[-1], time.monotonic() - self._began
        line = stage_line(self._stage, task.completed, task.total or 0, self._figures, seconds)
        self._bar.remove_task(self._task)
        self._task, self._figures, self._bar.below = None, {}, ""
        self._bar.refresh()
        self.info(line)
