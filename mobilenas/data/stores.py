"""Stores of images: decoded in memory, or in files that are decoded on demand."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from mobilenas.core.images import ImageFile, PixelRange
from mobilenas.data.image_files import Pixels, read_image

_PIECES_PER_WORKER = 4
Item = TypeVar("Item")
Result = TypeVar("Result")


class ImageStore(Protocol):
    """Square images of one size, by index."""

    def fetch(self, indices: Tensor) -> Tensor:
        """Return the images at `indices` [B]: uint8 [B, 3, H, W]."""

    def stream(self, chunks: Iterable[Tensor]) -> Iterator[Tensor]:
        """Yield uint8 [B, 3, H, W] for each [B] of `chunks`, in order."""


def worker_count() -> int:
    """Return the number of decoding threads; more than eight are no faster."""
    return min(8, os.cpu_count() or 1)


def submit_pieces(
    pool: ThreadPoolExecutor, work: Callable[[Item], Result], items: Sequence[Item]
) -> list[Future[list[Result]]]:
    """Submit `items` in pieces: a task per image would take longer than decoding a small one."""
    length = max(1, -(-len(items) // (_PIECES_PER_WORKER * worker_count())))
    pieces = [items[start : start + length] for start in range(0, len(items), length)]

    def run(piece: Sequence[Item]) -> list[Result]:
        return [work(item) for item in piece]

    return [pool.submit(run, piece) for piece in pieces]


def collect(futures: list[Future[list[Result]]]) -> list[Result]:
    """Return the results of `submit_pieces`, in order."""
    return [result for future in futures for result in future.result()]


def resize_square(images: Tensor, size: int) -> Tensor:
    """Resize uint8 [B, 3, H, H] to [B, 3, size, size], bilinear and antialiased as in PIL."""
    if images.shape[-1] == size:
        return images
    return torch.nn.functional.interpolate(
        images, size=(size, size), mode="bilinear", antialias=True, align_corners=False
    )


@dataclass(frozen=True, eq=False)
class TensorStore:
    """Images in memory."""

    pixels: Tensor
    """uint8 [N, 3, H, H]"""
    image_size: int
    """Side in pixels of what `fetch` returns; resized on demand if it differs from H."""

    def fetch(self, indices: Tensor) -> Tensor:
        """Return the images at `indices` [B]: uint8 [B, 3, H, W]."""
        return resize_square(self.pixels[indices], self.image_size)

    def stream(self, chunks: Iterable[Tensor]) -> Iterator[Tensor]:
        """Yield uint8 [B, 3, H, W] for each [B] of `chunks`, in order."""
        return map(self.fetch, chunks)


@dataclass(frozen=True, eq=False)
class FileStore:
    """Images on disk."""

    paths: tuple[ImageFile, ...]
    """Location of each image."""
    image_size: int
    """Side in pixels."""
    pixel_range: PixelRange | None = None
    """Values that become 0 and 255 in images of more than 8 bits, if there are any."""

    def _submit(self, pool: ThreadPoolExecutor, indices: Tensor) -> list[Future[list[Pixels]]]:
        paths = [self.paths[index] for index in indices.tolist()]
        return submit_pieces(
            pool, lambda path: read_image(path, self.image_size, self.pixel_range), paths
        )

    def _stack(self, futures: list[Future[list[Pixels]]]) -> Tensor:
        images = collect(futures)
        if not images:
            return torch.empty(0, 3, self.image_size, self.image_size, dtype=torch.uint8)
        return torch.from_numpy(np.stack(images))

    def fetch(self, indices: Tensor) -> Tensor:
        """Return the images at `indices` [B]: uint8 [B, 3, H, W]."""
        with ThreadPoolExecutor(worker_count()) as pool:
            return self._stack(self._submit(pool, indices))

    def stream(self, chunks: Iterable[Tensor]) -> Iterator[Tensor]:
        """Yield uint8 [B, 3, H, W] for each [B] of `chunks`, in order, decoding one chunk ahead."""
        pool = ThreadPoolExecutor(worker_count())
        try:
            pending: list[Future[list[Pixels]]] | None = None
            for chunk in chunks:
                following = self._submit(pool, chunk)
                if pending is not None:
                    yield self._stack(pending)
                pending = following
            if pending is not None:
                yield self._stack(pending)
        finally:
            pool.shutdown(cancel_futures=True)
