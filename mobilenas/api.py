"""The Python API: what the commands do, as functions over images, spaces and networks.

    >>> import mobilenas as mn
    >>> data = mn.load_data("digits")
    >>> space = mn.mobile_space(data, flops="300k")
    >>> found = mn.search(space, data, budgets={"flops": "300k"}, effort="quick", finalists=0)
    >>> found.costs["flops"] <= 300_000
    True
    >>> model = mn.train(found.arch, data, epochs=2)
    >>> files = mn.export(model, "model.onnx", formats=["onnx", "int8"])
    >>> mn.count(model).flops == found.costs["flops"]
    True
    >>> mn.measure(files["onnx"]).median_ms > 0
    True

`mobilenas.search` and `mobilenas.train` are also packages; calling them calls these functions.
Errors that a user can fix are `MobileNASError`s.
"""

import random
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from torch import nn

from mobilenas.core.errors import MobileNASError
from mobilenas.core.progress import NullReporter, Reporter
from mobilenas.core.records import read_log
from mobilenas.core.setting import settings_of
from mobilenas.core.settings import Fields, check_choice
from mobilenas.cost.budget import PENALTY, BudgetOptions
from mobilenas.cost.budgets import Budgets
from mobilenas.data import DataSettings, ImageData
from mobilenas.data import load_data as read_data
from mobilenas.data.settings import refuse_options_of_images
from mobilenas.latency.measured import Failed, Measured
from mobilenas.latency.meter import measure as measure_all
from mobilenas.onnx.fp16 import to_fp16
from mobilenas.onnx.ort_format import to_ort
from mobilenas.onnx.other_runtimes import RUNTIMES, check_installed, convert
from mobilenas.pipeline.effort import EffortName, recipe_for
from mobilenas.pipeline.export_settings import FormatSettings, Int8Settings
from mobilenas.pipeline.formats import format_path
from mobilenas.pipeline.layers import Counted, count_arch
from mobilenas.pipeline.layers import count as count_named
from mobilenas.pipeline.network_file import write_network
from mobilenas.pipeline.quantization import calibration, write_int8
from mobilenas.pipeline.records import ResultRecord
from mobilenas.pipeline.request import ANY_COUNT, Request
from mobilenas.pipeline.settings import RunSettings
from mobilenas.pipeline.space import check_side, latency_model, usable_space
from mobilenas.pipeline.stages import run_all
from mobilenas.pipeline.starting import profile_of, start
from mobilenas.search.methods import DEFAULT_METHOD
from mobilenas.search.run import SearchResult
from mobilenas.search.run import search as search_in
from mobilenas.spaces.base import Arch, SearchedSpace, family_of
from mobilenas.spaces.mobile.space import MobileSpace
from mobilenas.train import BEST_WEIGHTS, LOG, Evaluation, load_weights
from mobilenas.train import evaluate as evaluate_on
from mobilenas.train import train as train_in
from mobilenas.train.recipes import DEFAULT_RECIPE
from mobilenas.train.records import TrainLine

Device = Literal["cpu", "cuda"]
Limit = int | float | str
"""A number in the unit of its cost (latency: ms), or text as on the command line: 2M, 8ms."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainedNetwork:
    """A network with the weights of its best epoch, and how it was trained."""

    arch: Arch
    """The network's architecture."""
    module: nn.Module = field(repr=False)
    """float32 [N, C, S, S], normalized by `data.mean` and `data.std`, to logits [N, classes]."""
    data: ImageData = field(repr=False)
    """The images it was trained on."""
    val_top1: float
    """Percent of the validation images, at the best epoch."""
    epochs: int
    """Epochs trained."""
    best_epoch: int
    """The one with the highest validation top-1, counted from 1."""
    seconds: float
    """Processor time of all epochs with validation (on cuda wall time)."""
    log: list[TrainLine] = field(repr=False)
    """One record for each epoch, as train/log.jsonl has them."""


def load_data(
    source: str | Path = "digits",
    *,
    image_size: int | None = None,
    flip: bool | None = None,
    skip_bad_images: bool = False,
    download: bool = False,
    reporter: Reporter | None = None,
) -> ImageData:
    """Read labelled images: digits, cifar10, cifar100, a folder or wds:SHARDS (docs/images.md).

    `image_size` is the side in pixels: None keeps that of square images of one size, and makes
    others 224 by 224. `flip`: whether training mirrors images; None: unless they are characters.
    Raises DataError if images are missing or cannot be decoded.

    >>> load_data("digits").classes[:3]
    ('0', '1', '2')
    """
    settings = DataSettings(
        source=str(source),
        image_size=image_size,
        flip=flip,
        skip_bad_images=skip_bad_images,
        download=download,
    )
    return read_data(settings, reporter or NullReporter())


def mobile_space(
    data: ImageData, *, reporter: Reporter | None = None, **options: object
) -> MobileSpace:
    """Return the mobile space, sized so that typical networks use the budgets.

    `options` are the budgets (flops, params, memory in bytes, latency in ms with profile) and the
    settings of the blocks: precision, activation, squeeze, extra_depthwise, targets.
    Raises BudgetError if no network for such images meets the budgets.

    >>> space = mobile_space(load_data("digits"), flops="300k")
    >>> [stage.widths for stage in space.stages]
    [(8, 16, 24), (8, 16, 24), (24, 32, 40)]
    """
    request = _request(options)
    check_choice("space", request.space, (MobileSpace.family,))
    settings = request.settings(len(data.train))
    profile = profile_of(request, reporter or NullReporter())
    space = usable_space(settings, data, latency_model(settings, profile))
    assert isinstance(space, MobileSpace)
    return space


def search(
    space: SearchedSpace,
    data: ImageData,
    budgets: Mapping[str, Limit],
    *,
    method: str = DEFAULT_METHOD,
    effort: EffortName = "standard",
    seed: int = 0,
    device: Device = "cpu",
    out: str | Path | None = None,
    reporter: Reporter | None = None,
    **options: object,
) -> SearchResult:
    """Search `space` for a network that meets all `budgets`, such as {"flops": "2M"}.

    `options` are those of `mobilenas search`, with underscores: finalists, search_epochs, sampler,
    temperature, profile and so on. With `out`, a folder, checkpoints are kept there and the same
    call resumes the search. A latency budget is checked by the profile's predictions only (`run`
    also measures). Raises MobileNASError if settings contradict each other.
    """
    reporter = reporter or NullReporter()
    check_side(space, data)
    request = _request(
        {**_own(budgets), **options},
        space=family_of(space).name,
        method=method,
        effort=effort,
        seed=seed,
        device=device,
    )
    settings = request.settings(len(data.train))
    limits = _limits(space, request, settings, reporter)
    with _folder(out) as folder:
        return search_in(
            limits,
            data,
            settings.search,
            settings.finalists,
            settings.recipe,
            folder=folder,
            seed=seed,
            device=device,
            reporter=reporter,
            rank=settings.rank,
            inherit=settings.inherit,
        )


def random_networks(
    space: SearchedSpace,
    budgets: Mapping[str, Limit],
    number: int,
    *,
    seed: int = 0,
    **options: object,
) -> list[Arch]:
    """Draw networks of `space` uniformly among those that meet all `budgets`: the control.

    They use at least 90 % of one budget, as the searched network does. `options`: profile and
    precision of a latency budget.

    >>> space = mobile_space(load_data("digits"), flops="300k")
    >>> len(random_networks(space, {"flops": "300k"}, 3))
    3
    """
    request = _request({**_own(budgets), **options}, space=family_of(space).name)
    limits = _limits(space, request, request.settings(ANY_COUNT), NullReporter())
    source = random.Random(seed)
    return [space.arch(limits.random(source)) for _ in range(number)]


def train(
    arch: Arch,
    data: ImageData,
    *,
    effort: EffortName = "standard",
    epochs: int | None = None,
    recipe: str | None = None,
    set: Mapping[str, object] | None = None,
    seed: int = 0,
    device: Device = "cpu",
    compile: bool = False,
    out: str | Path | None = None,
    reporter: Reporter | None = None,
) -> TrainedNetwork:
    """Train `arch` from scratch by a recipe, by default that of `mobilenas run` for its family.

    `recipe` is a name that `mobilenas recipes` shows, and `set` changes fields of it, such as
    {"mixup": 0.2}. `epochs` overrides the effort's number. `compile` runs it through torch.compile;
    if that fails, `reporter` gets the reason. With `out`, a folder, checkpoints are kept there and
    the same call resumes the training. Raises DivergedError if the loss becomes infinite or NaN.
    """
    changes = _assignments(set or {})
    name = recipe or family_of(arch).recipe or DEFAULT_RECIPE
    how = recipe_for(effort, len(data.train), epochs, name, changes, compile=compile)
    with _folder(out) as folder:
        result = train_in(
            arch, data, how, folder=folder, seed=seed, device=device, reporter=reporter
        )
        return TrainedNetwork(
            arch=arch,
            module=load_weights(arch, folder / BEST_WEIGHTS),
            data=data,
            val_top1=result.val_top1,
            epochs=result.epochs,
            best_epoch=result.best_epoch,
            seconds=result.seconds,
            log=read_log(folder / LOG, TrainLine),
        )


def evaluate(model: TrainedNetwork, *, device: Device = "cpu") -> Evaluation:
    """Evaluate a network on the test images: once, after all choices are made."""
    return evaluate_on(model.module.to(device), model.data.test, model.data, device)


def export(
    model: TrainedNetwork,
    path: str | Path = "model.onnx",
    *,
    formats: Sequence[str] = ("onnx",),
    dynamic_batch: bool = False,
    seed: int = 0,
) -> dict[str, Path]:
    """Write the network to `path` as ONNX, and beside it in the other formats; return the files.

    `formats` are those of `mobilenas export`: onnx, fp16, int8, ort and those of other runtimes.
    int8 and fp16 are calibrated on training images drawn by `seed`. The ONNX file has labels and
    normalization in its metadata, and is compared with the module on validation images. Raises
    FileError if they differ.
    """
    settings = FormatSettings(formats=tuple(formats))
    for form in set(settings.formats) & set(RUNTIMES):
        check_installed(form)
    data, onnx = model.data, Path(path)
    write_network(model.module, model.arch, data, onnx, dynamic_batch=dynamic_batch)
    files = {"onnx": onnx}
    for form in settings.formats:
        file = files[form] = format_path(onnx, form)
        file.parent.mkdir(parents=True, exist_ok=True)
        if form == "fp16":
            to_fp16(onnx, file, calibration(data, seed))
        elif form == "int8":
            write_int8(data, Int8Settings().describe(data, seed), onnx, file)
        elif form == "ort":
            to_ort(onnx, file)
        elif form in RUNTIMES:
            side = {"channels": data.channels, "image_size": data.image_size}
            convert(model.module, form, file, **side)
    return files


def count(network: TrainedNetwork | Arch | str | Path, **shape: int | float) -> Counted:
    """Count FLOPs and params, whole and layer by layer.

    `network` can also be what `mobilenas profile flops` takes: a name such as mobilenet_v2 (with
    `shape`: width, image_size, classes), an ONNX file, an arch.json, or a run folder.

    >>> count("mobilenet_v2").params
    3504872
    """
    if isinstance(network, TrainedNetwork):
        network = network.arch
    if isinstance(network, str | Path):
        return count_named(str(network), **shape)
    return count_arch(type(network).__name__, network)


def measure(path: str | Path, *, threads: int = 1, reporter: Reporter | None = None) -> Measured:
    """Measure the latency of one image on this machine, with onnxruntime in a separate process.

    Raises MobileNASError if onnxruntime cannot run the file.
    """
    (found,) = measure_all({"model": Path(path)}, threads=threads, reporter=reporter).values()
    if isinstance(found, Failed):
        raise MobileNASError(f"{path} {found.reason}")
    return found


def run(
    data: str | Path,
    *,
    out: str | Path,
    resume: bool = False,
    overwrite: bool = False,
    reporter: Reporter | None = None,
    **options: object,
) -> ResultRecord:
    """Do what `mobilenas run` does: search, train, export, compare and report, in the folder `out`.

    `options` are those of the command, with underscores. Returns what result.json holds.
    """
    request = _request(options, data=str(data))
    begun = start(
        Path(out),
        request,
        command="mobilenas.run",
        reporter=reporter or NullReporter(),
        resume=resume,
        overwrite=overwrite,
    )
    return run_all(begun)


def _limits(
    space: SearchedSpace, request: Request, settings: RunSettings, reporter: Reporter
) -> Budgets:
    """Return the budgets over a space; BudgetError if none of its networks meets and uses them."""
    latency = latency_model(settings, profile_of(request, reporter))
    filled = settings.search.constraint != PENALTY
    limits = Budgets(space, settings.budgets, latency, filled=filled)
    limits.check_reachable()
    limits.check_used()
    return limits


def _own(budgets: Mapping[str, Limit]) -> Fields:
    """Return budgets as settings; those of costs without an option of their own are in `limits`."""
    known = {one.name for one in settings_of(BudgetOptions)}
    own: Fields = {cost: limit for cost, limit in budgets.items() if cost in known}
    if others := {cost: limit for cost, limit in budgets.items() if cost not in known}:
        own["limits"] = _assignments(others)
    return own


def _assignments(values: Mapping[str, object]) -> tuple[str, ...]:
    """Return values as NAME=VALUE, as the command line takes them."""
    return tuple(f"{name}={value}" for name, value in values.items())


def _request(options: Mapping[str, object], **more: object) -> Request:
    """Return the request, with text such as 2M parsed."""
    if "data" not in more:
        refuse_options_of_images(options)
    readers = {one.name: one.read for one in settings_of(Request)}
    read: Fields = {**more, **options}
    for name, value in options.items():
        if name not in readers:
            raise MobileNASError(f"{name!r} is not an option: docs/reference.md lists them")
        reader = readers[name]
        if reader and isinstance(value, str):
            read[name] = reader(value)
        elif isinstance(value, list):
            read[name] = tuple(value)
        elif isinstance(value, Mapping):
            read[name] = _assignments(value)
    return Request(**read)


@contextmanager
def _folder(out: str | Path | None) -> Iterator[Path]:
    """Yield the given folder, or a temporary one."""
    if out is not None:
        yield Path(out)
        return
    with tempfile.TemporaryDirectory(prefix="mobilenas-") as folder:
        yield Path(folder)
