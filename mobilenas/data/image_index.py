"""A cache of what earlier starts read from images, so that they are not decoded again."""

import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import PIL
from numpy.typing import NDArray

from mobilenas.core.images import ImageFile, Member
from mobilenas.core.progress import Reporter
from mobilenas.data.listing import Listing
from mobilenas.data.records import ImageRows, index_path, read_index, write_index

HEADER = np.dtype([("size", "<i8", 2), ("deep", "?"), ("deep_color", "?")])
"""Row for a file's header: width and height, and bit depth."""
PIXELS = np.dtype([("moments", "<f8", (3, 2)), ("digest", "u1", 16)])
"""Row for its decoded pixels: sums and hash."""
Rows = NDArray[np.void]
Mask = NDArray[np.bool_]


class ImageIndex:
    """Cached rows for the images of a listing, one per image."""

    def __init__(self, listing: Listing, reporter: Reporter) -> None:
        self._listing = listing
        self._reporter = reporter
        self._added: dict[Path, ImageRows] = {}

    def find(
        self, files: Sequence[ImageFile], kind: np.dtype[np.void], *about: object
    ) -> tuple[Rows, Mask]:
        """Return rows [N] of `files`, and a mask [N] of those cached and unchanged since."""
        names, stamps = self._names_and_stamps(files)  # before the files are read
        rows, known = np.zeros(len(files), kind), np.zeros(len(files), dtype=bool)
        earlier = read_index(self._path(kind, about), ImageRows, self._reporter)
        if earlier is not None and earlier.names and earlier.row_bytes == kind.itemsize:
            places = {name: place for place, name in enumerate(earlier.names)}
            theirs = np.array([places.get(name, -1) for name in names])
            their_stamps = np.frombuffer(earlier.stamps, "<i8").reshape(-1, 2)
            known = (theirs >= 0) & (their_stamps[theirs] == stamps).all(1)
            rows[known] = np.frombuffer(earlier.rows, kind)[theirs[known]]
        return rows, known

    def add(self, files: Sequence[ImageFile], rows: Rows, good: Mask, *about: object) -> None:
        """Add the rows of good images; `write` saves them."""
        names, stamps = self._names_and_stamps(files)
        self._added[self._path(rows.dtype, about)] = ImageRows(
            names=[name for name, is_good in zip(names, good.tolist(), strict=True) if is_good],
            stamps=stamps[good].tobytes(),
            row_bytes=rows.itemsize,
            rows=rows[good].tobytes(),
        )

    def write(self) -> None:
        """Save all added rows for later starts."""
        for path, rows in self._added.items():
            write_index(path, rows, self._reporter)

    def _path(self, kind: np.dtype[np.void], about: tuple[object, ...]) -> Path:
        # another Pillow version may decode differently
        what = (self._listing.rule, kind.names, *about, PIL.__version__)
        return index_path("images", self._listing.root, *what)

    def _names_and_stamps(
        self, files: Sequence[ImageFile]
    ) -> tuple[list[bytes], NDArray[np.int64]]:
        places = [self._places[file] for file in files]
        entries = self._listing.entries
        return [os.fsencode(entries[place].name) for place in places], self._stamps[places]

    @cached_property
    def _places(self) -> dict[ImageFile, int]:
        return {entry.path: place for place, entry in enumerate(self._listing.entries)}

    @cached_property
    def _stamps(self) -> NDArray[np.int64]:
        return np.array([_stamp(entry.path) for entry in self._listing.entries], "<i8")


def _stamp(file: ImageFile) -> tuple[int, int]:
    """Return size in bytes and mtime in ns of the file that holds an image; -1 if it is missing."""
    if isinstance(file, Member):
        return file.shard.size, file.shard.mtime_ns
    try:
        found = file.stat()
    except OSError:
        return -1, -1
    return found.st_size, found.st_mtime_ns
