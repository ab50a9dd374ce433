"""Damaged files of every kind, read by what reads them: a MobileNASError, or nothing is wrong.

    python tests/mutations.py --count 20000 --seed 0
    python tests/mutations.py --seed 0 --only 17        # one case again, with its traceback

Anything else is a fault: another exception, a reader that does not end, a file outside the folder
that was written, a control character or half a surrogate in what is printed. Exit status 1 then.
"""

import argparse
import hashlib
import io
import json
import os
import signal
import sys
import tarfile
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import click
import torch
from conftest import MICRO_SPACE, bands, middling, profile_of
from mutators import (
    Mutation,
    damage_bytes,
    damage_checkpoint,
    damage_either,
    damage_json,
    damage_tensors,
)
from PIL import Image
from safetensors.torch import load_file

from mobilenas.cli.main import cli
from mobilenas.core.errors import InternalError, MobileNASError
from mobilenas.core.files import read_json, write_json, write_jsonl, write_list, write_text
from mobilenas.core.progress import NullReporter
from mobilenas.core.records import Machine, read_record
from mobilenas.core.settings import to_plain
from mobilenas.cost.budget import Budget
from mobilenas.cost.networks import costs
from mobilenas.data import DataSettings
from mobilenas.data.records import ImageRows, ShardIndex, read_index, write_index
from mobilenas.data.tar_index import index_shard
from mobilenas.latency import kit_runner
from mobilenas.latency.cache import Rounds
from mobilenas.latency.kit import KitModel, KitSpace, Manifest, import_results, read_manifest
from mobilenas.latency.profile import read_profile, write_profile
from mobilenas.latency.transfer import read_times
from mobilenas.latency.units import space_units
from mobilenas.nn.weights import load_into
from mobilenas.onnx.checks import read_model
from mobilenas.onnx.export import export_onnx
from mobilenas.onnx.metadata import ModelMetadata
from mobilenas.onnx.predict import predict
from mobilenas.onnx.record import read_export
from mobilenas.pipeline import ablation, sweep
from mobilenas.pipeline.baselines import read_longer, searched_arch, searched_record
from mobilenas.pipeline.request import Request
from mobilenas.pipeline.run_folder import Run, create_run, open_run
from mobilenas.pipeline.settings import RunSettings
from mobilenas.pipeline.stages import compared_run
from mobilenas.report.ablation_page import ablation_page
from mobilenas.report.files import RunFiles
from mobilenas.report.records import AblationRecord, EntryRecord
from mobilenas.report.run_page import SECTIONS, section
from mobilenas.report.sweep_page import sweep_page, swept_runs
from mobilenas.report.table import read_networks, summarize, verdict
from mobilenas.search import FinalistSettings, SearchSettings
from mobilenas.search.finalists import SuccessiveHalving
from mobilenas.search.loop import Searcher
from mobilenas.search.records import ImageSizeRecord
from mobilenas.search.run import _train_supernet, read_choices
from mobilenas.search.variants import parse_variant
from mobilenas.spaces.cell.genotypes import darts_v2
from mobilenas.spaces.channels.space import Base, ChannelsArch
from mobilenas.spaces.networks import build, read_arch
from mobilenas.train import Recipe, TrainResult, load_weights, train

LONGEST = 3000
"""No error has more characters."""
SECONDS = 60
"""A reader takes no longer, also on a busy machine."""
RECIPE = Recipe(epochs=2, batch_size=20, learning_rate=0.05, warmup_epochs=0)
SEARCH = SearchSettings(epochs=2, warmup=1, batch_size=16)
SILENT = NullReporter()

DAMAGE_JSON = damage_either(damage_json)

Read = Callable[[Path], object]


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A kind of file, what damages one, and what reads it."""

    file: str
    """Below the folder."""
    read: Read
    """Reads it, given the folder."""
    damage: Callable[[bytes, Random, list[bytes]], Mutation] = DAMAGE_JSON
    """Returns other content."""


class Endless(BaseException):
    """A reader took too long."""


def command(*words: str) -> Read:
    """Return what calls a command on the folder; its output must command no terminal."""

    def call(folder: Path) -> None:
        shown, errors = io.StringIO(), io.StringIO()
        with redirected(shown, errors):
            try:
                cli([word.format(folder) for word in words])
            except SystemExit as ending:
                if ending.code not in (0, 2, 3):
                    raise AssertionError(f"exit status {ending.code}") from ending
        text = shown.getvalue() + errors.getvalue()
        if any((char < " " and char not in "\n\t") or "\x7f" <= char < "\xa0" for char in text):
            raise AssertionError(f"control characters are printed: {text!r:.200}")
        text.encode()
        if len(errors.getvalue()) > LONGEST:
            raise AssertionError(f"an error has {len(errors.getvalue())} characters")

    return call


@contextmanager
def redirected(out: io.StringIO, err: io.StringIO) -> Iterator[None]:
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = out, err
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def sections(*titles: str) -> Read:
    """Return what shows these sections of the report."""

    def show(folder: Path) -> None:
        files = RunFiles(folder=folder)
        for title, shown in SECTIONS:
            if title in titles:
                section(files, title, shown).encode(errors="backslashreplace")

    return show


def in_turn(*reads: Read) -> Read:
    """Return what reads in several ways; the first that refuses the file ends it."""

    def read(folder: Path) -> None:
        for one in reads:
            one(folder)

    return read


def each(*reads: Read) -> Read:
    """Return what reads in all ways, also where some refuse the file."""

    def read(folder: Path) -> None:
        refused: list[MobileNASError] = []
        for one in reads:
            try:
                one(folder)
            except MobileNASError as error:
                refused.append(error)
        if refused:
            raise refused[0]

    return read


def make_folder(folder: Path) -> list[Subject]:
    """Write a small run folder and its relatives; return every kind of file in it."""
    data = bands(8)
    space, arch = MICRO_SPACE, MICRO_SPACE.arch(MICRO_SPACE.smallest())
    budgets = middling(space)
    _write_run(folder, data, arch)
    _write_profiles(folder)
    train(arch, data, RECIPE, folder=folder / "train", seed=0)
    (folder / "model.safetensors").write_bytes((folder / "train/best.safetensors").read_bytes())
    torch.save(load_file(folder / "model.safetensors"), folder / "weights.pth")
    _train_supernet(searcher(budgets, data), folder / "search", "id", SILENT)
    halving(data, folder).best([arch, space.arch(space.largest())])
    _write_groups(folder, arch)
    _write_model(folder, arch)
    _write_indexes(folder)
    return [
        *_run_subjects(folder, arch, data, budgets),
        *_profile_subjects(),
        *_group_subjects(),
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


def searcher(budgets: Any, data: Any) -> Searcher:
    """A search of no size."""
    return Searcher(budgets, data, SEARCH, seed=0)


def halving(data: Any, folder: Path) -> SuccessiveHalving:
    """A round of finalists, from its file where there is one."""
    return SuccessiveHalving(
        data,
        FinalistSettings(count=2, epochs=1),
        RECIPE,
        folder=folder / "search/finalists",
        seed=0,
        device="cpu",
        reporter=SILENT,
    )


def _settings() -> RunSettings:
    return RunSettings(
        data=DataSettings(source="digits"),
        budgets=(Budget(cost="flops", limit=300_000),),
        search=SEARCH,
        finalists=FinalistSettings(count=2, epochs=1),
        recipe=RECIPE,
        random=1,
    )


def _write_run(folder: Path, data: Any, arch: Any) -> None:
    create_run(folder, _settings(), data=data, command="mobilenas run", reporter=SILENT)
    exact = asdict(costs(arch))
    stage = {"before_reestimation": 40.0, "after_reestimation": 50.5}
    gap = {"supernet": stage, "operations_discrete": stage, "points": 1.0, "points_before": -1.5}
    budget = {"cost": "flops", "limit": 300_000, "predicted": 12_345, "holds": True}
    record = {
        "arch": arch.to_dict(),
        "costs": exact,
        "counting_rule": "r",
        "budgets": [budget],
        "discretization_gap": gap,
        "candidates": 2,
        "alarms": ["collapse: all is skipped"],
        "seconds": {"supernet": 1.5, "finalists": 2.5},
        "seed": 0,
    }
    write_json(folder / "arch.json", record)
    choices = [to_plain(MICRO_SPACE.smallest()), to_plain(MICRO_SPACE.largest())]
    rounds = [{"predicted_ms": [1.0], "measured_ms": [1.5]}]
    record = {"choices": choices, "gap": gap, "seconds": 1.0, "measurements": rounds}
    write_json(folder / "search/candidates.json", record)
    scores = [{"arch": n, "rung": 0, "epochs": 1, "val_top1": 50.0 + n} for n in (0, 1)]
    record = {"winner": 1, "scores": scores, "archs": [arch.to_dict()] * 2}
    write_json(folder / "search/finalists.json", record)
    sides = record | {"names": ["8x8", "16x16"], "seconds": 9.0, "space": to_plain(MICRO_SPACE)}
    write_json(folder / "search/image-size.json", sides)
    agree = {"spearman": 0.5, "kendall": 0.25, "regret": 1.0, "pick_over_mean": 2.0}
    record = {"networks": 3, "epochs": 2, "supernet": agree, "alphas": agree}
    record |= {"supernet_top1": [40.0, 41.0, 42.0], "trained_top1": [60.0, 61.0, 62.0]}
    record |= {"alpha_score": [-1.0, -2.0, -3.0]}
    write_json(folder / "search/rank.json", record)
    trained = {"epochs": 2, "best_epoch": 1, "val_top1": 50.0, "last_val_top1": 49.0}
    write_json(folder / "train/train.json", trained | {"seconds": 2.0, "params": 99})
    _write_results(folder, arch, exact, budget)


def _write_results(folder: Path, arch: Any, exact: dict[str, Any], budget: dict[str, Any]) -> None:
    times = {"latency_ms": 0.25, "latency_interval_ms": 0.01, "latency_iqr_ms": 0.02}
    times |= {"unsteady": False}
    file = {"path": "export/model.onnx", "top1": 90.0, "size_bytes": 4200} | times
    target = {"verdict": "no", "caveat": "", "nodes": 9, "supported": 8, "partitions": 2}
    target |= {"available": True, "recommendation": "", "unsupported": {"Gemm": 1}}
    target |= {"target": "nnapi", "dynamic": 0, "unchecked": [], "split_by": ["Gemm"], "note": ""}
    checks = {"operators": {"Conv": 3}, "unaligned": [], "reorders": {}, "peak_memory_bytes": 99}
    checks |= {"max_abs_difference": 0.1, "top1_agreement": 99.0, "images": 8}
    checks |= {"size_bytes": 4200, "opset": 18, "static": True}
    made = {"method": "QDQ", "weights": "per-channel", "calibration": "minmax", "seed": 0}
    made |= {"calibration_images": 8, "corrections": ["equalize"], "qat_epochs": 1}
    int8 = file | {"path": "export/model.int8.onnx", "checks": checks, "quantization": made}
    int8["targets"] = {"nnapi": target}
    export = {
        "files": {"onnx": file, "int8": int8},
        "deployed": "onnx",
        "parity": {"max_abs_difference": 1e-6, "top1_agreement": 100.0, "images": 8},
        "timing": {"threads": 1, "provider": "CPUExecutionProvider", "profile": "shelf-1"},
        "labels": ["a", "b"],
    }
    write_json(folder / "export/export.json", export)
    worst = {"image": "a/1.png", "label": "a", "predicted": "b", "probability": 0.75}
    worst |= {"probability_of_label": 0.25, "png": "iVBORw0KGgo="}
    mistakes = {"file": "export/model.onnx", "images": 30, "top1": 90.0, "worst": [worst]}
    mistakes["confusion"] = {"a": {"a": 12, "b": 3}, "b": {"b": 15}}
    write_json(folder / "export/misclassified.json", mistakes)
    network = {"seed": 0, **exact, "predicted_ms": 0.5, "top1": 90.0, "top1_fp32": 90.0} | times
    network |= {"val_top1": 88.0, "train_seconds": 3.0, "arch": arch.to_dict(), "size_bytes": 4200}
    kinds = {"searched": "searched", "mobilenet_v2 x0.25": "mobilenet", "random-1": "random"}
    entries = [
        network | {"name": name, "kind": kind, "onnx": f"compare/{kind}-seed-0/model.onnx"}
        for name, kind in kinds.items()
    ]
    longer = {"network": "mobilenet_v2 x0.25", "epochs": 31, "recipe_epochs": 15}
    place = "compare/equal-time-seed-0"
    named = {"name": "equal-time", "kind": "equal-time", "onnx": f"{place}/model.onnx"}
    entries.append(network | named | longer)
    spent = {"seconds": 90.0, "seconds_of_recipe": 45.0}
    write_json(folder / place / "equal-time.json", longer | spent | {"arch": arch.to_dict()})
    write_list(folder / "compare.json", entries)
    other = folder / "compare/mobilenet-seed-0"
    write_json(other / "export/export.json", export)
    write_text(other / "train/best.safetensors", "weights")
    result = {"budgets": [budget | {"recounted": 12_345}], "verdict": "v", "files": {}}
    write_json(folder / "result.json", result | {"top1": 90.0, "baselines": entries[1:]})


def _run_subjects(folder: Path, arch: Any, data: Any, budgets: Any) -> list[Subject]:
    def run(place: Path) -> Run:
        return Run(folder=place, settings=_settings(), reporter=SILENT)

    def networks(place: Path) -> object:
        entries = read_networks(place / "compare.json")
        return summarize(entries), verdict(entries)

    def compared(place: Path) -> object:
        for name in ("mobilenet_v2", "random-1"):
            compared_run(_Prepared(run(place)), name)
        return None

    def candidates(place: Path) -> object:
        path = place / "search/candidates.json"
        return read_choices(path, MICRO_SPACE)

    checkpoints = {
        "train/checkpoint.pt": lambda place: train(
            arch, data, RECIPE, folder=place / "train", seed=0
        ),
        "search/checkpoint.pt": lambda place: _train_supernet(
            searcher(budgets, data), place / "search", "id", SILENT
        ),
        "search/finalists/0/checkpoint.pt": lambda place: halving(data, place).best([arch, arch]),
    }
    everything = [
        title for title, _ in SECTIONS if not title.startswith(("Published", "How FLOPs"))
    ]
    return [
        Subject(
            file="run.json", read=each(lambda f: open_run(f, SILENT).space, sections(*everything))
        ),
        Subject(
            file="arch.json",
            read=each(
                searched_record,
                searched_arch,
                command("profile", "flops", "{}/arch.json", "--json"),
                sections(
                    "Verdict", "The searched network", "Discretization gap", "Cost of each layer"
                ),
            ),
        ),
        Subject(file="search/log.jsonl", read=sections("The search over time")),
        Subject(
            file="search/candidates.json",
            read=each(candidates, sections("Latency, predicted and measured")),
        ),
        Subject(file="search/finalists.json", read=sections("Finalists")),
        Subject(
            file="search/image-size.json",
            read=each(
                lambda place: read_record(place / "search/image-size.json", ImageSizeRecord),
                sections("Image size"),
            ),
        ),
        Subject(file="search/rank.json", read=sections("Ranking quality")),
        Subject(
            file="train/train.json",
            read=lambda place: read_record(place / "train/train.json", TrainResult),
        ),
        Subject(
            file="export/export.json",
            read=each(read_export, sections("Exported files", "Latency, predicted and measured")),
        ),
        Subject(file="export/misclassified.json", read=sections("What it gets wrong")),
        Subject(
            file="compare.json",
            read=each(networks, compared, sections("Verdict", "Comparison", "Exported files")),
        ),
        Subject(
            file="compare/equal-time-seed-0/equal-time.json",
            read=lambda place: read_longer(place / "compare/equal-time-seed-0/equal-time.json", 0),
        ),
        Subject(file="result.json", read=sections("Verdict")),
        Subject(file="profile.json", read=_profile_reads("profile.json")),
        Subject(
            file="model.safetensors",
            read=lambda place: load_weights(arch, place / "model.safetensors"),
            damage=damage_either(damage_tensors),
        ),
        Subject(
            file="weights.pth",
            read=lambda place: load_into(
                build(arch), place / "weights.pth", "arch", torch_files=True
            ),
            damage=damage_either(damage_checkpoint),
        ),
        *(
            Subject(file=file, read=read, damage=damage_either(damage_checkpoint))
            for file, read in checkpoints.items()
        ),
    ]


class _Prepared(Run):
    """A run whose images nobody reads."""

    def __init__(self, run: Run) -> None:
        super().__init__(folder=run.folder, settings=run.settings, reporter=run.reporter)

    def at(self, image_size: int) -> Run:
        return self

    def within(self, folder: Path) -> Run:
        return replace(Run(folder=folder, settings=self.settings, reporter=self.reporter))


def _profile_reads(file: str) -> Read:
    return each(
        lambda place: read_profile(place / file).warnings(),
        command("profile", "show", f"{{}}/{file}"),
        command("profile", "show", f"{{}}/{file}", "--json"),
        sections("Latency, predicted and measured"),
    )


def _write_profiles(folder: Path) -> None:
    write_profile(profile_of(MICRO_SPACE), folder / "profile.json")
    units = space_units(MICRO_SPACE)
    pieces: list[Any] = [
        *units,
        *(MICRO_SPACE.arch(MICRO_SPACE.random(Random(n))) for n in range(4)),
    ]
    models = tuple(
        KitModel(
            file=f"models/{number}.onnx",
            key=piece.key if piece in units else f"network {number}",
            precision="fp32",
            sha256="0" * 64,
            kind="unit" if piece in units else "network",
            flops=1000 + number,
            arch=None if piece in units else piece,
        )
        for number, piece in enumerate(pieces)
    )
    manifest = Manifest(
        opset=18, spaces=(KitSpace(precision="fp32", space=MICRO_SPACE),), models=models
    )
    write_json(folder / "kit/manifest.json", manifest.to_dict())
    results = {
        "kit": manifest.kit,
        "units": "ns",
        "device": {"cpu": "a board", "onnxruntime": "1.22.0", "cores": 4},
        "provider": "CPUExecutionProvider",
        "threads": 1,
        "rounds": 3,
        "date": "2026-01-31T12:00:00Z",
        "manifest": manifest.to_dict(),
        "times": {
            model.file: {"ns": [1000 * (n + 1), 1001 * (n + 1), 1002 * (n + 1)]}
            for n, model in enumerate(models)
        },
    }
    write_json(folder / "kit/kit-results.json", results)
    rounds = [{"ns": {"a": 5, "b": 7}}, {"failed": {"c": "it does not run"}}, {"ns": {"a": 6}}]
    write_jsonl(folder / "cache.jsonl", rounds)
    write_text(folder / "times.csv", "network,latency_ms\nmobilenet_v2:0.5:32,1.5\narch.json,2.5\n")


def _profile_subjects() -> list[Subject]:
    def runner(place: Path) -> None:
        with redirected(io.StringIO(), io.StringIO()):
            status = kit_runner.main(
                ["--kit", str(place / "kit"), "--out", str(place / "out.json")]
            )
        if status == 2:
            raise MobileNASError("refused")

    def imported(place: Path) -> object:
        return import_results(place / "kit/kit-results.json", "board")

    return [
        Subject(
            file="kit/manifest.json",
            read=each(lambda place: read_manifest(place / "kit/manifest.json"), runner),
        ),
        Subject(file="kit/kit-results.json", read=imported),
        Subject(file="cache.jsonl", read=lambda place: Rounds(place / "cache.jsonl")),
        Subject(
            file="times.csv",
            read=lambda place: read_times(place / "times.csv"),
            damage=damage_either(damage_json, 0),
        ),
    ]


def _write_groups(folder: Path, arch: Any) -> None:
    request = to_plain(Request(data="digits", flops=300_000))
    record = {"command": "mobilenas sweep", "requests": {"flops-300k": request}}
    write_json(folder / "sweep/sweep.json", record)
    for name in ("run.json", "compare.json"):
        (folder / "sweep/flops-300k").mkdir(parents=True, exist_ok=True)
        (folder / "sweep/flops-300k" / name).write_bytes((folder / name).read_bytes())
    arms = {"variants": ["mobilenas", "random"], "control": "mobilenas"}
    record = {"command": "mobilenas ablate", "request": request} | arms
    write_json(folder / "ablation/ablation-request.json", record)
    entry = {
        "seed": 0,
        "arch": arch.to_dict(),
        "choice": to_plain(MICRO_SPACE.smallest()),
        "costs": asdict(costs(arch)),
        "val_top1": 50.0,
        "top1": 51.0,
        "gap": {"points": 1.0, "points_before": 2.0},
        "skips": {"blocks": 1},
        "alarms": [],
        "seconds": {"search": 1.0, "train": 2.0},
    }
    write_json(folder / "ablation/entry.json", entry)
    write_json(folder / "cell.json", darts_v2(32, 10).to_dict())
    write_json(folder / "channels.json", ChannelsArch(base=Base.of(arch), sizes={}).to_dict())
    described = {
        "labels": json.dumps(["a", "b"]),
        "mean": "[0.5, 0.5, 0.5]",
        "std": "[0.2, 0.2, 0.2]",
        "image_size": "32",
    }
    write_json(folder / "metadata.json", described)


def _write_model(folder: Path, arch: Any) -> None:
    side = arch.image_size
    metadata = ModelMetadata(
        labels=tuple(map(str, range(arch.classes))), mean=(0, 0, 0), std=(1, 1, 1), image_size=side
    )
    export_onnx(
        build(arch),
        folder / "model.onnx",
        image_size=side,
        channels=3,
        metadata=metadata.to_strings(),
    )
    Image.new("RGB", (side, side)).save(folder / "image.png")


def _write_indexes(folder: Path) -> None:
    with tarfile.open(folder / "shard.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in {
            "0.jpg": b"image",
            "0.cls": b"7",
            "é.png": b"",
            "é.cls": b"8",
        }.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    write_index(folder / "shard.msgpack", index_shard(folder / "shard.tar"), SILENT)
    rows = ImageRows(names=[b"0.jpg", b"\xe9.png"], stamps=b"s" * 32, row_bytes=1, rows=b"rr")
    write_index(folder / "images.msgpack", rows, SILENT)


def _group_subjects() -> list[Subject]:
    def parsed(read: Read, file: str) -> Read:
        return lambda place: read(place / file)

    def swept(place: Path) -> object:
        return sweep_page(place, swept_runs(place / "sweep", "report.html"))

    def entry(place: Path) -> None:
        found = read_record(place / "ablation/entry.json", EntryRecord)
        arm = ablation._figures(
            "mobile", parse_variant("mobilenas"), [found, found], [found, found]
        )
        record = AblationRecord(
            command="c",
            space="mobile",
            budgets=[],
            seeds=[0, 1],
            seeds_requested=[0, 1],
            control="mobilenas",
            variants=[arm],
            request={},
            counting_rule="r",
            data=bands(8).describe(),
            versions={},
            machine=Machine(platform="p", processor="p", cuda=None),
        )
        ablation_page(record)

    def metadata(place: Path) -> object:
        return ModelMetadata.from_strings(
            {k: v for k, v in read_json(place / "metadata.json").items() if isinstance(v, str)},
            "model.onnx",
        )

    return [
        Subject(file="sweep/sweep.json", read=parsed(sweep.read_sweep, "sweep/sweep.json")),
        Subject(file="sweep/flops-300k/run.json", read=swept),
        Subject(file="sweep/flops-300k/compare.json", read=swept),
        Subject(
            file="ablation/ablation-request.json",
            read=parsed(ablation.read_request, "ablation/ablation-request.json"),
        ),
        Subject(file="ablation/entry.json", read=entry),
        Subject(file="cell.json", read=lambda place: read_arch(place / "cell.json")),
        Subject(file="channels.json", read=lambda place: read_arch(place / "channels.json")),
        Subject(file="metadata.json", read=metadata),
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
