"""What reading and augmenting images costs: `python bench/loader.py [--side 128] [--rounds 9]`.

JPEGs (`--jpeg-side 500 --count 320`) are made, then decoded alone (by as many threads as the loader
has) and read by the loader with each augmentation; and the loader is timed on decoded images in
memory. Every round times each once, in turn; shown are medians of processor milliseconds an image,
all threads together, which other programs disturb least.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from common import make_data
from PIL import Image

from mobilenas.data import Augmentation, FileStore, ImageData, Split, batches, read_image
from mobilenas.data.stores import collect, submit_pieces, worker_count
from mobilenas.train import Recipe
from mobilenas.train.recipes import fields_of


def write_images(folder: Path, side: int, count: int) -> tuple[Path, ...]:
    """Write JPEGs of 0.2 bytes a pixel: coarse patches with fine noise over them."""
    source = np.random.default_rng(0)
    paths = tuple(folder / f"{number}.jpg" for number in range(count))
    for path in paths:
        patches = Image.fromarray(source.integers(0, 256, (30, 30, 3), dtype=np.uint8))
        image = np.asarray(patches.resize((side, side), Image.Resampling.BICUBIC))
        noisy = (image + source.normal(0, 6, image.shape)).clip(0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(path, quality=85)
    return paths


def read_all(data: ImageData, augmentation: Augmentation | None, batch_size: int) -> None:
    """Make one pass, as training does."""
    given = batches(data.train, data, batch_size=batch_size, seed=(0,), augmentation=augmentation)
    for _ in given:
        pass


def decode_all(paths: tuple[Path, ...], side: int) -> None:
    """Decode every image, and nothing else."""
    with ThreadPoolExecutor(worker_count()) as pool:
        collect(submit_pieces(pool, lambda path: read_image(path, side), paths))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--jpeg-side", type=int, default=500)
    parser.add_argument("--count", type=int, default=320, help="images")
    parser.add_argument("--batch", type=int, default=32)
    given = parser.parse_args()
    torch.set_num_threads(1)
    memory = make_data(given.side, given.count)
    how = {
        "plain": None,
        **{
            name: Recipe(epochs=1, **fields_of(name, given.count)).augmentation()
            for name in ("scratch-small", "finetune", "photo")
        },
    }
    with tempfile.TemporaryDirectory() as folder:
        paths = write_images(Path(folder), given.jpeg_side, given.count)
        store = FileStore(paths, given.side)
        disk = replace(memory, train=Split(store, torch.arange(given.count), memory.train.labels))
        work: dict[str, Callable[[], None]] = {"decoding": partial(decode_all, paths, given.side)}
        for place, data in (("files", disk), ("memory", memory)):
            for name, one in how.items():
                work[f"{place}, {name}"] = partial(read_all, data, one, given.batch)
        times: dict[str, list[float]] = {name: [] for name in work}
        for _ in range(given.rounds + 1):
            for name, each in work.items():
                began = time.process_time()
                each()
                times[name].append(1e3 * (time.process_time() - began) / given.count)
    medians = {name: statistics.median(each[1:]) for name, each in times.items()}
    for name, median in medians.items():
        share = f"{medians['decoding'] / median:6.2f} of decoding" * name.startswith("files")
        print(f"{name:24}{median:7.3f} ms{share}")


if __name__ == "__main__":
    main()
