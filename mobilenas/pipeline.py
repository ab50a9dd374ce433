"""run = search -> train -> export -> compare -> report, over a run folder.

Every stage reads files of the folder and writes files of the folder; one that is done is not done
again.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from mobilenas.compare import Contender, mobilenets, random_networks, rival, write_report
from mobilenas.compare.baselines import Opponents
from mobilenas.compare.table import differences, read_networks, verdict
from mobilenas.config import COUNTING_RULE, to_plain
from mobilenas.cost import Costs, costs
from mobilenas.cost.budget import LATENCY, Budget, Budgets
from mobilenas.cost.recount import count_fvcore, count_onnx
from mobilenas.data import batches
from mobilenas.deployment import (
    CALIBRATION_IMAGES,
    conditions,
    confirmation,
    deployed,
    file_top1,
    predicted,
    predicted_ms,
    times,
    write_onnx,
)
from mobilenas.errors import BudgetError, FileError
from mobilenas.export.onnx import check_parity
from mobilenas.files import read_json, write_bytes, write_json, write_text
from mobilenas.profiling.confirm import is_here
from mobilenas.runs import Run
from mobilenas.search import search
from mobilenas.spaces import Arch, CellArch, build, format_genotype, read_arch
from mobilenas.train import BEST_WEIGHTS, evaluate, load_weights, train

ARCH_FILE = "arch.json"
WEIGHTS_FILE = "model.safetensors"
EXPORT_FILE = "export/export.json"
ONNX_FILE = "export/model.onnx"
COMPARE_FILE = "compare.json"
REPORT_FILE = "report.html"
RESULT_FILE = "result.json"

_PARITY_IMAGES = 256


def run_all(run: Run) -> dict[str, Any]:
    """Do every stage that is not done, and return result.json."""
    search_stage(run)
    train_stage(run)
    export_stage(run)
    compare_stage(run)
    result = write_result(run)
    report_stage(run)
    return result


def search_stage(run: Run, seed: int | None = None) -> dict[str, Any]:
    """Write arch.json: the arch, its exact costs, the budgets it keeps, its discretization gap.

    Cells stand there a second time, in the notation of the papers.
    """
    settings = run.settings
    seed = settings.seed if seed is None else seed
    folder = run.seed_folder(seed)
    if (folder / ARCH_FILE).exists():
        return read_json(folder / ARCH_FILE)
    found = search(
        run.budgets,
        run.data,
        settings.search,
        settings.finalists,
        settings.recipe,
        folder=folder / "search",
        seed=seed,
        device=settings.device,
        reporter=run.reporter,
        rank=settings.rank if seed == settings.seed else 0,
        confirm=confirmation(run),
    )
    arch: Arch = run.budgets.space.arch(found.choice)
    _check_built(arch, costs(arch))
    expected = predicted(run, arch)
    record = {
        "arch": arch.to_dict(),
        **({"genotype": format_genotype(arch.genotype)} if isinstance(arch, CellArch) else {}),
        "costs": expected,
        "counting_rule": COUNTING_RULE,
        "budgets": [
            {
                "cost": budget.cost,
                "limit": budget.limit,
                "predicted": expected[budget.cost],
                "holds": expected[budget.cost] <= budget.limit,
            }
            for budget in settings.budgets
        ],
        "discretization_gap": found.gap,
        "candidates": found.candidates,
        "alarms": found.alarms,
        "seconds": found.seconds,
        "seed": seed,
    }
    write_json(folder / ARCH_FILE, record)
    return record


def train_stage(run: Run, seed: int | None = None) -> dict[str, Any]:
    """Train the found arch and write model.safetensors and train/train.json."""
    seed = run.settings.seed if seed is None else seed
    folder = run.seed_folder(seed)
    arch = _found_arch(folder)
    result = _train(run, arch, folder / "train", seed, "train")
    write_bytes(folder / WEIGHTS_FILE, (folder / "train" / BEST_WEIGHTS).read_bytes())
    return result


def export_stage(run: Run) -> dict[str, Any]:
    """Write export/model.onnx and export/export.json: parity, size, latency, top-1."""
    path = run.folder / EXPORT_FILE
    if path.exists():
        return read_json(path)
    if not (run.folder / WEIGHTS_FILE).exists():
        raise FileError(f"{run.folder} has no {WEIGHTS_FILE}; run `mobilenas train` first")
    run.reporter.start("export", 1)
    arch = _found_arch(run.folder)
    model = load_weights(arch, run.folder / WEIGHTS_FILE)
    onnx_path = run.folder / ONNX_FILE
    write_onnx(run, arch, model, onnx_path)
    data = run.data
    images = (x for x, _ in batches(data.val, data, batch_size=64, seed=None))
    parity = check_parity(model, onnx_path, _first(images, _PARITY_IMAGES))
    files = {"onnx": onnx_path}
    if run.settings.precision == "int8":
        files["int8"] = deployed(run, onnx_path)
    timed = times(run, list(files.values()))
    record = {
        "files": {
            name: {
                "path": str(file.relative_to(run.folder)),
                "top1": file_top1(run, file),
                "size_bytes": file.stat().st_size,
                "latency_ms": timed[file].median_ms,
                "latency_interval_ms": timed[file].interval_ms,
            }
            for name, file in files.items()
        },
        "deployed": list(files)[-1],
        "parity": asdict(parity),
        "timing": conditions(run),
        "labels": list(data.classes),
    }
    if run.settings.precision == "int8":
        record["quantization"] = {"method": "static QDQ, MinMax, per channel"} | {
            "calibration_images": CALIBRATION_IMAGES,
            "seed": run.settings.seed,
        }
    write_json(path, record)
    run.reporter.step(1, {"parity": f"{parity.max_abs_difference:.1e}"})
    return record


def compare_stage(run: Run, asked: Opponents | None = None) -> list[dict[str, Any]]:
    """Train all that the result is held against in the same way, and write compare.json.

    What stands there already is kept, also where it is not `asked` for. When a network is added,
    all are timed again: side by side, so that their times compare.
    """
    path = run.folder / COMPARE_FILE
    there = read_networks(path) if path.exists() else []
    if there and asked is None:
        return there
    export_stage(run)  # the found network's file, which is one of those that are timed
    for seed in run.seeds:
        search_stage(run, seed)
        train_stage(run, seed)
    added = [_trained(run, contender) for contender in _contenders(run, asked, there)]
    entries = there + added
    if not added:
        return entries
    paths = [run.folder / entry["onnx"] for entry in entries]
    distinct = list(dict.fromkeys(paths))
    run.reporter.start("latency", 1)
    timed = times(run, distinct)
    for entry, onnx_path in zip(entries, paths, strict=True):
        entry["latency_ms"] = timed[onnx_path].median_ms
        entry["latency_spread_ms"] = timed[onnx_path].spread_ms
        entry["size_bytes"] = onnx_path.stat().st_size
    run.reporter.step(1, {})
    write_text(path, json.dumps(entries, indent=1) + "\n")
    return entries


def report_stage(run: Run) -> Path:
    """Write report.html."""
    path = run.folder / REPORT_FILE
    write_report(run.folder, path)
    return path


def write_result(run: Run) -> dict[str, Any]:
    """Count the final file again, hold every budget against it, and write result.json."""
    entries = compare_stage(run)
    found = next(entry for entry in entries if entry["kind"] == "found")
    exported = export_stage(run)
    certificate = certify(run)
    result = {
        "budgets": certificate,
        "flops": found["flops"],
        "params": found["params"],
        "memory": found["memory"],
        "latency_ms": found["latency_ms"],
        "top1": found["top1"],
        "verdict": verdict(entries),
        "differences": differences(entries),
        "baselines": [entry for entry in entries if entry is not found],
        "files": {name: file["path"] for name, file in exported["files"].items()}
        | {"arch": ARCH_FILE, "weights": WEIGHTS_FILE, "report": REPORT_FILE},
        "counting_rule": COUNTING_RULE,
    }
    write_json(run.folder / RESULT_FILE, result)
    return result


def certify(run: Run) -> list[dict[str, Any]]:
    """Return requested, predicted and recounted value of every budget.

    FLOPs and params are counted on the ONNX file by code that shares nothing with the cost model.
    Memory depends on how a runtime allocates: there it is the prediction that is held against the
    limit, and `recounted` is null. So it is for latency on a device that is not this machine; here
    the exported file is measured.
    """
    counted = count_onnx(run.folder / ONNX_FILE)
    recounts = {"flops": counted.flops, "params": counted.params}
    expected = predicted(run, _found_arch(run.folder))
    exported = export_stage(run)
    file = exported["files"][exported["deployed"]]
    here = run.latency is not None and is_here(run.latency.profile)
    rows = []
    for budget in run.settings.budgets:
        row = {"predicted": expected[budget.cost], "recounted": recounts.get(budget.cost)}
        decisive = max(value for value in row.values() if value is not None)
        if budget.cost == LATENCY and here:
            row["measured"] = file["latency_ms"]
            # a median is known to its interval only: over is what lies over with all of it
            decisive = file["latency_ms"] - file["latency_interval_ms"]
        rows.append(to_plain(budget) | row | {"holds": decisive <= budget.limit})
    return rows


def _contenders(
    run: Run, asked: Opponents | None, there: Sequence[Mapping[str, Any]]
) -> list[Contender]:
    """Return what is asked for, and not there."""
    settings = run.settings
    asked = asked or Opponents(
        mobilenets=settings.baselines, random=settings.random, rival=settings.rival
    )
    # a MobileNet by its name alone: another width of it would be a second choice
    known = {(entry["name"].split()[0], entry["seed"]) for entry in there}
    found = [
        Contender(name="found", kind="found", arch=_found_arch(run.seed_folder(seed)), seed=seed)
        for seed in run.seeds
    ]
    limits = _limits(run)
    try:
        randoms = random_networks(limits, asked.random, list(run.seeds))
        rivals = [_rival(run, limits, seed) for seed in run.seeds] if asked.rival else []
    except BudgetError as error:
        # such as the FLOPs of a cell that is all skips: a rare find is no reason to lose the rest
        run.reporter.say(f"{error}: random networks are left out")
        randoms, rivals = [], []
    names = [n for n in asked.mobilenets if any((n, seed) not in known for seed in run.seeds)]
    wanted = found + rivals + randoms + _mobilenets(run, names, limits)
    return [one for one in wanted if (one.name.split()[0], one.seed) not in known]


def _limits(run: Run) -> Budgets:
    """Return the budgets of all that is compared; without any, the FLOPs of what was found."""
    if run.settings.budgets:
        return run.budgets
    flops = costs(_found_arch(run.folder)).flops
    return Budgets(run.space, [Budget(cost="flops", limit=flops)])


def _mobilenets(run: Run, names: Sequence[str], limits: Budgets) -> list[Contender]:
    """Return the MobileNets for every seed; their widths are chosen once, also where measured."""
    fit, too_large = mobilenets(
        names,
        limits.budgets,
        run.data.image_size,
        len(run.data.classes),
        run.settings.seed,
        confirmation(run),
    )
    for name in too_large:
        run.reporter.say(f"{name} keeps the budgets at no width: left out")
    return [replace(network, seed=seed) for seed in run.seeds for network in fit]


def _rival(run: Run, limits: Budgets, seed: int) -> Contender:
    folder = run.folder / f"compare/rival-seed-{seed}"
    path = folder / "rival.json"
    if not path.exists():
        spent = sum(read_json(run.seed_folder(seed) / ARCH_FILE)["seconds"].values())
        arch, entered, seconds = rival(
            limits,
            run.data,
            run.settings.finalists,
            run.settings.recipe,
            seconds=spent,
            checkpoint=folder / "finalists.pt",
            seed=seed,
            device=run.settings.device,
            reporter=run.reporter,
        )
        record = {"arch": arch.to_dict(), "entered": entered, "seconds": seconds}
        write_json(path, record | {"seconds_of_search": spent})
    return Contender(name="rival", kind="rival", arch=read_arch(path), seed=seed)


def _check_built(arch: Arch, exact: Costs) -> None:
    """Count FLOPs and params again on the built module; a difference is a bug of the cost model."""
    module = build(arch)
    flops = sum(count_fvcore(module, arch.image_size, arch.in_channels).values())
    params = sum(weight.numel() for weight in module.deployed_parameters())
    if (flops, params) != (exact.flops, exact.params):
        raise RuntimeError(
            f"the built module has {flops} FLOPs and {params} params, the cost model says {exact}"
        )


def _trained(run: Run, contender: Contender) -> dict[str, Any]:
    """Train one network of the comparison, look at the test images once, write its ONNX file."""
    seed, arch = contender.seed, contender.arch
    found = contender.kind == "found"
    folder = run.seed_folder(seed) if found else run.folder / "compare" / contender.folder
    training = folder / "train"
    trained = _train(run, arch, training, seed, contender.name)
    model = load_weights(arch, training / BEST_WEIGHTS)
    device = run.settings.device
    top1_fp32 = evaluate(model.to(device), run.data.test, run.data, device).top1
    onnx_path = run.folder / ONNX_FILE if found and seed == run.settings.seed else None
    if onnx_path is None:
        onnx_path = folder / "model.onnx"
        if not onnx_path.exists():
            write_onnx(run, arch, model.cpu(), onnx_path)
    file = deployed(run, onnx_path)
    top1 = top1_fp32 if file == onnx_path else file_top1(run, file)
    return {
        "name": contender.name,
        "kind": contender.kind,
        "seed": seed,
        **asdict(costs(arch)),
        "predicted_ms": predicted_ms(run, arch),
        "top1": top1,
        "top1_fp32": top1_fp32,
        "val_top1": trained["val_top1"],
        "train_seconds": trained["seconds"],
        "onnx": str(file.relative_to(run.folder)),
        "arch": arch.to_dict(),
    }


def _train(run: Run, arch: Arch, folder: Path, seed: int, stage: str) -> dict[str, Any]:
    path = folder / "train.json"
    if path.exists():
        return read_json(path)
    result = train(
        arch,
        run.data,
        run.settings.recipe,
        folder=folder,
        seed=seed,
        device=run.settings.device,
        reporter=run.reporter,
        stage=stage,
    )
    record = asdict(result)
    write_json(path, record)
    return record


def _found_arch(folder: Path) -> Arch:
    path = folder / ARCH_FILE
    if not path.exists():
        raise FileError(f"{folder} has no {ARCH_FILE}; run `mobilenas search` first")
    return read_arch(path)


def _first(given: Any, images: int) -> Any:
    for x in given:
        if images <= 0:
            return
        yield x[:images]
        images -= len(x)
