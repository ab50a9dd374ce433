"""Files of a run's network for phones, measured and checked against model.onnx."""

import math
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from msgspec import structs
from numpy.typing import NDArray
from torch import Tensor

from mobilenas.baselines.chance import beats_chance_on_test
from mobilenas.core.errors import MobileNASError
from mobilenas.core.files import write_bytes
from mobilenas.core.records import write_record
from mobilenas.core.settings import counted
from mobilenas.data import Split, batches, stratified_subset
from mobilenas.latency.other_runtimes import latency
from mobilenas.onnx.checks import check_file
from mobilenas.onnx.export import INPUT, evaluate_onnx
from mobilenas.onnx.fp16 import to_fp16
from mobilenas.onnx.input_layout import fold_input
from mobilenas.onnx.ort_format import OPERATORS_SUFFIX, SUFFIX, to_ort
from mobilenas.onnx.other_runtimes import RUNTIMES, check_installed, convert, runner
from mobilenas.onnx.record import (
    EXPORT_FILE,
    ExportRecord,
    FileRecord,
    Fp16Report,
    Parity,
    Quantization,
    TargetReport,
    WrittenFile,
)
from mobilenas.onnx.session import session
from mobilenas.onnx.settings import BIAS, EQUALIZE, PER_CHANNEL
from mobilenas.onnx.targets import FORM_OPERATORS, check_target, refused_operators
from mobilenas.pipeline.baselines import ARCH_FILE
from mobilenas.pipeline.deployment import file_top1, time_run, write_onnx
from mobilenas.pipeline.export_settings import OTHER_FORMATS, PIXELS, FormatSettings, Int8Settings
from mobilenas.pipeline.quantization import calibration, write_int8
from mobilenas.pipeline.run_folder import Run
from mobilenas.pipeline.stages import ONNX_FILE, WEIGHTS_FILE, export_stage
from mobilenas.spaces.networks import read_arch
from mobilenas.train import load_weights

CHECK_IMAGES = 64
"""Validation images on which a file is compared with model.onnx."""

_AT_ONCE = 256
Step = Callable[[Path, Path], object]
"""Converts a file to another."""


def _check_installed(settings: FormatSettings) -> None:
    for name in settings.formats:
        if name in RUNTIMES:
            check_installed(name)
    if settings.int8 is not None and settings.int8.qat_epochs:
        from mobilenas.onnx.qat import check_installed as check_torchao

        check_torchao()


def write_formats(run: Run, settings: FormatSettings) -> ExportRecord:
    """Write, measure and check the files missing in export/; return export.json.

    When a file is added, all are timed again side by side, so that their latencies are comparable.
    Files that lose more than `max_drop` are not kept; MobileNASError reports them after the others
    are written. A file that a target would partition is kept with a warning, or an error if it has
    more than `max_parts` partitions.
    """
    _check_installed(settings)  # before images are read
    record = export_stage(run)
    run = run.at(read_arch(run.folder / ARCH_FILE).image_size)
    files: dict[str, WrittenFile] = dict(record.files)
    seed = run.settings.seed
    requested = None if settings.int8 is None else settings.int8.describe(run.data, seed)
    if requested is not None and record.quantization not in (None, requested):
        raise MobileNASError(
            f"{run.folder} is a run with --precision int8: its model.int8.onnx is what was "
            "compared and checked, and is not replaced; leave out the options of int8"
        )
    added, changed = False, False
    refused: list[str] = []
    cut: dict[str, dict[str, int]] = {}
    unfixed: dict[str, list[str]] = {}
    lacking = {name: _is_lacking(run, record, name, requested) for name in settings.names}
    if any(lacking.values()):
        _ = run.data  # reading images is a separate stage of the progress
    run.reporter.start("formats", len(lacking))
    for done, (name, new) in enumerate(lacking.items(), 1):
        with tempfile.TemporaryDirectory(prefix="mobilenas-formats-") as folder:
            if not new:
                entry = files[name]
            elif name in RUNTIMES:
                entry = _other(run, name, Path(folder))
            else:
                entry = _written(run, record, name, requested, Path(folder))
            path = Path(folder, entry.path) if new else run.folder / entry.path
            before, entry = entry, _checked(run, entry, path, settings.targets)
            complaint = _complaint(name, entry, files["onnx"].top1, settings.max_drop)
            refused += [complaint] if complaint else []
            for target, count in _parts(entry, settings).items():
                cut.setdefault(target, {})[name] = count
            for target in _refusing_sizes(entry, settings):
                unfixed.setdefault(target, []).append(name)
            if not new:
                files[name] = entry
                changed |= entry != before
            elif not complaint:
                _keep(run, entry, Path(folder))
                files[name] = entry
                added = True
            elif name in files and not (run.folder / files[name].path).exists():
                del files[name]
                changed = True
        if new and not beats_chance_on_test(entry.top1, run.data):
            run.reporter.info(f"{name}: {entry.top1:.1f} % test top-1, no better than chance")
        run.reporter.step(done, {"file": entry.path, "test top-1": f"{entry.top1:.1f} %"})
    timed = {name: file for name, file in files.items() if isinstance(file, FileRecord)}
    record = structs.replace(record, files=timed)
    if added:
        record, _ = time_run(run, record, written=files)
    elif changed:
        write_record(run.folder / EXPORT_FILE, record)
    for target, parts in cut.items():
        message = _cutting(target, parts, record)
        max_parts = settings.max_parts
        if max_parts is None or max(parts.values()) <= max_parts:
            run.reporter.info(f"warning: {message}; such files are slow there")
        else:
            refused.append(f"{message}, and --max-parts is {max_parts}; the files are kept")
    for target, names in unfixed.items():
        message = (
            f"{target} takes fixed sizes only, and the batch of {', '.join(names)} is of any size: "
            "run without --dynamic-batch"
        )
        if settings.max_parts is None:
            run.reporter.info(f"warning: {message}; most of such a file runs on the CPU")
        else:
            refused.append(f"{message}; the files are kept")
    if refused:
        raise MobileNASError("; ".join(refused))
    return record


def _is_lacking(run: Run, record: ExportRecord, name: str, requested: Quantization | None) -> bool:
    """Whether a file is missing, or was made with other settings than requested."""
    entry = record.files.get(name)
    if entry is None:
        return True
    if name.startswith("int8") and requested is not None and record.made(name) != requested:
        return True
    lost = not (run.folder / entry.path).exists()
    return lost and entry.path != ONNX_FILE  # model.onnx is not a copy and cannot be made again


def _written(
    run: Run, record: ExportRecord, name: str, requested: Quantization | None, folder: Path
) -> WrittenFile:
    """Write a file from model.onnx below `folder`; return its record without latency."""
    form, pixels = name.removesuffix(PIXELS), name.endswith(PIXELS)
    relative = format_path(Path(ONNX_FILE), form, pixels=pixels)
    path, source = folder / relative, run.folder / ONNX_FILE
    path.parent.mkdir()
    steps: list[Step] = []
    seed = run.settings.seed
    whole, made, half = record.files.get(form), None, list[Fp16Report]()
    if form == "fp16":
        half += [whole.fp16] if whole and whole.fp16 else []
        images = calibration(run.data, seed)
        steps.append(lambda source, path: half.append(to_fp16(source, path, images)))
    elif form == "int8":
        made = requested or (record.made(form) if whole else None)
        made = made or Int8Settings().describe(run.data, seed)
        if made.qat_epochs:
            steps.append(partial(_write_tuned, run, made))
        steps.append(partial(write_int8, run.data, made))
    if pixels:
        if whole and steps and not _is_lacking(run, record, form, requested):
            steps, source = [], run.folder / whole.path
        # last, so that quantization is calibrated on normalized images
        steps.append(partial(fold_input, mean=run.data.mean, std=run.data.std))
    if form == "ort":
        steps.append(to_ort)
    for number, step in enumerate(steps, 1):
        target = path if number == len(steps) else folder / f"{number}.onnx"
        step(source, target)
        source = target
    top1 = evaluate_onnx(path, _pixels(run.data.test)) if pixels else file_top1(run, path)
    return WrittenFile(
        path=str(relative),
        required_operators=str(relative.with_suffix(OPERATORS_SUFFIX)) if form == "ort" else None,
        fp16=half[-1] if half else None,
        quantization=made,
        top1=top1,
        size_bytes=path.stat().st_size,
    )


def _write_tuned(run: Run, made: Quantization, _: Path, path: Path) -> None:
    """Write the network after quantization-aware training, in float32."""
    from mobilenas.onnx.qat import fine_tune

    epochs = made.qat_epochs

    def on_epoch(epoch: int, loss: float) -> None:
        run.reporter.info(f"QAT epoch {epoch}/{epochs}, loss {loss:.3f}")

    arch = read_arch(run.folder / ARCH_FILE)
    tuned = fine_tune(
        load_weights(arch, run.folder / WEIGHTS_FILE),
        run.data,
        run.settings.recipe,
        epochs=epochs,
        per_channel=made.weights == PER_CHANNEL,
        seed=run.settings.seed,
        on_epoch=on_epoch,
    )
    write_onnx(run, arch, tuned, path)


def _other(run: Run, form: str, folder: Path) -> FileRecord:
    """Write a file for another runtime below `folder`, and compare it with model.onnx there."""
    data = run.data
    relative = format_path(Path(ONNX_FILE), form)
    path = folder / relative
    path.parent.mkdir(parents=True)
    model = load_weights(read_arch(run.folder / ARCH_FILE), run.folder / WEIGHTS_FILE)
    convert(model, form, path, channels=data.channels, image_size=data.image_size)
    ours, theirs = runner(form, path), session(run.folder / ONNX_FILE)
    split = stratified_subset(data.val, min(CHECK_IMAGES, len(data.val)), run.settings.seed)
    differences, same = [], 0
    for image, _ in _images(run, split):
        found, (expected,) = ours(image), theirs.run(None, {INPUT: image})
        differences.append(float(np.abs(found - expected).max()))
        same += int(found.argmax() == expected.argmax())
    right = [int(ours(image).argmax()) == label for image, label in _images(run, data.test)]
    time = latency(form, ours, image)
    return FileRecord(
        path=str(relative),
        top1=100 * sum(right) / len(right),
        size_bytes=path.stat().st_size,
        parity=Parity(
            max_abs_difference=float(np.max(differences)),
            top1_agreement=100 * same / len(differences),
            images=len(differences),
        ),
        latency_ms=time.median_ms,
        latency_interval_ms=time.interval_ms,
        latency_iqr_ms=time.iqr_ms,
        unsteady=time.unsteady,
    )


def _images(run: Run, split: Split) -> Iterator[tuple[NDArray[np.float32], int]]:
    """Yield images float32 [1, C, S, S] with their labels."""
    for x, y in batches(split, run.data, batch_size=_AT_ONCE, seed=None):
        for image, label in zip(x, y.tolist(), strict=True):
            yield np.ascontiguousarray(image[None].numpy()), label


def _keep(run: Run, entry: WrittenFile, folder: Path) -> None:
    for name in (entry.required_operators, entry.path):
        if name is not None:
            write_bytes(run.folder / name, (folder / name).read_bytes())


def format_path(onnx: Path, form: str, *, pixels: bool = False) -> Path:
    """Return the path of a format of model.onnx: model.int8.uint8.onnx, model.ort and so on."""
    if form in OTHER_FORMATS:
        return onnx.with_suffix(RUNTIMES[form].suffix)
    if form in RUNTIMES:
        # registered formats have a separate folder, whose content `--overwrite` may delete
        return onnx.parent / f"other/{form}{RUNTIMES[form].suffix}"
    precision = f".{form}" if form in ("fp16", "int8") else ""
    layout = ".uint8" if pixels else ""
    suffix = SUFFIX if form == "ort" else ".onnx"
    return onnx.with_suffix(precision + layout + suffix)


def _pixels(split: Split) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield images as camera pixels, uint8 [B, S, S, 3], and labels [B]."""
    chunks = torch.arange(len(split)).split(_AT_ONCE)
    for chunk, images in zip(chunks, split.stream(chunks), strict=True):
        yield images.permute(0, 2, 3, 1).contiguous(), split.labels[chunk]


def _complaint(name: str, entry: WrittenFile, float_top1: float, max_drop: float) -> str:
    """Return an error with advice if a file loses too much accuracy; empty if not."""
    drop = float_top1 - entry.top1
    if drop <= max_drop + 1e-9:
        return ""
    return (
        f"{name} has {entry.top1:.2f} % test top-1, model.onnx {float_top1:.2f} %: it loses "
        f"{drop:.2f} points and may lose {max_drop:g}; {_advice(entry)}allow it with "
        f"--max-drop {math.ceil(drop * 10 - 1e-6) / 10:g}"
    )


def _advice(entry: WrittenFile) -> str:
    """Return advice for an INT8 file that loses too much; empty for other files."""
    made = entry.quantization
    if made is None:
        return ""
    images, epochs = made.calibration_images * 4, made.qat_epochs * 2 or 10
    channel = f"--int8-weights {PER_CHANNEL}, " if made.weights != PER_CHANNEL else ""
    tuned = made.qat_epochs or BIAS in made.corrections
    bias = "" if tuned else f"--corrections {EQUALIZE},{BIAS}, "
    return f"try {channel}{bias}--calibration-images {images} or --qat-epochs {epochs}, or "


def _parts(entry: WrittenFile, settings: FormatSettings) -> dict[str, int]:
    """Return targets that would partition a file because they lack an operator of the network."""
    return {
        target: report.partitions or 1
        for target, report in _reports(entry, settings).items()
        if _split_by(report)
    }


def _refusing_sizes(entry: WrittenFile, settings: FormatSettings) -> list[str]:
    """Return targets that do not support nodes of a file because of dynamic sizes."""
    return [target for target, report in _reports(entry, settings).items() if report.dynamic]


def _reports(entry: WrittenFile, settings: FormatSettings) -> dict[str, TargetReport]:
    reports = entry.targets or {}
    return {target: reports[target] for target in settings.targets if target in reports}


def _split_by(report: TargetReport) -> set[str]:
    if (report.partitions or 1) == 1:
        return set()
    return set(report.unsupported) - FORM_OPERATORS


def _cutting(target: str, parts: dict[str, int], record: ExportRecord) -> str:
    """Return a message on files that a target would partition, with operators and advice."""
    files = (record.files[name] for name in parts if name in record.files)
    reports = [(file.targets or {})[target] for file in files]
    lacking = sorted(set().union(*map(_split_by, reports)) or refused_operators(target))
    each = ", ".join(f"{name} in {counted(count, 'part')}" for name, count in parts.items())
    return (
        f"{target} has no {', '.join(lacking)} and would run {each}; search with "
        f"--targets {target}, or use another target"
    )


def _checked(run: Run, entry: WrittenFile, path: Path, targets: tuple[str, ...]) -> WrittenFile:
    """Return the record, with missing checks added."""
    if entry.checks is None and entry.parity is None:
        data = run.data
        count = min(CHECK_IMAGES, len(data.val))
        split = stratified_subset(data.val, count, run.settings.seed)
        images = (image[None].numpy() for x, _ in _pixels(split) for image in x)
        report = check_file(path, run.folder / ONNX_FILE, images)
        entry = structs.replace(entry, checks=report)
    known = entry.targets or {}
    if path.suffix == ".onnx" and targets:  # the checker only reads ONNX files
        new = {name: check_target(path, name) for name in targets if name not in known}
        entry = structs.replace(entry, targets=known | new)
    return entry
