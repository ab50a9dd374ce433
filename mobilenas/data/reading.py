"""Passes over all image files: headers, value range of deep images, pixels."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from mobilenas.core.errors import DataError
from mobilenas.core.images import Header, ImageFile, Numbers, PixelRange
from mobilenas.core.progress import Reporter
from mobilenas.core.settings import counted
from mobilenas.data.depth import check_deep_color, choose_range, range_notes
from mobilenas.data.image_files import Pixels, read_header, read_image, read_numbers
from mobilenas.data.image_index import HEADER, PIXELS, ImageIndex
from mobilenas.data.moments import Moments, image_moments
from mobilenas.data.repeats import digest
from mobilenas.data.stores import collect, submit_pieces, worker_count

_CHUNK = 512
_CHUNK_BYTES = 2**26
_DEFAULT_SIZE = 224
_SMALLEST_COMMON_SIZE = 8
# Photographs that are all 3000x3000 are not meant to be classified at that size.
_LARGEST_COMMON_SIZE = 512
Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class Contents:
    """Result of decoding the files."""

    pixels: Pixels | None
    """uint8 [N, 3, H, W], zero where bad; None if not kept in memory."""
    moments: Moments
    """[N, 3, 2], zero where bad."""
    digests: list[bytes]
    """Hash of the pixels of each image; zero where bad."""
    bad: set[ImageFile]
    """Files that cannot be decoded."""


def _chunks(
    stage: str,
    paths: Sequence[ImageFile],
    work: Callable[[ImageFile], Result],
    *,
    skip_bad: bool,
    reporter: Reporter,
    length: int = _CHUNK,
) -> Iterator[tuple[int, list[Result | DataError]]]:
    """Run `work` on `paths` in threads; yield chunk after chunk its start index and results."""

    def attempt(path: ImageFile) -> Result | DataError:
        try:
            return work(path)
        except DataError as error:
            return error

    if not paths:
        return
    reporter.start(stage, len(paths))
    with ThreadPoolExecutor(worker_count()) as pool:
        for start in range(0, len(paths), length):
            results = collect(submit_pieces(pool, attempt, paths[start : start + length]))
            errors = [result for result in results if isinstance(result, DataError)]
            if errors and not skip_bad:
                raise errors[0]
            yield start, results
            reporter.step(start + len(results), {})


def read_headers(
    paths: Sequence[ImageFile], *, index: ImageIndex, skip_bad: bool, reporter: Reporter
) -> tuple[dict[ImageFile, Header], set[ImageFile]]:
    """Return the headers of readable files, and the set of files without a readable one."""
    rows, good = index.find(paths, HEADER)
    new = [place for place, known in enumerate(good) if not known]
    new_paths = [paths[place] for place in new]
    chunks = _chunks(
        "looking at images", new_paths, read_header, skip_bad=skip_bad, reporter=reporter
    )
    for start, results in chunks:
        for place, result in zip(new[start:], results, strict=False):
            if not isinstance(result, DataError):
                rows[place] = (result.size, result.deep, result.deep_color)
                good[place] = True
    if new:
        index.add(paths, rows, good)
    columns = (rows[name].tolist() for name in ("size", "deep", "deep_color"))
    headers = {
        path: Header((width, height), deep, deep_color)
        for path, is_good, (width, height), deep, deep_color in zip(
            paths, good, *columns, strict=True
        )
        if is_good
    }
    return headers, {path for path, is_good in zip(paths, good, strict=True) if not is_good}


def choose_size(headers: Mapping[ImageFile, Header], wanted: int | None) -> tuple[int, list[str]]:
    """Return the image size (side in pixels), and remarks about it."""
    sizes = [header.size for header in headers.values()]
    size = _common_size(sizes) if wanted is None else wanted
    others = sum(found != (size, size) for found in sizes)
    if not others:
        return size, []
    note = f"{counted(others, 'image of another size was', 'images of other sizes were')} resized "
    note += f"to {size}x{size}"
    if wanted is None:
        note += "; --image-size chooses another size"
    return size, [note]


def measure_range(
    headers: Mapping[ImageFile, Header], *, skip_bad: bool, reporter: Reporter
) -> tuple[PixelRange | None, list[str], set[ImageFile]]:
    """Return the range of images of more than 8 bits (None without any), remarks, and bad files."""
    deep = [path for path, header in headers.items() if header.deep]
    color = [path for path, header in headers.items() if header.deep_color]
    if not deep and not color:
        return None, [], set()
    found: dict[ImageFile, Numbers] = {}
    chunks = _chunks(
        "measuring depth", deep + color, read_numbers, skip_bad=skip_bad, reporter=reporter
    )
    for start, results in chunks:
        pairs = zip((deep + color)[start:], results, strict=False)
        found |= {path: result for path, result in pairs if not isinstance(result, DataError)}
    if colored := [found[path] for path in color if path in found]:
        check_deep_color(colored)
    bad = {*deep, *color} - set(found)
    measured = [found[path] for path in deep if path in found]
    if not measured:
        return None, [], bad
    pixel_range = choose_range(measured)
    return pixel_range, range_notes(pixel_range, measured), bad


def _common_size(sizes: list[tuple[int, int]]) -> int:
    if len(set(sizes)) != 1:
        return _DEFAULT_SIZE
    width, height = sizes[0]
    common = width == height and _SMALLEST_COMMON_SIZE <= width <= _LARGEST_COMMON_SIZE
    return width if common else _DEFAULT_SIZE


def read_pixels(
    paths: Sequence[ImageFile],
    size: int,
    pixel_range: PixelRange | None,
    *,
    keep: bool,
    index: ImageIndex,
    skip_bad: bool,
    reporter: Reporter,
) -> Contents:
    """Decode every file once, so that bad ones are known before training; `keep` the pixels.

    Without `keep`, files that the index knows are not decoded.
    """
    count = len(paths)
    pixels = np.zeros((count if keep else 0, 3, size, size), dtype=np.uint8)
    if keep:
        rows, good = np.zeros(count, PIXELS), np.zeros(count, dtype=bool)
    else:
        rows, good = index.find(paths, PIXELS, size, pixel_range)
    new = [place for place, known in enumerate(good) if not known]
    if len(new) < count:
        known = counted(count - len(new), "image is", "images are")
        reporter.info(f"{known} unchanged since an earlier start, and not decoded again")
    chunks = _chunks(
        "reading images",
        [paths[place] for place in new],
        lambda path: read_image(path, size, pixel_range),
        skip_bad=skip_bad,
        reporter=reporter,
        length=max(worker_count(), min(_CHUNK, _CHUNK_BYTES // (3 * size * size))),
    )
    for start, results in chunks:
        for place, result in zip(new[start:], results, strict=False):
            if isinstance(result, DataError):
                continue
            rows["moments"][place] = image_moments(result[None])[0]
            rows["digest"][place] = np.frombuffer(digest(result), np.uint8)
            good[place] = True
            if keep:
                pixels[place] = result
    if new and not keep:
        index.add(paths, rows, good, size, pixel_range)
    return Contents(
        pixels=pixels if keep else None,
        moments=rows["moments"],
        digests=[row.tobytes() for row in rows["digest"]],
        bad={path for path, is_good in zip(paths, good, strict=True) if not is_good},
    )
