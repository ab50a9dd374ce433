"""`--tensorboard`: mirrors the logs of a run folder to TensorBoard event files."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from mobilenas.core.errors import MobileNASError
from mobilenas.core.files import read_jsonl
from mobilenas.core.progress import Reporter

from .options import option

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

FOLDER = "tensorboard"
"""Folder in the run folder, with a subfolder for each log."""

tensorboard_option = option(
    "--tensorboard",
    is_flag=True,
    rare=True,
    help="Also write every log for TensorBoard, to RUN/tensorboard.",
)


@contextmanager
def mirrored(reporter: Reporter, run: Path) -> Iterator[Reporter]:
    """Yield a reporter that also keeps RUN/tensorboard up to date with the run's logs."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise MobileNASError(
            "--tensorboard needs a package: pip install 'mobilenas[tensorboard]'"
        ) from error
    mirror = _Mirror(reporter, run, SummaryWriter)
    try:
        yield mirror
    finally:
        mirror.close()


class _Mirror:
    """Forwards to a reporter, and reads the logs after every step of a stage."""

    def __init__(self, reporter: Reporter, run: Path, writer: "type[SummaryWriter]") -> None:
        self._reporter, self._run, self._writer = reporter, run, writer
        self._writers = dict[Path, "SummaryWriter"]()
        self._written = dict[Path, list[dict[str, object]]]()
        self._stepped = False

    def start(self, stage: str, total: int) -> None:
        """Forward."""
        self._reporter.start(stage, total)

    def step(self, done: int, figures: dict[str, str]) -> None:
        """Forward, and write new lines of the logs."""
        self._reporter.step(done, figures)
        self._stepped = True
        self._update()

    def info(self, message: str) -> None:
        """Forward."""
        self._reporter.info(message)

    def close(self) -> None:
        """Write the rest, unless there were no steps, such as after an error at the start."""
        if self._stepped:
            self._update()
        for writer in self._writers.values():
            writer.close()

    def _update(self) -> None:
        for log in sorted(self._run.rglob("log.jsonl")):
            lines, written = read_jsonl(log), self._written.get(log, [])
            if lines == written:
                continue
            if not written or lines[: len(written)] != written:
                # start afresh, so that a resumed run has no duplicate lines, and an overwritten run
                # no old ones
                self._begin(log)
                written = []
            writer = self._writers[log]
            for number, line in enumerate(lines[len(written) :], len(written) + 1):
                for tag, value in _scalars(line):
                    writer.add_scalar(tag, value, number)
            writer.flush()
            self._written[log] = lines

    def _begin(self, log: Path) -> None:
        if log in self._writers:
            self._writers[log].close()
        folder = self._run / FOLDER / ".".join(log.parent.relative_to(self._run).parts)
        shutil.rmtree(folder, ignore_errors=True)
        self._writers[log] = self._writer(str(folder))


def _scalars(line: Mapping[str, object]) -> Iterator[tuple[str, float]]:
    """Yield names and numbers of a line; nested fields are `field/name`."""
    for name, value in line.items():
        if isinstance(value, Mapping):
            yield from ((f"{name}/{inner}", number) for inner, number in _scalars(value))
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield name, value
