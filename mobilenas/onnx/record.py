"""export.json: the files that a run has exported, and what was measured on each."""

from dataclasses import dataclass, field
from pathlib import Path

from mobilenas.core.errors import FileError
from mobilenas.core.files import inside
from mobilenas.core.records import Amount, Count, Few, Percent, Record, Some, read_record

EXPORT_FILE = "export/export.json"
"""Its place in a run folder."""


@dataclass(frozen=True, kw_only=True)
class Parity:
    """How far the file and the module agree on the same images."""

    max_abs_difference: Amount
    """Largest difference of any logit."""
    top1_agreement: Percent
    """Percent of images with the same most probable class."""
    images: Count
    """Number of images."""


@dataclass(frozen=True, kw_only=True)
class FileReport:
    """What `check_file` found."""

    size_bytes: Count
    """Size of the file."""
    opset: Count | None
    """Version of the ONNX operators; None for the ORT format, whose nodes keep theirs."""
    static: bool
    """Whether every size of every input and output is fixed, the batch at 1."""
    operators: dict[str, Count]
    """How often each operator stands in the file, by name."""
    unaligned: tuple[str, ...]
    """Convolutions whose output channels are no multiple of 8, each as `weight: channels`."""
    reorders: dict[str, Count]
    """`REORDERS` that are left when onnxruntime has optimized the file for this machine."""
    peak_memory_bytes: Count
    """Most bytes of activations alive at once, operators in onnxruntime's order, one image."""
    max_abs_difference: Amount | None
    """Largest difference of any logit from the reference's; None without a reference."""
    top1_agreement: Percent | None
    """Percent of the images with the reference's most probable class."""
    images: Count
    """Images compared."""


@dataclass(frozen=True, kw_only=True)
class Fp16Report:
    """What `to_fp16` found."""

    largest_activation: Amount
    """Largest absolute value inside the network on the images, in float32."""
    float32_nodes: tuple[str, ...]
    """Nodes that stay in float32, each as operator and output."""
    nodes: Count
    """All nodes that compute."""


@dataclass(frozen=True, kw_only=True)
class TargetReport:
    """What one target makes of one file."""

    target: str
    """One of `TARGETS`."""
    available: bool
    """Whether the onnxruntime of this machine has the provider."""
    verdict: str
    """`yes`, `maybe` or `no`, as the checker judges; `unknown` where nothing can be told here."""
    recommendation: str
    """The verdict in a sentence."""
    nodes: Count | None = None
    """Nodes of the graph when onnxruntime has optimized it as far as any device lets it."""
    supported: Count | None = None
    """Those that the target takes."""
    partitions: Count | None = None
    """Connected parts that the target runs; between two the CPU runs something."""
    unsupported: dict[str, Count] = field(default_factory=dict)
    """Nodes that the target refuses for their operator, by operator."""
    dynamic: Count = 0
    """Nodes that it refuses for a size that is not fixed."""
    unchecked: tuple[str, ...] = ()
    """What the provider asks of operators in the graph beyond their type, unchecked."""
    caveat: str = ""
    """What the verdict does not see; empty where there was no checker."""
    split_by: tuple[str, ...] = ()
    """Operators of the network, not of the file's form, for which there are several parts."""
    note: str = ""
    """What else is to be known of the target or of this file on it."""


class Timing(Record, frozen=True, kw_only=True):
    """How latency was measured."""

    provider: str
    threads: Few
    profile: str | None


class Quantization(Record, frozen=True, kw_only=True):
    """How a file in INT8 was made."""

    method: str
    weights: str
    calibration: str
    calibration_images: Some
    corrections: tuple[str, ...]
    qat_epochs: Few
    seed: Count


class WrittenFile(Record, frozen=True, kw_only=True):
    """An exported file that has no latency yet."""

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
        """How the INT8 file of this name was made; of model.int8.onnx the run says it."""
        file = self.files.get(name)
        return self.quantization if file is None or file.quantization is None else file.quantization


def read_export(folder: Path) -> ExportRecord:
    """Read export.json of a run; FileError unless all its files lie in the run folder."""
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
