"""The stages over a run folder: run = search -> train -> export -> compare -> report.

Every stage reads and writes files of the folder. A finished stage is not repeated.
"""

from collections.abc import Mapping
from pathlib import Path

from mobilenas.baselines.chance import beats_chance_on_test, chance_alarms
from mobilenas.baselines.networks import BaselineSettings, ComparedNetwork
from mobilenas.baselines.records import NetworkRecord, Trained
from mobilenas.channels.search import ChannelResult
from mobilenas.core.errors import FileError, InternalError
from mobilenas.core.files import read_bytes, write_bytes, write_json
from mobilenas.core.records import BudgetRow, write_record
from mobilenas.core.settings import COUNTING_RULE
from mobilenas.cost.budget import LATENCY, Budget
from mobilenas.cost.networks import costs
from mobilenas.latency.with_references import is_current_device
from mobilenas.nn.costs import Costs
from mobilenas.onnx.record import EXPORT_FILE, ExportRecord, WrittenFile, read_export
from mobilenas.onnx.recount import count_fvcore, count_onnx
from mobilenas.pipeline.baselines import (
    ARCH_FILE,
    compared_networks,
    longer_mobilenets,
    searched_arch,
    searched_channels,
    searched_record,
)
from mobilenas.pipeline.deployment import (
    arch_meter,
    conditions,
    deployable_model,
    file_misclassified,
    file_top1,
    predicted,
    predicted_ms,
    renew_times,
    time_entries,
    time_run,
    write_onnx,
)
from mobilenas.pipeline.estimate import Stopwatch, estimate, format_durations
from mobilenas.pipeline.export_settings import Int8Settings
from mobilenas.pipeline.image_size import IMAGE_SIZES, at_chosen_size, choosing_seconds
from mobilenas.pipeline.pretrained import teacher_stage
from mobilenas.pipeline.records import ResultRecord
from mobilenas.pipeline.run_folder import COMPARE_FILE, Run
from mobilenas.pipeline.training import train_compared, train_searched, train_shared
from mobilenas.report.records import BudgetCheck
from mobilenas.report.run_page import REPORT_FILE, write_report
from mobilenas.report.table import check_given, differences, read_networks, verdict
from mobilenas.search import SearchResult, search
from mobilenas.search.records import ArchRecord
from mobilenas.spaces.base import Arch, family_of
from mobilenas.spaces.networks import arch_from_dict, build
from mobilenas.train import BEST_WEIGHTS, TrainResult, load_weights

WEIGHTS_FILE = "model.safetensors"
MISCLASSIFIED_FILE = "export/misclassified.json"
ONNX_FILE = "export/model.onnx"
RESULT_FILE = "result.json"


def run_all(run: Run) -> ResultRecord:
    """Run all unfinished stages, and return result.json."""
    watch = Stopwatch()
    if not (run.folder / "search").exists():
        run.reporter.info(f"estimate from a few timed steps: {format_durations(estimate(run))}")
    renew_times(run)
    watch.lap("start")
    search_stage(run)
    watch.lap("search and finalists")
    train_stage(run)
    watch.lap("final training")
    export_stage(run)
    watch.lap("export")
    compare_stage(run)
    watch.lap("baselines and their export")
    result = write_result(run)
    report_stage(run)
    watch.lap("report")
    run.reporter.info(f"took {format_durations(watch.seconds)}")
    return result


def search_stage(run: Run, seed: int | None = None) -> ArchRecord:
    """Search; write arch.json: the arch, its exact costs, budgets, discretization gap.

    It also has cells in the notation of the papers (`Family.genotype`).
    """
    seed = run.settings.seed if seed is None else seed
    folder = run.seed_folder(seed)
    if (folder / ARCH_FILE).exists():
        return searched_record(folder)
    run = at_chosen_size(run)
    channel_sizes, inner, space = run.settings.channel_sizes, folder / "search", run.budgets.space
    found: SearchResult | ChannelResult
    gap, alarms, latency = None, None, None
    if channel_sizes is None:
        found = _searched(run, inner, seed)
        arch, gap, alarms = space.arch(found.choice), found.gap, found.alarms
    else:
        found = searched_channels(run, channel_sizes, inner, seed)
        arch, latency = space.arch(found.sizes), found.costs.get(LATENCY)
    _check_built(arch, costs(arch))
    expected = predicted(run, arch)
    if latency is not None:
        expected = {**expected, LATENCY: latency}
    record = ArchRecord(
        arch=arch.to_dict(),
        genotype=family_of(arch).genotype(arch),
        costs=expected,
        counting_rule=COUNTING_RULE,
        budgets=[_kept(budget, expected) for budget in run.settings.budgets],
        discretization_gap=gap,
        candidates=found.candidates,
        alarms=alarms,
        seconds=choosing_seconds(run, seed) | found.seconds,
        seed=seed,
    )
    write_record(folder / ARCH_FILE, record)
    return record


def _kept(budget: Budget, expected: Mapping[str, float]) -> BudgetRow:
    value = expected.get(budget.cost)
    holds = value is not None and value <= budget.limit
    return BudgetRow(cost=budget.cost, limit=budget.limit, predicted=value, holds=holds)


def _searched(run: Run, folder: Path, seed: int) -> SearchResult:
    settings = run.settings
    teacher = teacher_stage(run, seed) if settings.pretrained else None
    return search(
        run.budgets,
        run.at(run.budgets.space.image_size).data,
        settings.search,
        settings.finalists,
        settings.recipe,
        folder=folder,
        seed=seed,
        device=run.device,
        reporter=run.reporter,
        rank=settings.rank if seed == settings.seed else 0,
        measure=arch_meter(run),
        inherit=settings.inherit,
        begun=run.folder / IMAGE_SIZES,
        weights=None if teacher is None else teacher.network.state_dict(),
        teacher=teacher,
        images=lambda side: run.at(side).data,
    )


def train_stage(run: Run, seed: int | None = None) -> TrainResult:
    """Train the searched arch; write model.safetensors and train/train.json."""
    seed = run.settings.seed if seed is None else seed
    folder = run.seed_folder(seed)
    arch = searched_arch(folder)
    result = train_searched(run, arch, seed)
    write_bytes(folder / WEIGHTS_FILE, read_bytes(folder / "train" / BEST_WEIGHTS))
    return result


def export_stage(run: Run) -> ExportRecord:
    """Write export/model.onnx, export.json (parity, size, latency, top-1) and misclassified.json.

    A finished run of an older release gets only the last.
    """
    path = run.folder / EXPORT_FILE
    if path.exists():
        if not (run.folder / MISCLASSIFIED_FILE).exists():
            side = searched_arch(run.folder).image_size
            _top1(run.at(side), run.folder / ONNX_FILE)
        return read_export(run.folder)
    if not (run.folder / WEIGHTS_FILE).exists():
        raise FileError(f"{run.folder} has no {WEIGHTS_FILE}; run `mobilenas train` first")
    arch = searched_arch(run.folder)
    run = run.at(arch.image_size)
    data = run.data  # reading images is a separate stage of the progress
    run.reporter.start("export", 1)
    model = load_weights(arch, run.folder / WEIGHTS_FILE)
    onnx_path = run.folder / ONNX_FILE
    parity = write_onnx(run, arch, model, onnx_path)
    int8 = run.settings.precision == "int8"
    files = {"onnx": onnx_path} | ({"int8": deployable_model(run, onnx_path)} if int8 else {})
    written = {
        name: WrittenFile(
            path=str(file.relative_to(run.folder)),
            top1=_top1(run, file),
            size_bytes=file.stat().st_size,
        )
        for name, file in files.items()
    }
    record = ExportRecord(
        files={},
        deployed=list(files)[-1],
        parity=parity,
        timing=conditions(run),
        labels=data.classes,
        quantization=Int8Settings().describe(data, run.settings.seed) if int8 else None,
    )
    run.reporter.step(1, {"parity": f"{parity.max_abs_difference:.1e}"})
    return time_run(run, record, written=written)[0]


def compare_stage(run: Run, requested: BaselineSettings | None = None) -> list[NetworkRecord]:
    """Train all baselines, and write compare.json.

    Existing networks are kept, even if they are not `requested`. When one is added, all are timed
    again side by side, so that their latencies are comparable.
    """
    path = run.folder / COMPARE_FILE
    existing = read_networks(path) if path.exists() else []
    if existing and requested is None:
        return existing
    export_stage(run)  # the searched network's file is timed, too
    for seed in run.seeds:
        search_stage(run, seed)
        train_stage(run, seed)
    networks = compared_networks(run, requested, existing)
    train_shared(run, networks)
    added = [_trained(run, network) for network in networks]
    # which MobileNet it is, and its epochs, depend on the trainings above
    longer = longer_mobilenets(run, requested, [*existing, *added])
    added += [_trained(run, network) for network in longer]
    return time_entries(run, export_stage(run), [*existing, *added]) if added else existing


def compared_run(run: Run, name: str) -> Run:
    """Return a run over the folder of a network in compare.json.

    `name` is its name or the first word, such as mobilenet_v2, which is the best of these on
    validation images. It is the network of the first seed. Files that `export_stage` reads are
    added to the folder.
    """
    path = run.folder / COMPARE_FILE
    entries = read_networks(path) if path.exists() else []
    own = [e for e in entries if e.kind != "searched" and e.seed == run.settings.seed]
    meant = [e for e in own if name in (e.name, e.name.split()[0])]
    if not meant:
        existing = ", ".join(e.name for e in own) or "none; run `mobilenas compare` first"
        raise FileError(f"{run.folder} has no compared network {name!r}; there are: {existing}")
    check_given(meant, ("arch", "val_top1"), path)
    entry = max(meant, key=lambda e: e.val_top1 or 0.0)
    folder = (run.folder / entry.onnx).parent
    if folder.parent != run.folder / "compare":
        raise FileError(f"{path}: {entry.onnx!r} must name a file of a folder in compare/")
    inner = run.at(arch_from_dict(entry.arch or {}, str(path)).image_size).within(folder)
    if not (inner.folder / WEIGHTS_FILE).exists():
        weights = read_bytes(inner.folder / "train" / BEST_WEIGHTS)
        write_json(inner.folder / ARCH_FILE, {"arch": entry.arch})
        write_bytes(inner.folder / WEIGHTS_FILE, weights)
    return inner


def report_stage(run: Run) -> Path:
    """Write report.html."""
    path = run.folder / REPORT_FILE
    write_report(run.folder, path)
    return path


def renew_report(run: Run, newer: Path) -> None:
    """Write result.json and report.html again if the file `newer` is newer."""
    for name, write in ((RESULT_FILE, write_result), (REPORT_FILE, report_stage)):
        path = run.folder / name
        if path.exists() and path.stat().st_mtime < newer.stat().st_mtime:
            write(run)


def write_result(run: Run) -> ResultRecord:
    """Recount the final file, check all budgets, and write result.json."""
    entries = compare_stage(run)
    found = next(entry for entry in entries if entry.kind == "searched")
    exported, exact = export_stage(run), searched_record(run.folder).costs
    data = run.at(searched_arch(run.folder).image_size).data
    result = ResultRecord(
        budgets=verify_budgets(run),
        flops=int(exact["flops"]),
        params=int(exact["params"]),
        memory=int(exact["memory"]),
        latency_ms=found.latency_ms,
        top1=found.top1,
        verdict=verdict(entries),
        alarms=chance_alarms(entries, data),
        differences=differences(entries),
        baselines=[entry for entry in entries if entry is not found],
        files={name: file.path for name, file in exported.files.items()}
        | {"arch": ARCH_FILE, "weights": WEIGHTS_FILE, "report": REPORT_FILE},
        counting_rule=COUNTING_RULE,
    )
    write_record(run.folder / RESULT_FILE, result)
    return result


def verify_budgets(run: Run) -> list[BudgetCheck]:
    """Return requested, predicted and recounted values of all budgets.

    FLOPs and params are counted on the ONNX file by code that shares nothing with the cost model.
    Memory depends on the runtime's allocator, so its prediction is compared with the limit, and
    `recounted` is null. The same holds for latency on another device. On this machine, the exported
    file is measured; if that was unsteady, `holds` is null.
    """
    counted = count_onnx(run.folder / ONNX_FILE)
    recounts = {"flops": counted.flops, "params": counted.params}
    expected = searched_record(run.folder).costs
    exported = export_stage(run)
    file = exported.files[exported.deployed]
    here = run.latency is not None and is_current_device(run.latency.profile)
    rows = []
    for budget in run.settings.budgets:
        value, recount = expected.get(budget.cost), recounts.get(budget.cost)
        if value is None:
            raise FileError(f"{run.folder / ARCH_FILE}: costs lacks {budget.cost!r}, a budget")
        measured = budget.cost == LATENCY and here
        decisive: float = value if recount is None else max(value, recount)
        if measured:
            # exceeded only if the whole interval of the median is above the limit
            decisive = file.latency_ms - (file.latency_interval_ms or 0.0)
        unknown = measured and file.unsteady is not False
        rows.append(
            BudgetCheck(
                cost=budget.cost,
                limit=budget.limit,
                predicted=value,
                recounted=recount,
                measured=file.latency_ms if measured else None,
                measured_interval=file.latency_interval_ms if measured else None,
                holds=None if unknown else decisive <= budget.limit,
            )
        )
    return rows


def _check_built(arch: Arch, exact: Costs) -> None:
    """Recount FLOPs and params on the built module; a difference is a bug in the cost model."""
    module = build(arch)
    flops = sum(count_fvcore(module, arch.image_size, arch.in_channels).values())
    params = sum(weight.numel() for weight in module.deployed_parameters())
    if (flops, params) != (exact.flops, exact.params):
        raise InternalError(
            f"the built module has {flops} FLOPs and {params} params, the cost model says {exact}"
        )


def _trained(run: Run, network: ComparedNetwork) -> Trained:
    """Train a network of the comparison, write its file, and evaluate that on test images."""
    seed, arch = network.seed, network.arch
    run = run.at(arch.image_size)
    found = network.kind == "searched"
    folder = run.seed_folder(seed) if found else run.folder / "compare" / network.folder
    training = folder / "train"
    trained = train_stage(run, seed) if found else train_compared(run, network)
    onnx_path, tested = folder / "model.onnx", dict[Path, float]()
    if found and seed == run.settings.seed:
        exported = export_stage(run).files.values()
        onnx_path = run.folder / ONNX_FILE
        tested = {run.folder / file.path: file.top1 for file in exported}
    elif not onnx_path.exists():
        write_onnx(run, arch, load_weights(arch, training / BEST_WEIGHTS), onnx_path)
    file = deployable_model(run, onnx_path)
    top1_fp32, top1 = (
        tested[path] if path in tested else tested.setdefault(path, file_top1(run, path))
        for path in (onnx_path, file)
    )
    exact = costs(arch)
    return Trained(
        name=network.name,
        kind=network.kind,
        seed=seed,
        flops=exact.flops,
        params=exact.params,
        memory=exact.memory,
        predicted_ms=predicted_ms(run, arch),
        top1=top1,
        top1_fp32=top1_fp32,
        better_than_chance=beats_chance_on_test(top1, run.data),
        val_top1=trained.val_top1,
        train_seconds=trained.seconds,
        trained_in=trained.trained_in,
        network=network.network,
        epochs=network.epochs,
        recipe_epochs=None if network.epochs is None else run.settings.recipe.epochs,
        onnx=str(file.relative_to(run.folder)),
        arch=arch.to_dict(),
        size_bytes=file.stat().st_size,
    )


def _top1(run: Run, file: Path) -> float:
    """Evaluate a file on test images; for model.onnx, also write misclassified.json."""
    if file != run.folder / ONNX_FILE:
        return file_top1(run, file)
    found = file_misclassified(run, ONNX_FILE)
    write_record(run.folder / MISCLASSIFIED_FILE, found)
    return found.top1
