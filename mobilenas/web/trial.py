"""`try`: a page that classifies images with the networks of a run, side by side."""

import hashlib
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from mobilenas.baselines.records import NetworkRecord
from mobilenas.core.errors import FileError, MobileNASError
from mobilenas.core.files import inside, read_bytes
from mobilenas.core.folders import RUN, check_record, unlock_folders
from mobilenas.core.records import append_log
from mobilenas.latency.measured import Measured
from mobilenas.onnx.classifier import FLOAT, Classifier
from mobilenas.onnx.metadata import ModelMetadata
from mobilenas.onnx.record import EXPORT_FILE, read_export
from mobilenas.pipeline.run_folder import COMPARE_FILE
from mobilenas.report.table import read_networks
from mobilenas.web.device import device_of, threads_of
from mobilenas.web.records import (
    BrowserLatency,
    BrowserMeasurement,
    Kept,
    Opened,
    Opening,
    Trial,
    Tried,
    TriedModel,
)
from mobilenas.web.runtime import RUNTIME
from mobilenas.web.settings import ServeSettings
from mobilenas.web.site import Site

WEB_FILE = "web.jsonl"
"""File of the browsers' measurements in a run folder."""


class Trying:
    """A run, and the page that tries its networks."""

    def __init__(self, run: Path, settings: ServeSettings, *, threads: int = 1) -> None:
        self._run, self._threads = run, threads
        self._files, self.trial = trial_of(run)
        self.kept: list[BrowserMeasurement] = []
        self._opening: Opening | None = None
        self._tell: Callable[[str], None] = lambda _: None
        self.site = Site("try.html", settings)
        self.site.opening(Opening, self._open)
        self.site.get("/trial", lambda _: self.trial)
        self.site.models(self._files)
        self.site.post("/measurements", Tried, self._keep)

    async def serve(self, tell: Callable[[str], None]) -> None:
        """Serve until there are no more requests; `tell` gets a line for each measurement."""
        self._tell = tell
        await self.site.serve()

    def _open(self, opening: Opening) -> Opened:
        self._opening = opening
        return Opened(
            title=self._run.absolute().name,
            runtime=f"{RUNTIME}, WebAssembly",
            threads=threads_of(opening, self._threads),
            threads_requested=self._threads,
        )

    def _keep(self, tried: Tried) -> Kept:
        assert self._opening is not None  # the session is open
        models = {model.sha256: model for model in self.trial.models}
        if unknown := tried.ns.keys() - models.keys():
            raise MobileNASError(f"{min(unknown)} is not a model of this run")
        latencies = {models[key].name: self._latency(key, ns) for key, ns in tried.ns.items()}
        measurement = BrowserMeasurement(
            date=datetime.now(UTC).isoformat(timespec="seconds"),
            device=device_of(self._opening),
            runtime=RUNTIME,
            threads=threads_of(self._opening, self._threads),
            latencies=latencies,
        )
        check_record(self._run, RUN)
        append_log(self._run / WEB_FILE, measurement)
        unlock_folders()
        self.kept.append(measurement)
        medians = ", ".join(f"{name} {each.median_ms:.3g} ms" for name, each in latencies.items())
        self._tell(f"{WEB_FILE}: {medians}")
        return Kept(message=f"Kept in {WEB_FILE} of the run.")

    def _latency(self, key: str, ns: Sequence[int]) -> BrowserLatency:
        measured = Measured.of(ns)
        return BrowserLatency(
            file=self._files[key].relative_to(self._run).as_posix(),
            sha256=key,
            images=len(ns),
            median_ms=measured.median_ms,
            interval_ms=measured.interval_ms,
            p90_ms=float(np.percentile(ns, 90)) / 1e6,
            images_per_second=1e9 / float(np.mean(ns)),
        )


def trial_of(run: Path) -> tuple[dict[str, Path], Trial]:
    """Return the files of a run for the page by checksum, and their description."""
    if not (run / EXPORT_FILE).exists():
        raise FileError(f"{run} has no {EXPORT_FILE}: export it (`mobilenas export {run}`)")
    exported, notes = read_export(run).files, []
    chosen = {"fp32": (exported["onnx"].path, exported["onnx"].top1)}
    if "int8" in exported:
        chosen["int8"] = (exported["int8"].path, exported["int8"].top1)
    else:
        notes.append(f"No int8: `mobilenas export {run} --formats int8` makes it.")
    if best := _best_mobilenet(run):
        chosen[best.name] = (best.onnx, best.top1)
    else:
        notes.append(f"No MobileNet: `mobilenas compare {run} --baselines mobilenet_v2` adds it.")
    files, models = {}, []
    for name, (text, top1) in chosen.items():
        path = inside(run, text, run / EXPORT_FILE)
        content = read_bytes(path)
        checksum = hashlib.sha256(content).hexdigest()
        files[checksum] = path
        models.append(_model(name, path, checksum, len(content), top1))
    return files, Trial(models=models, notes=notes)


def _best_mobilenet(run: Path) -> NetworkRecord | None:
    path = run / COMPARE_FILE
    networks = read_networks(path) if path.exists() else []
    found = [each for each in networks if each.kind == "mobilenet" and each.onnx]
    there = [each for each in found if inside(run, each.onnx, path).is_file()]
    return max(there, key=lambda each: each.top1, default=None)


def _model(name: str, path: Path, checksum: str, size_bytes: int, top1: float) -> TriedModel:
    classifier = Classifier(path)
    metadata = ModelMetadata.from_strings(classifier.metadata, str(path))
    side = metadata.image_size
    if len(metadata.mean) != 3 or not classifier.takes((FLOAT, [3, side, side])):
        raise FileError(
            f"{path}: the input is {classifier.type} {classifier.shape}; the page needs float "
            f"[1, 3, {side}, {side}]"
        )
    return TriedModel(
        name=name,
        sha256=checksum,
        size_bytes=size_bytes,
        top1=top1,
        image_size=side,
        mean=metadata.mean,
        std=metadata.std,
        labels=metadata.labels,
    )
