"""One pass over all image files: sizes from the headers, then pixels and their moments."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from mobilenas.data.images import Pixels, read_image, read_size
from mobilenas.data.moments import Moments, image_moments
from mobilenas.data.stores import collect, submit_pieces, worker_count
from mobilenas.errors import DataError
from mobilenas.progress import Reporter

_CHUNK = 512
_DEFAULT_SIZE = 224
_SMALLEST_COMMON_SIZE = 8
# Photographs that are all 3000x3000 are not meant to be classified at that size.
_LARGEST_COMMON_SIZE = 512
Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class Contents:
    """What a pass over the files found."""

    pixels: Pixels | None
    """uint8 [N, 3, H, W], zero where bad; None where they do not stay in memory."""
    moments: Moments
    """[N, 3, 2], zero where bad."""
    bad: set[Path]
    """Files that cannot be decoded."""


def _chunks(
    stage: str,
    paths: Sequence[Path],
    work: Callable[[Path], Result],
    *,
    skip_bad: bool,
    reporter: Reporter,
) -> Iterator[tuple[int, list[Result | DataError]]]:
    """Place and results of `work` for one chunk of `paths` after another, in threads."""

    def attempt(path: Path) -> Result | DataError:
        try:
            return work(path)
        except DataError as error:
            return error

    reporter.start(stage, len(paths))
    with ThreadPoolExecutor(worker_count()) as pool:
        for start in range(0, len(paths), _CHUNK):
            results = collect(submit_pieces(pool, attempt, paths[start : start + _CHUNK]))
            errors = [result for result in results if isinstance(result, DataError)]
            if errors and not skip_bad:
                raise errors[0]
            yield start, results
            reporter.step(start + len(results), {})


def choose_size(
    paths: Sequence[Path], wanted: int | None, *, skip_bad: bool, reporter: Reporter
) -> tuple[int, list[str], set[Path]]:
    """Side in pixels, remarks about it, and the files that have no readable header."""
    bad: set[Path] = set()
    sizes: list[tuple[int, int]] = []
    chunks = _chunks("looking at images", paths, read_size, skip_bad=skip_bad, reporter=reporter)
    for start, results in chunks:
        for place, result in enumerate(results, start):
            if isinstance(result, DataError):
                bad.add(paths[place])
            else:
                sizes.append(result)
    size = _common_size(sizes) if wanted is None else wanted
    others = sum(found != (size, size) for found in sizes)
    if not others:
        return size, [], bad
    note = f"{others} images of other sizes were resized to {size}x{size}"
    if wanted is None:
        note += "; --image-size chooses another size"
    return size, [note], bad


def _common_size(sizes: list[tuple[int, int]]) -> int:
    if len(set(sizes)) != 1:
        return _DEFAULT_SIZE
    width, height = sizes[0]
    common = width == height and _SMALLEST_COMMON_SIZE <= width <= _LARGEST_COMMON_SIZE
    return width if common else _DEFAULT_SIZE


def read_pixels(
    paths: Sequence[Path], size: int, *, keep: bool, skip_bad: bool, reporter: Reporter
) -> Contents:
    """Decode every file once, so that bad ones are known before any training; `keep` the pixels."""
    count = len(paths)
    pixels = np.zeros((count if keep else 0, 3, size, size), dtype=np.uint8)
    moments = np.zeros((count, 3, 2))
    bad: set[Path] = set()
    chunks = _chunks(
        "reading images",
        paths,
        lambda path: read_image(path, size),
        skip_bad=skip_bad,
        reporter=reporter,
    )
    for start, results in chunks:
        bad |= {
            paths[place]
            for place, result in enumerate(results, start)
            if isinstance(result, DataError)
        }
        good = {
            place: result
            for place, result in enumerate(results, start)
            if not isinstance(result, DataError)
        }
        if not good:
            continue
        images = np.stack(list(good.values()))
        moments[list(good)] = image_moments(images)
        if keep:
            pixels[list(good)] = images
    return Contents(pixels if keep else None, moments, bad)
