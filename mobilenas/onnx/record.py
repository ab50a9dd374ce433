"""export.json: the exported files of a run, with measurements."""

from dataclasses import dataclass, field
from pathlib import Path

from mobilenas.core.errors import FileError
from mobilenas.core.files import inside
from mobilenas.core.records import Amount, Count, Few, Percent, Record, Some, read_record

EXPORT_FILE = "export/export.json"
"""Path in a run folder."""


@dataclass(frozen=True, kw_only=True)
class Parity:
    """Agreement of file and module on the same images."""

    max_abs_difference: Amount
    """Largest difference of logits."""
    top1_agreement: Percent
    """Percentage of images with the same top-1 class."""
    images: Count
    """Number of images."""


@dataclass(frozen=True, kw_only=True)
class FileReport:
    """Result of `check_file`."""

    size_bytes: Count
    """Size of the file."""
    opset: Count | None
    """ONNX opset; None for the ORT format, where each node has its own version."""
    static: bool
    """Whether all sizes of inputs and outputs are fixed, with batch 1."""
    operators: dict[str, Count]
    """Number of nodes by operator."""
    unaligned: tuple[str, ...]
    """Convolutions whose output channels are not multiples of 8, as `weight: channels`."""
    reorders: dict[str, Count]
    """Number of `REORDERS` nodes after onnxruntime's optimization for this machine."""
    peak_memory_bytes: Count
    """Peak bytes of activations for one image, with operators in onnxruntime's order."""
    max_abs_difference: Amount | None
    """Largest difference of logits from the reference's; None without a reference."""
    top1_agreement: Percent | None
    """Percentage of images with the reference's top-1 class."""
    images: Count
    """Number of compared images."""


@dataclass(frozen=True, kw_only=True)
class Fp16Report:
    """Result of `to_fp16`."""

    largest_activation: Amount
    """Largest absolute activation on the images, in float32."""
    float32_nodes: tuple[str, ...]
    """Nodes that stay in float32, each as operator and output."""
    nodes: Count
    """Number of all nodes."""


@dataclass(frozen=True, kw_only=True)
class TargetReport:
    """How much of a file a target supports."""

    target: str
    """One of `TARGETS`."""
    available: bool
    """Whether this machine's onnxruntime has the provider."""
    verdict: str
    """`yes`, `maybe` or `no` by the checker; `unknown` without a checker."""
    recommendation: str
    """The verdict in a sentence."""
    nodes: Count | None = None
    """Nodes of the graph after onnxruntime's device-independent optimizations."""
    supported: Count | None = None
    """Nodes that the target supports."""
    partitions: Count | None = None
    """Connected parts that the target runs; the CPU runs the nodes between them."""
    unsupported: dict[str, Count] = field(default_factory=dict)
    """Nodes with unsupported operators, by operator."""
    dynamic: Count = 0
    """Nodes that are not supported because of dynamic sizes."""
    unchecked: tuple[str, ...] = ()
    """Conditions of the provider on operators in the graph that were not checked."""
    caveat: str = ""
    """Limits of the verdict; empty without a checker."""
    split_by: tuple[str, ...] = ()
    """Operators of the network (not of the file's format) that cause several partitions."""
    note: str = ""
    """Other remarks on the target, or on this file with it."""


class Timing(Record, frozen=True, kw_only=True):
    """How latencies were measured."""

    provider: str
    threads: Few
    profile: str | None


class Quantization(Record, frozen=True, kw_only=True):
    """How an INT8 file was made."""

    method: str
    weights: str
    calibration: str
    calibration_images: Some
    corrections: tuple[str, ...]
    qat_epochs: Few
    seed: Count


class WrittenFile(Record, frozen=True, kw_only=True):
    """An exported file, before its latency is measured."""

    path: str
    required_operators: str | None = None
    fp16: Fp16Report | None = None
    quantization: Quantization | None = None
    top1: Percent
    size_bytes: Count
    parity: Parity | None = None
    checks: FileReport | None = None
    targets: dict[str, TargetReport] | None = None


class FileRecord(WrittenFile, frozen=True, kw_only=True):
    """An exported file."""

    latency_ms: Amount
    latency_interval_ms: Amount | None = None
    latency_iqr_ms: Amount | None = None
    unsteady: bool | None = None


class ExportRecord(Record, frozen=True, kw_only=True):
    """export/export.json."""

    files: dict[str, FileRecord]
    deployed: str
    parity: Parity
    timing: Timing
    labels: tuple[str, ...]
    quantization: Quantization | None = None

    def made(self, name: str) -> Quantization | None:
        """Return how the INT8 file `name` was made; model.int8.onnx has the run's settings."""
        file = self.files.get(name)
        return self.quantization if file is None or file.quantization is None else file.quantization


def read_export(folder: Path) -> ExportRecord:
    """Read export.json of a run; FileError unless all its files are in the run folder."""
    path = folder / EXPORT_FILE
    record = read_record(path, ExportRecord)
    for name in ("onnx", record.deployed):
        if name not in record.files:
            raise FileError(f"{path}: files lacks {name!r}")
    for file in record.files.values():
        for text in (file.path, file.required_operators):
            if text is not None:
                inside(folder, text, path)
    return record
