"""The folders that commands write: which files belong to each kind, and who may write there.

A folder is replaced only if its record can be read and it has no files but those that its command
writes. These are deleted; the folder itself stays, as it may be a link, a mount point or `.`.
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
    "finalists.pt",  # of older releases, so that their runs can be replaced, too
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
"""Files that operating systems put into folders; they are ignored, and kept."""
_locks = dict[tuple[int, int], int]()
"""File descriptors of the folders that this process has locked, by device and inode."""
_SHOWN = 3
_POLL_S = 0.2
_ANOTHER = "choose another --out"


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What a command writes to its folder."""

    name: str
    """Name in messages, such as `run`."""
    record: str
    """The file that identifies such a folder, relative to it."""
    writes: tuple[str, ...]
    """Patterns of all files that it can hold; `*` matches within one path component."""
    first: str = ""
    """Pattern of files written before the record, if any: a killed start leaves them."""
    advice: str = "resume it: --resume, or replace it: --overwrite"
    """What the error suggests if the folder holds one already."""

    @property
    def replaced(self) -> str:
        """The record's name while the folder is being emptied."""
        return f".{self.record}.replaced"

    def __str__(self) -> str:
        """Return the name with its article."""
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
"""Reads a record; MobileNASError if it is not valid."""


def check_folder(
    folder: Path, kind: Kind, read: Read, *, resume: bool = False, overwrite: bool = False
) -> bool:
    """Return whether `folder` can be resumed; FileError if it must not be written to.

    Leftovers of a start or replacement that was killed are no obstacle.
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
    """Make `folder`, and delete the files of an earlier run that `check_folder` allowed in it.

    The record is renamed first, so that a kill on the way leaves nothing that looks complete.
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
    """Raise unless `folder` has a record; lock it, and from now on write only while it has one."""
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
    """Lock `folder` until `unlock_folders` or the end of this process.

    FileError if another process holds the lock. It is a flock on the folder itself: nothing is
    written, and a kill releases it. Where there is no flock, as on Windows and some network file
    systems, nothing is locked. In a job of several processes, the first one locks for all.
    """
    if sys.platform == "win32" or not processes.is_first():
        return
    import fcntl

    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:  # the write that follows reports what is wrong
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
    """Hold the lock of `folder` (`lock_folder`) inside the context.

    Yields whether it is held; with `wait`, blocks until other processes release it.
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
    """Release the locks of all folders."""
    while _locks:
        os.close(_locks.popitem()[1])


def _refuse_links_out(folder: Path, kind: Kind) -> None:
    """Raise if a file of this kind would be written through a link to another folder."""
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
    """Return the paths that belong to the kind, folders after their contents, and all others."""
    patterns = [tuple(place.split("/")) for place in (*kind.writes, kind.replaced)]
    ours, others = list[Path](), list[Path]()
    for path, own in _walk(folder, patterns):
        (ours if own else others).append(path)
    return ours, others


def _walk(folder: Path, patterns: Sequence[tuple[str, ...]]) -> Iterator[tuple[Path, bool]]:
    """Yield each path and whether a pattern matches it; folders without a match are not entered."""
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
    """Return the final name of a temporary file, also of nested temporary names."""
    while temporary := TEMPORARY.fullmatch(name):
        name = temporary[1]
    return name


def _is_start(folder: Path, ours: Sequence[Path], kind: Kind) -> bool:
    """Whether these are leftovers of a killed start: temporary files, or those of `kind.first`."""
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
