"""Every command, killed before each rename and each deletion, ends as one that was not killed.

What a kill leaves is a copy of the folder as it was at that moment: for every file the last time
that it was about to be renamed or deleted, and the very first moment. `MOBILENAS_ALL_KILLS=1`
takes every moment. Clocks stand still, so that all files are the same to the byte.
"""

import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from matplotlib.figure import Figure

from mobilenas.baselines import equal_time
from mobilenas.baselines.networks import BaselineSettings, ComparedNetwork
from mobilenas.channels.settings import ChannelSettings
from mobilenas.core.errors import FileError
from mobilenas.core.files import load_checkpoint, read_jsonl, write_bytes, write_list
from mobilenas.core.folders import ABLATION, RUN, SWEEP, Kind, check_folder
from mobilenas.core.progress import NullReporter
from mobilenas.core.settings import to_plain
from mobilenas.cost.budget import Budget
from mobilenas.cost.budgets import Budgets
from mobilenas.data import DataSettings, ImageData
from mobilenas.latency.kit import write_kit
from mobilenas.latency.meter import Measured
from mobilenas.latency.profile import Profile
from mobilenas.pipeline import ablation, baselines, deployment, image_size, starting
from mobilenas.pipeline import run_folder as runs
from mobilenas.pipeline import stages as pipeline
from mobilenas.pipeline.ablation import run_ablation, start_ablation
from mobilenas.pipeline.export_settings import FormatSettings
from mobilenas.pipeline.formats import write_formats
from mobilenas.pipeline.request import Request
from mobilenas.pipeline.run_folder import create_run, open_run
from mobilenas.pipeline.settings import RunSettings
from mobilenas.pipeline.stages import compare_stage, run_all, search_stage
from mobilenas.pipeline.sweep import run_sweep, start_sweep
from mobilenas.report.table import read_networks
from mobilenas.search import FinalistSettings, SearchSettings
from mobilenas.spaces.channels.space import Base, ChannelsSpace
from mobilenas.spaces.mobile.arch import Block, Head, MobileArch, Stem
from mobilenas.spaces.mobile.space import MobileSpace
from mobilenas.train import Recipe

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_estimate")]

Job = Callable[..., object]
"""A command over a folder: started, or with `resume=True` resumed."""

_CHANGES = ("replace", "rename", "unlink", "remove", "rmdir")
_CALLED = {"command": "mobilenas test", "reporter": NullReporter()}
_ARCH = MobileArch(
    image_size=8,
    in_channels=3,
    classes=5,
    stem=Stem(channels=16, stride=1, activation="relu"),
    blocks=(Block(kernel=3, hidden=48, out=16, stride=1, squeeze=0, activation="relu"),),
    head=Head(channels=32, hidden=0, activation="relu", dropout=0.0),
)
WIDTHS = ChannelsSpace(base=Base.of(_ARCH))
SETTINGS = RunSettings(
    data=DataSettings(source="digits"),
    budgets=(Budget(cost="flops", limit=1),),
    search=SearchSettings(epochs=2, warmup=1, batch_size=16),
    finalists=FinalistSettings(count=2, epochs=1),
    recipe=Recipe(epochs=1, batch_size=32, learning_rate=0.05, warmup_epochs=0.0),
    baselines=(),
    random=1,
)
AT_ONCE = Measured(
    median_ms=1.0,
    minimum_ms=1.0,
    iqr_ms=0.0,
    interval_ms=0.0,
    rounds=16,
    halves_ms=(1.0, 1.0),
)


@contextmanager
def moments(folder: Path, copies: Path) -> Iterator[dict[str, Path]]:
    """Copy `folder` before every rename and every deletion in it; yield the copies by what was."""
    found: dict[str, Path] = {}
    own = {name: getattr(os, name) for name in _CHANGES}

    def copy(path: Path, what: str) -> None:
        place = re.sub(r"\d+", "N", path.relative_to(folder).as_posix())
        number = len(found) if not found or os.environ.get("MOBILENAS_ALL_KILLS") else ""
        key = f"{what} {place} {number}"
        with pytest.MonkeyPatch.context() as still:
            for name in _CHANGES:
                still.setattr(os, name, own[name])
            if key in found:
                shutil.rmtree(found[key])
            found[key] = copies / hashlib.sha256(key.encode()).hexdigest()
            shutil.copytree(folder, found[key])

    def watched(name: str) -> Callable[..., Any]:
        def call(path: Any, *more: Any, **options: Any) -> Any:
            if folder in Path(os.fsdecode(path)).parents:
                copy(Path(os.fsdecode(more[0] if more else path)), name)
            return own[name](path, *more, **options)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in _CHANGES:
            patch.setattr(os, name, watched(name))
        yield found


def before(what: str, left: dict[str, Path]) -> Path:
    """Return the copy made before the last change of this kind, whatever its number."""
    return [copy for moment, copy in left.items() if moment.startswith(what + " ")][-1]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file but checkpoints, in which equal tensors can be one or two, and temporaries."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix not in (".pt", ".tmp")
    }


def differing(one: dict[str, bytes], other: dict[str, bytes]) -> list[str]:
    return [name for name in sorted(one | other) if one.get(name) != other.get(name)]


def held_against(folder: Path, begin: Job, resume: Job, copies: Path) -> dict[str, Path]:
    """Begin, and from what a kill at each moment leaves resume; all must end alike."""
    with moments(folder, copies) as left:
        begin()
    whole = contents(folder)
    assert left
    for moment, copy in left.items():
        shutil.rmtree(folder)
        shutil.copytree(copy, folder)
        resume()
        assert not differing(whole, contents(folder)), moment
    return left


@pytest.fixture(autouse=True)
def small(
    monkeypatch: pytest.MonkeyPatch, micro_space: MobileSpace, micro_images: ImageData
) -> None:
    """Small images and a small space for every command; nothing takes any time."""
    frozen = SimpleNamespace(process_time=lambda: 0.0, perf_counter=lambda: 0.0)
    monkeypatch.setattr("mobilenas.core.progress.time", frozen)
    monkeypatch.setattr(deployment, "measure", lambda models: dict.fromkeys(models, AT_ONCE))

    def make_space(settings: RunSettings, *_: Any) -> MobileSpace | ChannelsSpace:
        return micro_space if settings.channel_sizes is None else WIDTHS

    monkeypatch.setattr(runs, "usable_space", make_space)
    for module in (runs, starting, ablation):
        monkeypatch.setattr(module, "load_data", lambda *_: micro_images)
    # drawing takes as long as searching, and what is drawn is in files that are compared
    monkeypatch.setattr(Figure, "savefig", lambda _, file, **__: file.write("<svg></svg>"))
    # exporting takes as long as all else; a network that was exported before is not again
    exported: dict[str, tuple[Any, bytes]] = {}

    def write_onnx(run: Any, arch: Any, model: Any, path: Path) -> Any:
        weights = b"".join(value.numpy().tobytes() for value in model.state_dict().values())
        key = hashlib.sha256(weights).hexdigest()
        if key not in exported:
            parity = deployment.write_onnx(run, arch, model, path)
            exported[key] = parity, path.read_bytes()
        parity, content = exported[key]
        write_bytes(path, content)
        return parity

    monkeypatch.setattr(pipeline, "write_onnx", write_onnx)


@pytest.fixture
def settings(micro_budgets: Budgets) -> RunSettings:
    return replace(SETTINGS, budgets=micro_budgets.budgets)


def nothing_else(folder: Path, kind: Kind) -> None:
    """The list of what the command writes is whole."""
    assert not check_folder(folder, kind, lambda _: None, overwrite=True)


def test_a_killed_run_ends_as_one_that_was_not(
    settings: RunSettings, micro_images: ImageData, tmp_path: Path
) -> None:
    folder, wanted = tmp_path / "run", replace(settings, rank=3)

    def job(**how: Any) -> None:
        run_all(create_run(folder, wanted, data=micro_images, **_CALLED, **how))

    held_against(folder, job, lambda: job(resume=True), tmp_path / "copies")
    nothing_else(folder, RUN)


def test_a_killed_run_that_inherits_ends_as_one_that_was_not(
    settings: RunSettings, micro_images: ImageData, tmp_path: Path
) -> None:
    folder, recipe = tmp_path / "run", replace(settings.recipe, epochs=2)
    wanted = replace(settings, inherit=True, random=0, recipe=recipe)

    def job(**how: Any) -> None:
        run_all(create_run(folder, wanted, data=micro_images, **_CALLED, **how))

    held_against(folder, job, lambda: job(resume=True), tmp_path / "copies")
    nothing_else(folder, RUN)
    entries = to_plain(read_networks(folder / "compare.json"))
    assert [entry["kind"] for entry in entries] == ["searched", "scratch"]
    starts = [
        load_checkpoint(folder / training / "checkpoint.pt")["identity"].get("start")
        for training in ("train", "compare/scratch-seed-0/train")
    ]
    assert starts == ["given", None]


def test_a_killed_search_for_the_image_size_ends_as_one_that_was_not(
    settings: RunSettings,
    micro_space: MobileSpace,
    make_images: Callable[[int], ImageData],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    folder, sides = tmp_path / "run", (8, 16)
    images = {side: replace(make_images(side), fingerprint="bands") for side in sides}
    spaces = {side: replace(micro_space, image_size=side) for side in sides}

    def mobilenets(names: Any, budgets: Any, side: int, *_: Any) -> Any:
        arch = spaces[side].arch(spaces[side].smallest())
        return [ComparedNetwork(name=names[0], kind="mobilenet", arch=arch, seed=0)], []

    monkeypatch.setattr(runs, "load_data", lambda asked, *_: images[asked.image_size])
    monkeypatch.setattr(image_size, "usable_space", lambda _, kind, *__: spaces[kind.image_size])
    monkeypatch.setattr(baselines, "mobilenets", mobilenets)
    wide = Budgets(spaces[16], settings.budgets).tables["flops"].exact(spaces[16].largest())
    wanted = replace(
        settings,
        budgets=(Budget(cost="flops", limit=int(wide)),),
        search=replace(settings.search, constraint="penalty"),
        recipe=replace(settings.recipe, epochs=2),
        search_image_size=True,
        baselines=("mobilenet_v2",),
        random=0,
    )

    def job(**how: Any) -> None:
        given = {"data": images[16], "image_sizes": sides} | _CALLED | how
        run_all(create_run(folder, wanted, **given))

    left = held_against(folder, job, lambda: job(resume=True), tmp_path / "copies")
    assert before("replace search/image-size/N/checkpoint.pt", left).is_dir()
    assert before("replace search/image-size.json", left).is_dir()
    assert before("replace compare/mobilenet_vN-image-size-seed-N/search/image-size.json", left)
    nothing_else(folder, RUN)


def test_a_killed_comparison_with_equal_time_ends_as_one_that_was_not(
    settings: RunSettings,
    micro_images: ImageData,
    micro_space: MobileSpace,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """No MobileNet is as small as these images need, so another network stands for one."""
    folder = tmp_path / "run"
    wanted = replace(settings, baselines=("mobilenet_v2",), random=0, equal_time=True)
    wanted = replace(wanted, finalists=FinalistSettings(count=1, epochs=1))
    small = ComparedNetwork(
        name="mobilenet_v2 x0.1",
        kind="mobilenet",
        arch=micro_space.arch(micro_space.smallest()),
        seed=0,
    )
    monkeypatch.setattr(baselines, "mobilenets", lambda *_: ([small], []))
    monkeypatch.setattr(equal_time, "epochs_for", lambda *_: 3)

    def job(**how: Any) -> None:
        run_all(create_run(folder, wanted, data=micro_images, **_CALLED, **how))

    left = held_against(folder, job, lambda: job(resume=True), tmp_path / "copies")
    assert before("replace compare/equal-time-seed-N/equal-time.json", left).is_dir()
    assert before("replace compare/equal-time-seed-N/train/checkpoint.pt", left).is_dir()
    nothing_else(folder, RUN)
    entries = to_plain(read_networks(folder / "compare.json"))
    assert [entry["kind"] for entry in entries] == ["searched", "mobilenet", "equal-time"]
    given = {"network": small.name, "epochs": 3, "recipe_epochs": 1, "arch": small.arch.to_dict()}
    assert entries[-1].items() >= given.items()
    place = folder / "compare/equal-time-seed-0/train"
    recipes = [
        load_checkpoint(folder / training / "checkpoint.pt")["identity"]["recipe"]
        for training in ("train", "compare/mobilenet_v2-x0.1-seed-0/train", place)
    ]
    assert recipes == [recipes[0], recipes[0], recipes[0] | {"epochs": 3}]
    assert len(read_jsonl(place / "log.jsonl")) == 3
    # its entry is lost, and not what was decided
    write_list(folder / "compare.json", entries[:-1])
    monkeypatch.setattr(equal_time, "epochs_for", lambda *_: 9)
    run = create_run(folder, wanted, data=micro_images, resume=True, **_CALLED)
    asked = BaselineSettings(
        mobilenets=wanted.baselines, random=0, random_search=False, equal_time=True
    )
    assert to_plain(compare_stage(run, asked)) == entries


def test_a_killed_search_with_a_profile_ends_as_one_that_was_not(
    settings: RunSettings, micro_images: ImageData, made_up_profile: Profile, tmp_path: Path
) -> None:
    folder, wanted = tmp_path / "run", replace(settings, profile="shelf-1")

    def job(**how: Any) -> None:
        given = {"data": micro_images, "profile": made_up_profile} | _CALLED | how
        search_stage(create_run(folder, wanted, **given))

    left = held_against(folder, job, lambda: job(resume=True), tmp_path / "copies")
    assert before("replace profile.json", left).is_dir()
    nothing_else(folder, RUN)


def test_a_run_that_has_begun_has_its_profile(
    settings: RunSettings, micro_images: ImageData, made_up_profile: Profile, tmp_path: Path
) -> None:
    folder, wanted = tmp_path / "run", replace(settings, profile="shelf-1")
    with moments(folder, tmp_path / "copies") as left:
        create_run(folder, wanted, data=micro_images, profile=made_up_profile, **_CALLED)
    shutil.rmtree(folder)
    shutil.copytree(before("replace profile.json", left), folder)
    assert open_run(folder, NullReporter()).latency is not None
    (folder / "profile.json").unlink()
    with pytest.raises(FileError, match=r"profile\.json does not exist"):
        _ = open_run(folder, NullReporter()).latency


def test_a_killed_search_of_channels_ends_as_one_that_was_not(
    settings: RunSettings, micro_images: ImageData, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    how = ChannelSettings(model="arch.json", trials=2, epochs=1, controls=True)
    half = Budget(cost="flops", limit=WIDTHS.base.graph.flops({}) // 2)
    wanted = replace(settings, space="channels", channel_sizes=how, budgets=(half,))

    def job(**how: Any) -> None:
        run_all(create_run(folder, wanted, data=micro_images, **_CALLED, **how))

    held_against(folder, job, lambda: job(resume=True), tmp_path / "copies")
    nothing_else(folder, RUN)


def test_a_killed_export_ends_as_one_that_was_not(
    settings: RunSettings, micro_images: ImageData, tmp_path: Path
) -> None:
    folder, wanted = tmp_path / "run", replace(settings, random=0)
    run_all(create_run(folder, wanted, data=micro_images, **_CALLED))

    def job() -> None:
        run = create_run(folder, wanted, data=micro_images, resume=True, **_CALLED)
        write_formats(run, FormatSettings(input="uint8-nhwc", max_drop=100))

    held_against(folder, job, job, tmp_path / "copies")
    nothing_else(folder, RUN)


def test_a_killed_replacement_of_a_run_can_be_repeated(
    settings: RunSettings, micro_images: ImageData, tmp_path: Path
) -> None:
    """What is replaced is another run, nothing of which may be left."""
    folder, old = tmp_path / "run", replace(settings, seed=7)

    def job(**how: Any) -> None:
        create_run(folder, settings, data=micro_images, **_CALLED, **how)

    search_stage(create_run(folder, old, data=micro_images, **_CALLED))
    copies = tmp_path / "copies"
    left = held_against(folder, lambda: job(overwrite=True), lambda: job(overwrite=True), copies)
    whole = contents(folder)
    for moment, copy in left.items():
        shutil.rmtree(folder)
        shutil.copytree(copy, folder)
        if (folder / "run.json").exists():  # nothing was done yet: it is the other run still
            assert open_run(folder, NullReporter()).settings == old
            continue
        job(resume=True)
        assert not differing(whole, contents(folder)), moment


SWEPT = {"data": "digits", "epochs": 1, "search_epochs": 1, "finalists": 0, "random": 1}


@pytest.mark.parametrize("methods", [(), ("darts", "adarts")])
def test_a_killed_sweep_ends_as_one_that_was_not(
    micro_budgets: Budgets, tmp_path: Path, methods: tuple[str, ...]
) -> None:
    folder, limit = tmp_path / "sweep", int(micro_budgets.budgets[0].limit)

    def job(**how: Any) -> None:
        asked = SWEPT | {"baselines": ()}
        budgets = (limit,) if methods else (limit, limit + 500)
        run_sweep(start_sweep(folder, asked, flops=budgets, methods=methods, **_CALLED, **how))

    left = held_against(folder, job, lambda: job(resume=True), tmp_path / "copies")
    nothing_else(folder, SWEEP)
    if methods:
        assert any(moment.startswith("replace baselines/random-N-seed-N-") for moment in left)
        networks = read_networks(folder / f"flops-{limit}-adarts/compare.json")
        assert [network.trained_in for network in networks] == [None, f"flops-{limit}-darts"]


def test_a_killed_ablation_ends_as_one_that_was_not(micro_budgets: Budgets, tmp_path: Path) -> None:
    folder = tmp_path / "ablation"
    asked = {name: value for name, value in SWEPT.items() if name != "random"}
    request = Request(**asked, flops=int(micro_budgets.budgets[0].limit))

    def job(**how: Any) -> None:
        run_ablation(start_ablation(folder, request, "mobilenas,random", **_CALLED, **how))

    held_against(folder, job, lambda: job(resume=True), tmp_path / "copies")
    nothing_else(folder, ABLATION)


def test_a_killed_kit_ends_as_one_that_was_not(micro_space: MobileSpace, tmp_path: Path) -> None:
    folder = tmp_path / "kit"

    def job() -> None:
        write_kit({"fp32": micro_space}, folder, networks=4)

    held_against(folder, job, job, tmp_path / "copies")
