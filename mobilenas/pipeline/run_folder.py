"""The run folder: a job's settings, images, space and budgets, for all stages."""

import platform
import shlex
import sys
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

import torch

from mobilenas import __version__
from mobilenas.channel_graph.models import allow_model
from mobilenas.core import processes
from mobilenas.core.errors import (
    DataError,
    FileError,
    MobileNASError,
)
from mobilenas.core.folders import RUN, check_folder, check_record, start_folder
from mobilenas.core.progress import NullReporter, Reporter
from mobilenas.core.records import (
    Count,
    DataRecord,
    Json,
    Machine,
    Part,
    Record,
    read_record,
    write_record,
)
from mobilenas.core.settings import (
    COUNTING_RULE,
    from_plain,
    to_plain,
)
from mobilenas.cost.budget import PENALTY, Budget
from mobilenas.cost.budgets import Budgets
from mobilenas.data import ImageData, load_data
from mobilenas.latency.cost_model import Latency
from mobilenas.latency.profile import Profile, read_profile, write_profile
from mobilenas.pipeline.settings import RunSettings
from mobilenas.pipeline.space import latency_model, usable_space
from mobilenas.spaces.base import Space, family
from mobilenas.spaces.subnetworks.space import SubnetworkSpace
from mobilenas.train.pretrained import source_of

_S = TypeVar("_S")
RUN_FILE = RUN.record
PROFILE_FILE = "profile.json"
IMAGE_SIZE_FILE = "search/image-size.json"
COMPARE_FILE = "compare.json"
_STARTING_PROFILE = f".{PROFILE_FILE}.start.tmp"
_PACKAGES = ("torch", "torchvision", "onnx", "onnxruntime", "onnxscript", "numpy", "scipy")


class RunRecord(Record, frozen=True, kw_only=True):
    """run.json."""

    command: str
    request: Json | None
    settings: RunSettings
    seed: int
    budgets: tuple[Budget, ...]
    counting_rule: str
    data: DataRecord
    image_sizes: tuple[Count, ...] = ()
    space: Json
    versions: dict[str, str]
    machine: Machine


class _SettingsPart(Part, frozen=True, kw_only=True):
    settings: RunSettings


class _SpacePart(Part, frozen=True, kw_only=True):
    space: object = None


class _SidesPart(Part, frozen=True, kw_only=True):
    image_sizes: tuple[Count, ...] = ()


class _Images(Part, frozen=True, kw_only=True):
    image_size: Count
    fingerprint: str


class _ImagesPart(Part, frozen=True, kw_only=True):
    data: _Images


@dataclass(kw_only=True)
class Run:
    """An open run folder."""

    folder: Path
    """The folder, RUN."""
    settings: RunSettings
    """The full settings of the job, as in run.json."""
    reporter: Reporter = field(default_factory=NullReporter)
    """Receives progress."""
    side: int | None = None
    """Image size, if it is not that of the run's start (`at`)."""
    shared: Path | None = None
    """SWEEP/baselines, if runs of a sweep share baselines."""
    _others: dict[int, ImageData] = field(default_factory=dict, repr=False)
    """Images at other sizes that have been read."""

    @cached_property
    def data(self) -> ImageData:
        """The images; DataError if they have changed since the run's start."""
        if self.side is None:
            settings = self.settings.data
            if self.settings.search_image_size:
                settings = replace(settings, image_size=self.image_size)
            return self.check_images(load_data(settings, self.reporter))
        if self.side not in self._others:
            self.reporter.info(f"images are read at {self.side}x{self.side}")
            # without reporter, because their notes were reported at the start
            data = load_data(replace(self.settings.data, image_size=self.side))
            self._others[self.side] = self.check_images(data)
        return self._others[self.side]

    def check_images(self, data: ImageData) -> ImageData:
        """Return `data`; DataError if the images have changed since the run's start."""
        if data.fingerprint != self.fingerprint:
            raise DataError(f"the images of {data.name} are not those {self.folder} started with")
        return data

    @cached_property
    def fingerprint(self) -> str:
        """The hash of the images at the run's start."""
        return read_record(self.folder / RUN_FILE, _ImagesPart).data.fingerprint

    @property
    def image_size(self) -> int:
        """Image size, without reading the images."""
        if "data" in vars(self):
            return self.data.image_size
        return self.side or read_record(self.folder / RUN_FILE, _ImagesPart).data.image_size

    def at(self, image_size: int) -> "Run":
        """Return the same job with images of another size, which are read on first use."""
        if image_size == self.image_size:
            return self
        return self._shared_with(replace(self, side=image_size))

    @cached_property
    def image_sizes(self) -> tuple[int, ...]:
        """The image sizes that `--image-size auto` or a pretrained network's search chooses from.

        Empty if there is only one.
        """
        if isinstance(self.space, SubnetworkSpace):
            return self.space.sides if len(self.space.sides) > 1 else ()
        if not self.settings.search_image_size:
            return ()
        return read_record(self.folder / RUN_FILE, _SidesPart).image_sizes

    @cached_property
    def space(self) -> Space:
        """The space; if the image size is searched, at the chosen one."""
        plain, file = None, IMAGE_SIZE_FILE
        if self.settings.search_image_size and (self.folder / file).exists():
            plain = read_record(self.folder / file, _SpacePart).space
        if plain is None:
            file = RUN_FILE
            plain = read_record(self.folder / file, _SpacePart).space
        space: Space = from_plain(family(self.settings.space).space, plain, f"{file}: space")
        return space

    def forget_space(self) -> None:
        """Drop the cached space, because its image size has been chosen."""
        for name in ("space", "budgets"):
            vars(self).pop(name, None)

    @cached_property
    def budgets(self) -> Budgets:
        """The budgets over the space; under a penalty they need not be used."""
        filled = self.settings.search.constraint != PENALTY
        return Budgets(self.space, self.settings.budgets, self.latency, filled=filled)

    @cached_property
    def latency(self) -> Latency | None:
        """The latency model of the profile, if there is one."""
        if self.settings.profile is None:
            return None
        return latency_model(self.settings, read_profile(self.folder / PROFILE_FILE))

    @property
    def device(self) -> str:
        """Device of training; MobileNASError if this machine does not have it."""
        check_device(self.settings.device)
        return self.settings.device

    def within(self, folder: Path) -> "Run":
        """Return the same job with another folder to write to, below this one."""
        data = self.data  # read only once
        inner = self._shared_with(replace(self, folder=folder))
        inner.__dict__["data"] = data
        return inner

    def _shared_with(self, other: "Run") -> "Run":
        # what cannot be read from its folder
        shared = ("space", "latency", "fingerprint")
        other.__dict__ |= {name: getattr(self, name) for name in shared}
        return other

    @property
    def seeds(self) -> range:
        """All seeds of the comparison."""
        return range(self.settings.seed, self.settings.seed + self.settings.seeds)

    def seed_folder(self, seed: int) -> Path:
        """Return the folder of a seed: RUN for the first, subfolders for repeats."""
        return self.folder if seed == self.settings.seed else self.folder / f"repeats/seed-{seed}"


def check_device(name: str) -> None:
    """Raise if torch does not find the device. Runs of other machines can be opened without it."""
    if name == "cuda" and not torch.cuda.is_available():
        raise MobileNASError("--device cuda: torch finds no CUDA device here")


def create_run(
    folder: Path,
    settings: RunSettings,
    *,
    data: ImageData,
    command: str,
    reporter: Reporter,
    request: Json | None = None,
    profile: Profile | None = None,
    image_sizes: tuple[int, ...] = (),
    resume: bool = False,
    overwrite: bool = False,
) -> Run:
    """Start a run in `folder`, or resume the one there; only `overwrite` replaces one.

    `image_sizes` are the options of `--image-size auto`.
    """
    torch.set_num_threads(processes.threads_of(settings.threads))
    if check_run(folder, resume=resume, overwrite=overwrite):
        existing = open_run(folder, reporter)
        if existing.settings != settings:
            raise FileError(
                f"{folder} holds another run: {_difference(existing.settings, settings)}"
            )
        existing.check_images(data)
        if settings.channel_sizes is not None:
            # named by the caller, not only by files of the folder
            allow_model(settings.channel_sizes.model)
        existing.__dict__["data"] = data
        return existing
    refuse_own_weights(folder, settings)
    kind = data.at(image_sizes[-1]) if image_sizes else data
    space = usable_space(settings, kind, latency_model(settings, profile))
    record = RunRecord(
        command=command,
        request=request,
        settings=settings,
        seed=settings.seed,
        budgets=settings.budgets,
        counting_rule=COUNTING_RULE,
        data=data.describe(),
        image_sizes=image_sizes,
        space=to_plain(space),
        versions=versions(),
        machine=machine(),
    )
    start_folder(folder, RUN)
    if profile is not None:
        write_profile(profile, folder / _STARTING_PROFILE)
    write_record(folder / RUN_FILE, record)
    _end_start(folder)
    check_record(folder, RUN)
    run = Run(folder=folder, settings=settings, reporter=reporter)
    run.__dict__["data"] = data  # already read, so the cached property need not read it
    return run


def check_run(folder: Path, *, resume: bool, overwrite: bool) -> bool:
    """Return whether `folder` has a run to resume; FileError if it must not be used."""
    return check_folder(folder, RUN, _settings, resume=resume, overwrite=overwrite)


def open_run(folder: Path, reporter: Reporter) -> Run:
    """Open a run that exists."""
    check_record(folder, RUN)
    settings = _settings(folder / RUN_FILE)
    _end_start(folder)
    torch.set_num_threads(processes.threads_of(settings.threads))
    return Run(folder=folder, settings=settings, reporter=reporter)


def _settings(path: Path) -> RunSettings:
    return read_record(path, _SettingsPart).settings


def _end_start(folder: Path) -> None:
    """Rename the profile, the last step of a start, so that no run lacks its profile."""
    if (folder / _STARTING_PROFILE).exists():
        (folder / _STARTING_PROFILE).replace(folder / PROFILE_FILE)


def refuse_own_weights(folder: Path, settings: RunSettings) -> None:
    """Raise if the weights that a run starts from are in the folder that will be emptied."""
    files = [settings.channel_sizes.weights] if settings.channel_sizes is not None else []
    if settings.pretrained is not None:
        files += [settings.pretrained.weights, source_of(settings.pretrained.name).file]
    for file in files:
        if file is not None and folder.resolve() in file.resolve().parents:
            raise FileError(f"{folder} holds {file}, where the model starts; choose another --out")


def versions() -> dict[str, str]:
    """Return the versions of packages on which results depend."""
    return {"mobilenas": __version__, "python": platform.python_version()} | {
        name: version(name) for name in _PACKAGES
    }


def machine() -> Machine:
    """Return a description of this machine."""
    return Machine(
        platform=platform.platform(),
        processor=platform.processor() or platform.machine(),
        cuda=torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    )


def command_line() -> str:
    """Return the command line."""
    return shlex.join(["mobilenas", *sys.argv[1:]])


def _difference(existing: RunSettings, requested: RunSettings) -> str:
    before, after = to_plain(existing), to_plain(requested)
    names = [name for name in before if before[name] != after[name]]
    return f"{', '.join(names)} differ from those that --resume has"
