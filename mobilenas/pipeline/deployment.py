"""The file of a run for the device, in the device's precision, and latencies."""

import functools
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from msgspec import structs
from torch import nn

from mobilenas.baselines.records import NetworkRecord, Trained
from mobilenas.core.errors import FileError
from mobilenas.core.records import write_record, write_records
from mobilenas.cost.budget import LATENCY
from mobilenas.cost.networks import costs_by_name
from mobilenas.data import batches
from mobilenas.latency.graphs import arch_model
from mobilenas.latency.measured import Failed, Measured
from mobilenas.latency.meter import measure
from mobilenas.latency.units import arch_units, has_units
from mobilenas.latency.with_references import is_current_device, measure_with_references
from mobilenas.onnx.export import evaluate_onnx
from mobilenas.onnx.misclassified import Misclassified, find_misclassified
from mobilenas.onnx.ort_format import SUFFIX
from mobilenas.onnx.record import (
    EXPORT_FILE,
    ExportRecord,
    FileRecord,
    Parity,
    Timing,
    WrittenFile,
    read_export,
)
from mobilenas.onnx.settings import PROVIDER
from mobilenas.pipeline.export_settings import Int8Settings
from mobilenas.pipeline.network_file import export_network, write_network
from mobilenas.pipeline.quantization import write_int8
from mobilenas.pipeline.run_folder import COMPARE_FILE, Run
from mobilenas.report.table import read_networks
from mobilenas.search import MeasureArchs
from mobilenas.spaces.base import Arch
from mobilenas.spaces.channels.space import ChannelsSpace
from mobilenas.spaces.networks import build

_TIME_FIELDS = ("latency_ms", "latency_interval_ms", "latency_iqr_ms", "unsteady")


def write_onnx(run: Run, arch: Arch, model: nn.Module, path: Path) -> Parity:
    """Export a trained module of a run, and check the file (`write_network`)."""
    return write_network(
        model,
        arch,
        run.at(arch.image_size).data,
        path,
        budgets=run.settings.budgets,
        dynamic_batch=run.settings.dynamic_batch,
        threads=run.settings.threads,
    )


def deployable_model(run: Run, onnx_path: Path) -> Path:
    """Return the file for the device: the exported one, or its quantized form."""
    if run.settings.precision == "fp32":
        return onnx_path
    path = onnx_path.with_suffix(".int8.onnx")
    if not path.exists():
        write_int8(run.data, Int8Settings().describe(run.data, run.settings.seed), onnx_path, path)
    return path


def file_top1(run: Run, path: Path) -> float:
    """Return the top-1 of a file on test images in onnxruntime, in percent."""
    given = batches(run.data.test, run.data, batch_size=256, seed=None)
    return evaluate_onnx(path, given, run.settings.threads)


def file_misclassified(run: Run, name: str) -> Misclassified:
    """Run a file on the test images, as `file_top1`; return top-1, confusion, errors."""
    data = run.data
    given = batches(data.test, data, batch_size=256, seed=None)
    return find_misclassified(
        run.folder / name,
        name,
        given,
        data.test,
        data.classes,
        data.names,
        threads=run.settings.threads,
    )


def conditions(run: Run) -> Timing:
    """Return the conditions of `measure_latency`."""
    if run.latency is None or not is_current_device(run.latency.profile):
        return Timing(provider=PROVIDER, threads=1, profile=None)
    profile = run.latency.profile
    return Timing(provider=profile.provider, threads=profile.threads, profile=profile.name)


def time_run(
    run: Run,
    exported: ExportRecord,
    entries: Sequence[Trained] | None = None,
    *,
    written: Mapping[str, WrittenFile] | None = None,
) -> tuple[ExportRecord, list[NetworkRecord]]:
    """Measure all files of a run side by side; write and return export.json and compare.json.

    So both have the same latency of a file. `written`: files to add to `exported`, by name.
    `entries`: the networks for compare.json, by default its current ones. Files of other runtimes
    keep their latency.
    """
    path = run.folder / COMPARE_FILE
    if entries is None:
        entries = read_networks(path) if path.exists() else []
    files: dict[str, WrittenFile] = {**exported.files, **(written or {})}
    existing = [file.path for file in files.values() if _is_timed(run, file)]
    paths = [run.folder / name for name in (*existing, *(entry.onnx for entry in entries))]
    timed = time_files(run, [file for file in paths if file.exists()])

    def latency(name: str) -> dict[str, float]:
        time = timed.get(run.folder / name)
        return {} if time is None else time.as_latency

    exported = structs.replace(
        exported,
        files={
            name: FileRecord(**structs.asdict(file) | latency(file.path))
            for name, file in files.items()
        },
    )
    networks = [NetworkRecord(**structs.asdict(entry) | latency(entry.onnx)) for entry in entries]
    write_record(run.folder / EXPORT_FILE, exported)
    if networks:
        write_records(path, networks)
    return exported, networks


def time_entries(
    run: Run, exported: ExportRecord, entries: Sequence[Trained]
) -> list[NetworkRecord]:
    """Write compare.json with latencies: those of export.json, if all files have one.

    Otherwise all are measured side by side, with the exported files.
    """
    timed = {file.path: file for file in exported.files.values()}
    # a record of an older release has no "unsteady": how reliable it was is unknown
    if any(entry.onnx not in timed or timed[entry.onnx].unsteady is not False for entry in entries):
        return time_run(run, exported, entries)[1]
    networks = [
        NetworkRecord(
            **structs.asdict(entry)
            | {field: getattr(timed[entry.onnx], field) for field in _TIME_FIELDS}
        )
        for entry in entries
    ]
    write_records(run.folder / COMPARE_FILE, networks)
    return networks


def renew_times(run: Run) -> None:
    """Measure all files again if a latency is unsteady, or was not measured with the others."""
    compared = run.folder / COMPARE_FILE
    if not (run.folder / EXPORT_FILE).exists():
        return
    if isinstance(run.space, ChannelsSpace):
        run.space.base.check_allowed()  # checked now, because the report will need it in the end
    exported = read_export(run.folder)
    files = [file for file in exported.files.values() if _is_timed(run, file)]
    known = {file.path: file.latency_ms for file in files}
    entries = read_networks(compared) if compared.exists() else []
    flags = [*(file.unsteady for file in files), *(entry.unsteady for entry in entries)]
    unsteady = any(flag is not False for flag in flags)
    apart = any(known.get(e.onnx, e.latency_ms) != e.latency_ms for e in entries)
    if unsteady or apart:
        time_run(run, exported, entries)


def _is_timed(run: Run, file: WrittenFile) -> bool:
    """Whether an exported file exists and runs in onnxruntime."""
    return Path(file.path).suffix in (".onnx", SUFFIX) and (run.folder / file.path).exists()


def time_files(run: Run, paths: Sequence[Path]) -> dict[Path, Measured]:
    """Measure files side by side, as a stage."""
    paths = list(dict.fromkeys(paths))
    run.reporter.start("latency", len(paths))
    timed = measure_latency(run, paths)
    run.reporter.step(len(paths), {})
    return timed


def measure_latency(run: Run, paths: Sequence[Path]) -> dict[Path, Measured]:
    """Measure files side by side; on the profile's machine, corrected to its speed."""
    if run.latency is not None and is_current_device(run.latency.profile):
        latency = run.latency
        times = measure_with_references(
            latency.profile, latency.precision, {str(path): path for path in paths}
        )
        return {path: times[str(path)] for path in paths}
    timed = {}
    for name, time in measure({str(path): path for path in paths}).items():
        if isinstance(time, Failed):
            raise FileError(f"{name} {time.reason}")
        timed[Path(name)] = time
    return timed


def predicted(run: Run, arch: Arch) -> dict[str, float]:
    """Return all costs of an arch, including latency if a profile can have its blocks."""
    exact: dict[str, float] = {**costs_by_name(arch)}
    if run.latency is None or not has_units(arch):
        return exact
    return exact | {LATENCY: run.latency.arch(arch)}


def predicted_ms(run: Run, arch: Arch) -> float | None:
    """Return the predicted latency; None without a profile, or if it lacks a block."""
    if run.latency is None or not has_units(arch):
        return None
    profile, precision = run.latency.profile, run.latency.precision
    lacking = profile.lacking(arch_units(arch), precision)
    return None if lacking else run.latency.arch(arch)


def arch_meter(run: Run) -> MeasureArchs | None:
    """Return a function that measures archs as the profile does, if this is its machine."""
    latency = run.latency
    if latency is None or not is_current_device(latency.profile):
        return None

    def measured(archs: Sequence[Arch]) -> list[float]:
        with tempfile.TemporaryDirectory() as folder:
            models = {
                f"network {number}": _measurable(run, arch, Path(folder) / f"{number}.onnx")
                for number, arch in enumerate(archs)
            }
            times = measure_with_references(latency.profile, latency.precision, models)
        if any(time.unsteady for time in times.values()):
            run.reporter.info(
                "other programs disturb the measurements of candidates, which are not reliable"
            )
        return [times[name].median_ms for name in models]

    return measured


def _measurable(run: Run, arch: Arch, path: Path) -> Callable[[], bytes] | Path:
    """Return a model with the speed of the arch's, without training it."""
    if has_units(arch):
        return functools.partial(arch_model, arch, run.settings.precision)
    run, dynamic = run.at(arch.image_size), run.settings.dynamic_batch
    export_network(build(arch).eval(), arch, run.data, path, dynamic_batch=dynamic)
    return deployable_model(run, path)
