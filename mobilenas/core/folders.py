"""The folders that commands write: what belongs to each kind, and who may start in one.

A folder is replaced only where its record can be read and nothing lies beside what such a command
writes. Only that is deleted; the folder itself stays, whatever it is: a link, a mount point, `.`.
"""

import contextlib
import errno
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from mobilenas.core import processes
from mobilenas.core.errors import FileError, MobileNASError
from mobilenas.core.files import TEMPORARY, keep_to, release


def _below(folder: str, names: Iterable[str]) -> tuple[str, ...]:
    return tuple(f"{folder}/{name}" for name in names)


_TRAINING = ("checkpoint.pt", "log.jsonl", "train.json", "best.safetensors", "last.safetensors")
_SEARCH = (
    *("checkpoint.pt", "log.jsonl", "candidates.json", "rank.json"),
    *("finalists.json", *_below("finalists/*", _TRAINING)),
    *("image-size.json", *_below("image-size/*", _TRAINING)),
    "finalists.pt",  # of versions before: those runs can be replaced, too
)
_MODELS = tuple(
    f"model{precision}{layout}.onnx"
    for precision in ("", ".fp16", ".int8")
    for layout in ("", ".uint8")
)
_ORT = ("ort", "required_operators.config")
_EXPORT = (
    *("export.json", "misclassified.json", "model.tflite", "model.pte", "other/*", *_MODELS),
    *(f"model{layout}.{suffix}" for layout in ("", ".uint8") for suffix in _ORT),
)
_NETWORK = (
    *("arch.json", "model.safetensors", "model.onnx", "model.int8.onnx"),
    *(*_below("search", _SEARCH), *_below("train", _TRAINING), *_below("export", _EXPORT)),
)
_DECISIONS = ("random-search.json", "equal-time.json")
_RUN = (
    *("run.json", "profile.json", "compare.json", "result.json", "report.html", *_NETWORK),
    "web.jsonl",
    *_below("teacher", _TRAINING),
    *_below("tensorboard/*", ("events.out.tfevents.*",)),
    *_below("repeats/seed-*", (*_NETWORK, *_below("teacher", _TRAINING))),
    *_below("compare/*-seed-*", (*_NETWORK, *_DECISIONS, "finalists.pt")),
)
_SYSTEM = ("lost+found", ".DS_Store", "Thumbs.db", "desktop.ini")
"""What systems put into folders: it counts as nothing, and stays."""
_locks = dict[tuple[int, int], int]()
"""Descriptors of the folders that this process has locked, by device and inode."""
_SHOWN = 3
_POLL_S = 0.2
_ANOTHER = "choose another --out"


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What a command writes to its folder."""

    name: str
    """Such as `run`."""
    record: str
    """The file by which such a folder is known, relative to it."""
    writes: tuple[str, ...]
    """Every file that can lie there; `*` stands for a part of one name."""
    first: str = ""
    """What is written before the record, where anything is: a start that was killed left it."""
    advice: str = "resume it: --resume, or replace it: --overwrite"
    """What can be done where one is in the way."""

    @property
    def replaced(self) -> str:
        """The record's name while the folder is being emptied."""
        return f".{self.record}.replaced"

    def __str__(self) -> str:
        """Name it, with its article."""
        return f"{'an' if self.name[0] in 'aeiou' else 'a'} {self.name}"


RUN = Kind(name="run", record="run.json", writes=_RUN)
SWEEP = Kind(
    name="sweep",
    record="sweep.json",
    writes=(
        *("sweep.json", "report.html", "pareto.json", *_below("baselines/*/train", _TRAINING)),
        *(place for run in ("flops-*", "strength-*", "method-*") for place in _below(run, _RUN)),
    ),
)
ABLATION = Kind(
    name="ablation",
    record="ablation-request.json",
    writes=(
        *("ablation-request.json", "ablation.json", "ablation.html"),
        *_below("runs/*-seed-*", (*_RUN, "entry.json")),
    ),
)
COMPARISON = Kind(
    name="comparison",
    record="compare.json",
    writes=("compare.json", "result.json"),
    advice="replace it: --overwrite",
)
KIT = Kind(
    name="kit",
    record="manifest.json",
    writes=("manifest.json", "README.md", "run_kit.py", "kit-results.json", "models/*.onnx"),
    first="models/*.onnx",
    advice=_ANOTHER,
)

Read = Callable[[Path], object]
"""Reads a record; MobileNASError where it is none."""


def check_folder(
    folder: Path, kind: Kind, read: Read, *, resume: bool = False, overwrite: bool = False
) -> bool:
    """Return whether `folder` holds a record to resume from; FileError unless it may be used.

    What a killed start or a killed replacement left is none, and stands in nobody's way.
    """
    with _as_file_errors(folder):
        if folder.is_symlink() and not folder.exists():
            raise FileError(f"{folder} is a link to nothing; {_ANOTHER}")
        if folder.exists() and not folder.is_dir():
            raise FileError(f"{folder} is not a directory; {_ANOTHER}")
        if not folder.exists():
            return False
        lock_folder(folder)
        for other in (RUN, SWEEP, ABLATION):
            if other.record not in kind.writes and (folder / other.record).exists():
                raise FileError(f"{folder} holds {other}; {_ANOTHER}")
        names = (kind.record, kind.replaced)
        record = next((name for name in names if (folder / name).exists()), None)
        ours, others = _contents(folder, kind)
    if record is None:
        if others or not _is_start(folder, ours, kind):
            raise FileError(
                f"{folder} is not empty and holds no {kind.name}: it has "
                f"{_listed(folder, others or ours)}; {_ANOTHER}"
            )
        return False
    if not resume and not overwrite:
        if record == kind.replaced:
            raise FileError(_interrupted(folder, kind))
        raise FileError(f"{folder} holds {kind}; {kind.advice}")
    if record == kind.record and not overwrite:
        return True
    _check_replaceable(folder, kind, others, lambda: read(folder / record))
    return False


def start_folder(folder: Path, kind: Kind) -> None:
    """Make `folder`, and delete what `check_folder` let pass in it.

    The record gets another name first, so that a kill on the way leaves nothing that looks whole.
    """
    with _as_file_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock_folder(folder)
        record, replaced = folder / kind.record, folder / kind.replaced
        release(record)
        if record.exists():
            record.replace(replaced)
        for path in _contents(folder, kind)[0]:
            if path.is_dir():
                _remove_empty(path)
            elif path != replaced:
                path.unlink()
        replaced.unlink(missing_ok=True)


def check_record(folder: Path, kind: Kind) -> None:
    """Raise unless `folder` holds a record, also while it is worked in from now on."""
    with _as_file_errors(folder):
        if (folder / kind.record).exists():
            lock_folder(folder)
            _refuse_links_out(folder, kind)
            keep_to(folder / kind.record)
            return
        if (folder / kind.replaced).exists():
            raise FileError(_interrupted(folder, kind))
    raise FileError(f"{folder} holds no {kind.name}: there is no {folder / kind.record}")


def lock_folder(folder: Path) -> None:
    """Keep other processes out of `folder`, until `unlock_folders` or the end of this process.

    FileError where another one works in it. The system locks the folder itself: nothing is written,
    and a kill leaves no lock. Where it has no such locks, as on Windows and over some networks,
    nobody is kept out. Of several processes of one job the first locks it for all.
    """
    if sys.platform == "win32" or not processes.is_first():
        return
    import fcntl

    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:  # what is wrong with it is said where it is written to
        return
    status = os.fstat(handle)
    place = (status.st_dev, status.st_ino)
    if place in _locks:
        os.close(handle)
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        if isinstance(error, BlockingIOError):
            raise FileError(
                f"another process is working in {folder}: wait until it ends, or stop it"
            ) from error
        return
    _locks[place] = handle


@contextlib.contextmanager
def holding(folder: Path, *, wait: bool) -> Iterator[bool]:
    """Keep other processes out of `folder` for a while, as `lock_folder` does.

    Yields whether that was possible; with `wait` it is when the others have ended with it.
    """
    with _as_file_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    while True:
        try:
            lock_folder(folder)
            break
        except FileError:
            if not wait:
                yield False
                return
            time.sleep(_POLL_S)
    try:
        yield True
    finally:
        status = folder.stat()
        handle = _locks.pop((status.st_dev, status.st_ino), None)
        if handle is not None:
            os.close(handle)


def unlock_folders() -> None:
    """Let other processes into all folders that `lock_folder` has locked."""
    while _locks:
        os.close(_locks.popitem()[1])


def _refuse_links_out(folder: Path, kind: Kind) -> None:
    """Raise where the kind would write through a link into another folder."""
    patterns = [tuple(place.split("/")) for place in kind.writes]
    home = os.path.realpath(folder)
    for path, _ in _walk(folder, patterns):
        if not path.is_symlink() or Path(os.path.realpath(path)).is_relative_to(home):
            continue
        parts = path.relative_to(folder).parts
        starts = (pattern[: len(parts)] for pattern in patterns)
        if any(
            len(start) == len(parts) and all(map(fnmatchcase, parts, start)) for start in starts
        ):
            raise FileError(
                f"{path} is a link that leads out of {folder}, and {kind} is written in its own "
                "folder alone; put there what it leads to"
            )


def _check_replaceable(
    folder: Path, kind: Kind, others: Sequence[Path], read: Callable[[], object]
) -> None:
    try:
        read()
    except MobileNASError as error:
        raise FileError(f"{error}; only {kind} that can be read is replaced: {_ANOTHER}") from error
    if others:
        raise FileError(
            f"{folder} holds more than {kind}: {_listed(folder, others)}; --overwrite deletes "
            f"nothing else: move that away, or {_ANOTHER}"
        )


def _interrupted(folder: Path, kind: Kind) -> str:
    return f"{folder}: replacing the {kind.name} was interrupted; repeat it with --overwrite"


def _contents(folder: Path, kind: Kind) -> tuple[list[Path], list[Path]]:
    """Return what the kind writes, folders after what they hold, and all else."""
    patterns = [tuple(place.split("/")) for place in (*kind.writes, kind.replaced)]
    ours, others = list[Path](), list[Path]()
    for path, own in _walk(folder, patterns):
        (ours if own else others).append(path)
    return ours, others


def _walk(folder: Path, patterns: Sequence[tuple[str, ...]]) -> Iterator[tuple[Path, bool]]:
    """Yield everything below `folder` and whether a pattern has it; other folders unopened."""
    for path in sorted(folder.iterdir()):
        if path.name in _SYSTEM:
            continue
        if path.is_symlink() or not path.is_dir():
            name = _whole_name(path.name)
            own = any(len(parts) == 1 and fnmatchcase(name, parts[0]) for parts in patterns)
            yield path, own and not path.is_symlink()
            continue
        below = [p[1:] for p in patterns if len(p) > 1 and fnmatchcase(path.name, p[0])]
        if below:
            yield from _walk(path, below)
        yield path, bool(below)


def _whole_name(name: str) -> str:
    """Return the name of the file that a temporary one, or one of one, was to become."""
    while temporary := TEMPORARY.fullmatch(name):
        name = temporary[1]
    return name


def _is_start(folder: Path, ours: Sequence[Path], kind: Kind) -> bool:
    """Whether these are what a start that was killed leaves: temporaries, or what comes first."""
    places = [path.relative_to(folder).as_posix() for path in ours if not path.is_dir()]
    whole = [place for place in places if not TEMPORARY.fullmatch(PurePosixPath(place).name)]
    return not whole or any(fnmatchcase(place, kind.first) for place in whole)


def _listed(folder: Path, paths: Sequence[Path]) -> str:
    names = [str(path.relative_to(folder)) for path in paths if path.parent == folder]
    names += [str(path.relative_to(folder)) for path in paths if path.parent != folder]
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _remove_empty(path: Path) -> None:
    try:
        path.rmdir()
    except OSError as error:
        if error.errno != errno.ENOTEMPTY:
            raise


@contextlib.contextmanager
def _as_file_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise FileError(f"cannot use {folder}: {error.strerror or error}") from error
