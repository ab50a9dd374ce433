"""Runs that start from a pretrained network."""

import json
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from msgspec import structs
from PIL import Image
from safetensors.torch import load_file, save_file

from mobilenas.channels.start import start_network
from mobilenas.core.errors import BudgetError, FileError, MobileNASError
from mobilenas.core.progress import NullReporter
from mobilenas.cost.networks import costs
from mobilenas.data import ImageData
from mobilenas.latency.building import build_profile
from mobilenas.latency.profile import write_profile
from mobilenas.onnx.export import read_props
from mobilenas.onnx.metadata import ModelMetadata
from mobilenas.onnx.recount import count_onnx
from mobilenas.pipeline.baselines import compared_networks, searched_arch
from mobilenas.pipeline.deployment import arch_meter
from mobilenas.pipeline.dry_run import dry_run
from mobilenas.pipeline.pretrained import teacher_stage
from mobilenas.pipeline.request import Request
from mobilenas.pipeline.request_channels import ChannelsRequest
from mobilenas.pipeline.run_folder import Run, open_run
from mobilenas.pipeline.stages import run_all, search_stage
from mobilenas.pipeline.starting import start
from mobilenas.report.table import read_networks
from mobilenas.search.space_subnetworks import parts_up_to
from mobilenas.spaces.mobile.arch import Block, Head, MobileArch, Stem
from mobilenas.spaces.networks import arch_from_dict, build
from mobilenas.spaces.subnetworks.space import SubnetworkSpace
from mobilenas.train.pretrained import SOURCES, Source, load
from mobilenas.train.recipes import RECIPES

NAME = "tiny-source"
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
pytestmark = pytest.mark.usefixtures("byte_clock", "no_estimate", "source")


def whole(side: int, classes: int) -> MobileArch:
    block = Block(kernel=5, hidden=48, out=16, stride=2, squeeze=0, activation="relu6")
    return MobileArch(
        image_size=side,
        in_channels=3,
        classes=classes,
        stem=Stem(channels=8, stride=2, activation="relu6"),
        blocks=(block, replace(block, hidden=96, stride=1), replace(block, hidden=64, out=24)),
        head=Head(channels=32, hidden=0, activation="relu6", dropout=0.1),
        padding="same",
        epsilon=1e-3,
        momentum=0.01,
    )


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Source]:
    """A network with the weights of another training."""
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(7)
        save_file(build(whole(48, 9)).state_dict(), path)
    exact = costs(whole(48, 9))
    made = Source(
        arch=whole,
        params=exact.params,
        flops=exact.flops,
        image_size=48,
        mean=MEAN,
        std=STD,
        classes=9,
        file=path,
    )
    with mock.patch.dict(SOURCES, {NAME: made}, clear=True):  # keeps the order, too
        yield made


@pytest.fixture(scope="module")
def folder(make_images: Callable[[int], ImageData], tmp_path_factory: Any) -> Path:
    """Images of side 48 as files."""
    data, root = make_images(48), tmp_path_factory.mktemp("data") / "bands48"
    for name in ("train", "val", "test"):
        split = getattr(data, name)
        for number, label in enumerate(split.labels.tolist()):
            path = root / name / data.classes[label] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = split.store.pixels[number].permute(1, 2, 0).numpy()
            Image.fromarray(pixels).save(path)
    return Path(root)


FEW = {
    "epochs": 2,
    "finalists": 2,
    "random": 1,
    "flops": 800_000,
    "baselines": (),
    "pretrained": NAME,
}


def request(folder: Path, **given: Any) -> Request:
    return Request(data=str(folder), **FEW | given)


@pytest.fixture(scope="module")
def run(
    folder: Path,
    source: Source,
    tmp_path_factory: pytest.TempPathFactory,
    byte_clock: None,
    no_estimate: None,
) -> Run:
    """A whole run."""
    out = tmp_path_factory.mktemp("runs") / "run"
    asked = request(
        folder, baselines=("mobilenet_v3_small",), from_scratch=True, random_search=True
    )
    run_all(start(out, asked, command="test", reporter=NullReporter()))
    return open_run(out, NullReporter())


def test_the_searched_network_is_a_part_that_keeps_the_budget(run: Run) -> None:
    space, arch = run.space, searched_arch(run.folder)
    assert isinstance(space, SubnetworkSpace)
    assert isinstance(arch, MobileArch)
    assert space.arch(space.choice(arch)) == arch
    assert costs(arch).flops <= 800_000
    budgets = json.loads((run.folder / "result.json").read_text())["budgets"]
    assert [row["holds"] for row in budgets] == [True]


def test_images_are_normalized_as_the_weights_expect(run: Run) -> None:
    side = searched_arch(run.folder).image_size
    assert run.at(side).data.mean == run.data.mean == MEAN
    props = ModelMetadata.from_strings(read_props(run.folder / "export/model.onnx"), "model")
    assert (tuple(props.mean), tuple(props.std), props.image_size) == (MEAN, STD, side)


def test_all_baselines_are_there_and_start_where_they_should(run: Run) -> None:
    entries = read_networks(run.folder / "compare.json")
    kinds = [entry.kind for entry in entries]
    assert {"searched", "scratch", "random", "random-search", "pretrained", "mobilenet"} <= set(
        kinds
    )
    ready = [entry.name for entry in entries if entry.kind == "pretrained"]
    assert [name.split()[0] for name in ready] == [NAME] * len(ready)
    assert any(" @" in name and " x" not in name for name in ready)
    assert any(" x" in name for name in ready)
    assert all(entry.flops <= 800_000 for entry in entries if entry.flops)
    # from scratch the best of the searched sides is another
    (small,) = [entry.name for entry in entries if entry.kind == "mobilenet"]
    assert small.endswith((" @32", " @48"))


def test_the_teacher_starts_from_the_file_s_weights(run: Run, source: Source) -> None:
    teacher = teacher_stage(run, 0)
    assert teacher.image_size == run.space.image_size
    given = load_file(source.file or "")
    ours = teacher.network.state_dict()
    far = load(NAME, classes=len(run.data.classes), seed=5)[1]
    # a few steps move weights by less than another drawing is away
    moved = (ours["blocks.1.expand.0.weight"] - given["blocks.1.expand.0.weight"]).norm()
    assert 0 < moved < given["blocks.1.expand.0.weight"].norm()
    assert far["classifier.1.weight"].shape == ours["classifier.1.weight"].shape


def test_every_seed_has_a_teacher_of_its_own(run: Run) -> None:
    first, second = teacher_stage(run, 0), teacher_stage(run, 1)
    assert (run.folder / "repeats/seed-1/teacher/train.json").exists()
    one, other = (teacher.network.state_dict() for teacher in (first, second))
    for name in ("stem.0.weight", "classifier.1.weight"):
        assert not torch.equal(one[name], other[name])


def test_a_finished_run_is_not_trained_again(run: Run) -> None:
    before = {path: path.stat().st_mtime_ns for path in run.folder.rglob("best.safetensors")}
    run_all(open_run(run.folder, NullReporter()))
    after = {path: path.stat().st_mtime_ns for path in run.folder.rglob("best.safetensors")}
    assert after == before


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"pretrained": "efficientnet_lite9"}, "efficientnet_lite9.*names are"),
        ({"sampler": "random"}, "--sampler does not work with --pretrained"),
        ({"method": "pc-darts"}, "--method pc-darts does not work with --pretrained"),
        ({"activation": "relu"}, "--activation does not work with --pretrained"),
        ({"rank": 3}, "--rank does not work with --pretrained"),
        ({"pretrained": None, "from_scratch": True}, "--from-scratch needs --pretrained"),
        ({"pretrained": None, "weights": Path("a.pth")}, "--weights needs --pretrained"),
        ({"pretrained": None, "stage_widths": (1, 0.5)}, "--stage-widths needs --pretrained"),
        ({"stage_widths": (1, 1.5)}, "--stage-widths is 1.5; .* between 0.1 and 1"),
        ({"stage_widths": (0.75, 0.5)}, "--stage-widths is 0.75,0.5; it must contain 1"),
        ({"space": "cell", "layers": 2}, "--pretrained does not work with --space cell"),
        ({"space": "subnetworks"}, "space"),
    ],
)
def test_what_does_not_go_with_it_is_refused(
    folder: Path, given: dict[str, Any], message: str
) -> None:
    with pytest.raises(MobileNASError, match=message):
        request(folder, **given)


def begin(folder: Path, out: Path, **given: Any) -> Run:
    return start(out, request(folder, **given), command="test", reporter=NullReporter())


def test_wrong_weights_and_budgets_are_refused_before_anything_is_written(
    folder: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.safetensors"
    save_file({"a": torch.zeros(1)}, other)
    out = tmp_path / "out"
    with pytest.raises(FileError, match=r"other\.safetensors"):
        begin(folder, out, weights=other)
    with pytest.raises(FileError, match=r"missing\.pth"):
        begin(folder, out, weights=tmp_path / "missing.pth")
    with pytest.raises(BudgetError, match="at 32x32"):
        begin(folder, out, flops=1000)
    with pytest.raises(BudgetError, match="larger than 48x48"):
        begin(folder, out, flops=10**9)
    with pytest.raises(MobileNASError, match="16x16 are too small"):
        begin(folder, out, image_size=16)
    assert not out.exists()


def test_widths_of_stages_are_searched_where_they_are_given(folder: Path, tmp_path: Path) -> None:
    made = begin(folder, tmp_path / "out", stage_widths=(1, 0.5), flops=160_000, random=0)
    assert made.space.widths == ((8, 16), (16, 24))
    run_all(made)
    arch = searched_arch(made.folder)
    assert isinstance(arch, MobileArch)
    choice = made.space.choice(arch)
    assert made.space.arch(choice) == arch
    onnx = count_onnx(made.folder / "export/model.onnx")
    assert onnx.flops == costs(arch).flops <= 160_000
    # the budget is under all networks of whole stages
    assert 0 in choice.width
    assert begin(folder, tmp_path / "one", stage_widths=(1,)).space.decisions[-1] == "depth"
    with pytest.raises(MobileNASError, match="--stage-widths does not work with --profile"):
        begin(folder, tmp_path / "x", stage_widths=(1, 0.5), profile="x86-1thread")


def test_a_side_that_is_given_is_the_side(folder: Path, tmp_path: Path) -> None:
    made = begin(folder, tmp_path / "out", image_size=40)
    assert made.space.sides == (40,)
    assert begin(folder, tmp_path / "free").space.sides == (32, 48)


def test_a_latency_budget_is_kept_by_all_that_is_compared(folder: Path, tmp_path: Path) -> None:
    space = parts_up_to(NAME, 48, 5)
    profile = build_profile({"fp32": space}, name="here", rounds=4, networks=12, held_out=6)
    good = {"mape_percent": 5.0, "kendall_tau": 0.9}
    known = replace(profile.calibration["fp32"], **good)
    write_profile(replace(profile, calibration={"fp32": known}), tmp_path / "here.json")
    limit = sorted(network.measured_ms for network in profile.networks["fp32"])[8]
    given = {"flops": None, "latency": limit, "profile": str(tmp_path / "here.json")}
    made = begin(folder, tmp_path / "out", baselines=("mobilenet_v3_small",), **given)
    result = run_all(made)
    (row,) = result.budgets
    assert row.predicted <= limit
    entries = read_networks(made.folder / "compare.json")
    # times are those of the file's size, so the whole network is as slow at every side
    (ready,) = [entry for entry in entries if entry.kind == "pretrained"]
    assert ready.name.startswith(f"{NAME} x")
    measured = arch_meter(made)
    assert measured is not None
    (ms,) = measured([arch_from_dict(ready.arch, "arch")])
    assert ms <= limit
    predicted = [entry.predicted_ms for entry in entries if entry.kind in ("searched", "random")]
    assert all(ms <= limit for ms in predicted)


def test_a_dry_run_knows_the_teacher_and_the_sides(folder: Path) -> None:
    asked = request(folder, baselines=("mobilenet_v3_small",))
    found = dry_run(asked, NullReporter())
    assert set(found.seconds) >= {"teacher", "search", "finalists", "final training", "baselines"}
    assert all(seconds > 0 for seconds in found.seconds.values())
    assert found.costs["flops"]["budget"] == 800_000


def test_channel_sizes_are_searched_from_its_weights(folder: Path, tmp_path: Path) -> None:
    few = {"trials": 1, "trial_epochs": 1, "epochs": 1, "finalists": 0, "image_size": 32}
    asked = ChannelsRequest(data=str(folder), model=NAME, flops=400_000, baselines=(), **few)
    made = start(tmp_path / "out", asked, command="test", reporter=NullReporter())
    assert made.data.mean == MEAN
    assert made.settings.recipe.learning_rate == RECIPES["finetune"].fields["learning_rate"]
    base = made.space.base
    given = start_network(base, None, NAME)
    assert given is not None
    network = build(whole(32, 5))
    network.load_state_dict(load(NAME, classes=5, image_size=32)[1])
    images = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(given.eval()(images), network.eval()(images))
    search_stage(made)
    arch = searched_arch(made.folder)
    assert costs(arch).flops <= 400_000


def test_the_folder_of_the_source_is_not_emptied(run: Run, folder: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "copy.safetensors"
    elsewhere.write_bytes((run.folder / "model.safetensors").read_bytes())
    asked = request(folder, pretrained=str(run.folder), weights=elsewhere, flops=300_000)
    with pytest.raises(FileError, match="choose another --out"):
        start(run.folder, asked, command="test", reporter=NullReporter(), overwrite=True)
    assert (run.folder / "model.safetensors").exists()


def test_a_pretrained_and_a_scratch_network_of_one_name_are_two(run: Run) -> None:
    existing = read_networks(run.folder / "compare.json")
    alike = [structs.replace(e, kind="pretrained") for e in existing if e.kind == "mobilenet"]
    others = [e for e in existing if e.kind != "mobilenet"]
    missing = compared_networks(run, None, [*others, *alike])
    assert [network.kind for network in missing] == ["mobilenet"]


def test_channels_of_such_a_run_are_normalized_as_it_was(run: Run, folder: Path) -> None:
    asked = ChannelsRequest(data=str(folder), model=str(run.folder), flops=300_000)
    assert asked.data_settings.mean == MEAN


def test_a_rate_of_another_optimizer_is_not_the_supernet_s(folder: Path) -> None:
    made = request(folder, set=("optimizer=adamw", "learning_rate=0.001")).settings(1000)
    assert made.recipe.learning_rate == 0.001
    assert made.search.learning_rate == RECIPES["finetune"].fields["learning_rate"]


DRIVER = """
import json, sys
from pathlib import Path
from mobilenas.core.progress import NullReporter
from mobilenas.pipeline import stages
from mobilenas.pipeline.request import Request
from mobilenas.pipeline.starting import start
from mobilenas.spaces.networks import arch_from_dict
from mobilenas.train.pretrained import SOURCES, Source
stages.estimate = lambda _: {"search": 0.0}
folder, request, plain, source = sys.argv[1:]
plain, source = json.loads(plain), json.loads(source)
def whole(side, classes):
    return arch_from_dict(plain | {"image_size": side, "classes": classes}, "the source")
request = json.loads(request)
SOURCES[request["pretrained"]] = Source(
    arch=whole, **source | {"mean": tuple(source["mean"]), "std": tuple(source["std"]),
                            "file": Path(source["file"])})
run = start(Path(folder), Request(**request), command="test", reporter=NullReporter(), resume=True)
stages.run_all(run)
"""


@pytest.mark.slow
def test_a_run_that_is_killed_in_every_stage_ends_as_one_that_is_not(
    struck: Any, folder: Path, source: Source, tmp_path: Path
) -> None:
    asked = FEW | {"data": str(folder), "baselines": ["mobilenet_v3_small"]}
    same = {name: getattr(source, name) for name in ("params", "flops", "image_size", "classes")}
    same |= {"mean": MEAN, "std": STD, "file": str(source.file)}
    words = [json.dumps(part) for part in (asked, whole(48, 9).to_dict(), same)]
    first, second = tmp_path / "whole", tmp_path / "killed"
    run_all(start(first, Request(**asked), command="test", reporter=NullReporter()))

    (ready,) = (p.name for p in (first / "compare").glob(f"{NAME}-@*"))
    for ending in (
        "teacher/checkpoint.pt",
        "search/checkpoint.pt",
        "search/finalists/1/checkpoint.pt",
        "train/checkpoint.pt",
        f"compare/{ready}/train/checkpoint.pt",
    ):
        done = struck(DRIVER, second, *words, at=ending, nth=1, by=signal.SIGKILL)
        assert done.returncode == -signal.SIGKILL, (ending, done.stderr)
    run_all(start(second, Request(**asked), command="test", reporter=NullReporter(), resume=True))
    for name in sorted(str(p.relative_to(first)) for p in first.rglob("*.safetensors")):
        assert (second / name).read_bytes() == (first / name).read_bytes(), name
    results = [json.loads((out / "result.json").read_text()) for out in (first, second)]
    assert results[0]["verdict"] == results[1]["verdict"]
