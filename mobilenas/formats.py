"""The forms of a run's network that phones take, each measured and checked beside the first."""

import math
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mobilenas.config import check_between, check_choice, to_plain
from mobilenas.data import Split, batches, stratified_subset
from mobilenas.deployment import CALIBRATION_IMAGES, file_top1, times
from mobilenas.errors import MobileNASError
from mobilenas.export.checks import check_file
from mobilenas.export.fp16 import to_fp16
from mobilenas.export.input_layout import FLOAT_NCHW, UINT8_NHWC, fold_input
from mobilenas.export.int8 import quantize_static_qdq
from mobilenas.export.onnx import evaluate_onnx
from mobilenas.export.ort_format import OPERATORS_SUFFIX, SUFFIX, to_ort
from mobilenas.export.targets import TARGETS, check_target
from mobilenas.files import write_json
from mobilenas.pipeline import EXPORT_FILE, ONNX_FILE, export_stage
from mobilenas.runs import Run

FORMATS = ("onnx", "fp16", "int8", "ort")
"""What a network can be written as."""
INPUTS = (FLOAT_NCHW, UINT8_NHWC)
"""What its file can take."""
CHECK_IMAGES = 64
"""Validation images on which a file is held against model.onnx."""

_PIXELS = "-uint8"
_AT_ONCE = 256
_METHOD = "static QDQ, minmax, per channel, equalized ranges"
Step = Callable[[Path, Path], Any]
"""Makes a file from a file."""


@dataclass(frozen=True, kw_only=True)
class FormatSettings:
    """Which files are wanted, and what they may lose."""

    formats: tuple[str, ...] = ("onnx",)
    """Some of `FORMATS`."""
    targets: tuple[str, ...] = ()
    """Some of `TARGETS`, to check the files for."""
    input: str = FLOAT_NCHW
    """What the files take; one of `INPUTS`."""
    max_drop: float = 1.0
    """Most points of test top-1 that a file may lose against model.onnx."""

    def __post_init__(self) -> None:
        """Check the names and the range."""
        for name in self.formats:
            check_choice("format", name, FORMATS)
        for name in self.targets:
            check_choice("target", name, TARGETS)
        check_choice("input", self.input, INPUTS)
        check_between(self, "max_drop", 0, 100)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the files in export.json, such as `int8` or, taking pixels, `int8-uint8`."""
        ending = _PIXELS if self.input == UINT8_NHWC else ""
        return tuple(dict.fromkeys(name + ending for name in self.formats))


def write_formats(run: Run, settings: FormatSettings) -> dict[str, Any]:
    """Write, measure and check the files that export/ lacks; return export.json.

    All files are timed again when one is added: side by side, so that their times compare. One that
    loses more than `max_drop` is not kept; the others are, before MobileNASError says so.
    """
    record = export_stage(run)
    files = record["files"]
    added, changed = False, False
    refused = []
    run.reporter.start("formats", len(settings.names))
    for done, name in enumerate(settings.names, 1):
        new = name not in files or not (run.folder / files[name]["path"]).exists()
        entry = _written(run, record, name) if new else files[name]
        complaint = _complaint(name, entry["top1"], files["onnx"]["top1"], settings.max_drop)
        if complaint:
            refused.append(complaint)
            if new:
                _remove(run, entry)
                changed |= files.pop(name, None) is not None
            continue
        files[name] = entry
        added |= new
        if new and name.startswith("int8"):
            images = min(CALIBRATION_IMAGES, len(run.data.train))
            made = {"method": _METHOD, "calibration_images": images, "seed": run.settings.seed}
            record.setdefault("quantization", made)
        changed |= _add_checks(run, entry, settings.targets)
        run.reporter.step(done, {"file": entry["path"], "test top-1": f"{entry['top1']:.1f} %"})
    if added:
        _time(run, files)
    if added or changed:
        write_json(run.folder / EXPORT_FILE, record)
    if refused:
        raise MobileNASError("; ".join(refused))
    return record


def _written(run: Run, record: dict[str, Any], name: str) -> dict[str, Any]:
    """Write one file from model.onnx; return its entry, but for its times."""
    form, pixels = name.removesuffix(_PIXELS), name.endswith(_PIXELS)
    path = run.folder / _path(form, pixels)
    source = run.folder / ONNX_FILE
    steps: list[Step] = []
    if form in ("fp16", "int8"):
        steps.append(to_fp16 if form == "fp16" else partial(_quantize, run))
        made = record["files"].get(form)
        if pixels and made and (run.folder / made["path"]).exists():
            steps, source = [], run.folder / made["path"]
    if pixels:  # last, so that the ranges of the normalized image stay those of calibration
        steps.append(partial(fold_input, mean=run.data.mean, std=run.data.std))
    if form == "ort":
        steps.append(to_ort)
    with tempfile.TemporaryDirectory(prefix="mobilenas-formats-") as folder:
        for number, step in enumerate(steps, 1):
            target = path if number == len(steps) else Path(folder, f"{number}.onnx")
            step(source, target)
            source = target
    top1 = evaluate_onnx(path, _pixels(run.data.test)) if pixels else file_top1(run, path)
    entry = {
        "path": str(path.relative_to(run.folder)),
        "top1": top1,
        "size_bytes": path.stat().st_size,
    }
    if form == "ort":
        operators = path.with_suffix(OPERATORS_SUFFIX)
        entry["required_operators"] = str(operators.relative_to(run.folder))
    return entry


def _path(form: str, pixels: bool) -> Path:
    """export/model.onnx, model.int8.uint8.onnx, model.uint8.ort and so on."""
    precision = f".{form}" if form in ("fp16", "int8") else ""
    layout = ".uint8" if pixels else ""
    suffix = SUFFIX if form == "ort" else ".onnx"
    return Path(ONNX_FILE).with_suffix(precision + layout + suffix)


def _quantize(run: Run, source: Path, path: Path) -> None:
    data = run.data
    count = min(CALIBRATION_IMAGES, len(data.train))
    images = stratified_subset(data.train, count, run.settings.seed)
    given = batches(images, data, batch_size=count, seed=None)
    quantize_static_qdq(
        source,
        path,
        (image[None].numpy() for x, _ in given for image in x),
        per_channel=True,
        method="minmax",
        equalize=True,
    )


def _pixels(split: Split) -> Iterator[tuple[Tensor, Tensor]]:
    """Images as a camera gives them: uint8 [B, S, S, 3], and labels [B]."""
    chunks = torch.arange(len(split)).split(_AT_ONCE)
    for chunk, images in zip(chunks, split.stream(chunks), strict=True):
        yield images.permute(0, 2, 3, 1).contiguous(), split.labels[chunk]


def _complaint(name: str, top1: float, float_top1: float, max_drop: float) -> str:
    """Say what is wrong if a file loses too much, and what can be done."""
    drop = float_top1 - top1
    if drop <= max_drop + 1e-9:
        return ""
    advice = f"allow it with --max-drop {math.ceil(drop * 10 - 1e-6) / 10:g}"
    if name.startswith("int8"):
        advice += (
            ", or call mobilenas.export.int8.quantize_static_qdq with correct_bias=True or more "
            f"calibration images than {CALIBRATION_IMAGES}"
        )
    return (
        f"{name} has {top1:.2f} % test top-1, model.onnx {float_top1:.2f} %: it loses {drop:.2f} "
        f"points and may lose {max_drop:g}; {advice}"
    )


def _remove(run: Run, entry: dict[str, Any]) -> None:
    for key in ("path", "required_operators"):
        if key in entry:
            (run.folder / entry[key]).unlink(missing_ok=True)


def _add_checks(run: Run, entry: dict[str, Any], targets: tuple[str, ...]) -> bool:
    """Add the checks that an entry lacks; return whether there were any."""
    path = run.folder / entry["path"]
    lacking = "checks" not in entry
    if lacking:
        data = run.data
        count = min(CHECK_IMAGES, len(data.val))
        split = stratified_subset(data.val, count, run.settings.seed)
        images = (image[None].numpy() for x, _ in _pixels(split) for image in x)
        entry["checks"] = to_plain(check_file(path, run.folder / ONNX_FILE, images))
    if path.suffix != SUFFIX:  # the checker reads ONNX files only
        reports = entry.setdefault("targets", {}) if targets else {}
        for target in targets:
            if target not in reports:
                reports[target] = to_plain(check_target(path, target))
                lacking = True
    return lacking


def _time(run: Run, files: dict[str, dict[str, Any]]) -> None:
    paths = {name: run.folder / entry["path"] for name, entry in files.items()}
    timed = times(run, list(paths.values()))
    for name, entry in files.items():
        entry["latency_ms"] = timed[paths[name]].median_ms
        entry["latency_interval_ms"] = timed[paths[name]].interval_ms
