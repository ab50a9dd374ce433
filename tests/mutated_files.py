"""Profiles, sweeps, models and indexes: kinds of files beside a run's (mutations.py)."""

import io
import json
import tarfile
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import Any

from conftest import MICRO_SPACE, bands, profile_of
from mutated_kinds import SILENT, Read, Subject, each, redirected
from mutators import damage_either, damage_json
from PIL import Image

from mobilenas.core.errors import MobileNASError
from mobilenas.core.files import read_json, write_json, write_jsonl, write_text
from mobilenas.core.records import Machine, read_record
from mobilenas.core.settings import to_plain
from mobilenas.cost.networks import costs
from mobilenas.data.records import ImageRows, write_index
from mobilenas.data.tar_index import index_shard
from mobilenas.latency import kit_runner
from mobilenas.latency.cache import Rounds
from mobilenas.latency.kit import KitModel, KitSpace, Manifest, import_results, read_manifest
from mobilenas.latency.profile import write_profile
from mobilenas.latency.transfer import read_times
from mobilenas.latency.units import space_units
from mobilenas.onnx.export import export_onnx
from mobilenas.onnx.metadata import ModelMetadata
from mobilenas.pipeline import ablation, sweep
from mobilenas.pipeline.request import Request
from mobilenas.report.ablation_page import ablation_page
from mobilenas.report.records import AblationRecord, EntryRecord
from mobilenas.report.sweep_page import sweep_page, swept_runs
from mobilenas.search.variants import parse_variant
from mobilenas.spaces.cell.genotypes import darts_v2
from mobilenas.spaces.channels.space import Base, ChannelsArch
from mobilenas.spaces.networks import build, read_arch


def write_profiles(folder: Path) -> None:
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


def profile_subjects() -> list[Subject]:
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


def write_groups(folder: Path, arch: Any) -> None:
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


def write_model(folder: Path, arch: Any) -> None:
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


def write_indexes(folder: Path) -> None:
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


def group_subjects() -> list[Subject]:
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
