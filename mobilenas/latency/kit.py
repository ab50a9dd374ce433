"""Kits: folders of models that another device times, and the import of its results."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta

from mobilenas.core.errors import FileError, MobileNASError
from mobilenas.core.files import read_json, write_bytes, write_json, write_text
from mobilenas.core.folders import KIT, check_folder, start_folder
from mobilenas.core.progress import NullReporter, Reporter
from mobilenas.core.records import Json, Record, read_record
from mobilenas.core.settings import (
    ADDED,
    check_choice,
    from_plain,
    to_plain_without_added,
)
from mobilenas.latency.building import Setup, Time, assemble, tested_of
from mobilenas.latency.draws import draw_networks
from mobilenas.latency.drift import remove_drift
from mobilenas.latency.graphs import arch_model, unit_model
from mobilenas.latency.measured import Failed, Measured
from mobilenas.latency.profile import Profile
from mobilenas.latency.settings import NETWORKS
from mobilenas.latency.units import MeasuredSpace, Unit, space_units
from mobilenas.onnx import OPSET
from mobilenas.onnx.settings import PRECISIONS
from mobilenas.spaces.mobile.arch import Block, MobileArch, Stem
from mobilenas.spaces.mobile.costs import block_costs, costs, stem_cost
from mobilenas.spaces.mobile.space import MobileSpace
from mobilenas.spaces.subnetworks.space import SubnetworkSpace

MANIFEST_FILE = KIT.record
RUNNER_FILE = "run_kit.py"
_KINDS = ("unit", "network")
_MIN_NETWORKS = 4  # two to fit a calibration, two to test it


@dataclass(frozen=True, kw_only=True)
class KitModel:
    """One model of a kit."""

    file: str
    """Path in the kit."""
    key: str
    """The unit's key, or `network N`."""
    precision: str
    """A name from `mobilenas.latency.graphs.PRECISIONS`."""
    sha256: str
    """Checksum of the file."""
    kind: str
    """unit or network."""
    flops: int
    """Multiply-adds."""
    arch: MobileArch | None
    """The network; None for a unit."""

    def __post_init__(self) -> None:
        """Check the names."""
        check_choice("precision", self.precision, PRECISIONS)
        check_choice("kind", self.kind, _KINDS)
        if (self.arch is not None) != (self.kind == "network"):
            raise MobileNASError(f"arch of {self.file} must be there for a network and only there")
        if self.kind == "unit":
            Unit.parse(self.key)


@dataclass(frozen=True, kw_only=True)
class KitSpace:
    """A space that a kit measures."""

    precision: str
    """Precision of its models."""
    space: MobileSpace
    """The space."""


@dataclass(frozen=True, kw_only=True)
class KitSubnetworks:
    """Parts of a pretrained network that a kit measures."""

    precision: str
    """Precision of its models."""
    space: SubnetworkSpace
    """The space."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The manifest of a kit."""

    opset: int
    """ONNX opset of the models."""
    spaces: tuple[KitSpace, ...]
    """One per precision."""
    models: tuple[KitModel, ...]
    """Units, then networks, of every precision."""
    subnetworks: tuple[KitSubnetworks, ...] = field(default=(), metadata=ADDED)
    """One per precision, in place of `spaces`."""

    def __post_init__(self) -> None:
        """Check that every model's precision has a space."""
        for index, model in enumerate(self.models):
            check_choice(f"models[{index}].precision", model.precision, tuple(self.measured))

    @property
    def measured(self) -> dict[str, MeasuredSpace]:
        """The space of each precision."""
        found: dict[str, MeasuredSpace] = {item.precision: item.space for item in self.spaces}
        return found | {item.precision: item.space for item in self.subnetworks}

    @property
    def kit(self) -> str:
        """The kit's id: a hash of the manifest."""
        text = json.dumps(to_plain_without_added(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def to_dict(self) -> Json:
        """Return the JSON form."""
        return {"kit": self.kit, **to_plain_without_added(self)}

    @classmethod
    def from_dict(cls, data: Json, place: str) -> "Manifest":
        """Read the JSON form; the id must match the content."""
        plain = {key: value for key, value in data.items() if key not in ("kit", "schema_version")}
        manifest = from_plain(cls, plain, place)
        if data.get("kit") != manifest.kit:
            raise MobileNASError(
                f"{place}.kit is {data.get('kit')!r}; the content's is {manifest.kit!r}: "
                "it was changed after it was made"
            )
        return manifest


def write_kit(
    spaces: Mapping[str, MeasuredSpace],
    folder: Path,
    *,
    networks: int = NETWORKS,
    seed: int = 0,
    reporter: Reporter | None = None,
) -> Manifest:
    """Write units and random networks of each precision's space, with the script to time them.

    The same spaces, number of networks and seed give the same kit.
    """
    check_folder(folder, KIT, read_manifest)
    if networks < _MIN_NETWORKS:
        raise MobileNASError(f"networks is {networks}; it must be at least {_MIN_NETWORKS}")
    reporter = reporter or NullReporter()
    pieces: list[tuple[str, Unit | MobileArch]] = []
    for precision, space in spaces.items():
        pieces += [(precision, unit) for unit in space_units(space)]
        pieces += [(precision, arch) for arch in draw_networks(space, networks, seed)]
    start_folder(folder, KIT)
    models = []
    reporter.start("kit", len(pieces))
    for number, (precision, piece) in enumerate(pieces):
        models.append(_write_model(folder, number, piece, precision))
        reporter.step(number + 1, {})
    manifest = Manifest(
        opset=OPSET,
        spaces=tuple(
            KitSpace(precision=name, space=space)
            for name, space in spaces.items()
            if isinstance(space, MobileSpace)
        ),
        subnetworks=tuple(
            KitSubnetworks(precision=name, space=space)
            for name, space in spaces.items()
            if isinstance(space, SubnetworkSpace)
        ),
        models=tuple(models),
    )
    write_bytes(folder / RUNNER_FILE, Path(__file__).with_name("kit_runner.py").read_bytes())
    write_text(folder / "README.md", _README.format(models=len(models), kit=manifest.kit))
    # last, because a folder with a manifest is a complete kit
    write_json(folder / MANIFEST_FILE, manifest.to_dict())
    return manifest


def _write_model(folder: Path, number: int, piece: Unit | MobileArch, precision: str) -> KitModel:
    if isinstance(piece, Unit):
        kind, key, flops = "unit", piece.key, _unit_flops(piece)
        content = unit_model(piece, precision)
    else:
        kind, key, flops = "network", f"network {number}", costs(piece).flops
        content = arch_model(piece, precision)
    file = f"models/{number:04}-{precision}-{kind}.onnx"
    write_bytes(folder / file, content)
    return KitModel(
        file=file,
        key=key,
        precision=precision,
        sha256=hashlib.sha256(content).hexdigest(),
        kind=kind,
        flops=flops,
        arch=None if isinstance(piece, Unit) else piece,
    )


def _unit_flops(unit: Unit) -> int:
    if unit.kind == "stem":
        stem = Stem(channels=unit.out_channels, stride=unit.stride, activation=unit.activation)
        return stem_cost(stem, unit.in_channels, unit.side).flops
    if unit.kind != "block":
        return unit.in_channels * unit.out_channels * unit.side**2
    block = Block(
        kernel=unit.kernel,
        hidden=unit.hidden,
        out=unit.out_channels,
        stride=unit.stride,
        squeeze=unit.squeeze,
        activation=unit.activation,
        start_kernel=unit.start_kernel,
    )
    return sum(layer.flops for layer in block_costs(block, unit.in_channels, unit.side))


def import_results(path: Path, name: str, *, kit: Path | None = None, command: str = "") -> Profile:
    """Make a profile from a runner's results; FileError names file, field and legal values.

    The results include their kit's manifest, which must be that of the folder `kit` if given.
    """
    expected = read_manifest(kit / MANIFEST_FILE).kit if kit else None
    record = read_record(path, KitResults, oldest=1)
    try:
        results = _checked(record)
        if expected not in (None, results.manifest.kit):
            raise MobileNASError(f"kit is {results.manifest.kit!r}; that of {kit} is {expected!r}")
        return profile_of(results, name, command)
    except MobileNASError as error:
        raise FileError(f"{path}: {error}") from error


def profile_of(results: "Results", name: str, command: str = "") -> Profile:
    """Make a profile from the results of a kit."""
    spaces = results.manifest.measured
    units: dict[str, dict[str, Time]] = {precision: {} for precision in spaces}
    networks: dict[str, list[tuple[MobileArch, Time]]] = {precision: [] for precision in spaces}
    for model in results.manifest.models:
        time = results.times[model.file]
        if model.arch is None:
            units[model.precision][model.key] = time
        else:
            networks[model.precision].append((model.arch, time))
    setup = Setup(
        name=name,
        device=results.device,
        runtime=results.runtime,
        provider=results.provider,
        threads=results.threads,
        opset=results.manifest.opset,
        date=results.date,
        command=command,
    )
    held_out = tested_of(min(len(group) for group in networks.values()))
    return assemble(setup, spaces, units, networks, held_out=held_out)


def read_manifest(path: Path) -> Manifest:
    """Read a kit's manifest; FileError names file and field."""
    data = read_json(path, oldest=1)
    try:
        return Manifest.from_dict(data, "manifest")
    except MobileNASError as error:
        raise FileError(f"{path}: {error}") from error


class KitTime(Record, frozen=True, kw_only=True):
    """Nanoseconds of a model in each round, or why it does not run."""

    ns: Sequence[Annotated[int, Meta(ge=1, le=10**15)]] | None = None
    failed: str | None = None


class KitResults(Record, frozen=True, kw_only=True):
    """kit-results.json, as a kit's runner writes it."""

    kit: str
    units: Literal["ns"]
    device: Json
    provider: str
    threads: int
    rounds: int
    date: str
    manifest: Json
    times: dict[str, KitTime]
    """By model file."""


@dataclass(frozen=True, kw_only=True)
class Results:
    """Validated results of a kit."""

    manifest: Manifest
    device: Json
    runtime: str
    provider: str
    threads: int
    date: str
    times: dict[str, Measured | Failed]
    """By model file."""


def _checked(record: KitResults) -> Results:
    manifest = Manifest.from_dict(record.manifest, "manifest")
    if record.kit != manifest.kit:
        raise MobileNASError(f"kit is {record.kit!r}; its manifest's is {manifest.kit!r}")
    files, times = [model.file for model in manifest.models], record.times
    if unknown := [file for file in times if file not in files]:
        raise MobileNASError(f"times has {unknown[0]!r}, which is not a model of the kit")
    if missing := [file for file in files if file not in times]:
        few, more = ", ".join(missing[:3]), f" and {len(missing) - 3} more" * (len(missing) > 3)
        raise MobileNASError(f"times lacks {few}{more}; let the runner finish")
    if not {"cpu", "onnxruntime"} <= record.device.keys():
        raise MobileNASError(f"device is {record.device!r}; it must have cpu and onnxruntime")
    return Results(
        manifest=manifest,
        device=record.device,
        runtime=f"onnxruntime {record.device['onnxruntime']}",
        provider=record.provider,
        threads=record.threads,
        date=record.date,
        times=_measured({f: _time(times[f], f"times[{f!r}]", record.rounds) for f in files}),
    )


def _measured(times: dict[str, list[int] | Failed]) -> dict[str, Measured | Failed]:
    """Summarize times as `meter` does; a model that finished early has only the first rounds."""
    known = {file: ns for file, ns in times.items() if not isinstance(ns, Failed)}
    longest = max(map(len, known.values()), default=0)
    rounds = [{file: ns[n] for file, ns in known.items() if n < len(ns)} for n in range(longest)]
    corrected = remove_drift(rounds)
    return {
        file: ns if isinstance(ns, Failed) else Measured.of(corrected[file])
        for file, ns in times.items()
    }


def _time(time: KitTime, place: str, rounds: int) -> list[int] | Failed:
    if (time.ns is None) == (time.failed is None):
        raise MobileNASError(f"{place} must have either ns or failed")
    if time.failed is not None:
        return Failed(reason=time.failed)
    ns = list(time.ns or ())
    if len(ns) < max(1, rounds):
        raise MobileNASError(f"{place}.ns has {len(ns)} rounds of {rounds}; let the runner finish")
    return ns


_README = """\
# A latency kit of mobilenas

{models} models, kit {kit}: parts of networks and some whole networks. Their times on
a device make a latency profile of it. Nothing here needs mobilenas.

## A device with Python (3.8 or newer)

    pip install numpy onnxruntime
    python run_kit.py --device "Raspberry Pi 5"

It loads every model, times all of them in interleaved rounds until each median is known to
2 %, and writes kit-results.json. Let the device do nothing else, and keep it cool: one that
slows down while it measures gives no steady times. Interrupted or killed, the same command
goes on. A model that ends the whole process is the last one named on the screen; leave it
out with `--skip models/NAME.onnx`. `python run_kit.py --help` names threads, provider and more.

## A phone without Python

onnxruntime_perf_test, which is built for Android from onnxruntime's sources, times one model
a call. 16 rounds in a random order, one thread, the processor, all optimizations:

    adb push models onnxruntime_perf_test /data/local/tmp/kit/
    adb shell "cd /data/local/tmp/kit && chmod +x onnxruntime_perf_test && mkdir -p times"
    for round in $(seq 16); do
      for model in $(ls models | shuf); do
        adb shell "cd /data/local/tmp/kit && ./onnxruntime_perf_test -I -e cpu -x 1 -y 1 \\
          -o 99 -m times -r 10 models/$model times/$model.csv" > /dev/null
      done
    done
    adb pull /data/local/tmp/kit/times times
    python run_kit.py --perf-test times --device "Pixel 7" --runtime 1.22.0

The last line, on any computer with numpy and onnxruntime, writes kit-results.json. Say there,
too, `--threads` and `--provider` where it was not one thread and the processor.

## Back

    mobilenas profile import kit-results.json --name pixel7
"""
