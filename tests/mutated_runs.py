"""A small run folder, and every kind of file in it (mutations.py)."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from conftest import MICRO_SPACE
from mutated_kinds import SILENT, Subject, command, each, profile_reads, sections
from mutators import damage_checkpoint, damage_either, damage_tensors

from mobilenas.core.files import write_json, write_list, write_text
from mobilenas.core.records import read_record
from mobilenas.core.settings import to_plain
from mobilenas.cost.budget import Budget
from mobilenas.cost.networks import costs
from mobilenas.data import DataSettings
from mobilenas.nn.weights import load_into
from mobilenas.onnx.record import read_export
from mobilenas.pipeline.baselines import read_longer, searched_arch, searched_record
from mobilenas.pipeline.run_folder import Run, create_run, open_run
from mobilenas.pipeline.settings import RunSettings
from mobilenas.pipeline.stages import compared_run
from mobilenas.report.run_page import SECTIONS
from mobilenas.report.table import read_networks, summarize, verdict
from mobilenas.search import FinalistSettings, SearchSettings
from mobilenas.search.finalists import SuccessiveHalving
from mobilenas.search.loop import Searcher
from mobilenas.search.records import ImageSizeRecord
from mobilenas.search.run import _train_supernet, read_choices
from mobilenas.spaces.networks import build
from mobilenas.train import Recipe, TrainResult, load_weights, train

RECIPE = Recipe(epochs=2, batch_size=20, learning_rate=0.05, warmup_epochs=0)
SEARCH = SearchSettings(epochs=2, warmup=1, batch_size=16)


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


def write_run(folder: Path, data: Any, arch: Any) -> None:
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


def run_subjects(folder: Path, arch: Any, data: Any, budgets: Any) -> list[Subject]:
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
        Subject(file="profile.json", read=profile_reads("profile.json")),
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
