"""Damaged files of every kind, read by what reads them: a MobileNASError, or nothing is wrong.

    python tests/mutations.py --count 20000 --seed 0
    python tests/mutations.py --seed 0 --only 17        # one case again, with its traceback

Anything else is a fault: another exception, a reader that does not end, a file outside the folder
that was written, a control character or half a surrogate in what is printed. Exit status 1 then.
"""

import argparse
import hashlib
import os
import signal
import sys
import tempfile
import traceback
from collections import Counter
from pathlib import Path
from random import Random

import click
import torch
from conftest import MICRO_SPACE, bands, middling
from mutated_files import (
    group_subjects,
    profile_subjects,
    write_groups,
    write_indexes,
    write_model,
    write_profiles,
)
from mutated_kinds import SILENT, Subject, command, each
from mutated_runs import RECIPE, halving, run_subjects, searcher, write_run
from mutators import damage_bytes
from safetensors.torch import load_file

from mobilenas.core.errors import InternalError, MobileNASError
from mobilenas.data.records import ImageRows, ShardIndex, read_index
from mobilenas.data.tar_index import index_shard
from mobilenas.onnx.checks import read_model
from mobilenas.onnx.predict import predict
from mobilenas.search.run import _train_supernet
from mobilenas.train import train

SECONDS = 60
"""A reader takes no longer, also on a busy machine."""


class Endless(BaseException):
    """A reader took too long."""


def make_folder(folder: Path) -> list[Subject]:
    """Write a small run folder and its relatives; return every kind of file in it."""
    data = bands(8)
    space, arch = MICRO_SPACE, MICRO_SPACE.arch(MICRO_SPACE.smallest())
    budgets = middling(space)
    write_run(folder, data, arch)
    write_profiles(folder)
    train(arch, data, RECIPE, folder=folder / "train", seed=0)
    (folder / "model.safetensors").write_bytes((folder / "train/best.safetensors").read_bytes())
    torch.save(load_file(folder / "model.safetensors"), folder / "weights.pth")
    _train_supernet(searcher(budgets, data), folder / "search", "id", SILENT)
    halving(data, folder).best([arch, space.arch(space.largest())])
    write_groups(folder, arch)
    write_model(folder, arch)
    write_indexes(folder)
    return [
        *run_subjects(folder, arch, data, budgets),
        *profile_subjects(),
        *group_subjects(),
        Subject(
            file="model.onnx",
            read=each(
                lambda place: predict(place / "model.onnx", [place / "image.png"]),
                command("profile", "flops", "{}/model.onnx"),
                lambda place: read_model(place / "model.onnx"),
            ),
            damage=damage_bytes,
        ),
        Subject(file="shard.tar", read=lambda f: index_shard(f / "shard.tar"), damage=damage_bytes),
        Subject(
            file="shard.msgpack",
            read=lambda place: read_index(place / "shard.msgpack", ShardIndex, SILENT),
            damage=damage_bytes,
        ),
        Subject(
            file="images.msgpack",
            read=lambda place: read_index(place / "images.msgpack", ImageRows, SILENT),
            damage=damage_bytes,
        ),
    ]


def listing(folder: Path) -> dict[str, str]:
    """Checksum of every file."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def attempt(subject: Subject, folder: Path, content: bytes) -> BaseException | None:
    """Read one damaged file; return what must not have come out of it."""

    def ring(*_: object) -> None:
        raise Endless(f"no end after {SECONDS} s of processor time")

    path = folder / subject.file
    path.write_bytes(content)
    signal.signal(signal.SIGPROF, ring)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)  # beside other programs the wall's clock runs on
    try:
        subject.read(folder)
    except InternalError as error:
        return error
    except (MobileNASError, click.ClickException):
        return None
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # every other one is what is looked for
        return error
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return None


def restore(folder: Path, original: dict[str, bytes]) -> None:
    """Put back all that a reader may have written in the run."""
    for path in folder.rglob("*"):
        if path.is_file() and str(path.relative_to(folder)) not in original:
            path.unlink()
    for name, content in original.items():
        path = folder / name
        if not path.exists() or path.read_bytes() != content:
            path.write_bytes(content)


def run(count: int, seed: int, only: int | None, kinds: str) -> int:
    """Make and read so many damaged files; return how many faults there were."""
    faults: Counter[str] = Counter()
    refused = 0
    with tempfile.TemporaryDirectory() as place:
        outside, folder = Path(place) / "outside", Path(place) / "inner/run"
        outside.mkdir()
        (outside / "model.onnx").write_bytes(b"kept")
        os.chdir(outside)
        subjects = [s for s in make_folder(folder) if kinds in s.file]
        original = {
            str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()
        }
        texts = [content for name, content in sorted(original.items()) if name.endswith("json")]
        around = listing(outside)
        for number in range(count) if only is None else [only]:
            random = Random(f"{seed}/{number}")
            subject = subjects[number % len(subjects)]
            content, done = subject.damage(original[subject.file], random, texts)
            error = attempt(subject, folder, content)
            if listing(outside) != around:
                error = AssertionError("a file outside the folder was written")
                around = listing(outside)
            if error is not None:
                where = traceback.extract_tb(error.__traceback__)[-1:]
                at = f"{Path(where[0].filename).name}:{where[0].lineno}" if where else ""
                told = f"{subject.file}: {type(error).__name__} {at}: {str(error)[:120]}"
                if not faults[f"{subject.file} {type(error).__name__} {at}"]:
                    print(f"case {number}, {done}: {told}", flush=True)
                faults[f"{subject.file} {type(error).__name__} {at}"] += 1
                if only is not None:
                    traceback.print_exception(error)
            refused += error is None
            restore(folder, original)
        os.chdir("/")
    total = sum(faults.values())
    print(f"{count if only is None else 1} damaged files, {total} faults at {len(faults)} places")
    return total


def main() -> int:
    """Exit status 1 where there is a fault."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000, help="damaged files")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="this case alone, with its traceback")
    parser.add_argument("--kinds", default="", help="files with this in their names alone")
    given = parser.parse_args()
    torch.set_num_threads(1)
    return int(run(given.count, given.seed, given.only, given.kinds) > 0)


if __name__ == "__main__":
    sys.exit(main())
